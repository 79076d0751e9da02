"""How cost grows with image size, queries, batch, objects, number of images and processes: `python -m benchmarks.scaling`.

A growth is the exponent fitted to the times, log against log. Beside it stands what theory says: where multiply-adds can
be counted, the exponent fitted to them over the same sizes; else what the algorithm does.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from conditional_detr import ConditionalDetrForObjectDetection
from conditional_detr.checkpoints.original import PAPER_TRAINING
from conditional_detr.evaluate.coco_metrics import coco_metrics

from .evaluation import data_set
from .losses import inputs, ours
from .measure import Contender, arguments, in_turns, machine, report
from .models import config, multiply_adds
from .training import batch_of


def forward(quick: bool, height: int, width: int, batch: int = 1, queries: int | None = None) -> Callable[[], Any]:
    values = {} if queries is None else {"num_queries": queries}
    model = ConditionalDetrForObjectDetection(config(quick, **values)).eval().to(memory_format=torch.channels_last)
    pixels = torch.randn(batch, 3, height, width).contiguous(memory_format=torch.channels_last)
    return torch.inference_mode()(lambda: model(pixels))


def work(quick: bool, height: int, width: int, queries: int | None = None) -> float:
    values = {} if queries is None else {"num_queries": queries}
    return multiply_adds(ConditionalDetrForObjectDetection(config(quick, **values)), height, width)


def exponent(sizes: Sequence[float], values: list[float]) -> float:
    """The slope of log values over log sizes."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def step_times(rank: int, processes: int, threads: int, options: argparse.Namespace, file: str) -> None:
    """Train on `batch` images in each of so many processes; the first writes its seconds a step to `file`.times."""
    torch.set_num_threads(threads)
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=processes)
    torch.manual_seed(0)
    model = DistributedDataParallel(ConditionalDetrForObjectDetection(config(options.quick, **PAPER_TRAINING)).train())
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], fused=True)
    pixels, _, labels = batch_of(options, padded=False)

    def run() -> None:
        model(pixels, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    step = Contender("step", lambda: run)
    in_turns([step], options.repeats)
    if rank == 0:
        Path(f"{file}.times").write_text(" ".join(map(str, step.seconds)), encoding="utf-8")
    dist.destroy_process_group()


def images_per_second(processes: int, threads: int, options: argparse.Namespace) -> float:
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "rendezvous")
        mp.spawn(step_times, (processes, threads, options, file), nprocs=processes)
        seconds = np.median([float(value) for value in Path(f"{file}.times").read_text(encoding="utf-8").split()])
    return processes * options.batch / float(seconds)


def main(argv: list[str] | None = None) -> None:
    quick = {"height": 64, "width": 64}
    options = arguments(__doc__, argv, quick, repeats=3, batch=1, height=320, width=320, targets=10)
    short = options.quick
    sides = [64, 96] if short else [320, 480, 640, 800, 1120]
    queries = [10, 40] if short else [50, 100, 300, 900]
    batches = [1, 2] if short else [1, 2, 4, 8]
    objects = [1, 4] if short else [1, 5, 20, 80]
    counts = [10, 20] if short else [500, 1000, 2000, 4000]
    side = sides[0]

    def evaluation(images: int) -> Callable[[], Any]:
        return partial(coco_metrics, *data_set(images, 10 if short else 100))

    def losses(number: int) -> Callable[[], Any]:
        return ours(*inputs(6, 4, 20 if short else 300, number))

    sorting = [n * float(np.log(n)) for n in counts]
    series: list[tuple[str, list[int], Callable[[int], Callable[[], Any]], list[float], str]] = [
        ("pixels of a square's side", sides, lambda n: forward(short, n, n),
         [work(short, n, n) for n in sides], "multiply-adds, counted"),
        ("queries", queries, lambda n: forward(short, side, side, 1, n),
         [work(short, side, side, n) for n in queries], "multiply-adds, counted"),
        ("batch", batches, lambda n: forward(short, side, side, n), [*map(float, batches)], "each image alone"),
        ("objects an image, losses", objects, losses,
         [*map(float, objects)], "at most: costs of objects × queries, beside those of queries × classes"),
        ("images, COCO AP", counts, evaluation, sorting, "n log n, sorting"),
    ]  # fmt: skip
    rows = []
    for name, sizes, build, theory, why in series:
        points = [Contender(str(n), partial(build, n)) for n in sizes]
        in_turns(points, options.repeats)
        rows.append(
            {
                "what": name,
                "sizes": sizes,
                "median_seconds": [point.median for point in points],
                "quartiles_seconds": [point.quartiles for point in points],
                "growth": exponent(sizes, [point.median for point in points]),
                "theory": exponent(sizes, theory),
                "why": why,
            }
        )
    columns = {
        "cost against": [row["what"] for row in rows],
        "sizes": [", ".join(map(str, row["sizes"])) for row in rows],
        "medians": [", ".join(f"{value:.3g}" for value in row["median_seconds"]) + " s" for row in rows],
        "grows as size to the": [f"{row['growth']:.2f}" for row in rows],
        "theory": [f"{row['theory']:.2f} ({row['why']})" for row in rows],
    }

    def draw(axes: Any) -> None:
        for row in rows:
            sizes, seconds = row["sizes"], row["median_seconds"]
            axes.loglog([n / sizes[0] for n in sizes], [s / seconds[0] for s in seconds], "o-", label=row["what"])
        axes.set_xlabel("size, against the smallest")
        axes.set_ylabel("time, against the smallest's")
        axes.legend(fontsize="small")

    report(
        "Scaling: time over size",
        columns,
        rows,
        {**machine(size=256 if short else 2048), "command": options.command},
        options,
        draw,
    )

    cases = list(dict.fromkeys([(1, 1), (1, options.threads), (2, 1)]))
    speeds = [images_per_second(processes, threads, options) for processes, threads in cases]
    trained = [
        {"processes": processes, "threads": threads, "images_per_second": speed}
        for (processes, threads), speed in zip(cases, speeds, strict=True)
    ]
    names = [f"{processes} × {threads}" for processes, threads in cases]
    columns = {
        "processes × threads": names,
        "images a second": [f"{speed:.2f}" for speed in speeds],
        "of one": [f"{speed / speeds[0]:.2f}×" for speed in speeds],
        "theory, at most": [f"{processes * threads}×" for processes, threads in cases],
    }
    setting = f"{config(short).backbone}, {options.batch} × {options.height}×{options.width} a process, gloo"
    report(
        f"Processes: training, {setting}", columns, trained,
        {**machine(size=256 if short else 2048), "command": options.command}, options,
        lambda axes: (axes.bar(names, speeds), axes.set_ylabel("images a second")),
    )  # fmt: skip


if __name__ == "__main__":
    main()
