"""Timing in turns, peak memory, the machine, and tables."""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch


@dataclass
class Contender:
    """Something to be timed."""

    name: str
    build: Callable[[], Callable[[], Any]]  # makes what is run; called once
    dtype: torch.dtype = torch.float32  # whose matrix products are its ceiling
    repeats: int | None = None  # fewer for those that take long, and no warm-up; None as the table's
    peak: bool = True  # measure memory; of compiled ones it would be the compiler's
    seconds: list[float] = field(default_factory=list)
    peak_gib: float | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        if len(self.seconds) < 2:
            return self.median, self.median
        first, _, third = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return first, third


def in_turns(contenders: list[Contender], repeats: int) -> None:
    """Time them one after another in rounds, so that a noisy machine is noisy for all; each after one run as warm-up."""
    runs = [contender.build() for contender in contenders]
    for contender, run in zip(contenders, runs, strict=True):
        if contender.repeats is None:
            run()
    for i in range(repeats):
        for contender, run in zip(contenders, runs, strict=True):
            if contender.repeats is None or i < contender.repeats:
                contender.seconds.append(seconds_of(run))


def seconds_of(run: Callable[[], Any]) -> float:
    """Time one run, the device's work included."""
    _synchronise()
    start = time.perf_counter()
    run()
    _synchronise()
    return time.perf_counter() - start


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def compare(
    title: str,
    contenders: list[Contender],
    options: argparse.Namespace,
    *,
    peer: str = "transformers",
    multiply_adds: float | None = None,
    repeats: int | None = None,
    facts: dict[str, Any] | None = None,
) -> list[Contender]:
    """Time contenders in turns, print the table and write it where `--output` says.

    Args:
        title: of the table; the words before a colon name its files.
        contenders: the first one whose name starts with `peer` is the peer as it comes; of several such, the fastest of
            a contender's own type is the peer at its best.
        multiply_adds: of one run, for the share of the ceiling that is reached.
        repeats: None for `--repeats`.
        facts: more to be said below the table.
    """
    if options.peak_of:
        for contender in contenders:
            if options.peak_of == f"{title}/{contender.name}":
                _print_peak(contender.build)
        return contenders
    for contender in contenders:
        if contender.peak and options.peaks:
            contender.peak_gib = _peak_in_own_process(options, f"{title}/{contender.name}")
    in_turns(contenders, repeats or options.repeats)
    facts = {**machine(size=256 if options.quick else 2048), **(facts or {}), "command": options.command}
    rates = {torch.float32: facts["float32_gflops"], torch.bfloat16: facts["bfloat16_gflops"]}
    peers = [contender for contender in contenders if contender.name.startswith(peer)]
    rows = []
    for contender in contenders:
        best = min((p.median for p in peers if p.dtype == contender.dtype), default=None)
        share = None
        if multiply_adds:
            share = 2 * multiply_adds / 1e9 / contender.median / rates[contender.dtype]
        rows.append(
            {
                "name": contender.name,
                "median_seconds": contender.median,
                "quartiles_seconds": contender.quartiles,
                "seconds": contender.seconds,
                "times_as_fast_as_peer": peers[0].median / contender.median if peers else None,
                "times_as_fast_as_best_peer": best / contender.median if best else None,
                "peak_gib": contender.peak_gib,
                "share_of_ceiling": share,
            }
        )
    columns = {
        "": [row["name"] for row in rows],
        "median": [_milliseconds(row["median_seconds"]) for row in rows],
        "quartiles": [" … ".join(map(_milliseconds, row["quartiles_seconds"])) for row in rows],
        f"{peer} as it comes ÷ this": [_cell(row["times_as_fast_as_peer"], "{:.2f}×") for row in rows],
        f"{peer}'s best of this type ÷ this": [_cell(row["times_as_fast_as_best_peer"], "{:.2f}×") for row in rows],
        "peak memory": [_cell(row["peak_gib"], "{:.2f} GiB") for row in rows],
        "of the ceiling": [_cell(row["share_of_ceiling"], "{:.0%}") for row in rows],
    }
    if len(peers) == 1:
        columns[f"{peer}'s best of this type ÷ this"] = ["–"] * len(rows)
    columns = {name: cells for name, cells in columns.items() if set(cells) != {"–"}}
    report(title, columns, rows, facts, options, _bars(contenders))
    return contenders


