"""What more labelled images would bring: the model's own recipe on shares of its data, and a power law through what comes of
it (the error of a learner falls with a power of the data; Hestness et al. 2017)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..data.dataset import DetectionDataset
from ..data.splits import read_splits
from ..evaluate.evaluation import HEADLINE
from ..files import write_json
from ..train.log import read_log
from ..train.loop import train
from ..train.recipe import Recipe, read_recipe
from .bootstrap import interval
from .figures import PREFIX, Report

SHARES = (0.25, 0.5, 1.0)
FARTHEST = 4  # times the data that there is: farther the law is no guide
CAVEAT = (
    "The line is a power law through three trainings of one seed each. Its interval knows how few images were evaluated, but "
    "not that another seed, or other images among the new ones, would move each point; and where the recipe is at fault "
    "and not the data, more data does not help. Read it as a hint whether labelling is worth it, not as a promise."
)


@dataclass
class Plan:
    """What is to be trained: a recipe for each share that there is no model of yet, and about how long it takes."""

    recipes: dict[float, Recipe]
    images: dict[float, int]
    seconds: float | None  # of each training; None where the run's log does not say
    own: bool  # the model that the report is of was trained on all of this data

    def describe(self) -> str:
        count = len(self.recipes)
        time = (
            ""
            if self.seconds is None
            else (
                f", about {self.seconds / 60:.0f} minutes each, as the model's own took: {count * self.seconds / 60:.0f} in all"
            )
        )
        return f"learning curve: {count} trainings{time}. One that is interrupted goes on where it stopped"


def plan(model: Path, data: str, shares: str, output: Path) -> Plan:
    """Prepare the trainings: their annotation files in `output`, the pictures stay where they are. Each takes as many steps as
    the model's own did, so that the points differ in their data alone.

    Raises:
        OSError, ValueError: the model has no recipe beside it, or its data cannot be read.
    """
    file = model.resolve().parent / "recipe.yaml"
    if not file.is_file():
        raise ValueError(
            f"{model} has no recipe.yaml beside it, so it cannot be trained again: --learning_curve needs a model in its run's folder"
        )
    recipe = Recipe(**read_recipe(file))
    if recipe.task == "panoptic":
        raise ValueError("--learning_curve trains detection and instance models; for panoptic data it is not there")
    own = bool(recipe.data) and Path(recipe.data).resolve() == Path(data).resolve() and not recipe.train_annotations
    train_set, val_set = read_splits(data, ["train", "val"], recipe.task, recipe.skip_bad_images, shares)
    order = np.random.default_rng(0).permutation(len(train_set))
    recipes, images = {}, {}
    for share in SHARES:
        images[share] = max(1, round(share * len(train_set)))
        if own and share == 1.0:
            continue
        folder = output / "learning_curve" / f"{share:.0%}".rstrip("%")
        part = train_set.subset(sorted(order[: images[share]].tolist()))
        recipes[share] = dataclasses.replace(
            recipe,
            data="",
            train_annotations=_write(part, folder / "train.json"),
            train_images=str(train_set.image_folder),
            val_annotations=_write(val_set, folder / "val.json"),
            val_images=str(val_set.image_folder),
            output=str(folder / "run"),
            resume="auto",
            preflight=False,  # the model's own run was of the same sizes
            **_as_many_steps(recipe, share),
        )
    return Plan(recipes, images, _seconds_of(model), own)


def _as_many_steps(recipe: Recipe, share: float) -> dict[str, Any]:
    return {
        "epochs": round(recipe.epochs / share),
        "drop_epochs": [round(epoch / share) for epoch in recipe.drop_epochs],
        "eval_epochs": round(recipe.eval_epochs / share),
    }


def _write(data: DetectionDataset, path: Path) -> str:
    """A part of a data set as a COCO file."""
    content = data.to_coco()
    names = dict(zip(data.image_ids, data.file_names, strict=True))
    for image in content["images"]:
        image["file_name"] = names[image["id"]]
    for number, annotation in enumerate(content["annotations"], start=1):
        annotation.setdefault("id", number)
    write_json(path, content, indent=None)
    return str(path)


def _seconds_of(model: Path) -> float | None:
    """How long the model's run took, as its log says."""
    log = model.resolve().parent / "log.jsonl"
    times = [row["time"] for row in read_log(log) if isinstance(row.get("time"), int | float)] if log.is_file() else []
    return max(times) - min(times) if len(times) > 1 else None


