"""Entry points for `torch.hub`, with the names, arguments and outputs of the original repositories.

>>> model, postprocessor = torch.hub.load(".", "conditional_detr_resnet50", source="local",
...                                       pretrained=True, return_postprocessor=True)
>>> outputs = model(images)                     # {"pred_logits", "pred_boxes"}
>>> results = postprocessor(outputs, sizes)     # [{"scores", "labels", "boxes"}, …]

They work from a clone; what pyproject.toml lists under `dependencies` must be installed, this package need not be.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

dependencies = ["torch", "torchvision", "timm", "scipy", "safetensors", "huggingface_hub"]

sys.path.insert(0, str(Path(__file__).resolve().parent / "src"))

from conditional_detr.checkpoints.names import in_module, to_memory  # noqa: E402
from conditional_detr.classes import SigmoidClasses, SoftmaxClasses  # noqa: E402
from conditional_detr.images.pixels import pad  # noqa: E402
from conditional_detr.models.detector import ObjectDetectionModel  # noqa: E402
from conditional_detr.models.family import family_of  # noqa: E402
from conditional_detr.models.outputs import SegmentationOutput  # noqa: E402
from conditional_detr.models.segmenter import SegmentationModel  # noqa: E402
from conditional_detr.results.detections import detections  # noqa: E402
from conditional_detr.results.panoptic_files import panoptic_png_bytes  # noqa: E402
from conditional_detr.results.segments import MaskPredictions, merge_panoptic  # noqa: E402

CONDITIONAL_DETR = "https://github.com/DeppMeng/ConditionalDETR/releases/download/v1.0/ConditionalDETR_{}_epoch50.pth"
DETR = "https://dl.fbaipublicfiles.com/detr/detr-{}.pth"
COCO_CLASSES = 91  # ids up to 90, and 0
PANOPTIC_CLASSES = 250  # ids up to 200, of which those above 90 are stuff
# How each original reads its logits, and how many detections of an image it gives; None: one for each query.
READINGS = {"conditional_detr": (SigmoidClasses(), 100), "detr": (SoftmaxClasses(), None)}


class OriginalInterface(nn.Module):
    """A detector or segmentation model with the inputs and outputs of the original repositories.

    Attributes:
        detector: the model with this package's interface.
    """

    def __init__(self, detector: ObjectDetectionModel | SegmentationModel) -> None:
        super().__init__()
        self.detector = detector

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        """Load weights in the original's names, such as `torch.load("checkpoint.pth")["model"]`, or in this module's."""
        if any(name.startswith(("transformer.", "detr.transformer.")) for name in state_dict):
            table = self.detector.weight_names
            named = in_module(to_memory(dict(state_dict), table), self.detector.part, table)
            return self.detector.load_state_dict(named, strict, assign)
        return super().load_state_dict(state_dict, strict, assign)

    def forward(self, images: Tensor | list[Tensor]) -> dict[str, Any]:
        """Detect.

        Args:
            images: (B, 3, H, W), or a list of (3, H, W) of any sizes; normalised by ImageNet's mean and deviation.

        Returns:
            `pred_logits` (B, Q, C), DETR: (B, Q, C + 1), and `pred_boxes` (B, Q, 4) cxcywh, relative to each image; with
            the configuration's `auxiliary_loss` also `aux_outputs`, the same of each layer but the last. Of a panoptic
            model also `pred_masks` (B, Q, H/4, W/4), and where images differ in size `mask_sizes` (B, 2), the rows and
            columns of each image's own masks.

        Raises:
            ValueError: the images have another shape.
        """
        shapes = [tuple(image.shape) for image in images]
        if not shapes or any(len(shape) != 3 or shape[0] != 3 for shape in shapes):
            raise ValueError(f"images must be (B, 3, H, W) or a list of (3, H, W), got {shapes[:4]}")
        pixels, mask = (images, None) if isinstance(images, Tensor) else pad(images)
        outputs = self.detector(pixels, mask)
        result = {"pred_logits": outputs.logits, "pred_boxes": outputs.pred_boxes}
        result |= {name: outputs[name] for name in ("pred_masks", "mask_sizes") if name in outputs}
        if outputs.auxiliary_outputs is not None:
            result["aux_outputs"] = [
                {"pred_logits": layer["logits"], "pred_boxes": layer["pred_boxes"]}
                for layer in outputs.auxiliary_outputs
            ]
        return result


class PostProcess(nn.Module):
    """Outputs -> detections, as the original's evaluation has them."""

    def __init__(self, family: str) -> None:
        super().__init__()
        self.family = family

    @torch.no_grad()
    def forward(self, outputs: dict[str, Tensor], target_sizes: Tensor) -> list[dict[str, Tensor]]:
        """The detections of each image, whatever their score.

        Args:
            outputs: what the model returns.
            target_sizes: (B, 2), height and width of each image in pixels.

        Returns:
            for each image `scores` (n,), `labels` (n,) and `boxes` (n, 4) xyxy in pixels. Conditional DETR: the best 100
            pairs of query and class; DETR: the best class of each query.

        Raises:
            ValueError: `target_sizes` is not one pair an image.
        """
        classes, top_k = READINGS[self.family]
        return detections(outputs["pred_logits"], outputs["pred_boxes"], classes, target_sizes, -1.0, top_k)


