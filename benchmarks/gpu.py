"""Everything that needs a GPU, in one run of under nine minutes: `python -m benchmarks.gpu` (or `benchmarks/gpu.sh`).

Each part runs in a process of its own with a time limit, most important first, and hands over each row as soon as it is
measured: a part that fails or is too slow loses only what it had not measured yet. Models are random, images generated.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from conditional_detr import ConditionalDetrForObjectDetection, Detector
from conditional_detr.checkpoints.original import PAPER_TRAINING
from conditional_detr.data.augmentation import Augmentation
from conditional_detr.data.formats.coco import read_coco
from conditional_detr.data.sampler import TrainingBatches
from conditional_detr.data.samples import TrainingSet, collate
from conditional_detr.data.transforms import training_transform
from conditional_detr.images.pixels import normalize
from conditional_detr.predict.stream import Source, detect
from conditional_detr.train.optimizer import build_optimizer
from conditional_detr.train.recipe import Recipe

from .inference import SIZES, photograph, their_detector
from .measure import machine, matmul_gflops, seconds_of
from .models import multiply_adds, save, theirs
from .training import our_step, step, their_step

FLOAT32, BFLOAT16 = torch.float32, torch.bfloat16
LIMITS = {"machine": 40, "inference": 130, "training": 100, "compiled": 130, "data": 70, "profile": 50}  # seconds
Run = Callable[[], Any]


def emit(**row: Any) -> None:
    print(json.dumps(row, ensure_ascii=False), flush=True)


def tf32(allowed: bool) -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed


def time_run(options: Namespace, build: Callable[[], Run], images: int, work: float = 0.0, **row: Any) -> None:
    """Warm up, run for a second or two, and emit median, quartiles, images a second and peak memory; or the failure."""
    on_gpu = options.device == "cuda"
    try:
        run = build()
        for _ in range(3):
            run()
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        seconds: list[float] = []
        while len(seconds) < 3 or (sum(seconds) < (0.0 if options.quick else 1.5) and len(seconds) < 100):
            seconds.append(seconds_of(run))
        first, median, third = statistics.quantiles(seconds, n=4, method="inclusive")
        emit(
            **row, median_seconds=median, quartiles_seconds=[first, third], images_per_second=images / median,
            peak_gib=torch.cuda.max_memory_allocated() / 2**30 if on_gpu else None,
            tflops=2 * work / median / 1e12 if work else None,
        )  # fmt: skip
    except Exception as error:  # the other rows are worth having
        emit(**row, error=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:300])
    finally:
        run = build = None  # type: ignore[assignment]
        torch._dynamo.reset()
        if on_gpu:
            torch.cuda.empty_cache()


# ------------------------------------------------------------------------------------------------ parts


def part_machine(options: Namespace) -> None:
    size = 512 if options.quick else 8192
    tf32(False)
    emit(what="machine", **machine(options.device, size))
    if options.device == "cuda":
        tf32(True)
        emit(what="matrix product, TF32", gflops=matmul_gflops(FLOAT32, "cuda", size))
        a = torch.empty(2**30, dtype=torch.uint8, device="cuda")
        b = torch.empty_like(a)
        seconds = min(seconds_of(lambda: b.copy_(a)) for _ in range(10))
        emit(what="copy on the device, bytes read and written", gbytes_per_second=round(2 * 2**30 / seconds / 1e9))


def pixels_of(options: Namespace, batch: int, dtype: torch.dtype) -> torch.Tensor:
    height, width = (96, 160) if options.quick else (800, 1333)
    return torch.randn(batch, 3, height, width, device=options.device).to(dtype)


def our_forward(folder: Path, options: Namespace, batch: int, dtype: torch.dtype, compiled: bool = False) -> Run:
    detector = Detector.from_pretrained(folder, device=options.device, dtype=dtype, compile=compiled)
    pixels = pixels_of(options, batch, dtype).contiguous(memory_format=torch.channels_last)
    return torch.inference_mode()(lambda: detector.model(pixels))


def captured(build: Callable[[], Run]) -> Run:
    """The same as one CUDA graph: without PyTorch's own time for each operation."""
    run = build()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return lambda run=run: graph.replay()  # type: ignore[misc]  # the run holds the graph's inputs


