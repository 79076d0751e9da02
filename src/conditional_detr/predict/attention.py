"""What a detection looked at: the scores of a decoder layer's cross-attention, of content and of place apart.

A prediction is made as always, and the inputs of one layer are kept on the way; the scores are then computed again, for
the queries of the detections alone.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..images.prepare import Preprocessing, to_canvas
from ..models.decoder import DecoderLayer
from ..models.detector import ObjectDetectionModel
from ..models.segmenter import SegmentationModel
from ..results.detections import detections_with_queries
from ..results.named import Detection
from .memory import enough_memory

Part = Literal["combined", "spatial", "content"]
PARTS: tuple[Part, ...] = ("combined", "spatial", "content")


@dataclass(frozen=True, eq=False)
class Explanation:
    """A detection and what one decoder layer's cross-attention compared for it.

    The cells of the feature map lie over the whole image, evenly: that of row r and column c of R x C is centred at
    ((c + 0.5) / C, (r + 0.5) / R) of its width and height.

    Attributes:
        detection: the object, as `Detector` gives it, without a mask.
        size: height and width of the image in pixels.
        query: number of the query that found it.
        layer: of the decoder, from 0.
        reference_point: (x, y) in pixels that the box was predicted relative to; None in DETR, which has none.
        content_scores: float32 (heads, R, C), what content adds to the attention's logits.
        spatial_scores: float32 (heads, R, C), what place adds to them.
    """

    detection: Detection
    size: tuple[int, int]
    query: int
    layer: int
    reference_point: tuple[float, float] | None
    content_scores: np.ndarray = field(repr=False)
    spatial_scores: np.ndarray = field(repr=False)

    def attention(self, part: Part = "combined") -> np.ndarray:
        """The softmax over all cells of a part's scores, float32 (heads, R, C), each head's sum 1; "combined", of the sum of
        both parts, is the attention that the model computes."""
        scores = {
            "combined": self.content_scores + self.spatial_scores,
            "spatial": self.spatial_scores,
            "content": self.content_scores,
        }[part]
        powers = np.exp(scores - scores.max(axis=(1, 2), keepdims=True))
        return powers / powers.sum(axis=(1, 2), keepdims=True)


@torch.inference_mode()
def explain_image(
    model: ObjectDetectionModel | SegmentationModel,
    preprocessing: Preprocessing,
    image: Tensor,
    size: tuple[int, int],
    *,
    threshold: float,
    most: int,
    layer: int = -1,
) -> list[Explanation]:
    """Detect in one image, and say what a layer attended to for each detection, best first.

    Args:
        model: in evaluation mode; of a segmentation model its detector.
        image: (3, h, w) uint8, prepared.
        size: height and width of the image that boxes are given in.
        threshold: least score of a detection.
        most: so many detections at most.
        layer: of the decoder; negative ones count from the last.

    Raises:
        ValueError: there is no such layer.
        RuntimeError: memory ran out; the message says what to do.
    """
    detector = model.detector if isinstance(model, SegmentationModel) else model
    layers = list(detector.model.decoder.layers)
    if not -len(layers) <= layer < len(layers):
        raise ValueError(f"layer is {layer}; the decoder has {len(layers)}, 0 to {len(layers) - 1}, or -1 for the last")
    chosen = layers[layer]
    assert isinstance(chosen, DecoderLayer)
    canvas, _ = to_canvas([image.to(model.device)])
    pixels = preprocessing.normalize(canvas).to(model.dtype, memory_format=torch.channels_last)
    # Compiled code would pass over the watch, and recorded graphs are of other shapes.
    with enough_memory(model.device), torch.compiler.set_stance("force_eager"), _watched(chosen) as seen:
        states = detector.model.states(pixels, None, all_layers=False)
        logits, boxes = detector.predict_from(states.decoded.normed, states.decoded.reference)
    (found,) = detections_with_queries(logits[-1], boxes[-1], model.config.classes, [size], threshold, most)
    queries = found["queries"]
    with enough_memory(model.device):
        content, spatial = chosen.cross_attention_scores(*(_of_queries(seen, queries)))
    cells = states.projected.shape[-2:]
    of_content, of_place = (
        scores[0].transpose(0, 1).unflatten(-1, cells).cpu().numpy() for scores in (content, spatial)
    )
    points = None if states.decoded.reference is None else states.decoded.reference[0, queries].sigmoid().tolist()
    names, (height, width) = model.config.id2label, size
    rows = zip(*(found[name].tolist() for name in ("labels", "scores", "boxes", "queries")), strict=True)
    return [
        Explanation(
            Detection(names[label], score, (x0, y0, x1, y1), label),
            size,
            query,
            layer % len(layers),
            None if points is None else (points[i][0] * width, points[i][1] * height),
            of_content[i],
            of_place[i],
        )
        for i, (label, score, (x0, y0, x1, y1), query) in enumerate(rows)
    ]


@contextmanager
def _watched(layer: DecoderLayer) -> Iterator[dict[str, Any]]:
    """Keep the inputs that a layer is given within, and the content that its self-attention leaves, `given` and `content`;
    of this thread's calls alone, since others may predict with the same model."""
    seen: dict[str, Any] = {}
    thread = threading.get_ident()

    def keep(**values: Any) -> None:
        if threading.get_ident() == thread:
            seen.update(values)

    hooks = [
        layer.register_forward_pre_hook(lambda module, given: keep(given=given)),
        layer.self_attn_layer_norm.register_forward_hook(lambda module, given, made: keep(content=made)),
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _of_queries(seen: dict[str, Any], queries: Tensor) -> tuple[Tensor, Tensor, Tensor | None, Tensor, Tensor]:
    """The arguments of `DecoderLayer.cross_attention_scores`, of these queries."""
    _, object_queries, spatial_query, memory, position = seen["given"][:5]
    return (
        seen["content"][:, queries],
        object_queries[:, queries],
        None if spatial_query is None else spatial_query[:, queries],
        memory,
        position,
    )
