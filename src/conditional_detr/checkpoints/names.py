"""Three ways to name the same weights, and the table that is read in every direction.

- A, original: the `.pth` files of Conditional DETR and DETR.
- B, on disk: what transformers 4 and 5 read and write, and what this package writes.
- C, in memory: transformers 5's `state_dict()`, and this package's modules.

In a pattern `#` is a layer's number and `*` the rest of the name. `[q]`, `[k]`, `[v]` is a third of the rows of one packed
matrix or bias. `=` means "as in C". The rows here are what all families share; each family's file in `models/` has its own.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Literal, NamedTuple

import torch
from torch import Tensor


class Row(NamedTuple):
    c: str
    b: str
    a: str


ENCODER = "model.encoder.layers.#."
DECODER = "model.decoder.layers.#."
ORIGINAL_ENCODER = "transformer.encoder.layers.#."
ORIGINAL_DECODER = "transformer.decoder.layers.#."

SHARED = (
    Row("model.backbone.model.*", "model.backbone.conv_encoder.model.*", "backbone.0.body.*"),
    Row("model.position_embedding.row_embeddings.weight", "=", "backbone.1.row_embed.weight"),
    Row("model.position_embedding.column_embeddings.weight", "=", "backbone.1.col_embed.weight"),
    Row("model.input_projection.*", "=", "input_proj.*"),
    Row("model.query_position_embeddings.weight", "=", "query_embed.weight"),
    Row(ENCODER + "self_attn.q_proj.*", "=", ORIGINAL_ENCODER + "self_attn.in_proj_*[q]"),
    Row(ENCODER + "self_attn.k_proj.*", "=", ORIGINAL_ENCODER + "self_attn.in_proj_*[k]"),
    Row(ENCODER + "self_attn.v_proj.*", "=", ORIGINAL_ENCODER + "self_attn.in_proj_*[v]"),
    Row(ENCODER + "self_attn.o_proj.*", ENCODER + "self_attn.out_proj.*", ORIGINAL_ENCODER + "self_attn.out_proj.*"),
    Row(ENCODER + "self_attn_layer_norm.*", "=", ORIGINAL_ENCODER + "norm1.*"),
    Row(ENCODER + "mlp.fc1.*", ENCODER + "fc1.*", ORIGINAL_ENCODER + "linear1.*"),
    Row(ENCODER + "mlp.fc2.*", ENCODER + "fc2.*", ORIGINAL_ENCODER + "linear2.*"),
    Row(ENCODER + "final_layer_norm.*", "=", ORIGINAL_ENCODER + "norm2.*"),
    Row(DECODER + "self_attn.o_proj.*", DECODER + "self_attn.out_proj.*", ORIGINAL_DECODER + "self_attn.out_proj.*"),
    Row(DECODER + "self_attn_layer_norm.*", "=", ORIGINAL_DECODER + "norm1.*"),
    Row(DECODER + "encoder_attn_layer_norm.*", "=", ORIGINAL_DECODER + "norm2.*"),
    Row(DECODER + "mlp.fc1.*", DECODER + "fc1.*", ORIGINAL_DECODER + "linear1.*"),
    Row(DECODER + "mlp.fc2.*", DECODER + "fc2.*", ORIGINAL_DECODER + "linear2.*"),
    Row(DECODER + "final_layer_norm.*", "=", ORIGINAL_DECODER + "norm3.*"),
    Row("model.decoder.layernorm.*", "=", "transformer.decoder.norm.*"),
    Row("class_labels_classifier.*", "=", "class_embed.*"),
    Row("bbox_predictor.layers.*", "=", "bbox_embed.layers.*"),
)

# The original and the disk name these alike.
MASKS = tuple(
    Row(c, a, a)
    for c, a in (
        ("bbox_attention.q_proj.*", "bbox_attention.q_linear.*"),
        ("bbox_attention.k_proj.*", "bbox_attention.k_linear.*"),
        ("mask_head.conv1.conv.*", "mask_head.lay1.*"),
        ("mask_head.conv1.norm.*", "mask_head.gn1.*"),
        ("mask_head.conv2.conv.*", "mask_head.lay2.*"),
        ("mask_head.conv2.norm.*", "mask_head.gn2.*"),
        ("mask_head.output_conv.*", "mask_head.out_lay.*"),
    )
) + tuple(
    Row(f"mask_head.fpn_stages.{i}.{c}.*", a, a)
    for i in range(3)
    for c, a in (
        ("fpn_adapter", f"mask_head.adapter{i + 1}.*"),
        ("refine.conv", f"mask_head.lay{i + 3}.*"),
        ("refine.norm", f"mask_head.gn{i + 3}.*"),
    )
)

# Read, never written: transformers 4 kept the learned positions inside the backbone.
OLD_NAMES = (
    Row(
        "model.position_embedding.row_embeddings.weight", "model.backbone.position_embedding.row_embeddings.weight", ""
    ),
    Row(
        "model.position_embedding.column_embeddings.weight",
        "model.backbone.position_embedding.column_embeddings.weight",
        "",
    ),
)

# A ResNet's weights, in timm's names and in transformers' (`use_timm_backbone=false`), after what stands in front of both.
RESNET = (
    ("conv1.*", "embedder.embedder.convolution.*"),
    ("bn1.*", "embedder.embedder.normalization.*"),
    *(
        (f"layer{stage + 1}.#.{timm}.*", f"encoder.stages.{stage}.layers.#.{theirs}.*")
        for stage in range(4)
        for timm, theirs in (
            *((f"conv{i + 1}", f"layer.{i}.convolution") for i in range(3)),
            *((f"bn{i + 1}", f"layer.{i}.normalization") for i in range(3)),
            ("downsample.0", "shortcut.convolution"),
            ("downsample.1", "shortcut.normalization"),
        )
    ),
)
BACKBONE_PREFIX = re.compile(r"(.*\bbackbone\.(?:conv_encoder\.)?model\.)(.+)")

SLOTS = "qkv"
MASK_PREFIXES = ("mask_head.", "bbox_attention.")
ORIGINAL_DETECTOR_PREFIX = "detr."  # in front of the detector's weights inside a segmentation model, in A

# What of a model a module is: without heads, with those for classes and boxes, or with masks too.
Part = Literal["model", "detector", "segmenter"]


class NameTable(NamedTuple):
    """The names of a family's weights. In a segmentation model `model_type` and a point stand in front of the
    detector's."""

    model_type: str
    rows: tuple[Row, ...]


