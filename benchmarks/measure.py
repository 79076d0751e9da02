"""Timing in turns, the machine, and tables."""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch


@dataclass
class Timing:
    """Seconds of repeated runs."""

    name: str
    seconds: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def spread(self) -> tuple[float, float]:
        return min(self.seconds), max(self.seconds)


def in_turns(runs: dict[str, Callable[[], Any]], repeats: int, warm_up: int = 1) -> list[Timing]:
    """Time each of `runs` `repeats` times, one after another in rounds, so that a noisy machine is noisy for all."""
    for _ in range(warm_up):
        for run in runs.values():
            run()
    timings = {name: Timing(name, []) for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            _synchronise()
            start = time.perf_counter()
            run()
            _synchronise()
            timings[name].seconds.append(time.perf_counter() - start)
    return list(timings.values())


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def machine() -> dict[str, Any]:
    """What this ran on, with the rate of a large float32 matrix product measured now."""
    import torchvision
    import transformers

    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    (product,) = in_turns({"matmul": lambda: a @ b}, repeats=10, warm_up=3)
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "float32_gflops": round(2 * 2048**3 / min(product.seconds) / 1e9),
        "load_average": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "transformers": transformers.__version__,
    }


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":")[1].strip()
    return platform.processor() or platform.machine()


def peak_memory_gib() -> float:
    """Greatest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def report(title: str, timings: list[Timing], ours: str, arguments: argparse.Namespace, **more: Any) -> None:
    """Print a table with each run's ratio to ours, and write it where `--output` says."""
    base = next(t for t in timings if t.name == ours)
    lines = [
        f"### {title}",
        "",
        "| | median | min … max | time relative to ours |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {t.name} | {t.median * 1e3:.1f} ms | {t.spread[0] * 1e3:.1f} … {t.spread[1] * 1e3:.1f} ms | {t.median / base.median:.2f}× |"
        for t in timings
    ]
    facts = {**machine(), **more}
    lines += ["", ", ".join(f"{key} {value}" for key, value in facts.items() if value is not None), ""]
    text = "\n".join(lines)
    print(text)
    if arguments.output:
        folder = Path(arguments.output)
        folder.mkdir(parents=True, exist_ok=True)
        stem = title.split(":")[0].lower().replace(" ", "_")
        (folder / f"{stem}.md").write_text(text)
        rows = [{"name": t.name, "seconds": t.seconds} for t in timings]
        (folder / f"{stem}.json").write_text(json.dumps({"title": title, "runs": rows, "facts": facts}, indent=2))


def arguments(description: str, **options: int) -> argparse.Namespace:
    """Command-line options: the given integers, `--threads` and `--output`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    for name, default in options.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--output", default="", help="folder for JSON and Markdown")
    parsed = parser.parse_args()
    torch.set_num_threads(parsed.threads)
    return parsed
