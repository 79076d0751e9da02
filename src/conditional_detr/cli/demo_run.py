"""The whole way on generated scenes: data, training from scratch, evaluation, pictures. `cdetr demo`, `make demo`."""

from __future__ import annotations

import time
from pathlib import Path

from PIL import Image
from rich.console import Console

from ..config import Task
from ..data.scenes import generate_scenes
from ..data.splits import read_split
from ..evaluate.evaluation import evaluate
from ..files import write_atomically, write_json
from ..images.find import find_images
from ..predict.detector import Detector
from ..predict.draw import contact_sheet
from ..predict.write import predict
from ..train.loop import train
from ..train.recipe import Recipe, find_recipe, read_recipe

IMAGES = {"train": 4000, "val": 200, "test": 200}
SIZE = 96
MAX_OBJECTS = 5
SHAPES = ("circle", "square", "triangle", "star", "ring")
THRESHOLD = 0.4  # a short training leaves scores low
RECIPES: dict[str, str] = {"detection": "demo", "panoptic": "demo_panoptic"}
SHOWN = 12  # held-out pictures on the contact sheet


def run_demo(output: str, seed: int, task: Task = "detection") -> None:
    """Everything, with the defaults of `recipes/demo.yaml` or `demo_panoptic.yaml`. An interrupted demo goes on where it
    stopped."""
    console = Console(highlight=False)
    folder = Path(output)
    started = time.time()
    console.rule("1  data: generated scenes", align="left")
    data = generate_scenes(folder / "data", IMAGES, size=SIZE, max_objects=MAX_OBJECTS, shapes=SHAPES, seed=seed)
    console.print(f"{sum(IMAGES.values())} scenes in {data} ({time.time() - started:.0f} s)", soft_wrap=True)

    console.rule("2  training from scratch (a few minutes on two CPU cores)", align="left")
    started = time.time()
    values = read_recipe(find_recipe(RECIPES[task]))
    train(Recipe(**values, data=str(data), output=str(folder), seed=seed, resume="auto"))
    seconds = time.time() - started

    console.rule("3  evaluation on held-out scenes", align="left")
    detector = Detector.from_pretrained(folder / "model")
    metrics = evaluate(
        detector.model,
        detector.processor,
        read_split(data, "test", task),
        batch_size=16,
        workers=0,
    )
    assert metrics is not None
    write_json(folder / "metrics.json", {**metrics.to_dict(), "training_seconds": round(seconds)})
    console.print(
        "  ".join(f"{name} {value:.3f}" for name, value in metrics.summary.items() if value >= 0), soft_wrap=True
    )

    console.rule("4  pictures", align="left")
    rows = predict(
        detector, find_images([str(data / "images/test")])[:SHOWN], folder / "predictions", threshold=THRESHOLD
    )
    sheet = folder / "predictions.png"
    drawn = "picture" if task == "detection" else "panoptic_picture"
    pictures = [Image.open(row[drawn]) for row in rows]
    write_atomically(sheet, lambda beside: contact_sheet(pictures, side=288).save(beside, format="PNG"))
    console.print(
        f"""
{metrics.describe()} after {seconds / 60:.1f} minutes of training
  pictures  {sheet}, and one by one in {folder / "predictions"}
  curves    {folder / "curves.png"}
  figures   {folder / "metrics.json"}
  model     {folder / "model"}

what to try next
  cdetr predict --model {folder / "model"} --images {data / "images/val"} --threshold {THRESHOLD} --output more
  cdetr train --config finetune --data path/to/your/coco/folder{"" if task == "detection" else " --task " + task}
""",
        soft_wrap=True,
        markup=False,
    )
