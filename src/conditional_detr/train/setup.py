"""What a training run starts from: its data, its model, and what its user should know about them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..checkpoints.checkpoint import Checkpoint
from ..config import DetectionConfig, Task
from ..data.check import check_dataset
from ..data.formats.coco import CocoDataset, find_split, read_coco
from ..data.formats.coco_panoptic import read_panoptic
from ..data.samples import seed_of
from ..images.sizes import output_size
from ..models.detector import ObjectDetectionModel
from ..models.family import family_of
from ..models.position import MAX_LEARNED_CELLS
from ..models.segmenter import SegmentationModel
from .recipe import Recipe

# Below this, a transformer detector trained from nothing is a disappointment, and people should hear so beforehand.
SMALL_SET = 10_000
BIG_MODEL = 10_000_000  # weights; smaller ones are meant for small sets


def read_split(recipe: Recipe, split: str) -> CocoDataset:
    annotations, images = getattr(recipe, f"{split}_annotations"), getattr(recipe, f"{split}_images")
    if not annotations:
        if not recipe.data:
            raise ValueError(
                f"no {split} data: give --data FOLDER, or --{split}_annotations FILE with --{split}_images FOLDER"
            )
        annotations, images = find_split(recipe.data, split, recipe.task)
    dataset = read_split_files(annotations, images, recipe.task, recipe.skip_bad_images)
    if split == "train" and not len(dataset.boxes):
        raise ValueError(f"{annotations} holds no annotations to train on")
    return dataset


def read_split_files(annotations: str | Path, images: str | Path, task: Task, skip_bad: bool) -> CocoDataset:
    """Read an annotation file with what the task needs: boxes, boxes and masks, or panoptic segments. A file called
    panoptic_… has boxes for detection, too: of things and stuff.

    Raises:
        OSError, ValueError: see `read_coco`, `read_panoptic` and `check_dataset`.
    """
    if task == "panoptic" or (task == "detection" and Path(annotations).name.startswith("panoptic_")):
        dataset = read_panoptic(annotations, images, skip_missing_images=skip_bad, masks=task == "panoptic")
    else:
        dataset = read_coco(annotations, images, skip_bad, masks=task == "instance")
    dataset.warnings = check_dataset(dataset)
    return dataset


def build_model(
    recipe: Recipe, data: CocoDataset, checkpoint: dict[str, Any] | None = None
) -> tuple[ObjectDetectionModel | SegmentationModel, list[str]]:
    """The model to train, and what its user should know about it.

    Args:
        checkpoint: build the model that this holds; its weights are loaded later.
    """
    model, notes = _build(recipe, data, checkpoint)
    if isinstance(model, SegmentationModel) and recipe.freeze_detector:
        model.freeze_detector()
        notes.append("the detector stays as it is: only the mask head is trained")
    return model, notes


def _build(
    recipe: Recipe, data: CocoDataset, checkpoint: dict[str, Any] | None
) -> tuple[ObjectDetectionModel | SegmentationModel, list[str]]:
    classes = {
        "id2label": dict(enumerate(data.category_names)),
        "category_ids": list(data.category_ids),
        "is_thing": data.is_thing,
    }
    config = recipe.model_config(**classes)
    notes: list[str] = []
    torch.manual_seed(seed_of(recipe.seed, "weights"))
    family = family_of(config.model_type)
    model_class = family.detector if recipe.task == "detection" else family.segmenter
    if checkpoint is not None:
        config = _saved_config(recipe, config, checkpoint.get("config"))
        config.use_pretrained_backbone = False  # every weight comes from the checkpoint
        return model_class(config), notes
    if recipe.init_from:
        return _model_from_checkpoint(recipe, model_class, classes)
    if recipe.freeze_detector:
        raise ValueError("freeze_detector trains the mask head alone: give a trained detector with --init_from")
    if config.use_pretrained_backbone:
        model = model_class(config)
        notes.append(f"backbone: ImageNet weights of {config.backbone}; the transformer starts from nothing")
    else:
        if config.backbone_norm == "frozen":
            raise ValueError(
                "model.backbone_norm 'frozen' keeps statistics, stem and first stage as they are, which needs "
                "pretrained weights: set model.use_pretrained_backbone true, or --init_from, or "
                "model.backbone_norm batch to train from scratch. Or take a recipe: --config finetune, --config scratch_small"
            )
        model = model_class(config)
    size = sum(p.numel() for p in model.parameters())
    if not config.use_pretrained_backbone and len(data) < SMALL_SET and size > BIG_MODEL:
        notes.append(
            f"note: {len(data)} images are few for training {size / 1e6:.0f} M weights from scratch: expect hundreds of "
            "epochs and a low AP. Pretrained weights (--init_from a Conditional DETR checkpoint, or "
            "model.use_pretrained_backbone true) reach more in a fraction of the time"
        )
    elif not config.use_pretrained_backbone:
        notes.append("note: training from scratch; pretrained weights (--init_from) reach more in less time")
    return model, notes


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


def _model_from_checkpoint(
    recipe: Recipe, model_class: Any, classes: dict[str, Any]
) -> tuple[ObjectDetectionModel | SegmentationModel, list[str]]:
    """Start from saved weights. The recipe's model fields win over the checkpoint's; other classes get a new classifier."""
    before = model_class.from_pretrained(recipe.init_from, **_model_fields(recipe))
    known = before.config.id2label
    before.config.is_thing = classes["is_thing"]
    if list(known.values()) == list(classes["id2label"].values()):
        before.config.category_ids = classes["category_ids"]
        return before, [f"starting from {recipe.init_from}, which knows these classes"]
    if recipe.freeze_detector:
        raise ValueError(
            f"{recipe.init_from} knows {len(known)} classes, which are not the data's {len(classes['id2label'])}: its "
            "classifier would be new, and frozen. Train the detector on the data's classes first, or do not freeze it"
        )
    before.config.id2label, before.config.category_ids = classes["id2label"], classes["category_ids"]
    fresh = model_class(before.config)
    replaced = {n: t for n, t in fresh.state_dict().items() if "class_labels_classifier." in n}
    kept = {n: t for n, t in before.state_dict().items() if n not in replaced}
    fresh.load_state_dict({**kept, **replaced})
    names = [", ".join(list(n.values())[:4]) + (", …" if len(n) > 4 else "") for n in (known, classes["id2label"])]
    return fresh, [
        f"starting from {recipe.init_from}; its {len(known)} classes ({names[0]}) are not the data's "
        f"{len(classes['id2label'])} ({names[1]}), so the classifier is new"
    ]


def check_learned_positions(
    recipe: Recipe, model: ObjectDetectionModel | SegmentationModel, datasets: list[CocoDataset]
) -> None:
    """Refuse at the start what would otherwise fail at the first large image."""
    settings = recipe.augmentation
    detector = model.detector if isinstance(model, SegmentationModel) else model
    stride = detector.model.backbone.stride
    for dataset, short, long in (
        (datasets[0], max(settings.scales), settings.max_size),
        (datasets[1], recipe.image_size, recipe.max_size),
    ):
        largest = max(max(output_size(int(h), int(w), short, long)) for h, w in np.unique(dataset.sizes, axis=0))
        if -(-largest // stride) > MAX_LEARNED_CELLS:
            raise ValueError(
                f"learned positions reach {MAX_LEARNED_CELLS} cells a side; images of {dataset.annotation_file} become up "
                f"to {largest} pixels, {-(-largest // stride)} cells of stride {stride}: use smaller sizes, a larger "
                "model.output_stride, or model.position_embedding_type sine"
            )
