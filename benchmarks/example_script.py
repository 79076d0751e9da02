"""What transformers' `run_object_detection.py` trains, with either library: `python -m benchmarks.example_script`.

That script makes its pictures as large as fits a square, pads them to it, and drops the pixel mask. Here is the same with
Trainer on generated scenes, same pictures, order, steps and seeds, without albumentations, datasets and torchmetrics:

    cdetr demo --output runs/demo
    python -m benchmarks.example_script --init runs/demo/model --keep_mask --steps 600 --lr 1e-3 --save runs/start
    python -m benchmarks.example_script --init runs/start --library transformers --classes cross heart star square
    python -m benchmarks.example_script --init runs/start --library conditional_detr --classes cross heart star square

The second line makes a start that knows pictures of several shapes, as published models do. The demo's has seen squares
only: it takes a padded picture for a square, and is better without a mask than with it, before any training.
"""

from __future__ import annotations

import argparse
import importlib
import random
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments, set_seed

from conditional_detr.boxes import cxcywh_to_xyxy
from conditional_detr.data.dataset import DetectionDataset
from conditional_detr.data.scene_drawing import SHAPES
from conditional_detr.data.scenes import generate_scenes
from conditional_detr.data.splits import read_split
from conditional_detr.evaluate.coco_metrics import coco_metrics
from conditional_detr.images.read import read_image

CANVASES = {"square": [(96, 96)], "wide": [(64, 96)], "mixed": [(96, 48), (48, 96), (96, 72), (72, 96), (96, 96)]}
LIBRARIES = ("conditional_detr", "conditional_detr.transformers", "transformers")


@dataclass
class Pictures(Dataset):
    """Each picture, in training flipped half of the time, as the script hands it to the image processor and its collator
    to the model."""

    sets: list[DetectionDataset]
    processor: Any
    keep_mask: bool
    flip: bool

    def __len__(self) -> int:
        return sum(map(len, self.sets))

    def of(self, index: int) -> tuple[DetectionDataset, int]:
        return self.sets[index % len(self.sets)], index // len(self.sets)

    def __getitem__(self, index: int) -> dict[str, Any]:
        data, row = self.of(index)
        height, width = data.sizes[row].tolist()
        image = read_image(data.image_path(row), expected=(height, width))
        own = slice(data.first[row], data.first[row + 1])
        boxes = torch.from_numpy(data.boxes[own]).clone()  # (n, 4) xyxy, pixels
        if self.flip and random.random() < 0.5:
            image = image.flip(-1)
            boxes[:, [0, 2]] = width - boxes[:, [2, 0]]
        boxes[:, 2:] -= boxes[:, :2]
        objects = [
            {"bbox": box, "category_id": label, "iscrowd": 0, "area": box[2] * box[3], "image_id": index}
            for box, label in zip(boxes.tolist(), data.classes[own].tolist(), strict=True)
        ]
        made = self.processor(
            images=image, annotations={"image_id": index, "annotations": objects}, return_tensors="pt"
        )
        sample = {"pixel_values": made["pixel_values"][0], "labels": made["labels"][0]}
        return {**sample, "pixel_mask": made["pixel_mask"][0]} if self.keep_mask else sample


def collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
    batch = {name: torch.stack([s[name] for s in samples]) for name in samples[0] if name != "labels"}
    return {**batch, "labels": [s["labels"] for s in samples]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--library", choices=LIBRARIES, default=LIBRARIES[0])
    parser.add_argument("--init", required=True, help="folder of a model that both libraries open")
    parser.add_argument("--shapes", choices=tuple(CANVASES), default="mixed", help="of the pictures")
    parser.add_argument(
        "--classes", nargs="+", choices=tuple(SHAPES), default=["circle", "square", "triangle", "star", "ring"]
    )
    parser.add_argument("--save", help="folder to leave the model in, for a further run to start from")
    parser.add_argument("--keep_mask", action="store_true", help="what the script does not")
    parser.add_argument("--data", default="runs/example_script", help="where the scenes are, or are drawn")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--square", type=int, default=96)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--lr", type=float, default=3e-4)
    options = parser.parse_args()
    model, processor = load(options)
    sets = {split: scenes(options, split) for split in ("train", "val")}
    set_seed(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model=model,
            args=TrainingArguments(
                output_dir=folder,
                max_steps=options.steps,
                per_device_train_batch_size=options.batch_size,
                learning_rate=options.lr,
                lr_scheduler_type="cosine",
                weight_decay=1e-4,
                max_grad_norm=0.1,
                remove_unused_columns=False,
                dataloader_num_workers=0,
                report_to="none",
                logging_steps=50,
                save_strategy="no",
                seed=options.seed,
                use_cpu=True,
                disable_tqdm=True,
            ),
            train_dataset=Pictures(sets["train"], processor, options.keep_mask, flip=True),
            data_collator=collate,
        )
        trainer.train()
    if options.save:
        model.save_pretrained(options.save)
        processor.save_pretrained(options.save)
    found = score(model.eval(), Pictures(sets["val"], processor, options.keep_mask, flip=False), options)
    print(
        f"{options.library}, {options.shapes}, mask {'kept' if options.keep_mask else 'dropped'}, seed {options.seed}: "
        f"AP {found:.3f}"
    )


