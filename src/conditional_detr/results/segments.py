"""Predictions with masks -> segmentations: maps of segments or of classes, masks of objects, and panoptic maps.

Every function takes `MaskPredictions`. What lies outside an image is cut off before anything is resized, so that an image
gives the same alone and padded in a batch. `classes` says how class logits are read. Queries without a mask take no part.

Masks are resized bilinearly from their cells to `target_sizes`, `CHUNK` pixels at a time, so that memory does not grow
with the number of masks. Where several are equally strong at a pixel, the first query (or class) has it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ..classes import ClassReading
from ..precision import at_least_float32
from .detections import TargetSizes, detections_with_queries

CHUNK = 2**22  # 13 masks of 480 x 640, 16 MB: twice as fast as 100 at once

Size = tuple[int, int]


@dataclass(frozen=True)
class MaskPredictions:
    """What a segmentation model says of the classes and masks of B images. Q queries, K masks an image."""

    logits: Tensor  # (B, Q, C or C + 1) of classes
    masks: Tensor  # (B, K, h, w) logits
    queries: Tensor | None = None  # (B, K) int64, the query of each mask, -1 for none; None: all Q, in order
    sizes: Tensor | None = None  # (B, 2) int64, rows and columns of each image within h x w; None: all

    @classmethod
    def of(cls, outputs: Any) -> MaskPredictions:
        """From a model's outputs: `logits`, `pred_masks`, and, where they have them, `mask_query_indices` and `mask_sizes`,
        which those of transformers' models lack.

        Raises:
            ValueError: there are no masks, or not of all queries, and nothing says of which.
        """
        masks = getattr(outputs, "pred_masks", None)
        if masks is None:
            raise ValueError("the outputs have no pred_masks: use a ...ForSegmentation model")
        queries, sizes = getattr(outputs, "mask_query_indices", None), getattr(outputs, "mask_sizes", None)
        if queries is None and masks.shape[1] != outputs.logits.shape[1]:
            raise ValueError(f"{masks.shape[1]} masks for {outputs.logits.shape[1]} queries need mask_query_indices")
        return cls(outputs.logits, masks, queries, sizes)


@torch.no_grad()
def segment_maps(
    predictions: MaskPredictions,
    classes: ClassReading,
    threshold: float = 0.5,
    mask_threshold: float = 0.5,
    overlap_mask_area_threshold: float = 0.8,
    label_ids_to_fuse: Collection[int] = (),
    target_sizes: TargetSizes | None = None,
) -> list[dict[str, Any]]:
    """Maps of segments that do not overlap, made as transformers' instance and panoptic post-processing makes them.

    Queries whose best class scores above `threshold` compete for each pixel with score × mask probability. The strongest
    has it, however weak it is: a lone query has the whole image (for what a mask itself covers see `instance_masks`). A
    query's segment is kept if it is more than `overlap_mask_area_threshold` of the pixels where its product reaches
    `mask_threshold`; there is no least size. Pixels of segments that are not kept are 0. The product is never above the
    score, so a query that scores below `mask_threshold` has no segment: lower both thresholds together.

    The results equal transformers' but for one thing. After a segment was fused into an older one, transformers counts on
    from the older one's id, and two objects can get the same (its issue 23461). Here a new segment has a new id.

    Args:
        predictions, classes: see the module.
        threshold, mask_threshold, overlap_mask_area_threshold: 0..1.
        label_ids_to_fuse: classes of which all segments get one id.
        target_sizes: (height, width) of each image, a list or (B, 2); None leaves the masks' sizes.

    Returns:
        for each image `segmentation`, int32 (height, width), ids from 1 on, 0 = nothing; where no query scores above
        `threshold`, float32 and -1 everywhere, as in transformers. And `segments_info`, in the order of queries: `id`,
        `label_id`, `was_fused` (its class is one to fuse) and `score`, rounded to 6 digits. Segments that were fused keep
        an entry each, with the same id.

    Raises:
        ValueError: `target_sizes` is not one pair an image.
    """
    results: list[dict[str, Any]] = []
    for logits, queries, masks, size in _images(predictions, target_sizes):
        rows, scores, labels = classes.best(logits[queries], threshold)
        if not len(rows):
            results.append({"segmentation": torch.full(size, -1.0, device=masks.device), "segments_info": []})
            continue
        owner, claimed = _contest(at_least_float32(masks[rows]).sigmoid(), scores, size, mask_threshold)
        area = owner.flatten().bincount(minlength=len(rows))
        shares = (area / claimed).masked_fill((area == 0) | (claimed == 0), torch.nan).tolist()

        ids, segments, fused = [0] * len(rows), [], dict[int, int]()
        for row, (label, score, share) in enumerate(zip(labels.tolist(), scores.tolist(), shares, strict=True)):
            if share > overlap_mask_area_threshold:
                new, fuse = max(ids) + 1, label in label_ids_to_fuse
                ids[row] = fused.setdefault(label, new) if fuse else new
                segments.append({"id": ids[row], "label_id": label, "was_fused": fuse, "score": round(score, 6)})
        segmentation = torch.tensor(ids, dtype=torch.int32, device=owner.device)[owner]
        results.append({"segmentation": segmentation, "segments_info": segments})
    return results


@torch.no_grad()
def class_maps(
    predictions: MaskPredictions, classes: ClassReading, target_sizes: TargetSizes | None = None
) -> list[Tensor]:
    """The class of each pixel: the one with the greatest sum over queries of class probability × mask probability.

    There is no "nothing": an image whose queries have no masks is class 0 everywhere. transformers reads Conditional
    DETR's classes by softmax, as if just one of them could be there.

    Args:
        predictions, classes: see the module.
        target_sizes: (height, width) of each image, a list or (B, 2); None leaves the masks' sizes.

    Returns:
        for each image, int64 (height, width).

    Raises:
        ValueError: `target_sizes` is not one pair an image.
    """
    return [_strongest(_resized(sums, size)) for sums, size in _class_sums(predictions, classes, target_sizes)]


@torch.no_grad()
def class_scores(
    predictions: MaskPredictions, classes: ClassReading, target_sizes: TargetSizes | None = None
) -> list[Tensor]:
    """What `class_maps` compares: float32 at least (C, height, width) of each image, C times the memory of the map."""
    return [
        torch.cat([chunk for _, chunk in _resized(sums, size)])
        for sums, size in _class_sums(predictions, classes, target_sizes)
    ]


def _class_sums(
    predictions: MaskPredictions, classes: ClassReading, target_sizes: TargetSizes | None
) -> Iterator[tuple[Tensor, Size]]:
    """Of each image the sums (C, h, w), and the target size."""
    for logits, queries, masks, size in _images(predictions, target_sizes):
        yield torch.einsum("qc,qhw->chw", classes.scores(logits[queries]), at_least_float32(masks).sigmoid()), size


def map_runs(segmentation: Tensor) -> list[list[int]]:
    """A map's segments in transformers' run-length form, which is not COCO's: rows after one another, counted from 1.

    Args:
        segmentation: (height, width), an id a pixel.

    Returns:
        for each id in the map, lowest first and 0 included, [start, length, start, length, ...].
    """
    ids, lengths = segmentation.flatten().unique_consecutive(return_counts=True)
    runs = torch.stack([lengths.cumsum(0) - lengths + 1, lengths], dim=1)
    return [runs[ids == id].flatten().tolist() for id in ids.unique()]


@torch.no_grad()
def instance_masks(
    predictions: MaskPredictions,
    pred_boxes: Tensor,
    classes: ClassReading,
    target_sizes: TargetSizes,
    threshold: float,
    top_k: int = 100,
    mask_threshold: float = 0.5,
) -> list[dict[str, Any]]:
    """Detections, each with its own mask; masks may overlap, and a query detected with several classes has one mask.

    Of queries without a mask (see `MaskPredictions.queries`) there are no detections. With `mask_score_threshold` at most
    `threshold` and a `mask_limit` of at least `top_k` none is missing, but where scores tie, as many do in bfloat16.

    Args:
        predictions, classes: see the module.
        pred_boxes: (B, Q, 4) cxcywh, relative.
        target_sizes: (height, width) of each image, a list or (B, 2).
        threshold: only scores above it.
        top_k: at most so many of an image, best first.
        mask_threshold: a pixel belongs to an object if its mask probability, of the resized logits, is above it.

    Returns:
        for each image `scores` (n,), `labels` (n,) and `boxes` (n, 4) xyxy in pixels, as of
        `post_process_object_detection`, and `masks`, n COCO run lengths {"size": [height, width], "counts": str}.

    Raises:
        ValueError: `target_sizes` is not one pair an image.
    """
    from hotcoco import mask as coco_mask  # imported here, since masks alone need it

    logits = _of_drawn_queries(predictions, classes)
    found = detections_with_queries(logits, pred_boxes, classes, target_sizes, threshold, top_k)

    results: list[dict[str, Any]] = []
    images = _images(predictions, target_sizes)
    least = torch.tensor(mask_threshold).logit().item()
    for detected, (_, queries, masks, (height, width)) in zip(found, images, strict=True):
        row_of_query = queries.new_full((logits.shape[1],), -1)
        row_of_query[queries] = torch.arange(len(queries), device=queries.device)
        rows, object_row = row_of_query[detected.pop("queries")].unique(return_inverse=True)
        encoded: list[dict[str, Any]] = []
        # COCO's runs go down columns: masks on their side need not be turned at full size.
        for _, chunk in _resized(masks[rows].transpose(1, 2), (width, height)):
            encoded += coco_mask.encode((chunk > least).cpu().numpy().transpose(2, 1, 0))
        encoded = [{"size": [height, width], "counts": item["counts"].decode("ascii")} for item in encoded]
        results.append({**detected, "masks": [encoded[row] for row in object_row.tolist()]})
    return results


@torch.no_grad()
def merge_panoptic(
    predictions: MaskPredictions,
    classes: ClassReading,
    target_sizes: TargetSizes,
    is_thing: Sequence[bool],
    threshold: float = 0.85,
    min_pixels: int = 4,
) -> list[dict[str, Any]]:
    """Panoptic maps as the DETR paper merges masks (arXiv 2005.12872, section 4.4).

    Queries whose best class scores above `threshold` compete for each pixel with their mask logits, the strongest has it.
    Segments of the same stuff class are one. Those of at most `min_pixels` are left out and their pixels contested anew,
    until none is so small.

    The original differs: it decides at the size the model saw and resizes ids by nearest neighbour, which leaves stairs
    where the target is larger; of stuff that several queries share, it keeps only the first query's mask; its ids begin
    with 0, COCO's "nothing".

    Args:
        predictions, classes: see the module.
        target_sizes: (height, width) of each image, a list or (B, 2).
        is_thing: of each class, whether it is one of things (else of stuff).
        threshold: of scores, 0..1.
        min_pixels: the most that is too small, at the target size; 0 leaves out only what has no pixel.

    Returns:
        for each image `segmentation`, int32 (height, width), ids 1..n in the order of queries; every pixel has one, but
        where nothing is left all are 0. And `segments_info`, for each id in turn `id`, `label_id`, `isthing`, `area` in
        pixels and `score`, the highest where stuff was merged.

    Raises:
        ValueError: `target_sizes` is not one pair an image, or `is_thing` not one a class.
    """
    if len(is_thing) != (count := classes.count(predictions.logits)):
        raise ValueError(f"is_thing must have one value for each of the model's {count} classes, got {len(is_thing)}")
    results: list[dict[str, Any]] = []
    for logits, queries, masks, size in _images(predictions, target_sizes):
        rows, scores, labels = classes.best(logits[queries], threshold)
        segmentation = torch.zeros(size, dtype=torch.int32, device=masks.device)
        segments: list[dict[str, Any]] = []
        while len(rows):
            keys = [(label, row if is_thing[label] else None) for row, label in enumerate(labels.tolist())]
            number = {key: place for place, key in enumerate(dict.fromkeys(keys))}
            segment = torch.tensor([number[key] for key in keys], dtype=torch.int32, device=rows.device)  # of each row
            segmentation = segment[_strongest(_resized(masks[rows], size))] + 1
            areas = segmentation.flatten().bincount(minlength=len(number) + 1)[1:]
            large = (areas > min_pixels)[segment]
            if large.all():
                best = scores.new_zeros(len(number)).scatter_reduce(0, segment.long(), scores, "amax").tolist()
                segments = [
                    {"id": id + 1, "label_id": label, "isthing": bool(is_thing[label]), "area": area, "score": best[id]}
                    for id, ((label, _), area) in enumerate(zip(number, areas.tolist(), strict=True))
                ]
                break
            rows, scores, labels = rows[large], scores[large], labels[large]
        else:
            segmentation.zero_()
        results.append({"segmentation": segmentation, "segments_info": segments})
    return results


def _of_drawn_queries(predictions: MaskPredictions, classes: ClassReading) -> Tensor:
    """The class logits, those of queries without a mask so low that no class scores above 0."""
    logits, indices = predictions.logits, predictions.queries
    if indices is None:
        return logits
    count = logits.shape[1]
    drawn = torch.zeros(len(logits), count + 1, dtype=torch.bool, device=logits.device)
    drawn.scatter_(1, indices.masked_fill(indices < 0, count), True)
    absent = (~drawn[:, :count, None]).repeat(1, 1, logits.shape[-1])
    absent[..., classes.count(logits) :] = False  # "no object" stays
    return logits.masked_fill(absent, torch.finfo(logits.dtype).min)


def _images(
    predictions: MaskPredictions, target_sizes: TargetSizes | None
) -> Iterator[tuple[Tensor, Tensor, Tensor, Size]]:
    """Of each image: class logits (Q, C), the queries (k,) that have masks, these (k, h, w), cut, and the target size."""
    logits, masks, indices = predictions.logits, predictions.masks, predictions.queries
    every = torch.arange(masks.shape[1], device=masks.device)
    sizes = [tuple(masks.shape[2:])] * len(masks) if predictions.sizes is None else predictions.sizes.tolist()
    targets = sizes if target_sizes is None else _pairs(target_sizes, len(masks))
    for image, ((height, width), target) in enumerate(zip(sizes, targets, strict=True)):
        queries, cut = every, masks[image, :, :height, :width]
        if indices is not None:
            order = indices[image].argsort()  # as if all were there: who is first decides ids and ties
            order = order[indices[image][order] >= 0]
            queries, cut = indices[image][order], cut[order]
        yield logits[image], queries, cut, (target[0], target[1])


def _pairs(target_sizes: TargetSizes, count: int) -> list[list[int]]:
    pairs = target_sizes.tolist() if isinstance(target_sizes, Tensor) else target_sizes
    try:
        sizes = [[int(height), int(width)] for height, width in pairs]
    except (TypeError, ValueError):
        raise ValueError(f"target_sizes must be (height, width) of each image, got {target_sizes!r}") from None
    if len(sizes) != count:
        raise ValueError(f"target_sizes must have one (height, width) for each of the {count} images, got {len(sizes)}")
    return sizes


def _resized(masks: Tensor, size: Size) -> Iterator[tuple[int, Tensor]]:
    """Masks (n, h, w) resized bilinearly, some at a time: the first one's number, and (some, *size), float32 at least."""
    some = max(1, CHUNK // (size[0] * size[1]))
    for first in range(0, len(masks), some):
        chunk = at_least_float32(masks[None, first : first + some]).contiguous()
        if chunk.shape[2:] != size:
            chunk = functional.interpolate(chunk, size=size, mode="bilinear", align_corners=False)
        yield first, chunk[0]


def _strongest(chunks: Iterable[tuple[int, Tensor]]) -> Tensor:
    """Which of all (n, H, W), given as (number of the first, some of them), is the greatest at each pixel, int64 (H, W)."""
    best = owner = None
    for first, chunk in chunks:
        values, which = chunk.max(0)  # the first of equal ones
        if best is None or owner is None:
            best, owner = values, which
        else:
            owner = torch.where(values > best, which + first, owner)
            best = torch.maximum(best, values)
    assert owner is not None, "there is at least one"
    return owner


def _contest(masks: Tensor, scores: Tensor, size: Size, mask_threshold: float) -> tuple[Tensor, Tensor]:
    """Which row of masks (n, h, w) is the strongest at each pixel, (H, W), its probabilities resized, then × its score;
    and at how many pixels this reaches the threshold, (n,)."""
    claimed: list[Tensor] = []

    def weighed() -> Iterator[tuple[int, Tensor]]:
        for first, chunk in _resized(masks, size):
            chunk = chunk * scores[first : first + len(chunk), None, None]
            claimed.append((chunk >= mask_threshold).flatten(1).sum(1))
            yield first, chunk

    return _strongest(weighed()), torch.cat(claimed)
