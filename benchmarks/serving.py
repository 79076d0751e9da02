"""A server under load: its rate beside `Detector`'s own, many callers at once, hostile requests:
`python -m benchmarks.serving`.

Requests come from this machine, whose cores they share with the model.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from conditional_detr import Detector

from .hostile_bodies import request_kinds
from .http_client import multipart, post, send_all
from .inference import SIZES, photograph
from .measure import Contender, arguments, compare, machine, report
from .models import config, save


@contextmanager
def server(model: Path, threads: int) -> Iterator[tuple[int, int]]:
    """`cdetr serve` as a process, for as long as the block lasts: its port and its id."""
    command = [sys.executable, "-m", "conditional_detr", "serve", "--model", str(model), "--port", "0"]
    process = subprocess.Popen([*command, f"--threads={threads}", "--device=cpu"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if found := re.search(r"listening on http://\S+:(\d+)", line):
                yield int(found[1]), process.pid
                break
        else:
            raise RuntimeError(f"the server ended with {process.wait()}")
    finally:
        process.terminate()
        process.wait()


def answers_of(port: int, bodies: Sequence[bytes], callers: int) -> list[Any]:
    """What is found in the pictures of each request. Raises RuntimeError if one is not answered."""
    answers = asyncio.run(send_all(port, [post(body, query="?threshold=0") for body in bodies], callers))
    if wrong := [answer for answer in answers if answer.status != 200]:
        raise RuntimeError(f"{len(wrong)} of {len(bodies)} requests were not answered: {wrong[0]}")
    return [json.loads(answer.body)["results"] for answer in answers]


def rate(model: Path, files: list[bytes], port: int, process: int, options: Namespace, title: str) -> None:
    """The time of all pictures: a list to `Detector`, a request a picture to the server. On a machine that others use, the
    processors' time says more: it is below the table."""
    bodies, own = [multipart([data]) for data in files], Detector.from_pretrained(model, device="cpu")

    def build(callers: int) -> Callable[[], Any]:
        return partial(answers_of, port, bodies, callers)

    contenders = [Contender("Detector, a list", lambda: partial(own.detect, files, 0.0), peak=False)]
    contenders += [Contender(f"ours, served, {n} callers", partial(build, n), peak=False) for n in (1, options.callers)]
    spent: dict[str, list[float]] = {"detector": [], "server": []}
    for _ in range(options.repeats):
        for name, run, computing in (("detector", partial(own.detect, files, 0.0), os.getpid()), ("server", build(options.callers), process)):  # fmt: skip
            before = processor_seconds(computing)
            run()
            spent[name].append(1e3 * (processor_seconds(computing) - before) / len(files))
    facts = {f"processor_ms_a_picture_{name}": round(statistics.median(each), 1) for name, each in spent.items()}
    compare(f"{title}, {len(files)} JPEGs, time of all", contenders, options, peer="Detector", facts=facts)


def processor_seconds(process: int) -> float:
    times = psutil.Process(process).cpu_times()
    return times.user + times.system


def many_callers(model: Path, files: list[bytes], port: int, clients: int) -> dict[str, Any]:
    """All at once, three pictures each: none may be lost, none exchanged."""
    expected = Detector.from_pretrained(model, device="cpu").detect(files, 0.0)
    chosen = [i % len(files) for i in range(3 * clients)]
    started = time.perf_counter()
    answers = answers_of(port, [multipart([files[i]]) for i in chosen], clients)
    seconds = time.perf_counter() - started
    wrong = 0
    for i, (answer,) in zip(chosen, answers, strict=True):
        found = [detection["score"] for detection in answer["detections"]]
        own = [detection.score for detection in expected[i]]
        wrong += len(found) != len(own) or max(abs(a - b) for a, b in zip(found, own, strict=True)) > 1e-4
    return {"clients": clients, "requests": len(chosen), "answered": len(answers), "wrong": wrong, "seconds": seconds}


def hostile(port: int, process: int, count: int) -> dict[str, Any]:
    """Statuses by kind of request, and the server's memory before and after, in MiB."""
    kinds = request_kinds()

    def once(count: int, seed: int) -> tuple[Counter[str], list[str]]:
        chooser, statuses, surprises = random.Random(seed), Counter[str](), []
        names = [name for i, name in zip(range(count), list(kinds) * count, strict=False)]
        for first in range(0, len(names), 8):  # some at a time: their makers keep memory, too
            some = names[first : first + 8]
            answers = asyncio.run(send_all(port, [kinds[name](chooser) for name in some], 8))
            for name, answer in zip(some, answers, strict=True):
                statuses[str(answer.status)] += 1
                if not 400 <= answer.status < 500:
                    surprises.append(f"{name}: {answer.status} {answer.body[:200]!r}")
        return statuses, surprises

    once(2 * len(kinds), seed=0)  # so that memory that is kept for the next request is there
    before = psutil.Process(process).memory_info().rss // 2**20
    statuses, surprises = once(count, seed=1)
    for line in surprises:
        print(line)
    after = psutil.Process(process).memory_info().rss // 2**20
    return {
        "requests": count,
        "statuses": dict(statuses),
        "not 4xx": surprises,
        "MiB before": before,
        "MiB after": after,
    }


def main(argv: list[str] | None = None) -> None:
    options = arguments(
        __doc__, argv, quick={"images": 4, "large_images": 0, "clients": 8, "hostile": 40},
        repeats=7, images=60, large_images=10, callers=64, clients=200, hostile=1000,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        photographs = [photograph(folder / f"{i}.jpg", *size).read_bytes() for i, size in enumerate(SIZES)]
        for quick in (True, False) if options.large_images else (True,):
            model = folder / ("small" if quick else "large")
            save(model, quick)
            files = [photographs[i % len(SIZES)] for i in range(options.images if quick else options.large_images)]
            title = f"Serving {'a small model' if quick else 'R50'}: {config(quick).backbone}"
            with server(model, options.threads) as (port, process):
                rate(model, files, port, process, options, title)
                if quick:
                    load = many_callers(model, photographs, port, options.clients)
                    attacks = hostile(port, process, options.hostile)
        rows = [{"name": "callers at once", **load}, {"name": "hostile requests", **attacks}]
        told = [", ".join(f"{key} {value}" for key, value in row.items() if key != "name") for row in rows]
        columns = {"": [row["name"] for row in rows], "what came of it": told}
        report(
            "Serving under load",
            columns,
            rows,
            {**machine(size=256), "command": options.command},
            options,
            lambda a: None,
        )


if __name__ == "__main__":
    main()
