"""Models as the original repositories have them: attributes, inputs, outputs and names of weights are theirs, what computes
is this package's.

An original's model is a tree of modules of its own. Here the same tree is hung with the parts of a detector, which stays
outside of it and is called by `forward`; so each part, parameter and hook is there once, under the original's name.
"""

from __future__ import annotations

import logging
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from typing_extensions import Self

from ..checkpoints.names import MASK_PREFIXES, to_memory, to_original
from ..images.pixels import pad
from ..models.detector import ObjectDetectionModel
from ..models.outputs import DetectionOutput
from ..models.segmenter import SegmentationModel

logger = logging.getLogger(__name__)

# Where the original has a part, and where a detector has it.
PLACES = {
    "transformer.encoder": "model.encoder",
    "transformer.decoder": "model.decoder",
    "backbone.0.body": "model.backbone.model",
    "backbone.1": "model.position_embedding",
    "input_proj": "model.input_projection",
    "query_embed": "model.query_position_embeddings",
    "class_embed": "class_labels_classifier",
    "bbox_embed": "bbox_predictor",
}
OLDER_PREFIX = "detector."  # in front of names in state dicts that torch.hub's models gave before


class Transformer(nn.Module):
    """Encoder and decoder, with the numbers that users ask of them: `d_model`, `nhead`."""

    def __init__(self, detector: ObjectDetectionModel) -> None:
        super().__init__()
        self.encoder, self.decoder = detector.model.encoder, detector.model.decoder
        self.d_model, self.nhead = detector.config.d_model, detector.config.encoder_attention_heads


class Body(nn.Module):
    """The network of a backbone, `body`."""

    def __init__(self, body: nn.Module, num_channels: int) -> None:
        super().__init__()
        self.body, self.num_channels = body, num_channels


class Joiner(nn.ModuleList):
    """The backbone and the embedding of positions, which has weights where it is learned."""

    def __init__(self, detector: ObjectDetectionModel) -> None:
        backbone = detector.model.backbone
        self.num_channels = backbone.channels[-1]
        position = getattr(detector.model, "position_embedding", None)
        super().__init__([Body(backbone.model, self.num_channels), nn.Identity() if position is None else position])


class OriginalInterface(nn.Module):
    """What detectors and segmentation models share: inputs, outputs, and that neither can be scripted."""

    @property
    def detector(self) -> ObjectDetectionModel | SegmentationModel:
        """The model with this package's interface, of the parts that are here now."""
        raise NotImplementedError

    def forward(self, images: Any) -> dict[str, Any]:
        """Detect.

        Args:
            images: (B, 3, H, W), or a list of (3, H, W) of any sizes; or a `NestedTensor`, anything with `tensors`
                (B, 3, H, W) and `mask` (B, H, W), True where padded. Normalised by ImageNet's mean and deviation.

        Returns:
            `pred_logits` (B, Q, C), DETR: (B, Q, C + 1), and `pred_boxes` (B, Q, 4) cxcywh, relative to each image; with
            `aux_loss` also `aux_outputs`, the same of each layer but the last. Of a panoptic model also `pred_masks`
            (B, Q, H/4, W/4), and where images differ in size `mask_sizes` (B, 2), the rows and columns of each image's
            own masks.

        Raises:
            ValueError: the images have another shape.
        """
        outputs: DetectionOutput = self.detector(*_canvases(images), return_dict=True)
        result: dict[str, Any] = {"pred_logits": outputs.logits, "pred_boxes": outputs.pred_boxes}
        result |= {name: outputs[name] for name in ("pred_masks", "mask_sizes") if name in outputs}
        if outputs.auxiliary_outputs is not None:
            result["aux_outputs"] = [
                {"pred_logits": layer["logits"], "pred_boxes": layer["pred_boxes"]}
                for layer in outputs.auxiliary_outputs
            ]
        return result

    def _replicate_for_data_parallel(self) -> NoReturn:
        """What `nn.DataParallel` calls for each device but the first."""
        raise RuntimeError("nn.DataParallel cannot copy this model to several devices: use DistributedDataParallel")

    def __prepare_scriptable__(self) -> NoReturn:
        """What `torch.jit.script` asks first."""
        raise RuntimeError(
            "torch.jit.script cannot read this model, whose backbone is timm's: trace it, for canvases of one size, with "
            "torch.jit.trace(model.eval(), images, strict=False), or use torch.compile"
        )


