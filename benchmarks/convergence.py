"""How fast models learn, on the same data, budget and schedule: `python -m benchmarks.convergence`.

    --experiment models       DETR, Conditional DETR, Conditional DETR with four groups of queries
    --experiment ablations    the variants of the paper's ablations, between the two families
    --experiment queries      reference points learned, and chosen from the picture (peaks.py)

Every model is trained with two learning rates on the first seed, and with the better one on the others. A run stands in a
folder of its own and is continued where it was stopped, so the command can be ended at any time and given again. What is
printed (AP over epochs, epochs to reach an AP, ratios) is written beside the runs as JSON, Markdown and a plot a data set.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from conditional_detr.data.scenes import generate_scenes
from conditional_detr.train.loop import train
from conditional_detr.train.recipe import Recipe, find_recipe, read_recipe

from . import ablations, peaks
from .measure import machine

GROUPS = 4
REACHED = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)  # AP for which epochs are counted
SHARED = Path(__file__).parents[1].parent / "shared/data"
ResNet18 = SHARED / "weights/resnet18_stride16.safetensors"


@dataclass(frozen=True)
class Setting:
    """A data set, and the budget that all models have on it."""

    recipe: str
    epochs: int
    eval_epochs: int
    rates: tuple[float, float]
    images: dict[str, int] = field(default_factory=dict)  # of generated scenes; none where the data is SHARED's
    changes: dict[str, Any] = field(default_factory=dict)


# For real pictures: a pretrained ResNet-18 up to stride 16, and pictures so small that 40 epochs are minutes. The order of the
# models is the question, not the best AP.
_REAL: dict[str, Any] = {
    "model": {
        "backbone": "resnet18",
        "output_stride": 16,
        "d_model": 128,
        "num_queries": 100,
        "encoder_layers": 1,
        "decoder_layers": 3,
        "encoder_ffn_dim": 512,
        "decoder_ffn_dim": 512,
        "dropout": 0.0,
        "auxiliary_loss": True,
        "cls_loss_coefficient": 4,
    },
    "image_size": 192,
    "max_size": 288,
    "augmentation": {
        "horizontal_flip": 0.5,
        "crop": 0.5,
        "crop_scales": [208, 240, 272],
        "crop_min": 128,
        "crop_max": 240,
        "scales": [160, 176, 192, 208],
        "max_size": 288,
        "color_jitter": 0.2,
    },
    "batch_size": 4,
    "backbone_lr": 2e-4,  # a fifth of the recipe's lr: that share of the rate is kept
}
SETTINGS = {
    "scenes": Setting("demo", 12, 1, (1e-3, 3e-4), {"train": 4000, "val": 200}),
    "cards": Setting("scratch_small", 40, 4, (5e-4, 2e-4), changes=_REAL),
    "bccd": Setting("scratch_small", 40, 4, (5e-4, 2e-4), changes=_REAL),
    "nuclei": Setting("scratch_small", 40, 4, (5e-4, 2e-4), changes=_REAL),
}
MODELS: dict[str, dict[str, Any]] = {
    "detr": {"family": "detr", "query_groups": 1},
    "conditional_detr": {"family": "conditional_detr", "query_groups": 1},
    "conditional_detr_groups": {"family": "conditional_detr", "query_groups": GROUPS},
}
EXPERIMENTS = {
    "models": list(MODELS),
    "ablations": ["detr", *ablations.VARIANTS, "conditional_detr"],
    "queries": ["conditional_detr", *peaks.VARIANTS],
}


class Run(NamedTuple):
    data: str
    model: str
    rate: float
    seed: int

    def folder(self, output: Path) -> Path:
        return output / "runs" / self.data / self.model / f"lr{self.rate:g}-seed{self.seed}"


def recipe_of(run: Run, output: Path, epochs: int) -> Recipe:
    """What a run trains: the setting's recipe with the model's family, and one thread."""
    setting = SETTINGS[run.data]
    values = read_recipe(find_recipe(setting.recipe)) | setting.changes
    model = values["model"] | (MODELS.get(run.model) or {"family": run.model, "query_groups": 1})
    if run.model in ("detr", "detr_offset"):  # their class loss has no weight of its own: it is the cross entropy
        model.pop("cls_loss_coefficient", None)
    if not setting.images:
        values["backbone_weights"] = str(ResNet18)
    return Recipe(
        **values
        | {
            "model": model,
            "data": str(output / "data" / run.data if setting.images else SHARED / run.data),
            "output": str(run.folder(output)),
            "lr": run.rate,
            "backbone_lr": run.rate * values["backbone_lr"] / values["lr"],
            "seed": run.seed,
            "epochs": epochs,
            "eval_epochs": setting.eval_epochs,
            "resume": "auto",
            "keep_checkpoints": 1,
            "tensorboard": False,
            "preflight": False,
            "workers": 0,
            "threads": 1,
        }
    )


def train_one(run: Run, output: Path, epochs: int) -> None:
    """Train a run in this process."""
    if run.model not in MODELS:
        ablations.register(run.model)
    train(recipe_of(run, output, epochs))


def result(run: Run, output: Path) -> dict[str, Any]:
    """A run that has ended: AP and AP50 after each evaluated epoch, and the seconds of its training."""
    folder = run.folder(output)
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    curve = {round(line["epoch"]): (line["AP"], line["AP50"]) for line in lines if line["kind"] == "eval"}
    return {
        **run._asdict(),
        "epochs": sorted(curve),
        "AP": [curve[epoch][0] for epoch in sorted(curve)],
        "AP50": [curve[epoch][1] for epoch in sorted(curve)],
    }


def epochs_to_reach(ap: float, epochs: list[int], aps: list[float]) -> float | None:
    """When a curve first reaches an AP, between the two evaluations around it; None if it does not."""
    before = (0.0, 0.0)
    for epoch, value in zip(epochs, aps, strict=True):
        if value >= ap:
            share = (ap - before[1]) / (value - before[1])
            return before[0] + share * (epoch - before[0])
        before = (epoch, value)
    return None


# ------------------------------------------------------------------------------------------------ all runs


def carry_out(models: list[str], data: list[str], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Train what is not trained yet, some runs side by side, and return all results."""
    output = Path(options.output)
    for name in data:
        if SETTINGS[name].images and not (output / "data" / name).is_dir():
            generate_scenes(output / "data" / name, SETTINGS[name].images, size=96)
    first = [Run(d, m, rate, 0) for d in data for m in models for rate in SETTINGS[d].rates]
    results = {run: _trained(run, options) for run in ()}
    with ThreadPoolExecutor(options.processes) as pool:
        results = dict(zip(first, pool.map(lambda run: _trained(run, options), first), strict=True))
        best = {
            (d, m): max(SETTINGS[d].rates, key=lambda rate: results[Run(d, m, rate, 0)]["AP"][-1])
            for d in data
            for m in models
        }
        others = [Run(d, m, best[d, m], seed) for d in data for m in models for seed in range(1, options.seeds)]
        results |= dict(zip(others, pool.map(lambda run: _trained(run, options), others), strict=True))
    for run, found in results.items():
        found["chosen"] = run.rate == best[run.data, run.model]
    return list(results.values())


