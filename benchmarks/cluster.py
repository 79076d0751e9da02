"""A cluster of Ray's on this machine: its rate beside one process's, memory over many pictures, processes killed:
`python -m benchmarks.cluster`.

Rates are of the time between the first part and the last, when all processes run; how long it takes until then is told apart.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any

import psutil
import torch

from conditional_detr import Detector
from conditional_detr.cluster.connect import connected
from conditional_detr.cluster.listing import pictures_of
from conditional_detr.cluster.parts import Output
from conditional_detr.cluster.places import Place
from conditional_detr.cluster.predict import begin
from conditional_detr.predict.write import predictions

from .inference import SIZES, photograph
from .measure import arguments, machine, peak_memory_gib, report
from .models import config, save

ACTOR, READER = "ray::MapWorker(MapBatches(BatchDetector))", "ray::MapBatches(PartReader)"


@dataclass
class Moment:
    """What had been used when so many pictures were done."""

    pictures: int
    seconds: float
    processor: float  # seconds, of this process and all of Ray's
    driver: float  # of these, this process's
    driver_mib: float  # resident memory that is neither of files nor shared
    all_mib: float


@dataclass
class Watch:
    """Takes moments as pictures are done."""

    memory: bool = False
    start: float = field(default_factory=time.perf_counter)
    moments: list[Moment] = field(default_factory=list)
    pictures: int = 0

    def add(self, pictures: int) -> None:
        self.pictures += pictures
        own = psutil.Process()
        processor, driver, sizes = 0.0, 0.0, []
        for process in (own, *own.children(recursive=True)):
            with suppress(psutil.Error):
                times = process.cpu_times()
                processor += times.user + times.system
                if process == own:
                    driver = times.user + times.system
                if self.memory:
                    held = process.memory_info()
                    sizes.append((held.rss - held.shared) / 2**20)
        seconds = time.perf_counter() - self.start
        self.moments.append(Moment(self.pictures, seconds, processor, driver, sizes[0] if sizes else 0.0, sum(sizes)))

    def a_picture(self, what: Callable[[Moment], float]) -> float:
        first, last = self.moments[0], self.moments[-1]
        return (what(last) - what(first)) / max(1, last.pictures - first.pictures)


def on_cluster(
    model: Path,
    images: Path,
    output: Path,
    watch: Watch,
    seen: Callable[[int], None] = lambda done: None,
    **options: Any,
) -> list[dict[str, Any]]:
    """Detect, and give the rows that were written."""
    run = begin(str(model), [str(images)], str(output), options={"device": "cpu"}, threads=1, threshold=0.0, **options)
    for part in run.written("local"):
        watch.add(part["pictures"])
        seen(watch.pictures)
    return [json.loads(line) for file in sorted(output.glob("part-*")) for line in file.open()]


def alone(model: Path, images: Path, output: Path, watch: Watch) -> list[dict[str, Any]]:
    """`cdetr predict` in this process, with one thread; the model's loading is not counted."""
    detector = Detector.from_pretrained(model, device="cpu")
    watch.add(0)
    rows = list(predictions(detector, sorted(images.iterdir()), output, threshold=0.0, workers=0, draw=False))
    watch.add(len(rows))
    return rows


def rates(model: Path, images: Path, folder: Path, options: Namespace) -> list[dict[str, Any]]:
    """One process, one actor, two actors, in turns."""
    runs: dict[str, list[Watch]] = {"one process, one thread": [], "one actor": [], "two actors": []}
    same = True
    for i in range(options.repeats):
        expected: list[dict[str, Any]] = []
        for number, watches in enumerate(runs.values()):
            watches.append(Watch())
            output = folder / f"rates-{i}-{number}"
            if number:
                found = on_cluster(model, images, output, watches[-1], actors=number, part_size=options.part_size)
                same = same and found == expected
            else:
                expected = alone(model, images, output, watches[-1])
    rows = []
    for number, (name, watches) in enumerate(runs.items()):
        rates = [1 / watch.a_picture(lambda moment: moment.seconds) for watch in watches]
        # Without a cluster, what is left of the one before is not at work here, and ends on the way.
        used = attrgetter("processor" if number else "driver")
        work = [1e3 * watch.a_picture(used) for watch in watches]
        rows.append(
            {
                "name": name,
                "pictures_a_second": statistics.median(rates),
                "all": rates,
                "processor_ms_a_picture": statistics.median(work),
                "seconds_to_first_part": statistics.median(watch.moments[0].seconds for watch in watches),
                "same_rows": same,
            }
        )
    plain = rows[0]["processor_ms_a_picture"]
    for row in rows:
        row["lost_share_of_processor_time"] = 1 - plain / row["processor_ms_a_picture"]
    return rows