def name_table(model_type: str, rows: tuple[Row, ...]) -> NameTable:
    """The table of a family; `rows` are those that are its own."""
    return NameTable(model_type, SHARED + rows + MASKS)


def without_detector_prefix(state: dict[str, Tensor], table: NameTable) -> dict[str, Tensor]:
    """The weights of a segmentation model under the names they have in a detector; others as they are."""
    return {_split(name, table)[1]: tensor for name, tensor in state.items()}


def to_memory(state: dict[str, Tensor], table: NameTable) -> dict[str, Tensor]:
    """Rename the weights of a detector or segmentation model from any dialect to C, without a prefix in front of the
    detector's; names that no row knows stay as they are.

    Args:
        state: name -> tensor, in dialect A, B or C, or a mixture.
    """
    renamed: dict[str, Tensor] = {}
    rows = table.rows + OLD_NAMES
    for saved_name, tensor in without_detector_prefix(state, table).items():
        name, known = _of_resnet(saved_name, 1, 0), False
        for row in rows:
            for pattern in (row.a, row.b if row.b != "=" else row.c):
                matched = _regex(pattern).fullmatch(name) if pattern else None
                if matched:
                    known = True
                    packed = pattern.endswith("]") and tensor.dim() > 0 and len(tensor) >= 3
                    part = tensor.chunk(3)[SLOTS.index(pattern[-2])] if packed else tensor
                    renamed[_fill(row.c, matched.groups())] = part
        if not known:
            renamed[name] = tensor
    return renamed


def to_disk(state: dict[str, Tensor], table: NameTable, resnet: bool = False) -> dict[str, Tensor]:
    """Rename the weights of a detector or segmentation model from C to B; `resnet`: the backbone has the names of
    transformers' own ResNet."""
    renamed = {}
    for full_name, tensor in state.items():
        prefix, name = _split(full_name, table)
        for row in table.rows:
            matched = _regex(row.c).fullmatch(name)
            if matched:
                name = _fill(row.b if row.b != "=" else row.c, matched.groups())
                break
        renamed[prefix + (_of_resnet(name, 0, 1) if resnet else name)] = tensor
    return renamed


def to_original(state: dict[str, Tensor], table: NameTable) -> dict[str, Tensor]:
    """Rename the weights of a detector or segmentation model from C to A, packing queries, keys and values where the
    original does. Those of an adapter that is on some of the three only keep their names."""
    renamed: dict[str, Tensor] = {}
    thirds: dict[str, dict[str, tuple[str, Tensor]]] = {}
    for full_name, tensor in state.items():
        prefix, name = _split(full_name, table)
        for row in table.rows:
            matched = _regex(row.c).fullmatch(name)
            if matched:
                name = _fill(row.a, matched.groups())
                break
        name = (ORIGINAL_DETECTOR_PREFIX if prefix else "") + name
        if name.endswith("]"):
            thirds.setdefault(name[:-3], {})[name[-2]] = (full_name, tensor)
        else:
            renamed[name] = tensor
    for name, parts in thirds.items():
        whole = len(parts) == len(SLOTS)
        renamed.update({name: torch.cat([parts[slot][1] for slot in SLOTS])} if whole else dict(parts.values()))
    return renamed


def in_module(state: dict[str, Tensor], part: Part, table: NameTable) -> dict[str, Tensor]:
    """The weights that `to_memory` gives, under the names that a module has for them; those it lacks are left out."""
    if part == "model":
        return {n.removeprefix("model."): t for n, t in state.items() if n.startswith("model.")}
    if part == "detector":
        return state
    return {n if n.startswith(MASK_PREFIXES) else f"{table.model_type}.{n}": t for n, t in state.items()}


def _split(name: str, table: NameTable) -> tuple[str, str]:
    """The prefix of a detector inside a segmentation model, "" if there is none, and the rest of a name."""
    prefixes = (f"{table.model_type}.", ORIGINAL_DETECTOR_PREFIX)
    prefix = next((prefix for prefix in prefixes if name.startswith(prefix)), "")
    return prefix, name.removeprefix(prefix)


def _of_resnet(name: str, read: Literal[0, 1], write: Literal[0, 1]) -> str:
    """A name with the part that is a ResNet's from one column of `RESNET` in the other; other names as they are."""
    split = BACKBONE_PREFIX.fullmatch(name)
    for row in RESNET if split else ():
        assert split
        if matched := _regex(row[read]).fullmatch(split[2]):
            return split[1] + _fill(row[write], matched.groups())
    return name


@cache
def _regex(pattern: str) -> re.Pattern[str]:
    pattern = re.sub(r"\[[qkv]\]$", "", pattern)
    return re.compile(re.escape(pattern).replace(r"\#", r"(\d+)").replace("#", r"(\d+)").replace(r"\*", "(.+)"))


def _fill(pattern: str, values: tuple[str, ...]) -> str:
    for value in values:
        pattern = re.sub(r"[#*]", lambda _: value, pattern, count=1)  # noqa: B023
    return pattern
