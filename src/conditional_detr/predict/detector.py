"""The short way: a detector that takes pictures and gives detections."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, overload

import numpy as np

from ..config import Task
from ..engines.exported import ExportedModel
from ..engines.files import exported_file
from ..images.arrays import as_rgb_array, image_list, is_array
from ..images.header import image_size
from ..images.open_file import is_image_file, opened
from ..images.prepare import Preprocessing
from ..images.sizes import size_dict
from ..results.image_results import MOST_DETECTIONS, ImageResults
from ..results.named import Detection, PanopticMap, named_detections, named_map
from .batches import Device, PreparedBatch, batches_of_canvases, canvas_of
from .memory import check_size
from .run import run_batches
from .tiles import TileSide, tile_side

# Exported detectors need no PyTorch: what does is imported where it is used.
if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ..engines.exported import AnyModel
    from ..models.detector import ObjectDetectionModel
    from ..models.segmenter import SegmentationModel
    from ..processors.image_processor import DetectionImageProcessor
    from .attention import Explanation
    from .tiled import Picture

BATCH = 8  # images of one shape that are computed at once, at most
WINDOW = 8 * BATCH  # images that are held, resized, while those of one shape are looked for among them


class Detector:
    """A model and its image processor, ready to run; a segmentation model gives detections masks, and panoptic maps.

    >>> detector = Detector.from_pretrained("runs/demo/model")
    >>> for detection in detector("street.jpg", threshold=0.5):
    ...     print(detection.label, detection.score, detection.box)
    """

    def __init__(self, model: AnyModel, processor: DetectionImageProcessor | None = None) -> None:
        """processor: None for exported models, whose files say how images are prepared."""
        self.model: AnyModel = model.eval()
        self._processor = processor
        self._arguments = dict(model.manifest.preprocessing) if isinstance(model, ExportedModel) else {}

    @property
    def processor(self) -> DetectionImageProcessor:
        """The image processor; of an exported model, which does without, made when it is asked for."""
        if self._processor is None:
            from ..processors.auto_processor import image_processor_of

            self._processor = image_processor_of(type(self.model.config)).from_dict(self._arguments)
        return self._processor

    @property
    def preprocessing(self) -> Preprocessing:
        """How images are prepared."""
        return Preprocessing.from_dict(self._arguments) if self._processor is None else self._processor.preprocessing

    @property
    def names(self) -> list[str]:
        """The classes' names, in the order of `Detection.class_id`."""
        return [self.model.config.id2label[i] for i in range(self.model.config.num_labels)]

    @property
    def device(self) -> Device:
        return self.model.device

    def to(self, device: str | torch.device) -> Detector:
        """Move the model to a device, and return this detector.

        Raises:
            ValueError: the device is not there, or lacks the model's type; or the model is compiled, for its device.
        """
        if isinstance(self.model, ExportedModel):
            _check_on_cpu(device, self.model.engine.name)
            return self
        from ..models.deploy import check_dtype

        place = _existing_device(device)
        if place.type != self.model.device.type and self.model.is_compiled:
            raise ValueError(
                f"the model is compiled for {self.model.device.type}: load it anew, from_pretrained(…, device={str(device)!r})"
            )
        check_dtype(place, self.model.dtype)
        self.model.to(place)
        return self

    def __repr__(self) -> str:
        config, model = self.model.config, self.model
        size = ", ".join(f"{name} {value}" for name, value in (self.preprocessing.size or {}).items())
        return (
            f"{type(self).__name__}({config.model_type}, {config.backbone}, {model.task}: {config.num_labels} classes, "
            f"{config.num_queries} queries; {size or 'images as they are'}; "
            f"{str(model.dtype).removeprefix('torch.')} on {model.device})"
        )

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | str | None = None,
        compile: bool = False,
        engine: str | None = None,
        image_size: int | None = None,
        max_size: int | None = None,
        **options: Any,
    ) -> Detector:
        """Load a detector or segmentation model of either family.

        Args:
            name: a saved model's folder, an original `.pth` file, or a hub name; or what `cdetr export` wrote: an .onnx
                file, or a folder of OpenVINO's, which are computed by these on the CPU.
            device: None takes the best there is.
            dtype: of weights and computation, `torch.bfloat16` or `torch.float16`, or its name; None is float32. Heads and reference
                points are computed in float32 always.
            compile: compile the model, see `models.deploy.compile_model`; a warning where there is no compiler.
            engine: "openvino" or "onnxruntime" computes in place of PyTorch, on the CPU, after half a minute of handing the model
                over; see `engines.compiled`. `cdetr export` does it once, and compares.
            image_size: short side in pixels that images are resized to; None is what the model was saved with.
            max_size: longest long side; None is what the model was saved with, or, with `image_size`, in the same ratio.
            options: of the models' `from_pretrained` (revision, token, configuration values, …).

        The model is rearranged to predict fast and can no more be trained or saved; load one with `from_pretrained` of
        its own class for that.

        Raises:
            OSError, ValueError: see the models' `from_pretrained`; or the device is not there or lacks the type.
        """
        if (file := exported_file(name)) is not None:
            given = {"compile": compile or None, "engine": engine, **options}
            detector = cls._from_exported(
                file, device, dtype, [name for name, value in given.items() if value is not None]
            )
            detector._resize_to(image_size, max_size)
            return detector
        import torch

        from ..checkpoints.load import named_dtype
        from ..models.deploy import check_dtype, compile_model, prepare_for_inference

        if engine is not None:
            detector = cls._by_engine(name, engine, device, dtype, ["compile"] if compile else [], options)
            detector._resize_to(image_size, max_size)
            return detector
        place = best_device() if device is None else _existing_device(device)
        kind = named_dtype(dtype) or torch.float32
        check_dtype(place, kind)
        model, processor = model_and_processor(name, **options)
        prepare_for_inference(model, place, kind)
        if compile:
            compile_model(model)
        detector = cls(model, processor)
        detector._resize_to(image_size, max_size)
        return detector

    @classmethod
    def _from_exported(
        cls, file: Path, device: str | torch.device | None, dtype: Any, options: Sequence[str]
    ) -> Detector:
        """A detector of an exported file, whose choices were made when it was exported."""
        if options:
            raise ValueError(f"{file} is an exported model, which has no {', '.join(options)}")
        model = ExportedModel.open(file, _number_type(dtype))
        if device is not None:
            _check_on_cpu(device, model.engine.name)
        return cls(model)

    @classmethod
    def _by_engine(
        cls, name: str | Path, engine: str, device: Any, dtype: Any, unfit: Sequence[str], options: dict[str, Any]
    ) -> Detector:
        """A detector of a PyTorch model that an engine computes."""
        from ..engines.compiled import compiled_by

        if unfit:
            raise ValueError(f"{', '.join(unfit)} is PyTorch's; with engine={engine!r} leave it out")
        if device is not None:
            _check_on_cpu(device, engine)
        model, processor = model_and_processor(name, **options)
        return cls(compiled_by(engine, model, processor.to_dict(), _number_type(dtype)), processor)

    def _resize_to(self, image_size: int | None, max_size: int | None) -> None:
        """Let images be resized to another short side, or another limit of the long one."""
        if image_size is None and max_size is None:
            return
        if self._processor is None:
            size = _other_size(self._arguments["size"], image_size, max_size)
            self._arguments.update(do_resize=True, size=size)
        else:
            processor = self._processor
            processor.do_resize, processor.size = True, _other_size(processor.size, image_size, max_size)

    @overload
    def __call__(
        self, image: list[Any] | tuple[Any, ...], threshold: float = 0.5, tile: TileSide | None = None
    ) -> list[list[Detection]]: ...

    @overload
    def __call__(self, image: Any, threshold: float = 0.5, tile: TileSide | None = None) -> list[Detection]: ...

    def __call__(self, image: Any, threshold: float = 0.5, tile: TileSide | None = None) -> Any:
        """Detect in one image; best first. In several (a list, a batch (B, 3, H, W), or what yields images), as `detect`.

        Args:
            image: a path, a PIL image, an array or a tensor (H, W), (3, H, W) or (H, W, 3), uint8 or floats in 0…1; the
                bytes of a file, or an open one.
            threshold: least score, 0…1.
            tile: cut a large image into overlapping tiles of this side in pixels, so that small objects are found; "auto"
                cuts it where the model would see it at less than half its size. None: never.

        Raises:
            OSError, TypeError, ValueError, RuntimeError: see `detect`.
        """
        found = self.detect(image, threshold, tile)
        return found if _is_many(image) or _yields_images(image) else found[0]

    def detect(self, images: Any, threshold: float = 0.5, tile: TileSide | None = None) -> list[list[Detection]]:
        """Detect in several images; what each gives does not depend on the others.

        Args:
            images: a list, or anything that yields images (see `__call__`), read some at a time; an array or tensor of 4
                dimensions; or a single image.
            threshold: least score, 0…1.
            tile: see `__call__`.

        Raises:
            OSError: a file cannot be read.
            TypeError, ValueError: what is given is no image, or one that memory would not hold; or the threshold is not in
                0…1.
            RuntimeError: memory ran out; the message says what to do.
        """
        _check_score("threshold", threshold)
        names = self.model.config.id2label
        results = (
            self._results(images, threshold, self.model.task) if tile is None else self._tiled(images, threshold, tile)
        )
        return [named_detections(found, names) for found in results]

    def panoptic(self, image: Any, threshold: float | None = None) -> PanopticMap:
        """Give each pixel of an image to a segment, things and stuff, merged as in the DETR paper.

        Args:
            image: see `__call__`.
            threshold: least score of a segment, 0…1; None is 0.85 for DETR and 0.3 for Conditional DETR.

        Raises:
            OSError, TypeError: see `detect`.
            ValueError: the model is not a panoptic one, or see `detect`.
        """
        if self.model.task != "panoptic":
            raise ValueError(
                "panoptic maps need a segmentation model whose configuration says which classes are things (is_thing)"
            )
        if threshold is not None:
            _check_score("threshold", threshold)
        (found,) = self._results([image], 1.0, "panoptic", threshold)
        return named_map(found, self.model.config.id2label)

    def explain(
        self, image: Any, threshold: float = 0.5, most: int = MOST_DETECTIONS, layer: int = -1
    ) -> list[Explanation]:
        """Detect in one image, and say of each detection where a decoder layer's cross-attention looked for it, by content
        and by place; best first. `explain.pictures.draw_explanation` draws one.

        Args:
            image: see `__call__`.
            threshold: least score, 0…1.
            most: so many detections at most.
            layer: of the decoder, from 0; negative ones count from the last.

        Raises:
            OSError, TypeError, ValueError, RuntimeError: see `detect`; or there is no such layer.
        """
        _check_score("threshold", threshold)
        if most < 1:
            raise ValueError(f"most is {most}; it is a number of detections")
        if isinstance(self.model, ExportedModel):
            raise ValueError("where it looked is not in what an exported model gives: explain with the model's folder")
        from .attention import explain_image

        preprocessing = self.preprocessing
        (batch,) = self._batches([image], preprocessing)
        return explain_image(
            self.model,
            preprocessing,
            cast("Tensor", batch.images[0]),
            batch.sizes[0],
            threshold=threshold,
            most=most,
            layer=layer,
        )

    def _results(
        self, images: Any, threshold: float, task: Task, panoptic_threshold: float | None = None
    ) -> Iterator[ImageResults]:
        """In the order of the images, which are read `WINDOW` at a time."""
        coming = iter(image_list(images) if _is_many(images) or not _yields_images(images) else images)
        while window := list(islice(coming, WINDOW)):
            yield from self._results_of_window(window, threshold, task, panoptic_threshold)
            del window  # before the next images come

    def _tiled(self, images: Any, threshold: float, tile: TileSide) -> Iterator[ImageResults]:
        """In the order of the images, each read alone."""
        from ..images.read import as_rgb_tensor
        from .tiled import results_in_tiles

        preprocessing, task = self.preprocessing, self.model.task
        for image in image_list(images) if _is_many(images) or not _yields_images(images) else images:
            if not is_image_file(image):
                image = _as_uint8(as_rgb_tensor(image))
            elif hasattr(image, "read"):
                image = image.read()
            size = image_size(image) if is_image_file(image) else (image.shape[-2], image.shape[-1])
            side = tile_side(tile, size, preprocessing)
            if side is None:
                yield from self._results_of_window([image], threshold, task, None)
            else:
                yield results_in_tiles(
                    self.model, preprocessing, _picture(image), side, threshold=threshold, task=task, batch_size=BATCH
                )

    def _results_of_window(
        self, images: Sequence[Any], threshold: float, task: Task, panoptic_threshold: float | None
    ) -> list[ImageResults]:
        preprocessing = self.preprocessing
        results: dict[int, ImageResults] = {}
        for batch, found in run_batches(
            self.model, preprocessing, self._batches(images, preprocessing),
            threshold=threshold, task=task, panoptic_threshold=panoptic_threshold,
        ):  # fmt: skip
            results.update(zip(batch.indices, found, strict=True))
        return [results[i] for i in range(len(images))]

    def _batches(self, images: Sequence[Any], preprocessing: Preprocessing) -> list[PreparedBatch]:
        """Images, read and resized, in batches of one canvas."""
        model = self.model
        as_rgb, read, resize = self._readers(preprocessing)
        prepared: list[Any] = []
        sizes: list[tuple[int, int]] = []
        canvases: list[tuple[int, int]] = []
        for image in images:
            if hasattr(image, "read") and not image.seekable():  # it can be read once only
                image = image.read()
            decoded = None if is_image_file(image) else _as_uint8(as_rgb(image))
            sizes.append(image_size(image) if decoded is None else (decoded.shape[-2], decoded.shape[-1]))
            canvases.append(canvas_of(sizes[-1], preprocessing, model.canvas_step))
            check_size(canvases[-1], model.device, model.dtype)
            prepared.append(read(image, sizes[-1]) if decoded is None else resize(decoded))
        return [
            PreparedBatch([prepared[i] for i in batch], [sizes[i] for i in batch], batch)
            for batch in batches_of_canvases(canvases, BATCH, model.device, model.recorded_shapes is not None)
        ]

    def _readers(
        self, preprocessing: Preprocessing
    ) -> tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]:
        """What makes pixels of images in memory and of files, and resizes them: arrays for exported models, else tensors."""
        if isinstance(self.model, ExportedModel):
            return as_rgb_array, preprocessing.read_array, preprocessing.resize_array
        from ..images.read import as_rgb_tensor

        return as_rgb_tensor, preprocessing.read, preprocessing.resize


