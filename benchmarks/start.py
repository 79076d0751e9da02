"""What it takes until training processes of one machine have their data: `python -m benchmarks.start`.

A made-up data set as large as COCO's train2017 (see `annotations.py`) is opened by 1, 2 and 8 processes at once, each with its
loading processes, first with an empty cache of indices and again with what it holds. Every loading process then reads labels (names,
boxes, masks as run lengths) as an epoch does, but no picture. Memory is what all processes have together, shared pages once (the
sum of Linux's proportional set sizes), above what they have of a data set of a few pictures.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from .annotations import coco, data_set, panoptic, pictures
from .measure import arguments, machine, report

FEW = 40  # pictures of the data set whose memory is taken away
PARTS = 64  # of an epoch's labels
METHODS = ("fork", "spawn")


class Labels:
    """An epoch's labels in so many parts, as loading processes read them; each is a number that hangs on all of them."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return PARTS

    def __getitem__(self, part: int) -> int:
        dataset, total = self.dataset, 0
        for image in range(part, len(dataset), PARTS):
            rows = range(*dataset.first[image : image + 2].tolist())
            total += len(str(dataset.image_path(image))) + len(str(dataset.image_ids[image]))
            total += int(dataset.boxes[rows.start : rows.stop].sum()) + int(
                dataset.classes[rows.start : rows.stop].sum()
            )
            if hasattr(dataset.masks, "segment_ids"):
                total += int(dataset.masks.segment_ids[rows.start : rows.stop].sum()) + len(
                    dataset.masks.file_names[image]
                )
            elif dataset.masks is not None:
                total += sum(len(mask["counts"]) for mask in dataset.masks.run_lengths(image, rows))
        return total


def process(folder: str, task: str, method: str, workers: str, share: str) -> None:
    """One training process: imports, then (asked by a line) the data and its loading processes, then their memory."""
    from torch.utils.data import DataLoader

    from conditional_detr.data.splits import read_split
    from conditional_detr.train import setup
    from conditional_detr.workers import batches_of

    assert setup, "imported as training imports it"
    print("imported", flush=True)
    input()
    begun, processor = time.perf_counter(), time.process_time()
    dataset = read_split(folder, "train", task, shares=share)  # type: ignore[arg-type]
    read, processor = time.perf_counter() - begun, time.process_time() - processor
    labels: Any = Labels(dataset)
    loader = DataLoader(labels, num_workers=int(workers), multiprocessing_context=method, prefetch_factor=PARTS)
    with batches_of(loader) as batches:
        begun = time.perf_counter()
        total = int(next(batches))
        started = time.perf_counter() - begun
        total += sum(int(next(batches)) for _ in range(PARTS - 1))
        print(json.dumps({"read": read, "processor": processor, "started": started, "total": total}), flush=True)
        input()


def measured(
    folder: Path, task: str, count: int, method: str, share: str, options: argparse.Namespace
) -> dict[str, Any]:
    """Start so many processes at once; gives seconds until all have read, and the memory of all."""
    code = (
        f"from benchmarks.start import process; process(*{[str(folder), task, method, str(options.workers), share]!r})"
    )
    with ExitStack() as ended:
        started = []
        for _ in range(count):
            one = subprocess.Popen(
                [sys.executable, "-c", code],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                cwd=Path(__file__).parents[1],
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
            ended.callback(one.wait)
            ended.callback(one.kill)
            started.append(one)
        _lines(started)  # all have imported
        _ask(started)
        found = [json.loads(line) for line in _lines(started)]
        bytes_of_all = sum(_shared_once(one.pid) for one in started)
        _ask(started)
        for one in started:
            one.wait()
    assert len({one["total"] for one in found}) == 1, "all have read the same"
    return {
        "read": max(one["read"] for one in found),
        "processor": sum(one["processor"] for one in found),
        "started": max(one["started"] for one in found),
        "gib": bytes_of_all / 2**30,
    }


def _lines(started: Sequence[subprocess.Popen]) -> list[str]:
    lines = [one.stdout.readline() for one in started if one.stdout]
    if not all(lines):
        raise RuntimeError("a process has ended before it had its data; its error stands above")
    return lines


def _ask(started: Sequence[subprocess.Popen]) -> None:
    for one in started:
        assert one.stdin
        one.stdin.write("\n")
        one.stdin.flush()


def _shared_once(pid: int) -> int:
    """Bytes of a process and its children, each page divided among those that share it."""
    import psutil

    family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    return sum(one.memory_full_info().pss for one in family)


def main(argv: list[str] | None = None) -> None:
    quick = {"images": 40, "objects": 200, "segments": 200, "most": 1, "workers": 1}
    options = arguments(
        __doc__, argv, quick=quick, images=118_000, objects=860_000, segments=1_300_000, most=8, workers=2, repeats=1
    )
    kinds: list[tuple[str, str, Callable[[Path, list[str], int], None]]] = [
        ("COCO with polygons, masks", "instance", lambda f, n, many: coco(f, n, many, polygons=True)),
        ("COCO panoptic", "panoptic", panoptic),
    ]
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as place:
        images = Path(place) / "pictures"
        every = pictures(images, options.images, ".jpg")
        for title, task, write in kinds:
            objects = options.segments if task == "panoptic" else options.objects
            with (
                data_set(every, lambda f, n, w=write, o=objects: w(f, n, o), images) as folder,  # type: ignore[misc]
                data_set(every[:FEW], lambda f, n, w=write: w(f, n, FEW), images) as few,  # type: ignore[misc]
            ):
                rows += rows_of(title, task, folder, few, options)
    columns = {
        "": [row["name"] for row in rows],
        "processes": [str(row["processes"]) for row in rows],
        "loading processes of each": [row["loading"] for row in rows],
        "first": [f"{row['first']['read']:.1f} s" for row in rows],
        "again": [f"{row['again']['read']:.1f} s" for row in rows],
        "loading processes begin": [f"{row['again']['started']:.1f} s" for row in rows],
        "memory of the data, first": [f"{row['first']['gib'] - row['without_gib']:.2f} GiB" for row in rows],
        "again ": [f"{row['again']['gib'] - row['without_gib']:.2f} GiB" for row in rows],
        "all else": [f"{row['without_gib']:.2f} GiB" for row in rows],
    }
    facts = {**machine(size=256 if options.quick else 2048), "command": options.command}

    def draw(axes: Any) -> None:
        names = [f"{row['name']}, {row['processes']} × {row['loading']}" for row in rows]
        axes.barh(names, [row["again"]["gib"] - row["without_gib"] for row in rows], color="tab:blue")
        axes.invert_yaxis()
        axes.set_xlabel("GiB of the data, all processes together")

    report("Processes: the start of those that train on one machine", columns, rows, facts, options, draw)


def rows_of(title: str, task: str, folder: Path, few: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows of a kind of data, by how loading processes start and how many training processes there are."""
    rows = []
    for method in METHODS:
        for count in (count for count in (1, 2, 8) if count <= options.most):
            with tempfile.TemporaryDirectory() as cache:
                os.environ["CDETR_CACHE"] = cache
                found = {name: measured(folder, task, count, method, "", options) for name in ("first", "again")}
                without = measured(few, task, count, method, "", options)
            row = {"name": title, "processes": count, "loading": f"{options.workers}, {method}", **found}
            row |= {"without_gib": without["gib"], "median_seconds": found["again"]["read"]}
            print(json.dumps(row), flush=True)
            rows.append(row)
    del os.environ["CDETR_CACHE"]
    return rows


if __name__ == "__main__":
    main()
