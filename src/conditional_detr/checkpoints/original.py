"""What an original `.pth` file says about its model: by the shapes of its weights, and by its `args` where it has them."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from torch import Tensor

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
# A weight that only Conditional DETR has.
CONDITIONAL_MARK = "transformer.decoder.ref_point_head.layers.0.weight"
# Outputs of the classifier that are not classes: DETR's "no object".
MORE_OUTPUTS = {"conditional_detr": 0, "detr": 1}


def is_original(weights: dict[str, Tensor]) -> bool:
    """Whether the weights of a detector have the original's names."""
    return "class_embed.weight" in weights


def original_model_type(weights: dict[str, Tensor]) -> str:
    """The family of a model in dialect A.

    Raises:
        ValueError: the weights are of no such model.
    """
    if "class_embed.weight" not in weights or "query_embed.weight" not in weights:
        raise ValueError(
            "the file is not an original Conditional DETR or DETR checkpoint (no class_embed and query_embed in it), "
            "and there is no config.json beside it"
        )
    return "conditional_detr" if CONDITIONAL_MARK in weights else "detr"


def values_from_weights(
    weights: dict[str, Tensor], args: argparse.Namespace | None, overrides: dict[str, Any]
) -> tuple[str, dict[str, Any]]:
    """Infer the family and the configuration's values of a model in dialect A.

    Args:
        weights: name -> tensor.
        args: the original training script's arguments, if the file holds them. Without them heads are 8, dropout is
            the paper's, and DC5 (`dilation=True`) must be said in `overrides`: no shape shows it.
        overrides: configuration values that win over both.

    Returns:
        `model_type`, and the values for the constructor of its configuration, `overrides` with them.

    Raises:
        ValueError: the weights are not those of a Conditional DETR or DETR with a ResNet.
    """
    model_type = original_model_type(weights)
    encoder_layers = _count(weights, "transformer.encoder.layers.")
    needed = ["class_embed.weight", "query_embed.weight", "transformer.decoder.layers.0.linear1.weight"]
    for name in needed + (["transformer.encoder.layers.0.linear1.weight"] if encoder_layers else []):
        if name not in weights or weights[name].dim() != 2:
            raise ValueError(f"the weights have no matrix called {name}: the file is incomplete or damaged")
    body = "backbone.0.body."
    stages = tuple(_count(weights, f"{body}layer{stage}.") for stage in (1, 2, 3, 4))
    resnet = RESNETS.get((*stages, f"{body}layer1.0.conv3.weight" in weights))
    if resnet is None and "backbone" not in overrides:
        raise ValueError(f"the backbone (stages of {stages} blocks) is no known ResNet: name it with backbone=")
    classes = weights["class_embed.weight"].shape[0] - MORE_OUTPUTS[model_type]
    values: dict[str, Any] = {
        **PAPER_TRAINING,
        "backbone": resnet,
        "num_labels": classes,
        "num_queries": queries_of_a_group(
            weights["query_embed.weight"].shape[0], said_by(args), _count_of(overrides, "num_queries")
        ),
        "d_model": weights["query_embed.weight"].shape[1],
        "encoder_layers": encoder_layers,
        "decoder_layers": _count(weights, "transformer.decoder.layers."),
        "decoder_ffn_dim": weights["transformer.decoder.layers.0.linear1.weight"].shape[0],
        "position_embedding_type": "learned" if "backbone.1.row_embed.weight" in weights else "sine",
    }
    if encoder_layers:
        values["encoder_ffn_dim"] = weights["transformer.encoder.layers.0.linear1.weight"].shape[0]
    values |= _values_from_arguments(args)
    if classes in COCO_LABELS and not {"num_labels", "id2label"} & set(overrides):  # the published checkpoints
        values["id2label"] = COCO_LABELS[classes]
        if classes > LAST_THING + 1:
            values["is_thing"] = [i <= LAST_THING for i in range(classes)]
    if "id2label" in overrides:
        del values["num_labels"]
    return model_type, {**values, **overrides}


def queries_of_a_group(count: int, said: Mapping[str, Any], wanted: int | None) -> int:
    """How many of a checkpoint's object queries are one group's, where it was trained with groups of them and keeps all in
    one matrix. Its shape does not show it: they are all of them, unless it is said.

    Args:
        count: of all its object queries.
        said: what it says of itself: `num_queries`, of a group, and `group_detr`, the number of groups, or neither.
        wanted: `num_queries` as the caller has it; it decides where the checkpoint says nothing, and divides `count`.

    Raises:
        ValueError: what it says contradicts its weights.
    """
    queries, groups = _count_of(said, "num_queries"), _count_of(said, "group_detr")
    if not queries and not groups:
        return wanted if wanted and count % wanted == 0 else count
    groups = groups or max(1, count // queries)
    queries = queries or count // groups
    if count == queries * groups:
        return queries
    if groups == 1:
        return count
    raise ValueError(
        f"its {count} object queries are not what it says: group_detr {groups} groups of num_queries {queries}"
    )


def said_by(args: Any) -> dict[str, Any]:
    """The arguments of the training script, by name; none where a file holds none."""
    return vars(args) if isinstance(args, argparse.Namespace) else {}


def _count_of(said: Mapping[str, Any], name: str) -> int:
    """0 where there is no such number."""
    value = said.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _values_from_arguments(args: argparse.Namespace | None) -> dict[str, Any]:
    if not (said := said_by(args)):
        return {}
    heads = said.get("nheads", 8)
    values = {
        "encoder_attention_heads": heads,
        "decoder_attention_heads": heads,
        "dilation": said.get("dilation", False),
        "auxiliary_loss": said.get("aux_loss", True),
    }
    if "dropout" in said:
        values |= dict.fromkeys(("dropout", "attention_dropout", "activation_dropout"), said["dropout"])
    return values


def _count(weights: dict[str, Tensor], prefix: str) -> int:
    """How many different numbers follow `prefix` in the names."""
    return len({name.removeprefix(prefix).split(".")[0] for name in weights if name.startswith(prefix)})
