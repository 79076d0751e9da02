"""The model that a run trains: of random weights, on a pretrained backbone, from a checkpoint, or that of a run which is
continued."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..checkpoints.backbone import load_backbone
from ..checkpoints.checkpoint import Checkpoint
from ..config import DetectionConfig
from ..data.dataset import DetectionDataset
from ..data.samples import seed_of
from ..images.sizes import output_size
from ..models.detector import ObjectDetectionModel
from ..models.family import family_of
from ..models.position import MAX_LEARNED_CELLS
from ..models.segmenter import SegmentationModel
from .recipe import Recipe, recipe_names
from .state import SavedState

# On fewer images, a transformer detector trained from random weights finds little; the run says so at its start.
SMALL_SET = 10_000
BIG_MODEL = 10_000_000  # weights; smaller ones are meant for small sets


def build_model(
    recipe: Recipe, data: DetectionDataset, saved: SavedState | None = None
) -> tuple[ObjectDetectionModel | SegmentationModel, list[str]]:
    """The model to train, and what its user should know about it.

    Args:
        saved: build the model of this run; its weights are loaded later.

    Raises:
        ValueError: the recipe asks for what cannot be trained, or not from these weights.
    """
    torch.manual_seed(seed_of(recipe.seed, "weights"))
    config = recipe.model_config(**_classes_of(data))
    notes: list[str] = []
    model: ObjectDetectionModel | SegmentationModel
    if saved is not None:
        config = _saved_config(recipe, config, saved.config)
        config.use_pretrained_backbone = False  # every weight comes from the checkpoint
        model = _model_class(recipe, config)(config)
    elif recipe.init_from:
        model, note = _from_checkpoint(recipe, config, data)
        notes.append(note)
    elif recipe.backbone_weights:
        model, note = _on_backbone(recipe, config)
        notes.append(f"{note}; the transformer starts from nothing")
    else:
        model = _new_model(recipe, config)
        notes += _advice(model, images=len(data))
    if isinstance(model, SegmentationModel) and recipe.freeze_detector:
        model.freeze_detector()
        notes.append("the detector stays as it is: only the mask head is trained")
    return model, notes


def _classes_of(data: DetectionDataset) -> dict[str, Any]:
    """The fields of a model's configuration that are about a data set's classes."""
    return {
        "id2label": dict(enumerate(data.category_names)),
        "category_ids": list(data.category_ids),
        "is_thing": data.is_thing,
    }


def _model_class(recipe: Recipe, config: DetectionConfig) -> type[ObjectDetectionModel] | type[SegmentationModel]:
    family = family_of(config.model_type)
    return family.detector if recipe.task == "detection" else family.segmenter


def _saved_config(recipe: Recipe, config: DetectionConfig, saved: dict[str, Any] | None) -> DetectionConfig:
    """The configuration of the model in a checkpoint; `config` is what the recipe alone would give."""
    if saved is not None:
        if saved.get("model_type") != config.model_type:
            raise ValueError(f"its model is of type {saved.get('model_type')!r}, the recipe's is {config.model_type!r}")
        return type(config).from_dict({name: value for name, value in saved.items() if name != "model_type"})
    if not recipe.init_from:
        return config
    # A checkpoint from before configurations were kept in it: what the run started with decides.
    started = Checkpoint(recipe.init_from).config(type(config), _model_fields(recipe))
    started.id2label, started.category_ids, started.is_thing = config.id2label, config.category_ids, config.is_thing
    return started


def _model_fields(recipe: Recipe) -> dict[str, Any]:
    """The recipe's model fields that win over those of `init_from`."""
    return {name: value for name, value in recipe.model.items() if name not in ("family", "use_pretrained_backbone")}


def _from_checkpoint(
    recipe: Recipe, config: DetectionConfig, data: DetectionDataset
) -> tuple[ObjectDetectionModel | SegmentationModel, str]:
    """Start from saved weights. The recipe's model fields win over the checkpoint's; other classes get a new classifier.

    Args:
        config: what the recipe alone would give.
    """
    _check_made(recipe.init_from)
    model_class = _model_class(recipe, config)
    model = model_class.from_pretrained(recipe.init_from, **_model_fields(recipe))
    known, names = list(model.config.id2label.values()), list(data.category_names)
    model.config.is_thing, model.config.category_ids = data.is_thing, list(data.category_ids)
    if known == names:
        return model, f"starting from {recipe.init_from}, which knows these classes"
    if recipe.freeze_detector:
        raise ValueError(
            f"{recipe.init_from} knows {len(known)} classes, which are not the data's {len(names)}: its "
            "classifier would be new, and frozen. Train the detector on the data's classes first, or do not freeze it"
        )
    model.config.id2label = dict(enumerate(names))
    fresh = model_class(model.config)
    replaced = {n: t for n, t in fresh.state_dict().items() if "class_labels_classifier." in n}
    kept = {n: t for n, t in model.state_dict().items() if n not in replaced}
    fresh.load_state_dict({**kept, **replaced})
    return fresh, (
        f"starting from {recipe.init_from}; its {len(known)} classes ({_first_of(known)}) are not the data's "
        f"{len(names)} ({_first_of(names)}), so the classifier is new"
    )


