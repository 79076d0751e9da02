"""Image processors that are transformers' own, over this package's pixels, labels and post-processing.

Each class inherits from transformers' class of its name: arguments and their checks, files, the hub, `resize`, `normalize`
and the like are inherited. What a call computes is what `conditional_detr.processors` computes, with its differences on
purpose (docs/coming-from.md).
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import transformers
from PIL import Image
from torch import Tensor
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import load_image

from ..checkpoints.hub import HUB_OPTIONS
from ..images.arrays import image_list
from ..images.prepare import Preprocessing
from ..images.read import as_rgb_tensor
from ..images.sizes import pad_size_dict, size_dict
from ..processors.annotations import Labels, pad_labels, read_labels
from ..processors.encoding import encode
from ..processors.post_processing import ConditionalDetrPostProcessing, DetrPostProcessing, PostProcessing
from ..processors.processor_arguments import (
    DEVIATIONS,
    MEANS,
    OLDER_NAMES,
    RESCALE_FACTORS,
    bounded,
    known_format,
    number,
    per_channel,
    pil_resample,
    replaced,
)
from ..results.detections import TargetSizes

__all__ = [
    "ConditionalDetrFeatureExtractor",
    "ConditionalDetrImageProcessor",
    "ConditionalDetrImageProcessorFast",
    "ConditionalDetrImageProcessorKwargs",
    "ConditionalDetrImageProcessorPil",
    "DetrFeatureExtractor",
    "DetrImageProcessor",
    "DetrImageProcessorFast",
    "DetrImageProcessorKwargs",
    "DetrImageProcessorPil",
]

_CHANNELS = (1, 3, 4)

if TYPE_CHECKING:
    _Backend: Any
    _TransformersConditionalDetr: Any
    _TransformersDetr: Any
elif hasattr(transformers, "TorchvisionBackend"):
    _Backend = transformers.TorchvisionBackend
    _TransformersConditionalDetr = transformers.ConditionalDetrImageProcessor
    _TransformersDetr = transformers.DetrImageProcessor
else:  # before transformers 5.4 the plain names are those of processors that compute in NumPy
    _Backend = transformers.BaseImageProcessorFast
    _TransformersConditionalDetr = transformers.ConditionalDetrImageProcessorFast
    _TransformersDetr = transformers.DetrImageProcessorFast


class _Processing(PostProcessing):
    """What stands before transformers' class: the steps from images to a batch, and the older names of arguments.

    Images become RGB, whichever mode they have, but where the arguments say that they stay as they are: arrays and PIL
    images of one or four channels with `do_convert_rgb=False`, or with as many values in `image_mean`.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**replaced({}, kwargs))

    @classmethod
    def from_dict(cls, image_processor_dict: Mapping[str, Any], **kwargs: Any) -> Any:
        """As in transformers; of older names, too, what is given wins over what the dict has."""
        values = dict(image_processor_dict)
        if any(name in kwargs for name in OLDER_NAMES):
            given = {name: kwargs.pop(name) for name in (*OLDER_NAMES, "size", "do_pad") if name in kwargs}
            values = replaced(values, given)
        return super().from_dict(values, **kwargs)  # type: ignore[misc]

    @classmethod
    def get_image_processor_dict(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """As in transformers; an original `.pth` file says nothing about images, so that the defaults are taken."""
        path = Path(pretrained_model_name_or_path)
        if path.suffix in (".pth", ".pt") and path.is_file():
            return {}, {name: value for name, value in kwargs.items() if name not in (*HUB_OPTIONS, "subfolder")}
        return super().get_image_processor_dict(pretrained_model_name_or_path, **kwargs)  # type: ignore[misc]

    @property
    def preprocessing(self) -> Preprocessing:
        """What is done to images, as training, evaluation and prediction do it too."""
        return _preprocessing(vars(self))

    def preprocess(
        self,
        images: Any,
        annotations: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        return_segmentation_masks: bool | None = None,
        masks_path: str | os.PathLike[str] | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Images, and their annotations if there are any, as the model takes them.

        Args:
            images: one, or a list of paths, addresses, PIL images, arrays and tensors, of any sizes.
            annotations: one, or one an image, COCO detection's or panoptic.
            return_segmentation_masks: labels have `masks`; None: only panoptic ones have.
            masks_path: the folder of the PNG files of panoptic annotations.
            kwargs: any argument of the constructor, for this call alone, `return_tensors` and `device`.

        Returns:
            see `conditional_detr.processors.encoding.encode`.

        Raises:
            OSError, TypeError, ValueError: an image that cannot be read; anything that does not fit, by name.
        """
        if any(name in kwargs for name in OLDER_NAMES):
            kwargs = replaced({"size": _size(self.size)}, kwargs)  # type: ignore[attr-defined]
        # Past the family's own `preprocess`, whose order of arguments changes from version to version.
        return _Backend.preprocess(self, images, (annotations, return_segmentation_masks, masks_path), **kwargs)

    def _preprocess_image_like_inputs(
        self, images: Any, targets: tuple[Any, Any, Any], **arguments: Any
    ) -> BatchFeature:
        """The hook that transformers calls once it has checked a call's arguments, all of which it passes.

        Args:
            targets: annotations, whether with masks, and the folder of panoptic ones, as `preprocess` has them.
        """
        annotations, return_segmentation_masks, masks_path = targets
        preprocessing = _preprocessing(arguments)
        keep = _kept_channels(arguments.get("do_convert_rgb"), preprocessing.mean)
        layout, device = arguments.get("input_data_format"), arguments.get("device")
        tensors = [as_rgb_tensor(_fetched(image), layout, keep).to(device) for image in image_list(images)]
        _check_channels(tensors, preprocessing)
        pad_size = arguments.get("pad_size")
        data = encode(
            tensors,
            read_labels(tensors, annotations, known_format(arguments["format"]), return_segmentation_masks, masks_path),
            preprocessing,
            padded=bool(arguments.get("do_pad")),
            canvas=None if pad_size is None else bounded("pad_size", pad_size_dict(_size(pad_size))),
            relative=bool(arguments.get("do_convert_annotations")),
        )
        labels, kind = data.pop("labels", None), arguments.get("return_tensors")
        batch = BatchFeature(data, tensor_type=kind)
        if labels is not None:
            batch["labels"] = [BatchFeature(item, tensor_type=kind) for item in labels]
        return batch

    def prepare_annotation(
        self,
        image: Tensor,
        target: Mapping[str, Any],
        format: Any = None,
        return_segmentation_masks: bool | None = None,
        masks_path: str | os.PathLike[str] | None = None,
        input_data_format: Any = None,
    ) -> Labels:
        """The labels of one image (C, H, W), boxes (x0, y0, x1, y1) in its pixels. See `processors.annotations`."""
        kind = known_format(self.format if format is None else format)  # type: ignore[attr-defined]
        labels = read_labels([image], [target], kind, return_segmentation_masks, masks_path)
        assert labels is not None
        return labels[0]

    def _update_annotation_for_padded_image(
        self, annotation: Labels, input_image_size: Any, output_image_size: tuple[int, int], *ignored: Any, **too: Any
    ) -> Labels:
        """What the inherited `pad` does to labels: boxes and size stay those of the image (docs/correctness.md, trap 7)."""
        return pad_labels(annotation, *output_image_size)

    def post_process_semantic_segmentation(
        self, outputs: Any, target_sizes: TargetSizes | None = None, return_segmentation_scores: bool = False
    ) -> list[Any]:
        """See `processors.post_processing.PostProcessing`."""
        maps = super().post_process_semantic_segmentation(outputs, target_sizes, return_segmentation_scores)
        return [BatchFeature(item) for item in maps] if return_segmentation_scores else maps


class ConditionalDetrImageProcessor(_Processing, ConditionalDetrPostProcessing, _TransformersConditionalDetr):
    """transformers' image processor of Conditional DETR, as this package computes it. Arguments are transformers'."""


class DetrImageProcessor(_Processing, DetrPostProcessing, _TransformersDetr):
    """transformers' image processor of DETR, as this package computes it. Arguments are transformers'."""


ConditionalDetrImageProcessorFast = ConditionalDetrImageProcessorPil = ConditionalDetrImageProcessor
ConditionalDetrFeatureExtractor = ConditionalDetrImageProcessor
DetrImageProcessorFast = DetrImageProcessorPil = DetrImageProcessor
DetrFeatureExtractor = DetrImageProcessor
# The types of the arguments, for subclasses.
ConditionalDetrImageProcessorKwargs = _TransformersConditionalDetr.valid_kwargs
DetrImageProcessorKwargs = _TransformersDetr.valid_kwargs


def _preprocessing(arguments: Mapping[str, Any]) -> Preprocessing:
    """transformers' arguments, of a processor or of one call, as the steps they ask for.

    Raises:
        ValueError: a value that means nothing; the message names it.
    """
    normalized, rescaled = arguments.get("do_normalize"), arguments.get("do_rescale")
    resample = arguments.get("resample", arguments.get("interpolation"))  # the latter before transformers 5.4
    return Preprocessing(
        size=bounded("size", size_dict(_size(arguments["size"]))) if arguments.get("do_resize") else None,
        resample=Image.Resampling.BILINEAR if resample is None else pil_resample(resample),
        rescale_factor=number("rescale_factor", arguments["rescale_factor"], *RESCALE_FACTORS) if rescaled else None,
        mean=per_channel("image_mean", arguments["image_mean"], *MEANS, _CHANNELS) if normalized else None,
        std=per_channel("image_std", arguments["image_std"], *DEVIATIONS, _CHANNELS) if normalized else None,
    )


def _size(size: Any) -> dict[str, int]:
    """transformers' `SizeDict`, or a dict, as a dict; in older versions it is not iterable."""
    entries = dict(size) if isinstance(size, Mapping) else asdict(size)
    return {name: value for name, value in entries.items() if value is not None}


def _kept_channels(do_convert_rgb: bool | None, mean: float | Sequence[float] | None) -> Collection[int]:
    """Of how many channels images stay as they are; others become RGB."""
    if do_convert_rgb is not None:
        return () if do_convert_rgb else _CHANNELS
    return () if mean is None or isinstance(mean, float) else (len(mean),)


def _check_channels(images: Sequence[Tensor], preprocessing: Preprocessing) -> None:
    """Raises ValueError where images have not the channels of the others, or of mean and deviation."""
    counts = sorted({len(image) for image in images})
    if len(counts) > 1:
        raise ValueError(f"images of {counts} channels make no batch; pass do_convert_rgb=True")
    for name, values in (("image_mean", preprocessing.mean), ("image_std", preprocessing.std)):
        if counts and isinstance(values, tuple) and len(values) not in (1, counts[0]):
            raise ValueError(f"{name} has {len(values)} values for images of {counts[0]} channels")


def _fetched(image: Any) -> Any:
    """An image that is named by its address or encoded in base64, read by transformers; others as they are."""
    return load_image(image) if isinstance(image, str) and not Path(image).is_file() else image