def learning_curve(planned: Plan, report: Report, evaluate: Callable[[Path], Report]) -> dict[str, Any]:
    """Train what is planned, one after another, and fit.

    Args:
        report: of the model on all data.
        evaluate: the report of a model in a folder, on the same images with the same resamples.

    Returns:
        points (share, images, figure), fit (`power_law`), verdict and caveat, in words.
    """
    reports = {1.0: report} if planned.own else {}
    for share, recipe in planned.recipes.items():
        train(recipe)
        reports[share] = evaluate(Path(recipe.output) / "model")
    name = HEADLINE[report.task]
    kind = report.kinds["masks" if name.startswith(PREFIX["segm"]) else "boxes"].iou_type
    images = [planned.images[share] for share in SHARES]
    figures = [reports[share].metrics.summary[name] for share in SHARES]
    resampled = np.stack(
        [next(k for k in reports[s].kinds.values() if k.iou_type == kind).resampled.figures["AP"] for s in SHARES]
    )
    fit = power_law(images, figures, resampled)
    points = [
        {"share": share, "images": count, "figure": figure}
        for share, count, figure in zip(SHARES, images, figures, strict=True)
    ]
    return {"name": name, "points": points, "fit": fit, "verdict": _verdict(name, images[-1], fit), "caveat": CAVEAT}


def power_law(images: Sequence[int], figures: Sequence[float], resampled: np.ndarray) -> dict[str, Any] | None:
    """1 - AP = b · n^-c, fitted by least squares of the logarithms, and where it leads at twice and `FARTHEST` times the data.

    Args:
        resampled: (points, R) the figures of resamples of the evaluated images.

    Returns:
        None where a figure is 0 or less, or 1: nothing has been learned that could be continued.
    """
    if min(figures) <= 0 or max(figures) >= 1 or len(set(images)) < 2:
        return None
    far = [2 * images[-1], FARTHEST * images[-1]]
    line = np.linspace(images[0], far[-1], 60)
    x = np.log(images)

    def fitted(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(R,) exponents, and errors (R, 1) at one image, of figures (points, R)."""
        y = np.log(np.clip(1 - values, 1e-6, None))
        slope = ((x - x.mean())[:, None] * (y - y.mean(axis=0))).sum(axis=0) / ((x - x.mean()) ** 2).sum()
        return slope, y.mean(axis=0) - slope * x.mean()

    def at(n: float | np.ndarray, law: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        slope, level = law
        return np.clip(1 - np.exp(level[:, None] + slope[:, None] * np.log(np.atleast_1d(n))), 0, 1)

    law = fitted(np.array(figures, float)[:, None])
    many = fitted(resampled)
    predicted = []
    for n in far:
        low, high = interval(at(n, many)[:, 0]) or (None, None)
        predicted.append({"images": n, "figure": float(at(n, law)[0, 0]), "low": low, "high": high})
    return {
        "exponent": float(-law[0][0]),
        "images": line.tolist(),
        "figures": at(line, law)[0].tolist(),
        "predicted": predicted,
    }


def _verdict(name: str, images: int, fit: dict[str, Any] | None) -> str:
    name = name.replace("_", " ")
    if fit is None:
        return "Nothing has been learned that could be continued to more data."
    if fit["exponent"] <= 0:
        return f"{name} did not grow with the data in these trainings: they show nothing that more of it would bring."
    twice = fit["predicted"][0]
    bounds = "" if twice["low"] is None else f" ({twice['low']:.3f} to {twice['high']:.3f})"
    return f"With {2 * images:,} training images, twice as many, {name} would be about {twice['figure']:.3f}{bounds}."