def their_forward(
    folder: Path, options: Namespace, batch: int, dtype: torch.dtype, best: bool = False, mode: str = ""
) -> Run:
    model = theirs(folder, dtype=dtype).to(options.device).eval()
    pixels = pixels_of(options, batch, dtype)
    mask = torch.ones(batch, *pixels.shape[-2:], dtype=torch.int64, device=options.device)
    if best:
        model.to(memory_format=torch.channels_last)
        pixels = pixels.contiguous(memory_format=torch.channels_last)
    call = torch.compile(model, mode=mode, dynamic=False) if mode else model
    return torch.no_grad()(lambda: call(pixels, pixel_mask=mask))


def part_inference(options: Namespace, folder: Path) -> None:
    work = multiply_adds(
        ConditionalDetrForObjectDetection.from_pretrained(folder), *pixels_of(options, 1, FLOAT32).shape[-2:]
    )
    kinds = (("float32", FLOAT32, False), ("tf32", FLOAT32, True), ("bfloat16", BFLOAT16, True))
    for batch in [1, 2] if options.quick else [1, 16, 8, 32]:
        for name, dtype, allowed in reversed(kinds):
            tf32(allowed)
            row = dict(what="forward pass", batch=batch, precision=name)
            timed = partial(time_run, options, images=batch, work=work * batch, **row)
            ours = partial(our_forward, folder, options, batch, dtype)
            timed(ours, who="ours, eager")
            if options.device == "cuda" and name == "bfloat16":
                timed(partial(captured, ours), who="ours, eager as a CUDA graph")
            timed(partial(their_forward, folder, options, batch, dtype, best=True), who="transformers, channels-last")
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = False, True  # PyTorch's defaults
        time_run(
            options, partial(their_forward, folder, options, batch, FLOAT32), batch, work * batch,
            what="forward pass", batch=batch, precision="as it comes", who="transformers, as it comes",
        )  # fmt: skip
    tf32(False)
    emit(what="largest difference of logits from transformers' in float32", **agreement(folder, options))


def agreement(folder: Path, options: Namespace) -> dict[str, float]:
    """How far our logits are from transformers' float32 ones, TF32 off, on the same pixels."""
    pixels = pixels_of(options, 1, FLOAT32)
    mask = torch.ones(1, *pixels.shape[-2:], dtype=torch.int64, device=options.device)
    with torch.no_grad():
        expected = theirs(folder).to(options.device).eval()(pixels, pixel_mask=mask).logits
        found = {}
        for name, dtype in (("float32", FLOAT32), ("bfloat16", BFLOAT16)):
            model = Detector.from_pretrained(folder, device=options.device, dtype=dtype).model
            found[name] = (model(pixels.to(dtype)).logits.float() - expected).abs().max().item()
    return found


def part_compiled(options: Namespace, folder: Path) -> None:
    tf32(True)
    row = dict(what="forward pass", precision="bfloat16")
    for batch in [1, 2] if options.quick else [1, 16]:
        timed = partial(time_run, options, images=batch, batch=batch, **row)
        timed(partial(our_forward, folder, options, batch, BFLOAT16, compiled=True), who="ours, compiled")
        for mode in ("default", "reduce-overhead") if batch == 1 else ("default",):
            their = partial(their_forward, folder, options, batch, BFLOAT16, best=True, mode=mode)
            timed(their, who=f"transformers, channels-last, compiled ({mode})")


def part_training(options: Namespace, folder: Path) -> None:
    for batch in [1, 2] if options.quick else [16, 8]:
        height, width = (96, 128) if options.quick else (800, 1066)
        its = Namespace(batch=batch, height=height, width=width, targets=10)
        timed = partial(time_run, options, images=batch, what=f"training step, {height}×{width}", batch=batch)
        tf32(True)
        ours, their = (partial(f, folder, its, device=options.device) for f in (our_step, their_step))
        timed(partial(ours, BFLOAT16), precision="bfloat16", who="ours")
        timed(partial(their, BFLOAT16, best=True), precision="bfloat16", who="transformers, channels-last, fused AdamW")
        timed(partial(ours, FLOAT32), precision="tf32", who="ours")
        torch.backends.cuda.matmul.allow_tf32 = False
        timed(their, precision="as it comes", who="transformers, as it comes")
        tf32(True)
        if not options.quick and batch == 16:
            timed(partial(ours, BFLOAT16, compiled=True), precision="bfloat16", who="ours, compiled")


