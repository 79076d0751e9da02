"""The short way: a detector that takes pictures and gives detections."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoints.reading import HUB_OPTIONS, model_family
from ..models.detection import DETECTORS, DetectionHead
from ..processing.auto import IMAGE_PROCESSORS
from ..processing.image_processor import DetectionImageProcessor
from ..processing.reading import as_rgb_tensor
from .inference import detect_batch, prepare


@dataclass(frozen=True)
class Detection:
    """One object found.

    Attributes:
        label: name of its class.
        score: confidence, 0…1.
        box: (x0, y0, x1, y1) in pixels of the image as it is seen (EXIF applied).
        class_id: number of its class, 0…C-1.
    """

    label: str
    score: float
    box: tuple[float, float, float, float]
    class_id: int


class Detector:
    """A model and its image processor, ready to run.

    >>> detector = Detector.from_pretrained("runs/demo/model")
    >>> for detection in detector("street.jpg", threshold=0.5):
    ...     print(detection.label, detection.score, detection.box)
    """

    def __init__(self, model: DetectionHead, processor: DetectionImageProcessor) -> None:
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
        """Load a detector of either family.

        Args:
            name: a saved model's folder, an original `.pth` file, or a hub name.
            device: None takes the best there is.
            dtype: of weights and computation, such as `torch.bfloat16`; None is float32.
            compile: compile the model with torch.compile (slow the first time for each image shape).
            options: of the models' `from_pretrained` (revision, token, configuration values, …).

        Raises:
            OSError, ValueError: see the models' `from_pretrained`.
        """
        files = {option: options[option] for option in HUB_OPTIONS if option in options}
        family = model_family(name, **files)
        model = DETECTORS[family].from_pretrained(name, dtype=dtype or torch.float32, **options)
        processor = IMAGE_PROCESSORS[family].from_pretrained(name, **files)
        model.to(best_device() if device is None else _existing_device(device)).to(memory_format=torch.channels_last)
        if compile:
            model.compile()
        return cls(model, processor)

    def __call__(self, image: Any, threshold: float = 0.5) -> list[Detection]:
        """Detect in one image: a path, a PIL image, an array or a tensor. Best first."""
        return self.detect([image], threshold)[0]

    def detect(self, images: Sequence[Any], threshold: float = 0.5) -> list[list[Detection]]:
        """Detect in several images at once; what each gives does not depend on the others.

        Raises:
            OSError: a file cannot be read.
            TypeError, ValueError: what is given is no image.
        """
        if not images:
            return []
        tensors = [_as_uint8(as_rgb_tensor(image)) for image in images]
        sizes = [(int(t.shape[-2]), int(t.shape[-1])) for t in tensors]
        results = detect_batch(
            self.model, self.processor, [prepare(t, self.processor) for t in tensors], sizes, threshold
        )
        return [list(self.named(result)) for result in results]

    def named(self, result: dict[str, Tensor]) -> Iterator[Detection]:
        """Turn `scores`, `labels` and `boxes` of one image into detections."""
        names = self.model.config.id2label
        rows = zip(result["labels"].tolist(), result["scores"].tolist(), result["boxes"].tolist(), strict=True)
        for label, score, (x0, y0, x1, y1) in rows:
            yield Detection(names[label], score, (x0, y0, x1, y1), label)


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