class PostProcessPanoptic(nn.Module):
    """Outputs -> panoptic maps, with the original's arguments and results.

    Args:
        is_thing_map: of each class, whether it is one of things.
        threshold: queries whose best class scores no more are left out.
    """

    def __init__(self, is_thing_map: dict[int, bool], threshold: float = 0.85) -> None:
        super().__init__()
        self.is_thing_map, self.threshold = is_thing_map, threshold

    @torch.no_grad()
    def forward(
        self, outputs: dict[str, Tensor], processed_sizes: Any, target_sizes: Any = None
    ) -> list[dict[str, Any]]:
        """Merge masks; see `merge_panoptic` for what is done otherwise than in the original.

        Args:
            outputs: what the model returns.
            processed_sizes: height and width of each image as the model saw it, the default of `target_sizes`.
            target_sizes: height and width of each map in pixels.

        Returns:
            for each image `png_string`, the map as COCO's panoptic PNG, and `segments_info`, dicts with `id`, `isthing`,
            `category_id` and `area`.
        """
        named = SegmentationOutput(logits=outputs["pred_logits"], pred_masks=outputs["pred_masks"])
        if "mask_sizes" in outputs:
            named["mask_sizes"] = outputs["mask_sizes"]
        things = [self.is_thing_map[i] for i in range(named.logits.shape[-1] - 1)]
        sizes = processed_sizes if target_sizes is None else target_sizes
        return [
            {
                "png_string": panoptic_png_bytes(one["segmentation"]),
                "segments_info": [
                    {"id": s["id"], "isthing": s["isthing"], "category_id": s["label_id"], "area": s["area"]}
                    for s in one["segments_info"]
                ],
            }
            for one in merge_panoptic(MaskPredictions.of(named), SoftmaxClasses(), sizes, things, self.threshold)
        ]


def conditional_detr_resnet50(
    pretrained: bool = False, num_classes: int = COCO_CLASSES, return_postprocessor: bool = False
) -> Any:
    """Conditional DETR-R50: 41.0 AP on COCO val 2017, as published."""
    return _entry("conditional_detr", "resnet50", False, CONDITIONAL_DETR, "r50", pretrained, num_classes, return_postprocessor)  # fmt: skip


def conditional_detr_resnet50_dc5(
    pretrained: bool = False, num_classes: int = COCO_CLASSES, return_postprocessor: bool = False
) -> Any:
    """Conditional DETR-DC5-R50: 43.7 AP on COCO val 2017, as published."""
    return _entry("conditional_detr", "resnet50", True, CONDITIONAL_DETR, "r50dc5", pretrained, num_classes, return_postprocessor)  # fmt: skip


def conditional_detr_resnet101(
    pretrained: bool = False, num_classes: int = COCO_CLASSES, return_postprocessor: bool = False
) -> Any:
    """Conditional DETR-R101: 42.8 AP on COCO val 2017, as published."""
    return _entry("conditional_detr", "resnet101", False, CONDITIONAL_DETR, "r101", pretrained, num_classes, return_postprocessor)  # fmt: skip


def conditional_detr_resnet101_dc5(
    pretrained: bool = False, num_classes: int = COCO_CLASSES, return_postprocessor: bool = False
) -> Any:
    """Conditional DETR-DC5-R101: 45.0 AP on COCO val 2017, as published."""
    return _entry("conditional_detr", "resnet101", True, CONDITIONAL_DETR, "r101dc5", pretrained, num_classes, return_postprocessor)  # fmt: skip


def detr_resnet50(pretrained: bool = False, num_classes: int = COCO_CLASSES, return_postprocessor: bool = False) -> Any:
    """DETR-R50: 42.0 AP on COCO val 2017, as published."""
    return _entry("detr", "resnet50", False, DETR, "r50-e632da11", pretrained, num_classes, return_postprocessor)


def detr_resnet50_dc5(
    pretrained: bool = False, num_classes: int = COCO_CLASSES, return_postprocessor: bool = False
) -> Any:
    """DETR-DC5-R50: 43.3 AP on COCO val 2017, as published."""
    return _entry("detr", "resnet50", True, DETR, "r50-dc5-f0fb7ef5", pretrained, num_classes, return_postprocessor)


