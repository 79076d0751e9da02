"""What an original `.pth` file says about its model: by the shapes of its weights, and by its `args` where it has them."""

from __future__ import annotations

import argparse
from typing import Any

from torch import Tensor

from ..config import CONFIG_CLASSES, DetectionConfig
from .coco_names import COCO_LABELS, LAST_THING

# Numbers of blocks in each stage, and whether blocks are bottlenecks.
RESNETS: dict[tuple[int, ...], str] = {
    (2, 2, 2, 2, False): "resnet18",
    (3, 4, 6, 3, False): "resnet34",
    (3, 4, 6, 3, True): "resnet50",
    (3, 4, 23, 3, True): "resnet101",
    (3, 8, 36, 3, True): "resnet152",
}
# How the papers train; transformers' configuration defaults differ.
PAPER_TRAINING = {"dropout": 0.1, "attention_dropout": 0.1, "activation_dropout": 0.1, "auxiliary_loss": True}


def config_from_weights(
    weights: dict[str, Tensor], args: argparse.Namespace | None, overrides: dict[str, Any]
) -> DetectionConfig:
    """Infer the configuration of a model in dialect A.

    Args:
        weights: name -> tensor.
        args: the original training script's arguments, if the file holds them. Without them heads are 8, dropout is
            the paper's, and DC5 (`dilation=True`) must be said in `overrides`: no shape shows it.
        overrides: configuration values that win over both.

    Raises:
        ValueError: the weights are not those of a Conditional DETR or DETR with a ResNet.
    """
    if "class_embed.weight" not in weights or "query_embed.weight" not in weights:
        raise ValueError(
            "the file is not an original Conditional DETR or DETR checkpoint (no class_embed and query_embed in it), "
            "and there is no config.json beside it"
        )
    encoder_layers = _count(weights, "transformer.encoder.layers.")
    needed = ["class_embed.weight", "query_embed.weight", "transformer.decoder.layers.0.linear1.weight"]
    for name in needed + (["transformer.encoder.layers.0.linear1.weight"] if encoder_layers else []):
        if name not in weights or weights[name].dim() != 2:
            raise ValueError(f"the weights have no matrix called {name}: the file is incomplete or damaged")
    conditional = "transformer.decoder.ref_point_head.layers.0.weight" in weights
    config_class = CONFIG_CLASSES["conditional_detr" if conditional else "detr"]
    body = "backbone.0.body."
    stages = tuple(_count(weights, f"{body}layer{stage}.") for stage in (1, 2, 3, 4))
    resnet = RESNETS.get((*stages, f"{body}layer1.0.conv3.weight" in weights))
    if resnet is None and "backbone" not in overrides:
        raise ValueError(f"the backbone (stages of {stages} blocks) is no known ResNet: name it with backbone=")
    classes = weights["class_embed.weight"].shape[0] - (0 if conditional else 1)
    values: dict[str, Any] = {
        **PAPER_TRAINING,
        "backbone": resnet,
        "num_labels": classes,
        "num_queries": weights["query_embed.weight"].shape[0],
        "d_model": weights["query_embed.weight"].shape[1],
        "encoder_layers": encoder_layers,
        "decoder_layers": _count(weights, "transformer.decoder.layers."),
        "decoder_ffn_dim": weights["transformer.decoder.layers.0.linear1.weight"].shape[0],
        "position_embedding_type": "learned" if "backbone.1.row_embed.weight" in weights else "sine",
    }
    if encoder_layers:
        values["encoder_ffn_dim"] = weights["transformer.encoder.layers.0.linear1.weight"].shape[0]
    if isinstance(args, argparse.Namespace):
        said = vars(args)
        values["encoder_attention_heads"] = values["decoder_attention_heads"] = said.get("nheads", 8)
        values["dilation"] = said.get("dilation", False)
        if "dropout" in said:
            values["dropout"] = values["attention_dropout"] = values["activation_dropout"] = said["dropout"]
        values["auxiliary_loss"] = said.get("aux_loss", True)
    if classes in COCO_LABELS and not {"num_labels", "id2label"} & set(overrides):  # the published checkpoints
        values["id2label"] = COCO_LABELS[classes]
        if classes > LAST_THING + 1:
            values["is_thing"] = [i <= LAST_THING for i in range(classes)]
    if "id2label" in overrides:
        del values["num_labels"]
    return config_class(**{**values, **overrides})


def _count(weights: dict[str, Tensor], prefix: str) -> int:
    """How many different numbers follow `prefix` in the names."""
    return len({name.removeprefix(prefix).split(".")[0] for name in weights if name.startswith(prefix)})
