"""Images and COCO annotations -> the model's inputs, and the model's outputs -> detections, as transformers has it.

`ConditionalDetrImageProcessor` and `DetrImageProcessor` take transformers' arguments, have its defaults, and read and
write its `preprocessor_config.json`. They differ from each other in post-processing alone, and from transformers in
what docs/correctness.md calls traps 6 and 7: crowds are left out of masks as of boxes, and boxes are relative to the image
without its padding.
"""

from __future__ import annotations

import json
import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.hub import local_path, upload_folder
from ..classes import ClassReading, SigmoidClasses, SoftmaxClasses
from ..files import read_json, write_json
from ..images.pixels import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    normalize,
    pad,
    resize,
)
from ..images.read import as_rgb_tensor, image_list
from ..images.sizes import pad_size_dict, size_after_resize, size_dict
from ..messages import shown
from ..results.detections import TargetSizes, detections
from ..results.segments import class_maps, map_runs, segment_maps
from .annotations import (
    Labels,
    detection_labels,
    pad_labels,
    panoptic_labels,
    relative_labels,
    resize_labels,
)
from .batch_feature import BatchFeature, as_numpy

CONFIG_NAME = "preprocessor_config.json"
FORMATS = ("coco_detection", "coco_panoptic")
# What may be given here as in transformers, and changes nothing: images always become RGB, channels first.
_WITHOUT_EFFECT = ("data_format", "default_to_square", "disable_grouping", "do_convert_rgb")
LOADING_OPTIONS = ("revision", "cache_dir", "token", "local_files_only", "force_download")
# The filters that work on tensors.
RESAMPLING = tuple(Image.Resampling[name] for name in ("NEAREST", "LANCZOS", "BILINEAR", "BICUBIC"))
# No real picture or scale comes near these: what passes them is a slip or a damaged file.
MOST_PIXELS = 1_000_000  # of a side that is asked for, or of its limit; what memory holds is checked with the picture
RESCALE_FACTORS = (1e-12, 1e6)
MEANS = (-1e6, 1e6)
DEVIATIONS = (1e-6, 1e6)
_TRANSFORMERS_CHOICES = ("use_fast", "backend", "trust_remote_code", "_from_auto")

Processor = TypeVar("Processor", bound="DetectionImageProcessor")