def report(
    title: str,
    columns: dict[str, list[str]],
    rows: list[dict[str, Any]],
    facts: dict[str, Any],
    options: argparse.Namespace,
    draw: Callable[[Any], None],
) -> None:
    """Print a table of named columns with its facts; write it as Markdown, its rows as JSON, and what `draw` draws."""
    lines = [f"### {title}", "", "| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    lines += ["| " + " | ".join(cells) + " |" for cells in zip(*columns.values(), strict=True)]
    lines += ["", ", ".join(f"{key} {value}" for key, value in facts.items() if value is not None), ""]
    text = "\n".join(lines)
    print(text, flush=True)
    folder = Path(options.output)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{title.split(':')[0].lower().replace(' ', '_')}.md"
    file.write_text(text, encoding="utf-8")
    content = {"title": title, "rows": rows, "facts": facts}
    file.with_suffix(".json").write_text(json.dumps(content, indent=2, ensure_ascii=False), encoding="utf-8")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1 + 0.4 * max(4, len(rows))), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, fontsize="medium")
    draw(axes)
    figure.savefig(file.with_suffix(".png"), dpi=120)


def _bars(contenders: list[Contender]) -> Callable[[Any], None]:
    def draw(axes: Any) -> None:
        spread = [[c.median - c.quartiles[0] for c in contenders], [c.quartiles[1] - c.median for c in contenders]]
        colors = ["tab:blue" if c.name.startswith("ours") else "tab:gray" for c in contenders]
        axes.barh([c.name for c in contenders], [c.median for c in contenders], xerr=spread, color=colors)
        axes.invert_yaxis()
        axes.set_xlabel("seconds (median, quartiles)")

    return draw


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.0f} ms" if seconds >= 0.1 else f"{seconds * 1e3:.2f} ms"


def _cell(value: float | None, form: str) -> str:
    return "–" if value is None else form.format(value)


# ------------------------------------------------------------------------------------------------ memory


def _peak_in_own_process(options: argparse.Namespace, which: str) -> float:
    """Run this command again for one contender alone. Memory is not given back, so each needs a process of its own."""
    command = [sys.executable, "-m", options.module, *options.argv, "--peak_of", which]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{which} failed in its own process:\n{done.stderr}")
    return float(done.stdout.split()[-1])


def _print_peak(build: Callable[[], Callable[[], Any]]) -> None:
    """Build and run once, and print the greatest resident memory since then, in GiB."""
    gc.collect()
    with suppress(OSError):  # where Linux lets us, the peak so far is forgotten: making the inputs is no part of it
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    build()()
    print(peak_memory_gib())


def peak_memory_gib() -> float:
    """Greatest resident memory of this process so far."""
    status = Path("/proc/self/status")
    if status.is_file():  # `getrusage` would count the parent's as well
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text(encoding="utf-8"))[1]) / 2**20  # type: ignore[index]
    unit = 2**30 if sys.platform == "darwin" else 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


# ------------------------------------------------------------------------------------------------ machine


def machine(device: str = "cpu", size: int = 2048) -> dict[str, Any]:
    """What this ran on, with the rates of large matrix products measured now."""
    import torchvision
    import transformers

    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "float32_gflops": matmul_gflops(torch.float32, device, size),
        "bfloat16_gflops": matmul_gflops(torch.bfloat16, device, size),
        "load_average": round(os.getloadavg()[0], 1),
        "date": time.strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "transformers": transformers.__version__,
    }


def matmul_gflops(dtype: torch.dtype, device: str = "cpu", size: int = 2048) -> int:
    """The fastest of ten matrix products of this size."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return round(2 * size**3 / min(seconds_of(lambda: a @ b) for _ in range(10)) / 1e9)


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":")[1].strip()
    return platform.processor() or platform.machine()


# ------------------------------------------------------------------------------------------------ command line


def arguments(
    description: str, argv: list[str] | None = None, quick: dict[str, int] | None = None, **options: int
) -> argparse.Namespace:
    """Command-line options: the given integers and those that all benchmarks share.

    Args:
        description: has the command in it, as "python -m benchmarks.NAME".
        argv: None for the process's own.
        quick: values in place of the defaults under `--quick`.
    """
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    for name, default in options.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--output", default="runs/benchmarks", help="folder for JSON, Markdown and plots")
    parser.add_argument("--original", default="", help="a checkout of the original repository, to be timed too")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it works")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True, help="time compiled ones too")
    parser.add_argument("--peaks", action=argparse.BooleanOptionalAction, default=True, help="measure peak memory too")
    parser.add_argument("--peak_of", default="", help="print the peak memory of one TABLE/CONTENDER only")
    if "--quick" in argv:
        parser.set_defaults(repeats=2, compile=False, peaks=False, **(quick or {}))
    parsed = parser.parse_args(argv)
    parsed.module, parsed.argv = re.search(r"python -m (benchmarks\.\w+)", description)[1], argv  # type: ignore[index]
    parsed.command = " ".join(("python -m", parsed.module, *argv))
    torch.set_num_threads(parsed.threads)
    return parsed
