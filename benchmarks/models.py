"""The models that are compared: ours, transformers' and the original's, with the same random weights."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import conditional_detr
from conditional_detr.checkpoints.names import to_original
from conditional_detr.models.detector import ObjectDetectionModel

CLASSES = 91
# Small enough to be run in a second, for `--quick`.
SMALL = dict(
    backbone="resnet18", num_queries=20, d_model=64, encoder_layers=1, decoder_layers=2, encoder_attention_heads=8,
    decoder_attention_heads=8, encoder_ffn_dim=128, decoder_ffn_dim=128,
)  # fmt: skip
QUICK_SIZE = {"shortest_edge": 96, "longest_edge": 160}


def config(quick: bool, **values: Any) -> conditional_detr.ConditionalDetrConfig:
    """Conditional DETR-R50 as published, or a small one."""
    return conditional_detr.ConditionalDetrConfig(**{"num_labels": CLASSES, **(SMALL if quick else {}), **values})


def save(folder: Path, quick: bool, task: str = "ObjectDetection", **values: Any) -> None:
    """Write a model of random weights, and its processor, as both libraries read them."""
    torch.manual_seed(0)
    getattr(conditional_detr, f"ConditionalDetrFor{task}")(config(quick, **values)).save_pretrained(folder)
    size = QUICK_SIZE if quick else {"shortest_edge": 800, "longest_edge": 1333}
    conditional_detr.ConditionalDetrImageProcessor(size=size).save_pretrained(folder)


def theirs(folder: Path, task: str = "ObjectDetection", **values: Any) -> nn.Module:
    """transformers' model with the weights in a folder."""
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return getattr(transformers, f"ConditionalDetrFor{task}").from_pretrained(folder, **values)


def multiply_adds(model: nn.Module, height: int, width: int, **inputs: Any) -> float:
    """Count those of one image's forward pass: of convolutions, matrix products and attention. Computes nothing.

    Args:
        model: one of ours; it comes back without weights.
    """
    model = model.to("meta").eval().requires_grad_(False)
    with FlopCounterMode(display=False) as counter:
        model(torch.empty(1, 3, height, width, device="meta"), **inputs)
    return counter.get_total_flops() / 2


class Original:
    """The original repository's model and criterion, from a checkout.

    Untried: written from what its public files say (`main.py`'s arguments, `models.build_model`), no checkout was at
    hand. Its packages are called `models` and `util`; they are imported from the checkout, whatever else has these names.
    """

    def __init__(self, checkout: str | Path, folder: Path, **values: Any) -> None:
        """Build it with the weights that `save` wrote.

        Args:
            checkout: of Atten4Vis/ConditionalDETR.
            folder: of the model.
            values: configuration values, as for ours.
        """
        if not (Path(checkout) / "models" / "conditional_detr.py").is_file():
            raise SystemExit(f"--original {checkout}: no models/conditional_detr.py there; give a checkout's folder")
        ours = conditional_detr.ConditionalDetrForObjectDetection.from_pretrained(folder, **values)
        sys.path.insert(0, str(checkout))
        try:
            # Its backbone would download ImageNet weights in the main process; ours replace them anyway.
            importlib.import_module("models.backbone").is_main_process = lambda: False  # type: ignore[attr-defined]
            build = importlib.import_module("models").build_model
        finally:
            sys.path.remove(str(checkout))
        self.model, self.criterion, postprocessors = build(_original_arguments(ours))
        self.post_process = postprocessors["bbox"]
        self.model.load_state_dict(to_original(ours.state_dict(), ours.weight_names))

    def loss(self, outputs: dict[str, Any], labels: list[dict[str, Tensor]]) -> Tensor:
        """The weighted total; labels are ours."""
        targets = [{"labels": label["class_labels"], "boxes": label["boxes"]} for label in labels]
        parts, weights = self.criterion(outputs, targets), self.criterion.weight_dict
        return torch.stack([parts[name] * weights[name] for name in parts if name in weights]).sum()


def _original_arguments(ours: ObjectDetectionModel) -> argparse.Namespace:
    """What `main.py` would make of its command line."""
    its = ours.config
    return argparse.Namespace(
        backbone=its.backbone, dilation=its.dilation, position_embedding="sine", enc_layers=its.encoder_layers,
        dec_layers=its.decoder_layers, dim_feedforward=its.encoder_ffn_dim, hidden_dim=its.d_model, dropout=its.dropout,
        nheads=its.encoder_attention_heads, num_queries=its.num_queries, pre_norm=False, masks=False, frozen_weights=None,
        aux_loss=its.auxiliary_loss, lr_backbone=1e-5, device="cpu", dataset_file="coco", set_cost_class=2,
        set_cost_bbox=5, set_cost_giou=2, mask_loss_coef=1, dice_loss_coef=1, cls_loss_coef=2, bbox_loss_coef=5,
        giou_loss_coef=2, focal_alpha=0.25,
    )  # fmt: skip
