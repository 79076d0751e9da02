"""The short way: a detector that takes pictures and gives detections."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..checkpoints.reading import HUB_OPTIONS, has_masks, model_family
from ..config import Task
from ..models.detection import DETECTORS, DetectionHead
from ..models.inference import check_dtype, compile_model, prepare_for_inference
from ..models.segmentation import SEGMENTERS, SegmentationHead
from ..processing.annotations import mask_from_segmentation
from ..processing.auto import IMAGE_PROCESSORS
from ..processing.image_processor import DetectionImageProcessor
from ..processing.reading import as_rgb_tensor
from .inference import batches_of_canvases, canvas_of, detect_batch, prepare
from .memory import check_size

BATCH = 8  # images of one shape that are computed at once, at most


@dataclass(frozen=True)
class Detection:
    """One object found.

    Attributes:
        label: name of its class.
        score: confidence, 0…1.
        box: (x0, y0, x1, y1) in pixels of the image as it is seen (EXIF applied).
        class_id: number of its class, 0…C-1.
        run_lengths: its mask as COCO run lengths, {"size": [height, width], "counts": str}; None of a detector's.
    """

    label: str
    score: float
    box: tuple[float, float, float, float]
    class_id: int
    run_lengths: dict[str, Any] | None = None

    @property
    def mask(self) -> np.ndarray | None:
        """The pixels of the object, bool (height, width) of the image; None of a detector's. Decoded at each call."""
        if self.run_lengths is None:
            return None
        height, width = self.run_lengths["size"]
        return mask_from_segmentation(self.run_lengths, height, width).numpy()


@dataclass(frozen=True)
class Segment:
    """One segment of a panoptic map.

    Attributes:
        id: its number in the map, from 1.
        label: name of its class.
        class_id: number of its class, 0…C-1.
        is_thing: whether its class is countable; all stuff of one class is one segment.
        score: confidence, 0…1; of merged stuff the highest.
        area: in pixels.
    """

    id: int
    label: str
    class_id: int
    is_thing: bool
    score: float
    area: int


@dataclass(frozen=True)
class PanopticMap:
    """Which segment each pixel belongs to.

    Attributes:
        ids: int32 (height, width), 0 where there is none.
        segments: in the order of their ids.
    """

    ids: np.ndarray
    segments: list[Segment]


