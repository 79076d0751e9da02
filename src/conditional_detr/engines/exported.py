"""An exported model in the place of a model: canvases in, predictions out. Nothing here needs PyTorch but what takes its tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..config import DetectionConfig, Task
from ..images.prepare import Preprocessing
from .engine import Engine
from .files import open_engine
from .manifest import Manifest

if TYPE_CHECKING:
    from torch import Tensor

    from ..models.detector import ObjectDetectionModel
    from ..models.outputs import DetectionOutput
    from ..models.segmenter import SegmentationModel


class Cpu(NamedTuple):
    """Where an exported model is computed; stands for PyTorch's device of this name."""

    type: str = "cpu"

    def __str__(self) -> str:
        return self.type


class NumberType(NamedTuple):
    """What an exported model computes in; stands for PyTorch's type of this name."""

    name: str
    itemsize: int = 4  # of the features that it holds

    def __str__(self) -> str:
        return self.name


class ExportedModel:
    """What `predict` needs of a model, of an engine that computes it.

    Attributes:
        engine: that computes it.
        manifest: what its file says of the model.
        task: "detection", or what its masks are for.
    """

    device = Cpu()
    canvas_step = 1  # see `models.detection_model.DetectionBase`, here and below
    recorded_shapes: set[tuple[Any, ...]] | None = None
    is_compiled = False
    training = False

    def __init__(self, engine: Engine, manifest: Manifest, dtype: str = "float32") -> None:
        self.engine, self.manifest, self.dtype = engine, manifest, NumberType(dtype)
        self.task: Task = manifest.task

    @classmethod
    def open(cls, path: Path, dtype: str = "float32") -> ExportedModel:
        """Load an exported file; see `files.exported_file`.

        Raises:
            OSError, ValueError: see `files.open_engine`; or it is of another model.
        """
        engine = open_engine(path, dtype)
        return cls(engine, Manifest.from_strings(engine.metadata, path), dtype)

    @property
    def config(self) -> DetectionConfig:
        return self.manifest.config

    @property
    def detector(self) -> Any:
        """Computes without masks, as a segmentation model's detector does."""
        return partial(self._predict, with_masks=False)

    def eval(self) -> ExportedModel:
        return self

    def train(self, mode: bool = True) -> ExportedModel:
        """Raises ValueError where `mode` is set: it cannot be trained."""
        if mode:
            raise ValueError(f"a model of {self.engine.name} cannot be trained: train the one it was exported from")
        return self

    def predicted(self, images: Sequence[np.ndarray], preprocessing: Preprocessing) -> dict[str, np.ndarray]:
        """What the file gives for images of a batch, its outputs by name.

        Args:
            images: uint8 (3, H, W) each, resized; arrays, or tensors on the CPU. Of several sizes each is computed alone.
        """
        arrays = [np.asarray(image) for image in images]
        if len({array.shape for array in arrays}) > 1:
            alone = [self.predicted([array], preprocessing) for array in arrays]
            return {name: np.concatenate([one[name] for one in alone]) for name in ("logits", "pred_boxes")}
        pixels = arrays[0][None] if len(arrays) == 1 else np.stack(arrays)
        if "images" not in self.engine.inputs:
            pixels = preprocessing.normalize_array(pixels)
        return self.engine(input_arrays(self.engine.inputs, pixels))

    def prepared(self, canvas: Tensor, preprocessing: Preprocessing) -> Tensor:
        """Canvases uint8 (B, 3, H, W) as the file takes them: as they are where it normalises by itself."""
        return canvas if "images" in self.engine.inputs else preprocessing.normalize(canvas)

    def __call__(
        self,
        pixels: Tensor,
        pixel_mask: Tensor | None = None,
        mask_score_threshold: float | None = None,
        mask_limit: int | None = None,
    ) -> DetectionOutput:
        """Predict, tensors in and out.

        Args:
            pixels: (B, 3, H, W), from `prepared`.
            pixel_mask: (B, H, W) bool, True where a pixel belongs to the image; None if all do.
            mask_score_threshold, mask_limit: of what a file with masks gives, those that were asked for; as many are
                computed as it was exported with.
        """
        return self._predict(pixels, pixel_mask, with_masks=self.task != "detection")

    def _predict(self, pixels: Tensor, pixel_mask: Tensor | None = None, with_masks: bool = False) -> DetectionOutput:
        import torch

        from ..models.outputs import DetectionOutput, SegmentationOutput

        sizes = None if pixel_mask is None else torch.stack([pixel_mask.any(2).sum(1), pixel_mask.any(1).sum(1)], 1)
        if sizes is None or "pixel_mask" in self.engine.inputs:
            found = self._run(pixels, pixel_mask)
        else:  # images of several sizes on canvases that the file takes for whole: each alone, then
            alone = [self._run(pixels[i : i + 1, :, :h, :w], None) for i, (h, w) in enumerate(sizes.tolist())]
            found = {name: _joined([one[name] for one in alone]) for name in self.engine.outputs}
        fields: dict[str, Any] = {name: found[name] for name in ("logits", "pred_boxes")}
        if not with_masks:
            return DetectionOutput(fields)
        fields.update(pred_masks=found["pred_masks"], mask_query_indices=found["mask_query_indices"])
        if sizes is not None:
            fields["mask_sizes"] = -(-sizes // 4)
        return SegmentationOutput(fields)

    def _run(self, pixels: Tensor, pixel_mask: Tensor | None) -> dict[str, Tensor]:
        """One call of the engine, with all inputs that the file has."""
        import torch

        mask = None if pixel_mask is None else pixel_mask.numpy()
        values = self.engine(input_arrays(self.engine.inputs, pixels.numpy(), mask))
        return {name: torch.from_numpy(np.array(value)) for name, value in values.items()}


if TYPE_CHECKING:  # what predicts: a family's model, or one of these
    AnyModel = ObjectDetectionModel | SegmentationModel | ExportedModel


def input_arrays(names: Sequence[str], pixels: np.ndarray, mask: np.ndarray | None = None) -> Mapping[str, np.ndarray]:
    """All inputs of an exported file.

    Args:
        names: of its inputs.
        pixels: (B, 3, H, W), uint8 where the file normalises, else normalised.
        mask: (B, H, W) bool, True where a pixel belongs to the image; None if all do.
    """
    batch, _, height, width = pixels.shape
    arrays: dict[str, np.ndarray] = {}
    for name in names:
        if name == "pixel_mask":
            arrays[name] = np.ones((batch, height, width), np.bool_) if mask is None else mask
        elif name == "target_sizes":
            arrays[name] = np.array([[height, width]] * batch, np.int64)
        else:
            arrays[name] = np.ascontiguousarray(pixels)
    return arrays


def _joined(values: list[Tensor]) -> Tensor:
    """Values of one image each as those of a batch; masks, whose sizes differ, in the corner of the largest."""
    import torch
    from torch.nn import functional

    if values[0].dim() < 4:
        return torch.cat(values)
    height, width = (max(value.shape[axis] for value in values) for axis in (2, 3))
    return torch.cat([functional.pad(v, (0, width - v.shape[3], 0, height - v.shape[2])) for v in values])