def generated_data(folder: Path, images: int) -> Path:
    """Photographs' sizes, seven boxes each, as COCO has them. Files repeat: decoding does not know."""
    (folder / "images").mkdir()
    for i, size in enumerate(SIZES):
        photograph(folder / "images" / f"{i}.jpg", *size)
    rows, boxes = [], []
    for i in range(images):
        height, width = SIZES[i % len(SIZES)]
        rows.append({"id": i, "file_name": f"{i % len(SIZES)}.jpg", "height": height, "width": width})
        for k in range(7):
            box = [20 * k + 5, 10 * k + 5, 120, 90]
            boxes.append({"id": 7 * i + k, "image_id": i, "category_id": k + 1, "bbox": box, "area": 10800})
    categories = [{"id": k + 1, "name": str(k + 1)} for k in range(7)]
    file = folder / "annotations.json"
    file.write_text(json.dumps({"images": rows, "annotations": boxes, "categories": categories}), encoding="utf-8")
    return file


def part_data(options: Namespace, folder: Path) -> None:
    """What loading gives alone, what training gives with it, and files to boxes."""
    tf32(True)
    cores, count = os.cpu_count() or 1, 16 if options.quick else 20_000
    batch = 2 if options.quick else 16
    data = read_coco(generated_data(folder, count), folder / "images")
    small = Augmentation(scales=[96], max_size=128, crop=0.0) if options.quick else Augmentation()

    def loader(workers: int) -> DataLoader:
        order = TrainingBatches(len(data), batch_size=batch, parts=1, own_parts=range(1), epochs=1, seed=0)
        return DataLoader(
            TrainingSet(data, training_transform(small), 0), batch_sampler=order, num_workers=workers,
            collate_fn=collate, pin_memory=options.device == "cuda", prefetch_factor=4 if workers else None,
        )  # fmt: skip

    def images_per_second(seconds: float, use: Callable[[Any], Any], workers: int) -> float:
        batches = iter(loader(workers))
        for _ in range(1 if options.quick else 4):
            use(next(batches))
        start, done = time.perf_counter(), 0
        for loaded in batches:
            use(loaded)
            done += len(loaded.images)
            if time.perf_counter() - start > seconds:
                break
        if options.device == "cuda":
            torch.cuda.synchronize()
        return done / (time.perf_counter() - start)

    seconds = 1 if options.quick else 10
    for workers in (0,) if options.quick else (1, cores):
        rate = images_per_second(seconds, lambda loaded: None, workers)
        emit(what="loading and augmenting alone", who=f"ours, {workers} workers", images_per_second=rate)

    model = ConditionalDetrForObjectDetection.from_pretrained(folder, **PAPER_TRAINING).to(options.device)
    model.to(memory_format=torch.channels_last).train()
    now: dict[str, Any] = {}
    run = step(model, lambda: model(**now).loss, build_optimizer(Recipe(), model), BFLOAT16)

    def train(loaded: Any) -> None:
        pixels = normalize(loaded.images.to(options.device, non_blocking=True))
        mask = None if loaded.pixel_mask is None else loaded.pixel_mask.to(options.device, non_blocking=True)
        labels = [{k: label[k].to(options.device) for k in ("class_labels", "boxes")} for label in loaded.labels]
        now.update(pixel_values=pixels.contiguous(memory_format=torch.channels_last), pixel_mask=mask, labels=labels)
        run()

    rate = images_per_second(seconds, train, 0 if options.quick else cores)
    emit(what="training with loading, the recipe's sizes", precision="bfloat16", batch=batch, who="ours", images_per_second=rate)  # fmt: skip

    files = [folder / "images" / name for name in data.file_names[: 4 if options.quick else 960]]
    detector = Detector.from_pretrained(folder, device=options.device, dtype=BFLOAT16)
    sources = [Source(file, tuple(size)) for file, size in zip(files, data.sizes.tolist(), strict=False)]
    for _ in range(2):
        start = time.perf_counter()
        found = list(detect(detector.model, detector.processor, sources, threshold=0.0, batch_size=batch, workers=0 if options.quick else cores))  # fmt: skip
        rate = len(found) / (time.perf_counter() - start)
    emit(what="files to boxes, many", precision="bfloat16", batch=batch, who="ours", images_per_second=rate)
    if options.device == "cpu":
        some = files[:4]
        rate = len(some) / seconds_of(their_detector(folder, some))
        emit(what="files to boxes, many", who="transformers, as it comes", images_per_second=rate)


