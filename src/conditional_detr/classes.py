"""How class logits are read: by sigmoid, each class for itself, or by softmax, with "no object" as the last class."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from .precision import at_least_float32


class Selection(NamedTuple):
    """What is detected in each of B images, K candidates each."""

    scores: Tensor  # (B, K) 0…1
    labels: Tensor  # (B, K) int64, 0…C-1
    queries: Tensor  # (B, K) int64, 0…Q-1


class ClassReading(ABC):
    """A way to read class logits."""

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


class SigmoidClasses(ClassReading):
    """Conditional DETR's: a query may be of several classes, or of none; candidates are pairs of query and class."""

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


class SoftmaxClasses(ClassReading):
    """DETR's: a query is of its best class, or no object; candidates are the queries."""

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
