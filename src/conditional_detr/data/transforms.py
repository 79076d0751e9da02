"""Augmentations of an image, its boxes and its masks, with torchvision.transforms.v2. Sizes follow `images.sizes`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tvF

from ..images.pixels import resize
from ..images.sizes import output_size
from .augmentation import Augmentation


def _pick(values: list[int]) -> int:
    return values[int(torch.randint(len(values), ()))]


class ResizeShortSide(v2.Transform):
    """Resize so that the short side is one of `scales`, and the long side at most `max_size`."""

    def __init__(self, scales: list[int], max_size: int | None) -> None:
        super().__init__()
        self.scales, self.max_size = scales, max_size

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        height, width = v2.query_size(flat_inputs)
        return {"size": list(output_size(height, width, _pick(self.scales), self.max_size))}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        if isinstance(inpt, tv_tensors.Mask):
            # torchvision takes the upper left of the pixels that fall together, which moves masks off their objects
            masks = resize(inpt.as_subclass(Tensor), params["size"], Image.Resampling.NEAREST)
            return tv_tensors.wrap(masks, like=inpt)
        return self._call_kernel(tvF.resize, inpt, size=params["size"], antialias=True)


class RandomSizeCrop(v2.Transform):
    """Cut out a part whose sides are drawn uniformly from `smallest`…`largest`, within the image."""

    def __init__(self, smallest: int, largest: int) -> None:
        super().__init__()
        self.smallest, self.largest = smallest, largest

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        params = {}
        for side, start, length in zip(v2.query_size(flat_inputs), ("top", "left"), ("height", "width"), strict=True):
            most = min(side, self.largest)
            params[length] = int(torch.randint(min(side, self.smallest), most + 1, ()))
            params[start] = int(torch.randint(side - params[length] + 1, ()))
        return params

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return self._call_kernel(tvF.crop, inpt, **params)


def training_transform(settings: Augmentation) -> v2.Transform:
    """The papers' augmentation, or what is left of it: flips, colours, then resize, or resize, crop and resize."""
    steps: list[v2.Transform] = []
    if settings.horizontal_flip:
        steps.append(v2.RandomHorizontalFlip(settings.horizontal_flip))
    if settings.vertical_flip:
        steps.append(v2.RandomVerticalFlip(settings.vertical_flip))
    if settings.color_jitter:
        strength = settings.color_jitter
        steps.append(v2.ColorJitter(brightness=strength, contrast=strength, saturation=strength))
    if settings.crop:
        crop = [ResizeShortSide(settings.crop_scales, None), RandomSizeCrop(settings.crop_min, settings.crop_max)]
        steps.append(v2.RandomApply(crop, p=settings.crop))
    steps.append(ResizeShortSide(settings.scales, settings.max_size))
    return v2.Compose(steps)


def augment(transform: v2.Transform, image: Tensor, boxes: Tensor, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Transform an image and its boxes. The same seed gives the same result, in any process and at any time.

    Args:
        image: (3, H, W) uint8.
        boxes: (n, 4) xyxy in pixels.
        seed: decides all that is random here; the process's own generator is left as it was.

    Returns:
        The image; the boxes that still have an area, cut at its edges, xyxy; and (n,) bool, which of them these are.
    """
    with _seeded(seed):
        wrapped = tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=tuple(image.shape[-2:]))  # type: ignore[call-overload]
        image, wrapped = transform(tv_tensors.Image(image), wrapped)
    height, width = image.shape[-2:]
    boxes = wrapped.as_subclass(Tensor)
    low, high = boxes[:, :2].clamp(min=0), torch.minimum(boxes[:, 2:], boxes.new_tensor([width, height]))
    kept = (high > low).all(1)
    return image.as_subclass(Tensor), torch.cat((low, high), 1)[kept], kept


def augment_masks(transform: v2.Transform, masks: Tensor, seed: int) -> Tensor:
    """Transform masks as `augment` transforms their image, however many at a time: what is random depends on the seed
    and the size alone. Pixels are chosen, never mixed.

    Args:
        masks: (k, H, W), of the size of the image given to `augment`; any integer type.

    Returns:
        (k, h, w), of the size of the image that `augment` returns.
    """
    with _seeded(seed):
        return transform(tv_tensors.Mask(masks)).as_subclass(Tensor)


def augmented_size(transform: v2.Transform, size: tuple[int, int], seed: int) -> tuple[int, int]:
    """Height and width to which `augment` brings an image of this size."""
    with _seeded(seed):
        nothing = tv_tensors.BoundingBoxes(torch.zeros(0, 4), format="XYXY", canvas_size=size)  # type: ignore[call-overload]
        return transform(nothing).canvas_size


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    generator = torch.default_generator
    state = generator.get_state()
    generator.manual_seed(seed)
    try:
        yield
    finally:
        generator.set_state(state)