class Detector:
    """A model and its image processor, ready to run; a segmentation model gives detections masks, and panoptic maps.

    >>> detector = Detector.from_pretrained("runs/demo/model")
    >>> for detection in detector("street.jpg", threshold=0.5):
    ...     print(detection.label, detection.score, detection.box)
    """

    def __init__(self, model: DetectionHead | SegmentationHead, processor: DetectionImageProcessor) -> None:
        self.model, self.processor = model.eval(), processor

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        compile: bool = False,
        **options: Any,
    ) -> Detector:
        """Load a detector or segmentation model of either family.

        Args:
            name: a saved model's folder, an original `.pth` file, or a hub name.
            device: None takes the best there is.
            dtype: of weights and computation, `torch.bfloat16` or `torch.float16`; None is float32. Heads and reference
                points are computed in float32 always.
            compile: compile the model, see `models.inference.compile_model`; a warning where there is no compiler.
            options: of the models' `from_pretrained` (revision, token, configuration values, …).

        The model is rearranged to predict fast and can no more be trained or saved; load one with `from_pretrained` of
        its own class for that.

        Raises:
            OSError, ValueError: see the models' `from_pretrained`; or the device is not there or lacks the type.
        """
        place, kind = best_device() if device is None else _existing_device(device), dtype or torch.float32
        check_dtype(place, kind)
        files = {option: options[option] for option in HUB_OPTIONS if option in options}
        family = model_family(name, **files)
        models: dict[str, Any] = SEGMENTERS if has_masks(name, **files) else DETECTORS
        model = models[family].from_pretrained(name, dtype=torch.float32, **options)
        processor = IMAGE_PROCESSORS[family].from_pretrained(name, **files)
        prepare_for_inference(model, place, kind)
        if compile:
            compile_model(model)
        return cls(model, processor)

    def __call__(self, image: Any, threshold: float = 0.5) -> list[Detection]:
        """Detect in one image: a path, a PIL image, an array or a tensor. Best first."""
        return self.detect([image], threshold)[0]

    def detect(self, images: Sequence[Any], threshold: float = 0.5) -> list[list[Detection]]:
        """Detect in several images at once; what each gives does not depend on the others.

        Raises:
            OSError: a file cannot be read.
            TypeError, ValueError: what is given is no image, or one that memory would not hold.
            RuntimeError: memory ran out; the message says what to do.
        """
        return [list(self.named(result)) for result in self._results(images, threshold, self.model.task)]

    def panoptic(self, image: Any, threshold: float | None = None) -> PanopticMap:
        """Give each pixel of an image to a segment, things and stuff, merged as in the DETR paper.

        Args:
            image: a path, a PIL image, an array or a tensor.
            threshold: least score of a segment; None is 0.85 for DETR and 0.3 for Conditional DETR.

        Raises:
            OSError, TypeError: see `detect`.
            ValueError: the model is not a panoptic one.
        """
        if self.model.task != "panoptic":
            raise ValueError(
                "panoptic maps need a segmentation model whose configuration says which classes are things (is_thing)"
            )
        (result,) = self._results([image], 1.0, "panoptic", threshold)
        return self.named_map(result)

    def _results(
        self, images: Sequence[Any], threshold: float, task: Task, panoptic_threshold: float | None = None
    ) -> list[dict[str, Any]]:
        if not images:
            return []
        sizes: list[tuple[int, int]] = []
        prepared: list[Tensor] = []
        for image in images:
            tensor = _as_uint8(as_rgb_tensor(image))
            sizes.append((tensor.shape[-2], tensor.shape[-1]))
            check_size(canvas_of(sizes[-1], self.processor), self.model.device, self.model.dtype)
            prepared.append(prepare(tensor, self.processor))
        results: list[Any] = [None] * len(sizes)
        canvases = [canvas_of(size, self.processor, self.model.canvas_step) for size in sizes]
        for batch in batches_of_canvases(canvases, BATCH, self.model.device):
            found = detect_batch(
                self.model, self.processor, [prepared[i] for i in batch], [sizes[i] for i in batch], threshold,
                task=task, panoptic_threshold=panoptic_threshold,
            )  # fmt: skip
            for i, one in zip(batch, found, strict=True):
                results[i] = one
        return results

    def named(self, result: dict[str, Any]) -> Iterator[Detection]:
        """Turn `scores`, `labels`, `boxes` and perhaps `masks` of one image into detections."""
        names = self.model.config.id2label
        rows = zip(result["labels"].tolist(), result["scores"].tolist(), result["boxes"].tolist(), strict=True)
        masks = result.get("masks") or [None] * len(result["labels"])
        for (label, score, (x0, y0, x1, y1)), mask in zip(rows, masks, strict=True):
            yield Detection(names[label], score, (x0, y0, x1, y1), label, mask)

    def named_map(self, result: dict[str, Any]) -> PanopticMap:
        """Turn `segmentation` and `segments_info` of one image into a map."""
        names = self.model.config.id2label
        segments = [
            Segment(s["id"], names[s["label_id"]], s["label_id"], s["isthing"], s["score"], s["area"])
            for s in result["segments_info"]
        ]
        return PanopticMap(result["segmentation"].numpy(), segments)


def best_device() -> torch.device:
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return torch.device("cpu") if accelerator is None else accelerator


def _existing_device(name: str | torch.device) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):
        raise ValueError(f"device {str(name)!r} is not there; this machine's best is {str(best_device())!r}") from None
    return device


def _as_uint8(image: Tensor) -> Tensor:
    """Floats are taken as 0…1."""
    if image.dtype == torch.uint8:
        return image
    if image.numel() and (image.min() < 0 or image.max() > 1):
        raise ValueError("an image of floats must be in 0…1")
    return (image * 255).round().to(torch.uint8)
