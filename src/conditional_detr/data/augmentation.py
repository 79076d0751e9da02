"""What happens to a training image: the settings alone, so that the command line need not load PyTorch to know them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import get_type_hints

from ..options import checked

PAPER_SCALES = [480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800]


@dataclass
class Augmentation:
    """The recipe's augmentations. The defaults are the papers'; a probability or strength of 0 switches one off.

    Args:
        horizontal_flip: Probability of mirroring left and right.
        vertical_flip: Probability of mirroring top and bottom (for views without an up, such as microscopes').
        scales: Short sides in pixels, one of which is drawn for each image.
        max_size: Longest long side in pixels after resizing.
        crop: Probability of resizing to one of `crop_scales`, cutting out a part, and only then resizing to a scale.
        crop_scales: Short sides in pixels before the crop.
        crop_min: Least side of the part cut out, in pixels.
        crop_max: Greatest side of the part cut out, in pixels.
        color_jitter: Strength of random brightness, contrast and saturation, 0 to 1.
    """

    horizontal_flip: float = 0.5
    vertical_flip: float = 0.0
    scales: list[int] = field(default_factory=lambda: list(PAPER_SCALES))
    max_size: int = 1333
    crop: float = 0.5
    crop_scales: list[int] = field(default_factory=lambda: [400, 500, 600])
    crop_min: int = 384
    crop_max: int = 600
    color_jitter: float = 0.0

    def __post_init__(self) -> None:
        for name, kind in get_type_hints(Augmentation).items():
            setattr(self, name, checked(f"augmentation.{name}", getattr(self, name), kind))
        for name in ("horizontal_flip", "vertical_flip", "crop", "color_jitter"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"augmentation.{name} is {getattr(self, name)}, not in 0…1")
        if not self.scales or (self.crop and not self.crop_scales):
            raise ValueError("augmentation.scales and crop_scales need at least one size")
        if min([*self.scales, *self.crop_scales, self.max_size, self.crop_min]) < 1 or self.crop_min > self.crop_max:
            raise ValueError("augmentation: sizes must be positive and crop_min at most crop_max")

    @property
    def least_side(self) -> int:
        """Short side in pixels that is enough for every draw: no image is enlarged that need not be."""
        return max([*self.scales, *(self.crop_scales if self.crop else [])])

    def describe(self) -> str:
        """One line for the start of a run."""
        parts = [f"{self.horizontal_flip:g} horizontal flip"] if self.horizontal_flip else []
        parts += [f"{self.vertical_flip:g} vertical flip"] if self.vertical_flip else []
        if self.crop:
            parts.append(f"{self.crop:g} crop of {self.crop_min}…{self.crop_max} px from short side {self.crop_scales}")
        parts += [f"color jitter {self.color_jitter:g}"] if self.color_jitter else []
        parts.append(f"short side {self.scales[0]}" if len(self.scales) == 1 else f"short side one of {self.scales}")
        return ", ".join(parts) + f", long side at most {self.max_size}"
