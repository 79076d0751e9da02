"""How class logits are read, matched by and trained: by sigmoid, each class for itself, or by softmax, with "no object" as
the last class."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .precision import at_least_float32

CLASS_PRIOR = 0.01  # share of queries that claim a class at the start of training by focal loss


class Selection(NamedTuple):
    """What is detected in each of B images, K candidates each."""

    scores: Tensor  # (B, K) 0…1
    labels: Tensor  # (B, K) int64, 0…C-1
    queries: Tensor  # (B, K) int64, 0…Q-1


class Places(NamedTuple):
    """Which predictions are matched with an object, each (M,) int64."""

    layer: Tensor
    image: Tensor
    query: Tensor


class ClassReading(ABC):
    """A way to read class logits, and what follows from it for matching and training.

    Attributes:
        initial_bias: of the classifier, before training; None leaves it as PyTorch starts it.
        loss_weight: of the class loss in the total.
        no_object_weight: in the class loss, of a query without an object, against 1 of one with an object.
    """

    initial_bias: float | None
    loss_weight: float
    no_object_weight: float

    @abstractmethod
    def outputs(self, num_labels: int) -> int:
        """How many logits a query has for C classes."""

    @abstractmethod
    def count(self, logits: Tensor) -> int:
        """How many classes logits (…, C or C + 1) are of: C."""

    @abstractmethod
    def scores(self, logits: Tensor) -> Tensor:
        """The probability of each class, "no object" left out. (…, C or C + 1) -> (…, C), float32 at least"""

    @abstractmethod
    def best(self, logits: Tensor, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
        """The queries whose best class scores above a threshold, and is not "no object".

        Args:
            logits: (Q, C or C + 1).

        Returns:
            The queries (n,) in their order, their scores (n,) and their classes (n,).
        """

    @abstractmethod
    def select(self, logits: Tensor, top_k: int | None) -> Selection:
        """The candidates of each image.

        Args:
            logits: (B, Q, C or C + 1).
            top_k: at most so many of an image, highest score first; None for all that there are.
        """

    @abstractmethod
    def claims(self, logits: Tensor) -> Tensor:
        """Whether a query claims to be an object. (…, C or C + 1) -> (…) bool"""

    @abstractmethod
    def match_cost(self, logits: Tensor, image: Tensor, classes: Tensor) -> Tensor:
        """What it costs to match each object with each query of its image, by class alone.

        Args:
            logits: (L, B, Q, C or C + 1).
            image: (T,) int64, the image of each object.
            classes: (T,) int64, its class.

        Returns:
            (T, L, Q), float32 at least.
        """

    @abstractmethod
    def loss(self, logits: Tensor, places: Places, classes: Tensor) -> Tensor:
        """The class loss of each decoder layer, summed over images and queries, to be divided by `divisor`.

        Args:
            logits: (L, B, Q, C or C + 1).
            places: of the matched predictions; all others are without an object.
            classes: (M,) int64, the class of the object that each is matched with.

        Returns:
            (L,)
        """

    @abstractmethod
    def divisor(self, boxes: float, class_weight: float) -> float:
        """What the class loss of a step is divided by: its number of objects, or its sum of weights."""


@dataclass(frozen=True)
class SigmoidClasses(ClassReading):
    """Conditional DETR's: a query may be of several classes, or of none; candidates are pairs of query and class.

    The loss is the sigmoid focal loss with γ = 2 (arXiv 1708.02002), divided by the number of objects. The match cost
    is the focal difference α(1-p)²(-log p) - (1-α)p²(-log(1-p)), p the sigmoid of the object's class.

    Args:
        alpha: weight of the object's class against all others, 0…1.
        loss_weight: see `ClassReading`.
    """

    alpha: float = 0.25
    loss_weight: float = 2.0
    initial_bias = -math.log((1 - CLASS_PRIOR) / CLASS_PRIOR)
    no_object_weight = 0.0

    def outputs(self, num_labels: int) -> int:
        return num_labels

    def count(self, logits: Tensor) -> int:
        return logits.shape[-1]

    def scores(self, logits: Tensor) -> Tensor:
        return at_least_float32(logits).sigmoid()

    def best(self, logits: Tensor, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
        scores, labels = self.scores(logits).max(-1)
        queries = (scores > threshold).nonzero()[:, 0]
        return queries, scores[queries], labels[queries]

    def select(self, logits: Tensor, top_k: int | None) -> Selection:
        """All Q · C pairs come highest score first, also where `top_k` is None."""
        classes = logits.shape[-1]
        probabilities = self.scores(logits).flatten(1)  # (B, Q * C)
        pairs = probabilities.shape[1]
        scores, pair = probabilities.topk(pairs if top_k is None else min(top_k, pairs), dim=1)
        return Selection(scores, pair % classes, pair.div(classes, rounding_mode="floor"))

    def claims(self, logits: Tensor) -> Tensor:
        """Whether a class scores above 0.5."""
        return (logits > 0).any(-1)

    def match_cost(self, logits: Tensor, image: Tensor, classes: Tensor) -> Tensor:
        p, alpha = self.scores(logits[:, image, :, classes]), self.alpha  # (T, L, Q)
        return alpha * (1 - p) ** 2 * -(p + 1e-8).log() - (1 - alpha) * p**2 * -(1 - p + 1e-8).log()

    def loss(self, logits: Tensor, places: Places, classes: Tensor) -> Tensor:
        """Every entry is first taken as "not this class"; the few matched ones are then corrected."""
        x = logits[places.layer, places.image, places.query, classes]  # (M,)
        absent = (1 - self.alpha) * x.sigmoid().square() * F.softplus(x)
        present = self.alpha * (-x).sigmoid().square() * F.softplus(-x)
        return _AbsentFocal.apply(logits, self.alpha).index_add(0, places.layer, present - absent)

    def divisor(self, boxes: float, class_weight: float) -> float:
        return boxes


@dataclass(frozen=True)
class SoftmaxClasses(ClassReading):
    """DETR's: a query is of its best class, or no object; candidates are the queries.

    The loss is the cross entropy, divided by its sum of weights. The match cost is minus the probability of the object's
    class.

    Args:
        no_object_weight: see `ClassReading`.
    """

    no_object_weight: float = 0.1
    initial_bias = None
    loss_weight = 1.0

    def outputs(self, num_labels: int) -> int:
        return num_labels + 1

    def count(self, logits: Tensor) -> int:
        return logits.shape[-1] - 1

    def scores(self, logits: Tensor) -> Tensor:
        return at_least_float32(logits).softmax(-1)[..., :-1]

    def best(self, logits: Tensor, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
        scores, labels = at_least_float32(logits).softmax(-1).max(-1)
        queries = ((scores > threshold) & (labels != self.count(logits))).nonzero()[:, 0]
        return queries, scores[queries], labels[queries]

    def select(self, logits: Tensor, top_k: int | None) -> Selection:
        """All queries come in their own order where `top_k` is None."""
        scores, labels = self.scores(logits).max(-1)  # (B, Q)
        if top_k is None:
            return Selection(scores, labels, torch.arange(scores.shape[1], device=scores.device).expand_as(scores))
        scores, queries = scores.topk(min(top_k, scores.shape[1]), dim=1)
        return Selection(scores, labels.gather(1, queries), queries)

    def claims(self, logits: Tensor) -> Tensor:
        """Whether the best class is not "no object"."""
        return logits.argmax(-1) != self.count(logits)

    def match_cost(self, logits: Tensor, image: Tensor, classes: Tensor) -> Tensor:
        return -at_least_float32(logits).softmax(-1)[:, image, :, classes]

    def loss(self, logits: Tensor, places: Places, classes: Tensor) -> Tensor:
        no_object = self.count(logits)
        targets = logits.new_full(logits.shape[:3], no_object, dtype=torch.int64)  # (L, B, Q)
        targets[places.layer, places.image, places.query] = classes
        weight = logits.new_ones(no_object + 1)
        weight[no_object] = self.no_object_weight
        loss = F.cross_entropy(logits.flatten(0, 2), targets.flatten(), weight, reduction="none")
        return loss.unflatten(0, targets.shape).sum((1, 2))

    def divisor(self, boxes: float, class_weight: float) -> float:
        return class_weight


class _AbsentFocal(torch.autograd.Function):
    """Sum over all but the first dimension of (1 - α) p² softplus(x), p = sigmoid(x): the focal loss of "not this class".

    The gradient (1 - α) p² (p + 2 (1 - p) softplus(x)) is computed with the value, layer by layer and in place: a fifth
    of the memory traffic that recording each operation would take.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, alpha: float) -> Tensor:
        gradient = torch.empty_like(x)
        sums = x.new_empty(len(x))
        for i, layer in enumerate(x):
            p = torch.sigmoid(layer)
            softplus = F.softplus(layer)
            weight = p.square().mul_(1 - alpha)
            sums[i] = (weight * softplus).sum()
            torch.mul(softplus.mul_(2), 1 - p, out=gradient[i]).add_(p).mul_(weight)
        ctx.save_for_backward(gradient)
        return sums

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * grads[0].view(-1, *[1] * (gradient.dim() - 1)), None