def load(options: argparse.Namespace) -> tuple[Any, Any]:
    """A model with a new classifier, where there are other classes, and its image processor, as the script makes them."""
    module: Any = importlib.import_module(options.library)
    names, square = dict(enumerate(options.classes)), options.square
    torch.manual_seed(0)
    model = module.AutoModelForObjectDetection.from_pretrained(
        options.init, id2label=names, label2id={name: i for i, name in names.items()}, ignore_mismatched_sizes=True,
        cls_loss_coefficient=2, backbone_norm="frozen",
    )  # fmt: skip
    processor = module.AutoImageProcessor.from_pretrained(
        options.init, do_resize=True, size={"max_height": square, "max_width": square}, do_pad=True,
        pad_size={"height": square, "width": square},
    )  # fmt: skip
    return model, processor


def scenes(options: argparse.Namespace, split: str) -> list[DetectionDataset]:
    """One data set for each size of picture, drawn where it is not there yet."""
    sizes, counts = CANVASES[options.shapes], {"train": 1000, "val": 200}
    folder = Path(options.data) / "-".join(options.classes) / options.shapes
    sets = []
    for height, width in sizes:
        images = {name: count // len(sizes) for name, count in counts.items()}
        where = generate_scenes(folder / f"{height}x{width}", images, size=(height, width), shapes=options.classes)
        sets.append(read_split(where, split))
    return sets


@torch.no_grad()
def score(model: torch.nn.Module, val: Pictures, options: argparse.Namespace) -> float:
    """COCO's AP. Boxes are relative to the picture, or for transformers to the square, found and true ones alike; their
    overlap is the same on either."""
    truth: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    for first in range(0, len(val), options.batch_size):
        batch = collate([val[i] for i in range(first, min(first + options.batch_size, len(val)))])
        outputs, labels = model(**batch), batch["labels"]  # with labels, as Trainer evaluates
        sizes = torch.stack([label["orig_size"] for label in labels])
        results = val.processor.post_process_object_detection(outputs, threshold=0.0, target_sizes=sizes)
        for image, (one, label, size) in enumerate(zip(results, labels, sizes, strict=True), start=first):
            true = rows(image, cxcywh_to_xyxy(label["boxes"]) * size.flip(0).repeat(2), label["class_labels"])
            truth += [{**row, "area": row["bbox"][2] * row["bbox"][3], "iscrowd": 0} for row in true]
            own = rows(image, one["boxes"], one["labels"])
            found += [{**row, "score": value} for row, value in zip(own, one["scores"].tolist(), strict=True)]
    images = [{"id": image, "height": 1, "width": 1} for image in range(len(val))]
    categories = [{"id": i, "name": name} for i, name in enumerate(options.classes)]
    return coco_metrics({"images": images, "categories": categories, "annotations": truth}, found).summary["AP"]


def rows(image: int, corners: Tensor, classes: Tensor) -> list[dict[str, Any]]:
    """Boxes (n, 4) xyxy and classes (n,) of an image as COCO has them."""
    boxes = [[x0, y0, x1 - x0, y1 - y0] for x0, y0, x1, y1 in corners.tolist()]
    return [{"image_id": image, "bbox": b, "category_id": c} for b, c in zip(boxes, classes.tolist(), strict=True)]


if __name__ == "__main__":
    main()