def detr_resnet101(
    pretrained: bool = False, num_classes: int = COCO_CLASSES, return_postprocessor: bool = False
) -> Any:
    """DETR-R101: 43.5 AP on COCO val 2017, as published."""
    return _entry("detr", "resnet101", False, DETR, "r101-2c7b67e5", pretrained, num_classes, return_postprocessor)


def detr_resnet101_dc5(
    pretrained: bool = False, num_classes: int = COCO_CLASSES, return_postprocessor: bool = False
) -> Any:
    """DETR-DC5-R101: 44.9 AP on COCO val 2017, as published."""
    return _entry("detr", "resnet101", True, DETR, "r101-dc5-a2e86def", pretrained, num_classes, return_postprocessor)


def detr_resnet50_panoptic(
    pretrained: bool = False,
    num_classes: int = PANOPTIC_CLASSES,
    threshold: float = 0.85,
    return_postprocessor: bool = False,
) -> Any:
    """DETR-R50 with masks: 43.4 PQ on COCO val 2017, as published."""
    return _panoptic_entry("resnet50", False, "r50-panoptic-00ce5173", pretrained, num_classes, threshold, return_postprocessor)  # fmt: skip


def detr_resnet50_dc5_panoptic(
    pretrained: bool = False,
    num_classes: int = PANOPTIC_CLASSES,
    threshold: float = 0.85,
    return_postprocessor: bool = False,
) -> Any:
    """DETR-DC5-R50 with masks: 44.6 PQ on COCO val 2017, as published."""
    return _panoptic_entry("resnet50", True, "r50-dc5-panoptic-da08f1b1", pretrained, num_classes, threshold, return_postprocessor)  # fmt: skip


def detr_resnet101_panoptic(
    pretrained: bool = False,
    num_classes: int = PANOPTIC_CLASSES,
    threshold: float = 0.85,
    return_postprocessor: bool = False,
) -> Any:
    """DETR-R101 with masks: 45.1 PQ on COCO val 2017, as published."""
    return _panoptic_entry("resnet101", False, "r101-panoptic-40021d53", pretrained, num_classes, threshold, return_postprocessor)  # fmt: skip


def _panoptic_entry(
    backbone: str,
    dilation: bool,
    file: str,
    pretrained: bool,
    num_classes: int,
    threshold: float,
    return_postprocessor: bool,
) -> Any:
    model = _model(
        family_of("detr").segmenter, backbone, dilation, DETR.format(file), pretrained, num_classes, PANOPTIC_CLASSES
    )
    is_thing_map = {i: i < COCO_CLASSES for i in range(num_classes)}
    return (model, PostProcessPanoptic(is_thing_map, threshold)) if return_postprocessor else model


def _entry(
    family: str,
    backbone: str,
    dilation: bool,
    address: str,
    file: str,
    pretrained: bool,
    num_classes: int,
    return_postprocessor: bool,
) -> Any:
    model = _model(
        family_of(family).detector, backbone, dilation, address.format(file), pretrained, num_classes, COCO_CLASSES
    )
    return (model, PostProcess(family)) if return_postprocessor else model


def _model(
    model_class: type[ObjectDetectionModel] | type[SegmentationModel],
    backbone: str,
    dilation: bool,
    address: str,
    pretrained: bool,
    num_classes: int,
    published_classes: int,
) -> OriginalInterface:
    """The model, in training mode as a new module is, or in evaluation mode with the published weights.

    Raises:
        OSError: the published weights can be neither found in torch.hub's cache nor downloaded.
        ValueError: published weights are asked for with another number of classes than COCO's.
    """
    if pretrained and num_classes != published_classes:
        raise ValueError(
            f"the published weights are of {published_classes} classes, not {num_classes}: pass pretrained=False, or load "
            f"them with {model_class.__name__}.from_pretrained(FILE.pth, num_labels={num_classes})"
        )
    if pretrained:
        detector = model_class.from_pretrained(_downloaded(address), dilation=dilation, auxiliary_loss=False)
    else:
        config = model_class.config_class(
            backbone=backbone,
            dilation=dilation,
            num_labels=num_classes,
            dropout=0.1,
            attention_dropout=0.1,
            activation_dropout=0.1,
        )
        detector = model_class(config)
    model = OriginalInterface(detector)
    model.train(not pretrained)
    return model


def _downloaded(address: str) -> Path:
    """The file of published weights in torch.hub's cache, fetched and checked where it is not there yet."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / address.rsplit("/", 1)[1]
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        checksum = re.search(r"-([0-9a-f]{8})\.pth$", path.name)  # DETR's files carry theirs in the name
        try:
            torch.hub.download_url_to_file(address, str(path), checksum.group(1) if checksum else None)
        except (OSError, RuntimeError) as error:
            raise OSError(
                f"cannot download {address}: {error}. Connect once, or put the file into {path.parent}"
            ) from None
    return path
