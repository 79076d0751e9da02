"""An exported model in the place of a model: canvases in, predictions out."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..config import DetectionConfig, Task
from ..images.prepare import Preprocessing
from ..models.detector import ObjectDetectionModel
from ..models.outputs import DetectionOutput, SegmentationOutput
from ..models.segmenter import SegmentationModel
from .engine import Engine
from .files import open_engine
from .manifest import Manifest


class ExportedModel:
    """What `predict` needs of a model, of an engine that computes it.

    Attributes:
        engine: that computes it.
        manifest: what its file says of the model.
        task: "detection", or what its masks are for.
    """

    device = torch.device("cpu")
    canvas_step = 1  # see `models.detection_model.DetectionBase`, here and below
    recorded_shapes: set[tuple[Any, ...]] | None = None
    is_compiled = False
    training = False

    def __init__(self, engine: Engine, manifest: Manifest, dtype: torch.dtype = torch.float32) -> None:
        self.engine, self.manifest, self.dtype = engine, manifest, dtype
        self.task: Task = manifest.task

    @classmethod
    def open(cls, path: Path, dtype: torch.dtype = torch.float32) -> ExportedModel:
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
        """Predict.

        Args:
            pixels: (B, 3, H, W), from `prepared`.
            pixel_mask: (B, H, W) bool, True where a pixel belongs to the image; None if all do.
            mask_score_threshold, mask_limit: of what a file with masks gives, those that were asked for; as many are
                computed as it was exported with.
        """
        return self._predict(pixels, pixel_mask, with_masks=self.task != "detection")

    def _predict(self, pixels: Tensor, pixel_mask: Tensor | None = None, with_masks: bool = False) -> DetectionOutput:
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
        arrays = input_arrays(self.engine.inputs, pixels, pixel_mask)
        return {name: torch.from_numpy(np.array(value)) for name, value in self.engine(arrays).items()}


def input_arrays(names: Sequence[str], pixels: Tensor, pixel_mask: Tensor | None = None) -> dict[str, np.ndarray]:
    """All inputs of an exported file.

    Args:
        names: of its inputs.
        pixels: (B, 3, H, W), from `ExportedModel.prepared`.
        pixel_mask: (B, H, W) bool; None if all pixels belong to the images.
    """
    batch, _, height, width = pixels.shape
    arrays: dict[str, np.ndarray] = {}
    for name in names:
        if name == "pixel_mask":
            whole = np.ones((batch, height, width), np.bool_)
            arrays[name] = whole if pixel_mask is None else pixel_mask.numpy()
        elif name == "target_sizes":
            arrays[name] = np.array([[height, width]] * batch, np.int64)
        else:
            arrays[name] = pixels.contiguous().numpy()
    return arrays


# What predicts: a family's model, or one of these.
AnyModel = ObjectDetectionModel | SegmentationModel | ExportedModel


def _joined(values: list[Tensor]) -> Tensor:
    """Values of one image each as those of a batch; masks, whose sizes differ, in the corner of the largest."""
    if values[0].dim() < 4:
        return torch.cat(values)
    height, width = (max(value.shape[axis] for value in values) for axis in (2, 3))
    return torch.cat([functional.pad(v, (0, width - v.shape[3], 0, height - v.shape[2])) for v in values])