def many(model: Path, images: Path, folder: Path, options: Namespace) -> tuple[list[dict[str, Any]], Watch]:
    """Many pictures, first undisturbed, then with an actor and a reader killed on the way."""
    watch = Watch(memory=True)
    whole = on_cluster(model, images, folder / "whole", watch, part_size=options.many_part_size)
    to_kill = [ACTOR, READER]

    def kill(done: int) -> None:
        if to_kill and done >= options.many * (3 - len(to_kill)) // 3 and end_one(to_kill[0]):
            to_kill.pop(0)

    disturbed = on_cluster(model, images, folder / "killed", Watch(), kill, part_size=options.many_part_size)
    rows = []
    for name, found, killed in (("undisturbed", whole, 0), ("killed", disturbed, 2 - len(to_kill))):
        counts = Counter(row["file"] for row in found)
        rows.append(
            {
                "name": name,
                "pictures": options.many,
                "processes killed": killed,
                "missing": options.many - len(counts),
                "double": len(found) - len(counts),
                "same rows": found == whole,
            }
        )
    first, middle, last = watch.moments[0], watch.moments[len(watch.moments) // 2], watch.moments[-1]
    rows[0] |= {
        "pictures a second": round(1 / watch.a_picture(lambda moment: moment.seconds)),
        "driver's MiB first, middle, last": [round(moment.driver_mib) for moment in (first, middle, last)],
        "driver's processor ms a part": round(
            1e3 * watch.a_picture(lambda moment: moment.driver) * options.many_part_size, 1
        ),
    }
    return rows, watch


def end_one(title: str) -> bool:
    """SIGKILL to one of Ray's processes of this title."""
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if title in " ".join(process.cmdline()):
                process.kill()
                return True
    return False


def small_parts(model: Path, images: Path, folder: Path, options: Namespace) -> dict[str, Any]:
    """Parts of one picture: what a part costs the driver, whatever is in it."""
    watch = Watch(memory=True)
    some = folder / "some"
    link(sorted(images.iterdir()), some, options.parts)
    on_cluster(model, some, folder / "parts", watch, part_size=1)
    return {
        "name": "parts of one picture",
        "parts": options.parts,
        "parts a second": round(1 / watch.a_picture(lambda moment: moment.seconds), 1),
        "driver's processor ms a part": round(1e3 * watch.a_picture(lambda moment: moment.driver), 2),
        "driver's KiB a part": round(2**10 * watch.a_picture(lambda moment: moment.driver_mib), 1),
    }


def listing(folder: Path, names: int) -> dict[str, Any]:
    """What a list of so many pictures takes of the driver, before Ray begins."""
    file = folder / "list.txt"
    with file.open("w") as lines:
        lines.writelines(f"/pictures/of/some/folder/{i:012}.jpg\n" for i in range(names))
    output = Output(Place.of(folder / "listed"), {}, 512, "jsonl")
    before = psutil.Process().memory_info().rss
    with suppress(OSError):  # where Linux lets us, the peak so far is forgotten
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    start = time.perf_counter()
    output.begin(lambda: pictures_of([str(file)]))
    listed = time.perf_counter() - start
    parts, _ = output.missing()
    return {
        "name": "listing",
        "names": names,
        "seconds to list": round(listed, 1),
        "seconds to find what is missing": round(time.perf_counter() - start - listed, 1),
        "MiB at most": round(2**10 * peak_memory_gib() - before / 2**20, 1),
        "parts": len(parts),
    }


def link(files: Sequence[Path], folder: Path, count: int) -> None:
    """A folder of `count` pictures, which are these again and again."""
    folder.mkdir()
    for i in range(count):
        os.link(files[i % len(files)], folder / f"{i:06}{files[i % len(files)].suffix}")


def main(argv: list[str] | None = None) -> None:
    options = arguments(
        __doc__, argv, quick={"images": 16, "part_size": 4, "many": 120, "many_part_size": 10, "parts": 12, "names": 1000},
        repeats=2, images=96, part_size=4, many=20_000, many_part_size=512, parts=600, names=1_000_000, side=320,
    )  # fmt: skip
    torch.set_num_threads(1)
    # By itself Ray lets others go first (15), and one process beside it would win.
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112
    facts = {**machine(size=256), "command": options.command}
    with tempfile.TemporaryDirectory() as name, connected("local"):
        folder = Path(name)
        save(folder / "small", quick=True)
        resize_to(folder / "small", 32)
        save(folder / "model", quick=options.quick)
        resize_to(folder / "model", 96 if options.quick else options.side)
        photographs = [photograph(folder / f"{i}.jpg", *size) for i, size in enumerate(SIZES)]
        thumbnails = [photograph(folder / f"t{i}.jpg", 64, 48 + 16 * (i % 2)) for i in range(50)]
        link(photographs, folder / "photographs", options.images)
        link(thumbnails, folder / "thumbnails", options.many)
        if options.images:
            rows = rates(folder / "model", folder / "photographs", folder, options)
            told = {
                "": [row["name"] for row in rows],
                "pictures/s": [f"{row['pictures_a_second']:.2f}" for row in rows],
                "processor time a picture": [f"{row['processor_ms_a_picture']:.0f} ms" for row in rows],
                "more than one process": [f"{row['lost_share_of_processor_time']:.1%}" for row in rows],
                "first part after": [f"{row['seconds_to_first_part']:.0f} s" for row in rows],
            }
            title = f"Cluster rates: {config(options.quick).backbone}, {options.images} JPEGs, actors of one thread"
            report(title, told, rows, facts, options, lambda axes: None)
        if options.many:
            rows, watch = many(folder / "small", folder / "thumbnails", folder, options)
            rows.append(small_parts(folder / "small", folder / "thumbnails", folder, options))
            rows.append(listing(folder, options.names))
            told = {
                "": [row["name"] for row in rows],
                "what came of it": [", ".join(f"{k} {v}" for k, v in row.items() if k != "name") for row in rows],
            }
            report(
                f"Cluster memory: {options.many} pictures", told, rows, facts, options, lambda axes: draw(axes, watch)
            )


def resize_to(model: Path, side: int) -> None:
    file = model / "preprocessor_config.json"
    values = json.loads(file.read_text())
    values["size"] = {"shortest_edge": side, "longest_edge": 2 * side}
    file.write_text(json.dumps(values))


def draw(axes: Any, watch: Watch) -> None:
    done = [moment.pictures for moment in watch.moments]
    axes.plot(done, [moment.all_mib for moment in watch.moments], label="this process and all of Ray's")
    axes.plot(
        done, [moment.driver_mib for moment in watch.moments], label="this process, which reads the list and waits"
    )
    axes.set(xlabel="pictures done", ylabel="MiB, unshared", ylim=(0, None))
    axes.legend()


if __name__ == "__main__":
    main()