def _check_made(init_from: str) -> None:
    """Say how to make what a shipped recipe starts from, where it is what another one leaves and is not there yet."""
    match Path(init_from).parts:
        case ("runs", name, "model") if name in recipe_names() and not Path(init_from).exists():
            raise FileNotFoundError(
                f"{init_from} does not exist: cdetr train --config {name} makes it; or give other weights with --init_from"
            )


def _first_of(names: list[str]) -> str:
    return ", ".join(names[:4]) + (", …" if len(names) > 4 else "")


def _on_backbone(recipe: Recipe, config: DetectionConfig) -> tuple[ObjectDetectionModel | SegmentationModel, str]:
    """A new model on the recipe's file of a backbone's weights, and what was loaded."""
    _check_not_frozen(recipe)
    config.use_pretrained_backbone = False  # these are the weights, and nothing is to be downloaded
    model = _model_class(recipe, config)(config)
    detector = model.detector if isinstance(model, SegmentationModel) else model
    backbone = detector.model.backbone
    if not backbone.is_plain_resnet:
        raise ValueError(f"backbone_weights is for ResNets, and model.backbone is {config.backbone}")
    return model, load_backbone(backbone.model, Path(recipe.backbone_weights), config.backbone)


def _check_not_frozen(recipe: Recipe) -> None:
    if recipe.freeze_detector:
        raise ValueError("freeze_detector trains the mask head alone: give a trained detector with --init_from")


def _new_model(recipe: Recipe, config: DetectionConfig) -> ObjectDetectionModel | SegmentationModel:
    _check_not_frozen(recipe)
    if config.backbone_norm == "frozen" and not config.use_pretrained_backbone:
        raise ValueError(
            "model.backbone_norm 'frozen' keeps statistics, stem and first stage as they are, which needs "
            "pretrained weights: set model.use_pretrained_backbone true, or --init_from or --backbone_weights FILE, or "
            "model.backbone_norm batch to train from scratch. Or take a recipe: --config finetune, --config scratch_small"
        )
    return _model_class(recipe, config)(config)


def _advice(model: ObjectDetectionModel | SegmentationModel, images: int) -> list[str]:
    """What to expect of a new model, trained on so many images."""
    if model.config.use_pretrained_backbone:
        return [f"backbone: ImageNet weights of {model.config.backbone}; the transformer starts from nothing"]
    size = sum(p.numel() for p in model.parameters())
    if images < SMALL_SET and size > BIG_MODEL:
        return [
            f"note: {images} images are few for training {size / 1e6:.0f} M weights from scratch: expect hundreds of "
            "epochs and a low AP. Pretrained weights (--init_from a Conditional DETR checkpoint, or "
            "model.use_pretrained_backbone true) reach more in a fraction of the time"
        ]
    return ["note: training from scratch; pretrained weights (--init_from) reach more in less time"]


def check_learned_positions(
    recipe: Recipe,
    model: ObjectDetectionModel | SegmentationModel,
    train_set: DetectionDataset,
    val_set: DetectionDataset | None,
) -> None:
    """Refuse at the start what would otherwise fail at the first large image."""
    if model.config.position_embedding_type != "learned":
        return
    settings = recipe.augmentation
    detector = model.detector if isinstance(model, SegmentationModel) else model
    stride = detector.model.backbone.stride
    for dataset, short, long in (
        (train_set, max(settings.scales), settings.max_size),
        (val_set, recipe.image_size, recipe.max_size),
    ):
        if dataset is None:
            continue
        largest = max(max(output_size(int(h), int(w), short, long)) for h, w in np.unique(dataset.sizes, axis=0))
        if -(-largest // stride) > MAX_LEARNED_CELLS:
            raise ValueError(
                f"learned positions reach {MAX_LEARNED_CELLS} cells a side; images of {dataset.annotation_file} become up "
                f"to {largest} pixels, {-(-largest // stride)} cells of stride {stride}: use smaller sizes, a larger "
                "model.output_stride, or model.position_embedding_type sine"
            )
