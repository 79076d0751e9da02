"""Images and COCO annotations -> the model's inputs, and the model's outputs -> detections, as transformers has it.

`ConditionalDetrImageProcessor` and `DetrImageProcessor` take transformers' arguments, have its defaults, and read and
write its `preprocessor_config.json`. They differ from each other in post-processing alone, and from transformers in
what docs/correctness.md calls traps 6 and 7: crowds are left out of masks as of boxes, and boxes are relative to the image
without its padding.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from typing_extensions import Self

from ..images.arrays import IMAGENET_MEAN, IMAGENET_STD, image_list
from ..images.prepare import Preprocessing
from ..images.read import as_rgb_tensor
from ..images.sizes import pad_size_dict, size_dict
from .annotations import read_labels
from .batch_feature import BatchFeature, as_numpy
from .encoding import encode
from .post_processing import ConditionalDetrPostProcessing, DetrPostProcessing, PostProcessing
from .processor_arguments import (
    DEVIATIONS,
    MEANS,
    OLDER_NAMES,
    RESCALE_FACTORS,
    WITHOUT_EFFECT,
    bounded,
    known_format,
    number,
    per_channel,
    pil_resample,
    replaced,
    switch,
)
from .processor_files import ProcessorFiles


class DetectionImageProcessor(ProcessorFiles, PostProcessing):
    """What both processors have in common. Use `ConditionalDetrImageProcessor` or `DetrImageProcessor`.

    Args:
        format: of the annotations, "coco_detection" or "coco_panoptic".
        do_resize: resize images to `size`.
        size: see `sizes.size_dict`; by default the short side becomes 800, the long side at most 1333.
        resample: the filter, a PIL number or a torchvision `InterpolationMode`.
        do_rescale, rescale_factor: multiply pixels by 1/255.
        do_normalize, image_mean, image_std: of the rescaled values, a number or one a channel.
        do_convert_annotations: boxes become (cx, cy, w, h) relative; else they stay (x0, y0, x1, y1) in pixels. None
            does as `do_normalize`.
        do_pad: pad images to one canvas and return a `pixel_mask`.
        pad_size: the canvas, {"height", "width"}; None for the largest height and width of the batch.
        max_size, pad_and_return_pixel_mask: older names, of `size["longest_edge"]` and of `do_pad`.
        extra: fields that are unknown here; kept in `extra` and written back by `to_dict`.

    Raises:
        ValueError: a value that means nothing; the message names it.
    """

    model_input_names = ("pixel_values", "pixel_mask")

    def __init__(
        self,
        /,
        *,
        format: str = "coco_detection",
        do_resize: bool = True,
        size: int | Sequence[int] | Mapping[str, int] | None = None,
        resample: Any = Image.Resampling.BILINEAR,
        do_rescale: bool = True,
        rescale_factor: float = 1 / 255,
        do_normalize: bool = True,
        image_mean: float | Sequence[float] = IMAGENET_MEAN,
        image_std: float | Sequence[float] = IMAGENET_STD,
        do_convert_annotations: bool | None = None,
        do_pad: bool | None = None,
        pad_size: int | Sequence[int] | Mapping[str, int] | None = None,
        max_size: int | None = None,
        pad_and_return_pixel_mask: bool | None = None,
        **extra: Any,
    ) -> None:
        self.format = known_format(format)
        self.do_resize = switch("do_resize", do_resize)
        self.size = bounded("size", size_dict(size, max_size))
        self.resample = pil_resample(resample)
        self.do_rescale = switch("do_rescale", do_rescale)
        self.rescale_factor = number("rescale_factor", rescale_factor, *RESCALE_FACTORS)
        self.do_normalize = switch("do_normalize", do_normalize)
        self.image_mean = per_channel("image_mean", image_mean, *MEANS)
        self.image_std = per_channel("image_std", image_std, *DEVIATIONS)
        self.do_convert_annotations = switch(
            "do_convert_annotations", do_normalize if do_convert_annotations is None else do_convert_annotations
        )
        padded = next((value for value in (do_pad, pad_and_return_pixel_mask) if value is not None), True)
        self.do_pad = switch("do_pad", padded)
        self.pad_size = None if pad_size is None else bounded("pad_size", pad_size_dict(pad_size))
        self.extra = extra

    @property
    def preprocessing(self) -> Preprocessing:
        """What is done to images, as training, evaluation and prediction do it too."""
        return Preprocessing.from_dict(vars(self))

    def __call__(self, images: Any, *args: Any, **kwargs: Any) -> BatchFeature:
        """The same as `preprocess`."""
        return self.preprocess(images, *args, **kwargs)

    def preprocess(
        self,
        images: Any,
        annotations: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        return_segmentation_masks: bool | None = None,
        masks_path: str | os.PathLike[str] | None = None,
        *,
        input_data_format: str | None = None,
        return_tensors: str | None = None,
        device: str | torch.device | None = None,
        **overrides: Any,
    ) -> BatchFeature:
        """Images, and their annotations if there are any, as the model takes them.

        Args:
            images: one, or a list of paths, PIL images, arrays and tensors, of any sizes (see `read.as_rgb_tensor`).
            annotations: one, or one an image (see `annotations.detection_labels` and `annotations.panoptic_labels`).
            return_segmentation_masks: labels have `masks`; None: only panoptic ones have.
            masks_path: the folder of the PNG files of panoptic annotations.
            input_data_format: "channels_first" or "channels_last" for arrays; None finds out.
            return_tensors: None or "pt" for tensors, "np" for NumPy arrays.
            device: where to resize and normalise, and where the result is; None: where the images are.
            overrides: any argument of the constructor, for this call alone.

        Returns:
            `pixel_values` float32 (B, 3, H, W); with `do_pad`, `pixel_mask` int64 (B, H, W), 1 = real, 0 = padding; with
            annotations, `labels`: of each image, the dict that annotations.py describes. Boxes and the labels' `size`
            are those of the resized image without its padding (docs/correctness.md, trap 7); masks have the padded size.

        Raises:
            OSError: an image file that cannot be read.
            TypeError: an argument or a kind of image that is unknown.
            ValueError: anything else that does not fit; the message names it.
        """
        steps = self._overridden(overrides)
        if return_tensors not in (None, "pt", "np"):
            raise ValueError(f"return_tensors must be None, 'pt' or 'np', got {return_tensors!r}")
        tensors = [as_rgb_tensor(image, input_data_format).to(device) for image in image_list(images)]
        labels = read_labels(tensors, annotations, steps.format, return_segmentation_masks, masks_path)
        batch = BatchFeature(
            encode(
                tensors,
                labels,
                steps.preprocessing,
                padded=steps.do_pad,
                canvas=steps.pad_size,
                relative=steps.do_convert_annotations,
            )
        )
        if "labels" in batch:
            batch["labels"] = [BatchFeature(item) for item in batch["labels"]]
        return as_numpy(batch) if return_tensors == "np" else batch

    def _overridden(self, overrides: Mapping[str, Any]) -> Self:
        """This processor with the arguments of one call."""
        given = {name: value for name, value in overrides.items() if value is not None}
        if given.get("data_format", "channels_first") != "channels_first":
            raise ValueError(f"data_format must be 'channels_first', got {given['data_format']!r}")
        arguments = self._arguments()
        known = {*arguments, *OLDER_NAMES}
        unknown = [name for name in overrides if name not in known and name not in WITHOUT_EFFECT]
        if unknown:
            raise TypeError(f"preprocess() got an unknown argument {unknown[0]!r}")
        given = {name: value for name, value in given.items() if name in known}
        return type(self)(**replaced(arguments, given))


class ConditionalDetrImageProcessor(DetectionImageProcessor, ConditionalDetrPostProcessing):
    """The image processor of Conditional DETR. Arguments: `DetectionImageProcessor`."""


class DetrImageProcessor(DetectionImageProcessor, DetrPostProcessing):
    """The image processor of DETR. Arguments: `DetectionImageProcessor`."""


ConditionalDetrImageProcessorFast = ConditionalDetrImageProcessor
ConditionalDetrFeatureExtractor = ConditionalDetrImageProcessor
DetrImageProcessorFast = DetrImageProcessor
DetrFeatureExtractor = DetrImageProcessor