def model_and_processor(
    name: str | Path, **options: Any
) -> tuple[ObjectDetectionModel | SegmentationModel, DetectionImageProcessor]:
    """Load the model of whichever family a checkpoint is of, in float32, with masks where it has them, and its image processor.

    Args:
        name: a folder, an original `.pth` file or a hub name.
        options: see `PretrainedModel.from_pretrained`.

    Raises:
        OSError, ValueError: as there.
    """
    import torch

    from ..checkpoints.checkpoint import Checkpoint
    from ..checkpoints.hub import HUB_OPTIONS
    from ..families import config_class_of
    from ..models.family import family_of
    from ..processors.auto_processor import image_processor_of

    checkpoint = Checkpoint.find(name, **{option: options[option] for option in HUB_OPTIONS if option in options})
    config_class = config_class_of(checkpoint)
    family = family_of(config_class.model_type)
    model_class = family.segmenter if checkpoint.has_masks else family.detector
    model = model_class.from_pretrained(checkpoint, dtype=torch.float32, **options)
    return model, image_processor_of(config_class).from_pretrained(checkpoint)


def _picture(image: Any) -> Picture:
    """A file, or uint8 (3, H, W), as something that parts can be taken of."""
    from ..images.read import LoadedPicture
    from .tiled import TensorPicture

    if not is_image_file(image):
        return TensorPicture(image)
    with opened(image) as file:
        return LoadedPicture(file)