def part_profile(options: Namespace, folder: Path) -> None:
    """Where the time of a forward pass and of a training step goes, by kernel."""
    tf32(True)
    batch = 2 if options.quick else 8
    height, width = (96, 128) if options.quick else (800, 1066)
    its = Namespace(batch=batch, height=height, width=width, targets=10)
    runs = {
        "forward pass": partial(our_forward, folder, options, batch, BFLOAT16),
        "training step": partial(our_step, folder, its, BFLOAT16, device=options.device),
    }
    activities = [torch.profiler.ProfilerActivity.CPU]
    if options.device == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    for name, build in runs.items():
        run = build()
        for _ in range(3):
            run()
        with torch.profiler.profile(activities=activities) as profile:
            for _ in range(3):
                run()
            if options.device == "cuda":
                torch.cuda.synchronize()
        key = "self_device_time_total" if options.device == "cuda" else "self_cpu_time_total"
        table = profile.key_averages().table(sort_by=key, row_limit=15, max_name_column_width=70)
        emit(what=f"profile of three runs, {name}, bfloat16, batch {batch}", table=table)


PARTS = {
    "machine": lambda options, folder: part_machine(options),
    "inference": part_inference,
    "training": part_training,
    "compiled": part_compiled,
    "data": part_data,
    "profile": part_profile,
}


# ------------------------------------------------------------------------------------------------ all of it


def run_part(name: str, options: Namespace, limit: float) -> list[dict[str, Any]]:
    """Run a part in its own process; the rows it emitted, and what went wrong."""
    command = [sys.executable, "-m", "benchmarks.gpu", "--part", name, "--device", options.device]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        try:
            done = subprocess.run([*command, *["--quick"] * options.quick], stdout=out, stderr=err, timeout=limit)
            failure = f"exit status {done.returncode}" if done.returncode else ""
        except subprocess.TimeoutExpired:
            failure = f"stopped after {limit:.0f} s"
        out.seek(0)
        err.seek(0)
        rows = [{"part": name, **json.loads(line)} for line in out if line.startswith("{") and line.endswith("}\n")]
        if failure:
            rows.append({"part": name, "what": name, "error": failure, "stderr": err.read()[-2000:]})
    return rows


def markdown(rows: list[dict[str, Any]]) -> str:
    lines = ["| | precision | batch | | median | images/s | peak | TFLOP/s |", "|---|---|---|---|---|---|---|---|"]
    rest = []
    for row in rows:
        if "images_per_second" in row or ("error" in row and "who" in row):
            median = f"{row['median_seconds'] * 1e3:.1f} ms" if "median_seconds" in row else row.get("error", "")
            rate = f"{row['images_per_second']:.1f}" if "images_per_second" in row else ""
            peak = f"{row['peak_gib']:.1f} GiB" if row.get("peak_gib") else ""
            speed = f"{row['tflops']:.1f}" if row.get("tflops") else ""
            cells = [row["what"], row.get("precision", ""), str(row.get("batch", "")), row["who"], median, rate, peak, speed]  # fmt: skip
            lines.append("| " + " | ".join(cells) + " |")
        elif "table" in row:
            rest.append(f"### {row['what']}\n\n```\n{row['table']}\n```")
        else:
            rest.append(", ".join(f"{key} {value}" for key, value in row.items() if value is not None))
    return "\n".join([*lines, "", "\n\n".join(rest), ""])


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--device", choices=("cuda", "cpu"), default="cuda", help="cpu: with --quick, to see that it works"
    )
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--seconds", type=float, default=510, help="for all parts together")
    parser.add_argument(
        "--output", default=os.environ.get("OUT", "runs/benchmarks"), help="folder for gpu.json and gpu.md"
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="which to run")
    parser.add_argument("--part", choices=PARTS, help="run this one here and print its rows")
    options = parser.parse_args(argv)
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("no GPU is to be seen here; --device cpu --quick shows whether the script works")
    if options.part:
        with tempfile.TemporaryDirectory() as name:
            save(Path(name), options.quick)
            PARTS[options.part](options, Path(name))
        return
    end = time.monotonic() + options.seconds
    rows: list[dict[str, Any]] = []
    folder = Path(options.output)
    folder.mkdir(parents=True, exist_ok=True)
    for name in options.parts:
        start = time.monotonic()
        if end - start < 10:
            rows.append({"part": name, "what": name, "error": "no time was left"})
        else:
            rows += run_part(name, options, min(LIMITS[name], end - start))
        print(f"{name}: {time.monotonic() - start:.0f} s", flush=True)
        (folder / "gpu.json").write_text(json.dumps(rows, indent=2, ensure_ascii=False), encoding="utf-8")
        (folder / "gpu.md").write_text(markdown(rows), encoding="utf-8")
    print(markdown(rows))


if __name__ == "__main__":
    main()