def _trained(run: Run, options: argparse.Namespace) -> dict[str, Any]:
    output = Path(options.output)
    if not (run.folder(output) / "metrics.json").is_file():
        what = f"{run.data}/{run.model}/{run.rate}/{run.seed}"
        command = [sys.executable, "-m", "benchmarks.convergence", "--only", what, "--output", str(output)]
        command += ["--epochs", str(options.epochs or SETTINGS[run.data].epochs)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            raise RuntimeError(f"{what} failed:\n{done.stdout[-3000:]}")
        print(f"{what}: AP {result(run, output)['AP'][-1]:.3f}", flush=True)
    return result(run, output)


# ------------------------------------------------------------------------------------------------ table and plot


def table(results: list[dict[str, Any]], data: str, models: list[str]) -> str:
    """Markdown: a row a model, the mean over seeds with the range; epochs to reach an AP, and how many times the last
    model's they are."""
    lines = ["| model | lr | seeds | AP at the end | " + " | ".join(f"epochs to {ap}" for ap in REACHED) + " |"]
    lines.append("|---" * (4 + len(REACHED)) + "|")
    for model in models:
        runs = _chosen(results, data, model)
        ends = [run["AP"][-1] for run in runs]
        cells = [model, f"{runs[0]['rate']:g}", str(len(runs)), _spread(ends, "{:.3f}")]
        for ap in REACHED:
            epochs = [epochs_to_reach(ap, run["epochs"], run["AP"]) for run in runs]
            cells.append("–" if None in epochs else _spread([e for e in epochs if e is not None], "{:.1f}"))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _chosen(results: list[dict[str, Any]], data: str, model: str) -> list[dict[str, Any]]:
    return [run for run in results if run["chosen"] and (run["data"], run["model"]) == (data, model)]


def _spread(values: list[float], form: str) -> str:
    mean = form.format(sum(values) / len(values))
    return mean if len(values) == 1 else f"{mean} ({form.format(min(values))} … {form.format(max(values))})"


def plot(results: list[dict[str, Any]], data: str, models: list[str], file: Path) -> None:
    """AP over epochs: the mean over seeds as a line, the range as a band."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for model in models:
        runs = _chosen(results, data, model)
        aps = np.array([run["AP"] for run in runs])
        epochs = runs[0]["epochs"]
        (line,) = axes.plot(epochs, aps.mean(0), label=model)
        axes.fill_between(epochs, aps.min(0), aps.max(0), color=line.get_color(), alpha=0.2, linewidth=0)
    axes.set(xlabel="epochs", ylabel="AP", title=data)
    axes.set_ylim(0)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(file, dpi=120)


def write(results: list[dict[str, Any]], data: Iterable[str], models: list[str], options: argparse.Namespace) -> None:
    output = Path(options.output)
    facts = machine(size=256) | {"command": "python -m benchmarks.convergence " + " ".join(sys.argv[1:])}
    content = {"facts": facts, "results": results}
    (output / f"{options.experiment}.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
    parts = []
    for name in data:
        plot(results, name, models, output / f"{options.experiment}_{name}.png")
        parts.append(f"### {name}\n\n{table(results, name, models)}\n")
    text = "\n".join(parts)
    (output / f"{options.experiment}.md").write_text(text, encoding="utf-8")
    print(text)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    split: Callable[[str], list[str]] = lambda text: text.split(",")  # noqa: E731
    parser.add_argument("--experiment", choices=EXPERIMENTS, default="models")
    parser.add_argument("--models", type=split, help="some of the experiment's, separated by commas")
    parser.add_argument("--data", type=split, default=["scenes"], help=f"of {', '.join(SETTINGS)}, separated by commas")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, help="another budget than the data set's")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="runs side by side, of one thread each")
    parser.add_argument("--output", default="runs/convergence", help="folder of runs and results")
    parser.add_argument("--only", default="", help="train DATA/MODEL/RATE/SEED in this process, and no more")
    options = parser.parse_args(argv)
    if options.only:
        data, model, rate, seed = options.only.split("/")
        train_one(Run(data, model, float(rate), int(seed)), Path(options.output), options.epochs)
        return
    models = options.models or EXPERIMENTS[options.experiment]
    Path(options.output).mkdir(parents=True, exist_ok=True)
    write(carry_out(models, options.data, options), options.data, models, options)


if __name__ == "__main__":
    main()