def best_device() -> torch.device:
    import torch

    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return torch.device("cpu") if accelerator is None else accelerator


def _existing_device(name: str | torch.device) -> torch.device:
    import torch

    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):
        raise ValueError(f"device {str(name)!r} is not there; this machine's best is {str(best_device())!r}") from None
    return device


def _check_on_cpu(device: str | torch.device, engine: str) -> None:
    if str(device).partition(":")[0] != "cpu":
        raise ValueError(f"an exported model is computed by {engine} on the CPU here, not on {device}")


def _number_type(dtype: torch.dtype | str | None) -> str:
    return "float32" if dtype is None else str(dtype).removeprefix("torch.")


def _is_many(images: Any) -> bool:
    """Whether this is a list of images, or a batch."""
    return isinstance(images, list | tuple) or (is_array(images) and images.ndim == 4)


def _yields_images(images: Any) -> bool:
    return (
        isinstance(images, Iterable)
        and not isinstance(images, dict)
        and not is_array(images)
        and not is_image_file(images)
    )


def _check_score(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not 0 <= value <= 1:
        raise ValueError(f"{name} must be a number from 0 to 1, got {value!r}")


def _other_size(size: dict[str, int], image_size: int | None, max_size: int | None) -> dict[str, int]:
    """A processor's size with another short side, or another limit of the long one."""
    short = image_size if image_size is not None else size.get("shortest_edge")
    if short is None:
        raise ValueError(
            f"max_size alone says too little where the image processor's size is {size}: give image_size too"
        )
    if max_size is None:
        plain = size if {"shortest_edge", "longest_edge"} <= size.keys() else size_dict()
        max_size = round(short * plain["longest_edge"] / plain["shortest_edge"])
    return size_dict({"shortest_edge": short, "longest_edge": max_size})


def _as_uint8(image: Any) -> Any:
    """An array or tensor; floats are taken as 0…1."""
    if str(image.dtype).endswith("uint8"):
        return image
    if 0 not in image.shape and (image.min() < 0 or image.max() > 1):
        raise ValueError("an image of floats must be in 0…1")
    scaled = (image * 255).round()
    return scaled.astype(np.uint8) if isinstance(scaled, np.ndarray) else scaled.byte()