class DetectionImageProcessor(ABC):
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
    classes: ClassReading  # how `logits` are read

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
        self.format = _known_format(format)
        self.do_resize = _switch("do_resize", do_resize)
        self.size = _bounded("size", size_dict(size, max_size))
        self.resample = _pil_resample(resample)
        self.do_rescale = _switch("do_rescale", do_rescale)
        self.rescale_factor = _number("rescale_factor", rescale_factor, *RESCALE_FACTORS)
        self.do_normalize = _switch("do_normalize", do_normalize)
        self.image_mean = _per_channel("image_mean", image_mean, *MEANS)
        self.image_std = _per_channel("image_std", image_std, *DEVIATIONS)
        self.do_convert_annotations = _switch(
            "do_convert_annotations", do_normalize if do_convert_annotations is None else do_convert_annotations
        )
        padded = next((value for value in (do_pad, pad_and_return_pixel_mask) if value is not None), True)
        self.do_pad = _switch("do_pad", padded)
        self.pad_size = None if pad_size is None else _bounded("pad_size", pad_size_dict(pad_size))
        self.extra = extra

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
        tensors = [as_rgb_tensor(image, input_data_format) for image in image_list(images)]
        if not tensors:
            raise ValueError("no images given")
        if steps.do_rescale and any(_looks_rescaled(image) for image in tensors):
            warnings.warn("pixels from 0 to 1 are rescaled by 1/255 once more; pass do_rescale=False", stacklevel=2)
        labels = steps._read_labels(tensors, annotations, return_segmentation_masks, masks_path)

        sizes = [(image.shape[1], image.shape[2]) for image in tensors]
        if steps.do_resize:
            sizes = [size_after_resize(*size, steps.size) for size in sizes]
            labels = [resize_labels(item, *size) for item, size in zip(labels, sizes, strict=False)]
        images = [steps._pixel_values(image.to(device), size) for image, size in zip(tensors, sizes, strict=True)]

        batch = BatchFeature()
        if steps.do_pad:
            canvas = (steps.pad_size["height"], steps.pad_size["width"]) if steps.pad_size else None
            batch["pixel_values"], mask = pad(images, canvas)
            batch["pixel_mask"] = mask.to(torch.int64)  # as transformers has it
            labels = [pad_labels(item, *batch.pixel_mask.shape[1:]) for item in labels]
        elif len(set(sizes)) > 1:
            raise ValueError(f"images of different sizes, {sorted(set(sizes))}, make a batch only with do_pad=True")
        else:
            batch["pixel_values"] = torch.stack(images)
        if annotations is not None:
            converted = [relative_labels(item) if steps.do_convert_annotations else item for item in labels]
            batch["labels"] = [BatchFeature(item).to(batch.pixel_values.device) for item in converted]
        return as_numpy(batch) if return_tensors == "np" else batch

    @abstractmethod
    def post_process_object_detection(
        self,
        outputs: Any,
        threshold: float = 0.5,
        target_sizes: TargetSizes | None = None,
        top_k: int | None = None,
    ) -> list[dict[str, Tensor]]:
        """The detections of each image, {"scores", "labels", "boxes"}."""

    def post_process_instance_segmentation(
        self,
        outputs: Any,
        threshold: float = 0.5,
        mask_threshold: float = 0.5,
        overlap_mask_area_threshold: float = 0.8,
        target_sizes: TargetSizes | None = None,
        return_coco_annotation: bool | None = False,
    ) -> list[dict[str, Any]]:
        """The map of each image's objects, which do not overlap. See `segments.segment_maps`.

        As in transformers, the strongest mask at a pixel has it, however weak it is there, so a lone object has the whole
        image. `segments.instance_masks` gives what each mask covers.

        Args:
            outputs: of a segmentation model; with masks of some queries only, the others take no part.
            threshold: only queries whose best class scores above it.
            mask_threshold, overlap_mask_area_threshold: a segment is kept if it is more than this share of the pixels at
                which score × mask probability reaches `mask_threshold`; so queries that score below that have none.
            target_sizes: (height, width) of each image, a list or (B, 2); None leaves the masks' sizes.
            return_coco_annotation: `segmentation` as run lengths; see `segments.map_runs`.

        Returns:
            for each image `segmentation`, int32 (height, width), 0 = nothing (all -1 where no query scores above
            `threshold`), and `segments_info`, dicts of `id`, `label_id`, `was_fused` (False) and `score`.

        Raises:
            ValueError: `target_sizes` is not one pair an image, or the outputs have no masks.
        """
        results = segment_maps(
            outputs,
            self.classes,
            threshold,
            mask_threshold,
            overlap_mask_area_threshold,
            target_sizes=target_sizes,
        )
        if return_coco_annotation:
            return [{**result, "segmentation": map_runs(result["segmentation"])} for result in results]
        return results

    def post_process_semantic_segmentation(
        self, outputs: Any, target_sizes: TargetSizes | None = None, return_segmentation_scores: bool = False
    ) -> list[Any]:
        """The class of each pixel of each image. See `segments.class_maps`.

        Args:
            outputs: of a segmentation model; with masks of some queries only, the others take no part.
            target_sizes: (height, width) of each image, a list or (B, 2); None leaves the masks' sizes.
            return_segmentation_scores: what the classes were compared by, too.

        Returns:
            for each image, int64 (height, width); with `return_segmentation_scores`, `segmentation` (height, width) and
            `segmentation_scores` (C, height, width).

        Raises:
            ValueError: `target_sizes` is not one pair an image, or the outputs have no masks.
        """
        return class_maps(outputs, self.classes, target_sizes, return_segmentation_scores)

    def post_process_panoptic_segmentation(
        self,
        outputs: Any,
        threshold: float = 0.5,
        mask_threshold: float = 0.5,
        overlap_mask_area_threshold: float = 0.8,
        label_ids_to_fuse: Collection[int] | None = None,
        target_sizes: TargetSizes | None = None,
    ) -> list[dict[str, Any]]:
        """The map of each image's objects and stuff. See `segments.segment_maps`.

        Args:
            outputs, threshold, mask_threshold, overlap_mask_area_threshold, target_sizes: see
                `post_process_instance_segmentation`.
            label_ids_to_fuse: classes of which all segments get one id, such as sky; None: no class.

        Returns:
            for each image `segmentation` and `segments_info`, as `post_process_instance_segmentation` has them; `was_fused`
            says whether the class is one to fuse. Segments that were fused keep an entry each, with the same `id`, which
            no other segment has, as in transformers it may.

        Raises:
            ValueError: `target_sizes` is not one pair an image, or the outputs have no masks.
        """
        return segment_maps(
            outputs,
            self.classes,
            threshold,
            mask_threshold,
            overlap_mask_area_threshold,
            label_ids_to_fuse or (),
            target_sizes,
        )

    def to_dict(self) -> dict[str, Any]:
        """What `preprocessor_config.json` holds, in transformers' form, unknown fields with it."""
        values = {name: value for name, value in self._arguments().items() if value is not None}
        return {**self.extra, **values, "image_processor_type": type(self).__name__}

    def to_json_string(self) -> str:
        """`to_dict` as JSON, sorted by name."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"

    def to_json_file(self, json_file_path: str | os.PathLike[str]) -> None:
        """Write `to_dict` as JSON, sorted by name.

        Raises:
            OSError: the file cannot be written.
        """
        write_json(Path(json_file_path), dict(sorted(self.to_dict().items())))

    def __repr__(self) -> str:
        return f"{type(self).__name__} {self.to_json_string()}"

    @classmethod
    def from_dict(cls: type[Processor], values: Mapping[str, Any], /, **overrides: Any) -> Processor:
        """Build from the contents of a `preprocessor_config.json`; `overrides` replace its values, by whichever name.

        Raises:
            ValueError: a value that means nothing; the message names it.
        """
        # Null stands for the default in what transformers 4 writes.
        given = {name: value for name, value in _replaced(values, overrides).items() if value is not None}
        for name in ("image_processor_type", "feature_extractor_type", *_TRANSFORMERS_CHOICES):
            given.pop(name, None)
        return cls(**given)

    @classmethod
    def from_pretrained(
        cls: type[Processor], pretrained_model_name_or_path: str | os.PathLike[str] | Checkpoint, **overrides: Any
    ) -> Processor:
        """Read the processor of a checkpoint.

        Args:
            pretrained_model_name_or_path: a folder that holds `preprocessor_config.json`, that file itself, a repository
                on the Hugging Face hub, or a `.pth` file, which says nothing about images, so that the defaults are taken;
                or a checkpoint that was found already.
            overrides: arguments of the constructor that replace what the file says; and `revision`, `cache_dir`, `token`,
                `local_files_only`, `force_download` for the hub.

        Raises:
            OSError: no such folder, file or repository, or no network; one line.
            ValueError: the file is not JSON, or holds a value that means nothing; one line that names the file.
        """
        options = {option: overrides.pop(option) for option in LOADING_OPTIONS if option in overrides}
        if isinstance(pretrained_model_name_or_path, Checkpoint):
            found = pretrained_model_name_or_path.preprocessor_path
            if found is None:
                return cls.from_dict({}, **overrides)
            path = found
        else:
            path = Path(pretrained_model_name_or_path)
            if path.suffix in (".pth", ".pt"):
                if not path.is_file():
                    raise FileNotFoundError(f"{path}: no such file")
                return cls.from_dict({}, **overrides)
            if not path.is_file():
                path = local_path(str(pretrained_model_name_or_path), CONFIG_NAME, **options)
        values = read_json(path)
        if not isinstance(values, dict):
            raise ValueError(f"{path} is not an image processor's configuration: a JSON object is needed")
        try:
            return cls.from_dict(values, **overrides)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        *,
        push_to_hub: bool = False,
        repo_id: str | None = None,
        token: str | bool | None = None,
    ) -> list[str]:
        """Write `preprocessor_config.json`, which transformers' `AutoImageProcessor` reads, and return its path in a list.

        The folder is made if need be; the file appears whole or not at all. With `push_to_hub` it goes to `repo_id` (the
        folder's name, if None) as well.

        Raises:
            OSError: the folder is a file, or cannot be written; or the upload failed.
        """
        folder = Path(save_directory)
        if folder.is_file():
            raise NotADirectoryError(f"{folder} is a file, not a folder to save an image processor in")
        self.to_json_file(folder / CONFIG_NAME)
        if push_to_hub:
            self.push_to_hub(repo_id or folder.resolve().name, token=token)
        return [str(folder / CONFIG_NAME)]

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str = "Upload image processor",
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        create_pr: bool = False,
    ) -> str:
        """Upload `preprocessor_config.json` to a repository on the hub, and return the commit's address.

        Args:
            repo_id: "OWNER/NAME"; made if need be.
            commit_message, private, token, revision, create_pr: as `huggingface_hub` takes them.

        Raises:
            OSError: no network, no permission, or no such name; one line.
        """
        return upload_folder(
            repo_id,
            self.save_pretrained,
            commit_message=commit_message,
            private=private,
            token=token,
            revision=revision,
            create_pr=create_pr,
        )

    def _arguments(self) -> dict[str, Any]:
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in vars(self).items()
            if name != "extra"
        }

    def _overridden(self, overrides: Mapping[str, Any]) -> DetectionImageProcessor:
        """This processor with the arguments of one call."""
        given = {name: value for name, value in overrides.items() if value is not None}
        if given.get("data_format", "channels_first") != "channels_first":
            raise ValueError(f"data_format must be 'channels_first', got {given['data_format']!r}")
        arguments = self._arguments()
        known = {*arguments, "max_size", "pad_and_return_pixel_mask"}
        unknown = [name for name in overrides if name not in known and name not in _WITHOUT_EFFECT]
        if unknown:
            raise TypeError(f"preprocess() got an unknown argument {unknown[0]!r}")
        given = {name: value for name, value in given.items() if name in known}
        return type(self)(**_replaced(arguments, given))

    def _read_labels(
        self,
        images: Sequence[Tensor],
        annotations: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None,
        return_masks: bool | None,
        masks_path: str | os.PathLike[str] | None,
    ) -> list[Labels]:
        """Of each image, its labels in pixels; none without annotations."""
        if annotations is None:
            return []
        if not isinstance(annotations, Mapping | Sequence):
            raise TypeError(f"annotations must be one dict, or one an image, got {type(annotations).__name__}")
        listed = [annotations] if isinstance(annotations, Mapping) else list(annotations)
        if len(listed) != len(images):
            raise ValueError(f"{len(listed)} annotations for {len(images)} images")
        sizes = [(image.shape[1], image.shape[2]) for image in images]
        if self.format == "coco_panoptic":
            with_masks = True if return_masks is None else return_masks
            return [
                panoptic_labels(item, *size, masks_path, with_masks) for item, size in zip(listed, sizes, strict=True)
            ]
        return [detection_labels(item, *size, bool(return_masks)) for item, size in zip(listed, sizes, strict=True)]

    def _pixel_values(self, image: Tensor, size: tuple[int, int]) -> Tensor:
        """uint8 or float (3, H, W) -> float32 (3, *size), rescaled and normalised."""
        image = resize(image, size, self.resample) if self.do_resize else image
        return normalize(
            image,
            self.image_mean if self.do_normalize else None,
            self.image_std if self.do_normalize else None,
            self.rescale_factor if self.do_rescale else None,
        )


class ConditionalDetrImageProcessor(DetectionImageProcessor):
    """The image processor of Conditional DETR. Arguments: `DetectionImageProcessor`.

    Classes are read by sigmoid, all of them, in masks as in boxes. transformers takes their softmax in segmentation and
    leaves the last one out of instance and panoptic maps, as if it were "no object" (docs/correctness.md, trap 3).
    """

    classes = SigmoidClasses()

    def post_process_object_detection(
        self,
        outputs: Any,
        threshold: float = 0.5,
        target_sizes: TargetSizes | None = None,
        top_k: int | None = 100,
    ) -> list[dict[str, Tensor]]:
        """The detections of each image, highest score first. See `detections.detections`.

        Args:
            outputs: anything with `logits` (B, Q, C) and `pred_boxes` (B, Q, 4) cxcywh, relative.
            threshold: only scores above it.
            target_sizes: (height, width) of each image, a list or (B, 2); None leaves boxes relative.
            top_k: at most so many of an image, before the threshold.

        Returns:
            for each image `scores` (n,), `labels` (n,) and `boxes` (n, 4) xyxy in pixels.

        Raises:
            ValueError: `target_sizes` is not one pair an image.
        """
        return detections(outputs.logits, outputs.pred_boxes, self.classes, target_sizes, threshold, top_k)


class DetrImageProcessor(DetectionImageProcessor):
    """The image processor of DETR. Arguments: `DetectionImageProcessor`."""

    classes = SoftmaxClasses()

    def post_process_object_detection(
        self,
        outputs: Any,
        threshold: float = 0.5,
        target_sizes: TargetSizes | None = None,
        top_k: int | None = None,
    ) -> list[dict[str, Tensor]]:
        """The detections of each image, in the order of the queries. See `detections.detections`.

        Args:
            outputs: anything with `logits` (B, Q, C + 1), the last "no object", and `pred_boxes` (B, Q, 4) cxcywh, relative.
            threshold: only scores above it.
            target_sizes: (height, width) of each image, a list or (B, 2); None leaves boxes relative.
            top_k: at most so many of an image, then the highest score first; None keeps all queries.

        Returns:
            for each image `scores` (n,), `labels` (n,) and `boxes` (n, 4) xyxy in pixels.

        Raises:
            ValueError: `target_sizes` is not one pair an image.
        """
        return detections(outputs.logits, outputs.pred_boxes, self.classes, target_sizes, threshold, top_k)


ConditionalDetrImageProcessorFast = ConditionalDetrImageProcessor
ConditionalDetrFeatureExtractor = ConditionalDetrImageProcessor
DetrImageProcessorFast = DetrImageProcessor
DetrFeatureExtractor = DetrImageProcessor


def _looks_rescaled(image: Tensor) -> bool:
    # On an accelerator, looking would wait for it.
    return image.is_floating_point() and image.device.type == "cpu" and 0 < image.max().item() <= 1


def _known_format(format: Any) -> str:
    name = getattr(format, "value", format)
    if name not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {shown(name)}")
    return name


def _pil_resample(resample: Any) -> int:
    """A filter, named in PIL's or torchvision's way, as PIL's number."""
    name = getattr(resample, "name", None)
    names = {filter.name: filter.value for filter in RESAMPLING}
    number = names.get("NEAREST" if name == "NEAREST_EXACT" else str(name), resample)
    if isinstance(number, bool) or number not in RESAMPLING:
        raise ValueError(f"resample must be a PIL filter, one of {names}, got {shown(resample)}")
    return int(number)


def _per_channel(name: str, values: Any, low: float, high: float) -> float | tuple[float, ...]:
    if isinstance(values, Real):
        return _number(name, values, low, high)
    listed = values.tolist() if hasattr(values, "tolist") else values
    if not isinstance(listed, list | tuple) or len(listed) != 3:
        raise ValueError(f"{name} must be a number or 3, one a channel, got {shown(values)}")
    return tuple(_number(name, value, low, high) for value in listed)


def _number(name: str, value: Any, low: float, high: float) -> float:
    if not isinstance(value, Real) or isinstance(value, bool) or not low <= value <= high:  # type: ignore[operator]
        raise ValueError(f"{name} must be a number from {low:g} to {high:g}, got {shown(value)}")
    return float(value)


def _switch(name: str, value: Any) -> bool:
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"{name} must be true or false, got {shown(value)}")
    return bool(value)


def _bounded(name: str, size: dict[str, int]) -> dict[str, int]:
    for side, pixels in size.items():
        if pixels > MOST_PIXELS:
            raise ValueError(f"{name}: {side} must be at most {MOST_PIXELS} pixels, got {shown(pixels)}")
    return size


def _replaced(values: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """A processor's arguments, `overrides` in place of `values`: older names there replace newer ones here."""
    given = {**values, **overrides}
    if overrides.get("pad_and_return_pixel_mask") is not None and overrides.get("do_pad") is None:
        given["do_pad"] = given.pop("pad_and_return_pixel_mask")
    if overrides.get("max_size") is not None and overrides.get("size") is None:
        given["size"] = {**size_dict(given.get("size")), "longest_edge": given.pop("max_size")}
    return given
