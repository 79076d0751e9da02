"""Entry points for `torch.hub`, with the names, arguments and outputs of the original repositories.

>>> model, postprocessor = torch.hub.load(".", "conditional_detr_resnet50", source="local",
...                                       pretrained=True, return_postprocessor=True)
>>> outputs = model(images)                     # {"pred_logits", "pred_boxes"}
>>> results = postprocessor(outputs, sizes)     # [{"scores", "labels", "boxes"}, …]

With `pretrained=False` the backbone has ImageNet weights, as there. They work from a clone; what pyproject.toml lists under
`dependencies` must be installed, this package need not be.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import torch
from torchvision.models import get_model_weights

dependencies = ["torch", "torchvision", "timm", "scipy", "safetensors", "huggingface_hub"]

sys.path.insert(0, str(Path(__file__).resolve().parent / "src"))

from conditional_detr.checkpoints.backbone import load_backbone  # noqa: E402
from conditional_detr.models.family import family_of  # noqa: E402
from conditional_detr.models.segmenter import SegmentationModel  # noqa: E402
from conditional_detr.original.models import OriginalDetector, OriginalSegmenter  # noqa: E402
from conditional_detr.original.post_processing import PostProcess, PostProcessPanoptic  # noqa: E402
from conditional_detr.processors.auto_processor import image_processor_of  # noqa: E402

CONDITIONAL_DETR = "https://github.com/DeppMeng/ConditionalDETR/releases/download/v1.0/ConditionalDETR_{}_epoch50.pth"
DETR = "https://dl.fbaipublicfiles.com/detr/detr-{}.pth"
COCO_CLASSES = 91  # ids up to 90, and 0
PANOPTIC_CLASSES = 250  # ids up to 200, of which those above 90 are stuff


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
    family = family_of("detr")
    segmenter = _model(
        family.segmenter, backbone, dilation, DETR.format(file), pretrained, num_classes, PANOPTIC_CLASSES
    )
    model = OriginalSegmenter(segmenter).train(not pretrained)
    if not return_postprocessor:
        return model
    is_thing_map = {i: i < COCO_CLASSES for i in range(num_classes)}
    return model, PostProcessPanoptic(is_thing_map, threshold, image_processor_of(family.config_class).classes)


def _entry(
    family_name: str,
    backbone: str,
    dilation: bool,
    address: str,
    file: str,
    pretrained: bool,
    num_classes: int,
    return_postprocessor: bool,
) -> Any:
    family = family_of(family_name)
    detector = _model(family.detector, backbone, dilation, address.format(file), pretrained, num_classes, COCO_CLASSES)
    model = OriginalDetector(detector).train(not pretrained)
    return (model, PostProcess(image_processor_of(family.config_class)())) if return_postprocessor else model


def _model(
    model_class: Any,
    backbone: str,
    dilation: bool,
    address: str,
    pretrained: bool,
    num_classes: int,
    published_classes: int,
) -> Any:
    """A model with the published weights, or a new one on a backbone with ImageNet's.

    Raises:
        OSError: weights can be neither found in torch.hub's cache nor downloaded.
        ValueError: published weights are asked for with another number of classes than COCO's.
    """
    if pretrained and num_classes != published_classes:
        raise ValueError(
            f"the published weights are of {published_classes} classes, not {num_classes}: pass pretrained=False, or load "
            f"them with {model_class.__name__}.from_pretrained(FILE.pth, num_labels={num_classes})"
        )
    if pretrained:
        return model_class.from_pretrained(_downloaded(address), dilation=dilation, auxiliary_loss=False)
    file = _downloaded(
        get_model_weights(backbone)["IMAGENET1K_V1"].url,
        f"; a checkpoint of your own opens without it: {model_class.__name__}.from_pretrained(FILE.pth)",
    )
    rates = dict.fromkeys(("dropout", "attention_dropout", "activation_dropout"), 0.1)
    config = model_class.config_class(backbone=backbone, dilation=dilation, num_labels=num_classes, **rates)
    model = model_class(config)
    detector = model.detector if isinstance(model, SegmentationModel) else model
    load_backbone(detector.model.backbone.model, file, backbone)
    return model


def _downloaded(address: str, otherwise: str = "") -> Path:
    """A file in torch.hub's cache, fetched and checked where it is not there yet.

    Args:
        otherwise: what else can be done where it cannot be fetched, the end of the error.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / address.rsplit("/", 1)[1]
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        checksum = re.search(r"-([0-9a-f]{8})\.pth$", path.name)  # files that carry theirs in the name
        try:
            torch.hub.download_url_to_file(address, str(path), checksum.group(1) if checksum else None)
        except (OSError, RuntimeError) as error:
            raise OSError(
                f"cannot download {address}: {error}. Connect once, or put the file into {path.parent}{otherwise}"
            ) from None
    return path
