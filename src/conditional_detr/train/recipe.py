"""Recipes: everything that decides what a training run does, checked before any work is done.

No PyTorch here: the command line reads this file to know its options.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_type_hints

import yaml

from ..config import DetectionConfig, Task
from ..data.augmentation import Augmentation
from ..data.shares import SHARES, shares_of
from ..families import CONFIG_CLASSES
from ..options import checked, expectation, instead

RECIPES = Path(__file__).parents[1] / "recipes"
# The fields by what they are about, in the order in which `cdetr train --help` shows them.
GROUPS = {
    "data": (
        "data", "train_annotations", "train_images", "val_annotations", "val_images", "split", "task",
        "skip_bad_images",
        "augmentation", "group_by_shape",
    ),
    "model": ("init_from", "backbone_weights", "model", "freeze_detector"),
    "optimisation": (
        "epochs", "batch_size", "accumulate", "lr", "backbone_lr", "weight_decay", "clip_norm", "schedule",
        "drop_epochs", "warmup_steps", "ema", "sync_batch_norm", "seed",
    ),
    "evaluation": ("image_size", "max_size", "eval_epochs", "eval_batch_size", "early_stopping"),
    "speed and memory": ("precision", "compile", "gradient_checkpointing", "workers", "threads"),
    "running": ("output", "resume", "preflight", "checkpoint_steps", "keep_checkpoints", "log_steps", "tensorboard"),
}  # fmt: skip
POSITIVE = (
    "image_size", "max_size", "epochs", "batch_size", "accumulate", "lr", "eval_epochs", "eval_batch_size",
    "keep_checkpoints", "log_steps",
)  # fmt: skip
NOT_NEGATIVE = (
    "backbone_lr", "weight_decay", "clip_norm", "warmup_steps", "early_stopping", "checkpoint_steps", "seed", "threads",
)  # fmt: skip
# Greater values are typing errors: such runs would take years, or more processes than a system has.
MOST = {"epochs": 1_000_000, "workers": 1024, "threads": 1024}


@dataclass
class Recipe:
    """Train a detector, or a segmentation model.

    Args:
        task: "detection" trains boxes; "instance" boxes and masks, on COCO annotations with polygons or run lengths;
            "panoptic" boxes and masks of things and stuff, on COCO's panoptic JSON and PNG files.
        freeze_detector: Train the mask head alone, on the detector that init_from gives.
        data: Folder of a data set, recognised by what lies in it. COCO: annotations/instances_train2017.json with
            images/train2017/ or train2017/, annotations/{train,val}.json with images/{train,val}/, Roboflow's
            {train,valid}/_annotations.coco.json, or one JSON file of all images. YOLO: data.yaml. Pascal VOC: XML files in
            {train,val}/ or annotations/, or ImageSets/Main/. CVAT for images, LabelMe, Open Images. For "panoptic": annotations/panoptic_{train,val}2017.json
            with a folder of PNG files of that name, or annotations/panoptic_{train,val}.json with panoptic/{train,val}/.
        output: Folder of the run, or its address (s3://bucket/run), which is a copy of one in the cache. Default: runs/ and
            the recipe's name.
        resume: "auto" continues from the newest whole checkpoint in the output folder, if there is one; or the path of a
            checkpoint.
        preflight: Before the first step, for a minute at most, try what would fail later: the largest batch that the data can make,
            an evaluation, a checkpoint, a few steps on one batch; and say how long the run will take, and whether it fits.
        init_from: Weights to start from: a saved model's folder, an original .pth file or a hub name. If its classes
            are not those of the data, its classifier is replaced.
        backbone_weights: File of a ResNet's weights to start from, torchvision's or timm's, .pth or .safetensors, where
            there is no network to fetch them. One that ends before the last stage does for an output_stride that needs no more.
        model: What the model is: "family" (conditional_detr or detr) and any field of its configuration, such as
            backbone, num_queries, d_model, output_stride, backbone_norm.
        train_annotations: Annotation file for training, in place of the one found in data.
        train_images: Folder of the training images, in place of the one found in data.
        val_annotations: Annotation file for evaluation, in place of the one found in data.
        val_images: Folder of the images for evaluation, in place of the one found in data.
        split: Shares of the images for train, val and test where the data has no splits: the same every time, identical
            pictures never in two. Where it has train and no val, val is held out of train; "1,0" holds nothing out and
            trains without validation.
        image_size: Short side in pixels in evaluation and prediction.
        max_size: Longest long side in pixels in evaluation and prediction.
        augmentation: What happens to training images.
        group_by_shape: Put images of like shape, once augmented, into a batch, so that less padding is computed.
        skip_bad_images: Leave out images that are missing or damaged, and count them, instead of stopping.
        epochs: Passes over the training images.
        batch_size: Images of an optimizer step, over all processes and accumulated micro-batches.
        accumulate: Micro-batches a step is split into, to save memory. Changes nothing else.
        lr: Learning rate of the transformer and the heads.
        backbone_lr: Learning rate of the backbone.
        weight_decay: Of AdamW.
        clip_norm: Greatest norm of a step's gradient; 0 switches clipping off.
        schedule: "step" divides the rates by ten at each of drop_epochs; "cosine" lets them fall to zero at the end.
        drop_epochs: Epochs after which "step" divides the rates by ten.
        warmup_steps: Steps over which the rates rise from zero.
        ema: Decay of an exponential moving average of the weights, which is then what is evaluated and saved; 0 for none.
        sync_batch_norm: With backbone_norm batch, take means and variances over the images of all GPUs instead of each its own.
        early_stopping: Stop after so many evaluations without a better AP (of masks for "instance", PQ for "panoptic");
            0 for never.
        precision: fp32, bf16 or fp16 (mixed).
        gradient_checkpointing: Recompute activations in the backward pass, to save memory.
        compile: Compile the model with torch.compile.
        eval_epochs: Evaluate every so many epochs, and at the end.
        eval_batch_size: Images of an evaluation batch on each process.
        checkpoint_steps: Also save a checkpoint every so many steps, beside the one after each epoch; 0 for never.
        keep_checkpoints: How many of the last checkpoints to keep.
        log_steps: Write a line to log.jsonl every so many steps.
        tensorboard: Write TensorBoard files, if it is installed.
        workers: Processes that load images, for each training process. -1: one for each core, at most 8.
        seed: Decides everything that is random.
        threads: CPU threads of each process. 0: as PyTorch is set; the command line sets it at the start to what other
            programs leave free. A resumed run takes as many as before, as another number rounds differently.
    """

    task: Task = "detection"
    freeze_detector: bool = False
    data: str = ""
    output: str = ""
    resume: str = ""
    preflight: bool = True
    init_from: str = ""
    backbone_weights: str = ""
    model: dict[str, Any] = field(default_factory=dict)
    train_annotations: str = ""
    train_images: str = ""
    val_annotations: str = ""
    val_images: str = ""
    split: str = SHARES
    image_size: int = 800
    max_size: int = 1333
    augmentation: Augmentation = field(default_factory=Augmentation)
    group_by_shape: bool = False
    skip_bad_images: bool = False
    epochs: int = 50
    batch_size: int = 16
    accumulate: int = 1
    lr: float = 1e-4
    backbone_lr: float = 1e-5
    weight_decay: float = 1e-4
    clip_norm: float = 0.1
    schedule: Literal["step", "cosine"] = "step"
    drop_epochs: list[int] = field(default_factory=lambda: [40])
    warmup_steps: int = 0
    ema: float = 0.0
    sync_batch_norm: bool = False
    early_stopping: int = 0
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    gradient_checkpointing: bool = False
    compile: bool = False
    eval_epochs: int = 1
    eval_batch_size: int = 8
    checkpoint_steps: int = 0
    keep_checkpoints: int = 2
    log_steps: int = 10
    tensorboard: bool = True
    workers: int = -1
    seed: int = 0
    threads: int = 0

    def __post_init__(self) -> None:
        for name, kind in field_types().items():
            setattr(self, name, _checked_field(name, getattr(self, name), kind))
        if isinstance(self.augmentation, dict):
            self.augmentation = Augmentation(**self.augmentation)
        for name in POSITIVE:
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be positive")
        for name in NOT_NEGATIVE:
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must not be negative")
        for name, most in MOST.items():
            if getattr(self, name) > most:
                raise ValueError(f"{name} is {getattr(self, name)}; it is at most {most:,}")
        if self.workers < -1:
            raise ValueError(f"workers is {self.workers}; it is a number of processes, or -1 for one for each core")
        if any(epoch < 1 for epoch in self.drop_epochs):
            raise ValueError(f"drop_epochs is {self.drop_epochs}; epochs count from 1")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema is {self.ema}; a decay is at least 0 and below 1, such as 0.999")
        for split in ("train", "val"):
            if bool(getattr(self, f"{split}_annotations")) != bool(getattr(self, f"{split}_images")):
                raise ValueError(f"{split}_annotations and {split}_images go together: give both or neither")
        if self.freeze_detector and self.task == "detection":
            raise ValueError("freeze_detector trains the mask head alone: it needs --task instance or panoptic")
        if self.init_from and self.backbone_weights:
            raise ValueError(
                "init_from is a whole model, its backbone with it: give it or backbone_weights (--init_from '' takes a "
                "recipe's away)"
            )
        shares_of(self.split)
        if self.model_config().query_groups > 1 and self.freeze_detector:
            raise ValueError(
                f"model.query_groups is {self.model['query_groups']}: groups of queries train a detector, and "
                "freeze_detector keeps it as it is; leave it at 1"
            )

    def model_config(self, **classes: Any) -> DetectionConfig:
        """The model's configuration.

        Args:
            classes: `id2label` and `category_ids` of the data.

        Raises:
            ValueError: a key that no configuration has, or a value it cannot have.
        """
        values = dict(self.model)
        family = values.pop("family", "conditional_detr")
        if family not in CONFIG_CLASSES:
            raise ValueError(f"model.family is {family!r}; it is one of {', '.join(CONFIG_CLASSES)}")
        known = {spec.name for spec in dataclasses.fields(CONFIG_CLASSES[family])}
        for name in sorted(set(values) - known):
            raise ValueError(
                f"model has no field {name!r}"
                + (instead(name, known) or f"; it has family, {', '.join(sorted(known))}")
            )
        for spec in dataclasses.fields(CONFIG_CLASSES[family]):
            if spec.name in values and isinstance(spec.default, bool | int | float | str):
                values[spec.name] = _converted(f"model.{spec.name}", values[spec.name], type(spec.default))
        return CONFIG_CLASSES[family](**{**values, **classes})

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@functools.cache
def field_types() -> dict[str, Any]:
    """The type of each field of a recipe; `augmentation` is `Augmentation`."""
    return {name: kind for name, kind in get_type_hints(Recipe).items() if name in Recipe.__dataclass_fields__}


@functools.cache
def option_names() -> list[str]:
    """Every option of a recipe, the fields of `augmentation` and `model` by their dotted names."""
    inner = [f"augmentation.{spec.name}" for spec in dataclasses.fields(Augmentation)]
    model = {spec.name for config in CONFIG_CLASSES.values() for spec in dataclasses.fields(config)}
    return [*field_types(), *inner, "model.family", *(f"model.{name}" for name in sorted(model))]


def _checked_field(name: str, value: Any, kind: Any, text: bool = False) -> Any:
    """A field's value in the field's type; that of `augmentation` is a dict where a dict is given.

    Args:
        text: take text that reads as a number for one, as YAML 1.1 says 1e-4 is text.

    Raises:
        ValueError: it is of another type.
    """
    if kind is Augmentation:
        if isinstance(value, Augmentation):
            return value
        value = checked(name, value, dict[str, Any])
        kinds = get_type_hints(Augmentation)
        for key in value:
            if key not in kinds:
                raise ValueError(f"there is no option '{name}.{key}'" + instead(f"{name}.{key}", option_names()))
        return {key: _checked_field(f"{name}.{key}", inner, kinds[key], text) for key, inner in value.items()}
    if text and kind is float and isinstance(value, str):
        with suppress(ValueError):
            value = float(value)
    return checked(name, value, kind)


def _converted(name: str, value: Any, kind: type) -> Any:
    """A value of the free-form `model` section in the type its field has: command lines give text."""
    if kind is bool and isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if isinstance(value, kind) or (
        kind in (int, float) and isinstance(value, int | float) and not isinstance(value, bool)
    ):
        return value
    try:
        if kind in (int, float) and isinstance(value, str):
            return kind(value)
    except ValueError:
        pass
    raise ValueError(f"{name} is {value!r}; it {expectation(kind)}")


def find_recipe(name: str) -> Path:
    """The file of a recipe: a path, the folder of a run, or the name of one that is shipped.

    Raises:
        ValueError: none of them.
    """
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        if path.is_file():
            return path
        raise ValueError(f"recipe file {path} does not exist")
    shipped = RECIPES / f"{name}.yaml"
    if shipped.is_file():
        return shipped
    if (path / "recipe.yaml").is_file():
        return path / "recipe.yaml"
    if path.is_file():
        raise ValueError(f"recipe file {path} must be a .yaml file")
    if path.is_dir():
        raise ValueError(f"{path} is a folder without a recipe.yaml")
    close = difflib.get_close_matches(name, recipe_names(), n=1)
    meant = f"; did you mean {close[0]}?" if close else f"; there are {', '.join(recipe_names())}, or give a .yaml file"
    raise ValueError(f"there is no recipe {name!r}{meant}")


def read_recipe(path: Path) -> dict[str, Any]:
    """The values in a recipe's file, as `Recipe` takes them. Fields of `model` and `augmentation` may stand by their
    dotted names, such as `model.num_queries: 50`.

    Raises:
        OSError: it cannot be read.
        ValueError: not YAML, not a mapping, a key that no recipe has, or a value of another type than its field.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not YAML: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not a recipe: it needs lines such as 'epochs: 50'")
    kinds = field_types()
    values: dict[str, Any] = {}
    for key, value in content.items():
        section, dot, inner = str(key).partition(".")
        nested = section in ("model", "augmentation")
        if section not in kinds or (dot and not nested):
            what = instead(str(key), option_names()) or "; see cdetr train --help"
            raise ValueError(f"{path}: there is no option {str(key)!r}{what}")
        if nested:
            part = {inner: value} if dot else value
            if not isinstance(part, dict):
                raise ValueError(f"{path}: {section} is {value!r}; it {expectation(dict[str, Any])}")
            values.setdefault(section, {}).update(part)
        else:
            values[section] = value
    try:
        return {name: _checked_field(name, value, kinds[name], text=True) for name, value in values.items()}
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def recipe_names() -> list[str]:
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))