class OriginalDetector(OriginalInterface):
    """A detector as `DETR` of the original repositories.

    `class_embed`, `bbox_embed`, `query_embed` and `input_proj` can be replaced, as any part of `backbone` and
    `transformer`: what is there is used and trained. `state_dict` has the original's names, in which queries, keys and
    values are one matrix; `load_state_dict` takes all names that checkpoints have.
    """

    def __init__(self, detector: ObjectDetectionModel) -> None:
        super().__init__()
        self.__dict__["_detector"] = detector  # outside of the tree: its parts are in it
        self.transformer = Transformer(detector)
        self.class_embed = detector.class_labels_classifier
        self.bbox_embed = detector.bbox_predictor
        self.query_embed = detector.model.query_position_embeddings
        self.input_proj = detector.model.input_projection
        self.backbone = Joiner(detector)
        self.register_state_dict_post_hook(_to_original_names)
        self.register_load_state_dict_pre_hook(_from_any_names)

    @property
    def detector(self) -> ObjectDetectionModel:
        detector: ObjectDetectionModel = self.__dict__["_detector"]
        for here, there in PLACES.items():
            part = self.get_submodule(here)
            if not isinstance(part, nn.Identity) and detector.get_submodule(there) is not part:
                detector.set_submodule(there, part)
        config, outputs = detector.config, getattr(self.class_embed, "out_features", None)
        if isinstance(outputs, int) and outputs != config.classes.outputs(config.num_labels):
            config.num_labels = config.classes.count(torch.empty(outputs, device="meta"))
        config.num_queries = self.num_queries
        return detector

    @property
    def num_queries(self) -> int:
        return int(self.query_embed.num_embeddings)

    @num_queries.setter
    def num_queries(self, count: int) -> None:
        if count != self.num_queries:
            logger.warning(
                f"num_queries = {count} changes nothing: query_embed has {self.num_queries} queries; "
                f"set query_embed = nn.Embedding({count}, {self.transformer.d_model}) for others"
            )

    @property
    def aux_loss(self) -> bool:
        """Whether the predictions of each decoder layer are returned, for auxiliary losses."""
        return bool(self.__dict__["_detector"].config.auxiliary_loss)

    @aux_loss.setter
    def aux_loss(self, value: bool) -> None:
        self.__dict__["_detector"].config.auxiliary_loss = bool(value)

    def train(self, mode: bool = True) -> Self:
        self.detector.train(mode)
        return super().train(mode)


class OriginalSegmenter(OriginalInterface):
    """A segmentation model as `DETRsegm` of the original repository: `detr`, `bbox_attention` and `mask_head`."""

    def __init__(self, segmenter: SegmentationModel) -> None:
        super().__init__()
        self.__dict__["_segmenter"] = segmenter
        self.detr = OriginalDetector(segmenter.detector)
        self.bbox_attention, self.mask_head = segmenter.bbox_attention, segmenter.mask_head
        self.register_state_dict_post_hook(_to_original_names)
        self.register_load_state_dict_pre_hook(_from_any_names)

    @property
    def detector(self) -> SegmentationModel:
        segmenter: SegmentationModel = self.__dict__["_segmenter"]
        parts = {segmenter.config.model_type: self.detr.detector}
        for name, part in {**parts, "bbox_attention": self.bbox_attention, "mask_head": self.mask_head}.items():
            if segmenter.get_submodule(name) is not part:
                segmenter.set_submodule(name, part)
        return segmenter

    def train(self, mode: bool = True) -> Self:
        self.detector.train(mode)
        return super().train(mode)


def _canvases(images: Any) -> tuple[Tensor, Tensor | None]:
    """Images as `OriginalInterface.forward` takes them -> pixels (B, 3, H, W), and a mask, True where a pixel belongs to
    the image; None where all do."""
    if hasattr(images, "tensors"):
        padded = images.mask
        return images.tensors, None if padded is None else ~padded.bool()
    if isinstance(images, Tensor) and images.dim() == 4 and images.shape[1] == 3:
        return images, None
    shapes = [tuple(image.shape) for image in images]
    if isinstance(images, Tensor) or not shapes or any(len(shape) != 3 or shape[0] != 3 for shape in shapes):
        raise ValueError(f"images must be (B, 3, H, W), a list of (3, H, W) or a NestedTensor, got {shapes[:4]}")
    return pad(images)


def _to_original_names(module: nn.Module, state: dict[str, Any], prefix: str, local_metadata: Any) -> None:
    """Rename what `state_dict` collected of this module."""
    own = {name.removeprefix(prefix): state.pop(name) for name in list(state) if name.startswith(prefix)}
    if isinstance(module, OriginalSegmenter):
        table, renamed = module.detr.detector.weight_names, {n: t for n, t in own.items() if n.startswith("detr.")}
        own = {name: value for name, value in own.items() if name not in renamed}
    else:
        assert isinstance(module, OriginalDetector)
        table, renamed = module.detector.weight_names, {}
        own = {_moved(name, PLACES): value for name, value in own.items()}
    renamed |= to_original(own, table)
    state.update({prefix + name: value for name, value in renamed.items()})


def _from_any_names(module: nn.Module, state: dict[str, Any], prefix: str, *others: Any) -> None:
    """Rename what `load_state_dict` is about to put into this module."""
    own = {name.removeprefix(prefix): state.pop(name) for name in list(state) if name.startswith(prefix)}
    own = {name.removeprefix(OLDER_PREFIX): value for name, value in own.items()}
    if isinstance(module, OriginalSegmenter):
        table = module.detr.detector.weight_names
        heads = {name: own.pop(name) for name in list(own) if name.startswith(MASK_PREFIXES)}
        renamed = own | to_memory(heads, table)
    else:
        assert isinstance(module, OriginalDetector)
        back = {there: here for here, there in PLACES.items()}
        renamed = {_moved(name, back): value for name, value in to_memory(own, module.detector.weight_names).items()}
    state.update({prefix + name: value for name, value in renamed.items()})


def _moved(name: str, places: dict[str, str]) -> str:
    """A weight's name where `places` says that the part it is in has another."""
    for old, new in places.items():
        if name.startswith(f"{old}."):
            return new + name.removeprefix(old)
    return name
