"""What happens when things go wrong: runs are stopped and killed at random moments, loading processes killed, disks
filled, and files of every kind damaged.

    python -m benchmarks.faults                                  # a bit of everything
    python -m benchmarks.faults signals --count 200 --seed 1     # one kind

Every trial is a function of the seed and its number. A run that is broken off is continued until it ends, and must end
with the files of one that was not: `different` counts those that do not.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from conditional_detr import Detector
from conditional_detr.data.formats.coco import read_coco
from conditional_detr.data.formats.coco_panoptic import read_panoptic
from conditional_detr.data.scenes import generate_scenes
from conditional_detr.evaluate.coco_metrics import coco_metrics
from conditional_detr.images.find import find_images
from conditional_detr.predict.write import predict
from conditional_detr.train.checkpoint_files import checkpoints, newest_checkpoint

from . import mutants
from .measure import machine

HANG_SECONDS = 60  # a process that has not ended by then hangs
PROMPT_SECONDS = 10  # what a person or a batch system waits
RECIPE: dict[str, Any] = {
    "model": {
        "backbone": "resnet18", "backbone_norm": "batch", "output_stride": 16, "d_model": 32, "encoder_layers": 1,
        "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 64,
        "decoder_ffn_dim": 64, "num_queries": 10, "auxiliary_loss": True,
    },
    "image_size": 64, "max_size": 128, "epochs": 3, "batch_size": 6, "lr": 1e-3, "backbone_lr": 1e-3, "ema": 0.9,
    "workers": 2, "log_steps": 1, "tensorboard": False, "checkpoint_steps": 2, "keep_checkpoints": 3, "preflight": False,
    "augmentation": {
        "scales": [48, 64], "max_size": 128, "crop": 0.5, "crop_scales": [64], "crop_min": 32, "crop_max": 48,
    },
}  # fmt: skip


class Runs:
    """Training runs of a few seconds, as processes of their own, and what one leaves that nothing disturbs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = generate_scenes(folder / "data", {"train": 24, "val": 10}, size=64, max_objects=4)
        self.recipe = folder / "recipe.yaml"
        self.recipe.write_text(json.dumps({**RECIPE, "data": str(self.data)}))  # JSON is YAML
        started = time.monotonic()
        process = self.start(folder / "whole")
        counts: Counter[str] = Counter()
        output = end(process, counts, (0,))
        if counts["hangs"] or process.returncode:
            raise RuntimeError(f"the run that nothing disturbs: {dict(counts)}; it said {output}")
        self.seconds = time.monotonic() - started
        self.whole = left_by(folder / "whole")

    def start(self, output: Path, limit: int | None = None) -> subprocess.Popen[str]:
        """`cdetr train`, which may write no file of more than `limit` bytes: it fails as on a full disk."""
        command = [sys.executable, "-m", "conditional_detr.cli", "train", "--config", str(self.recipe)]

        def restrict() -> None:
            if limit is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

        return subprocess.Popen(
            [*command, "--output", str(output), "--resume", "auto"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, start_new_session=True, preexec_fn=restrict, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    def compare(self, output: Path) -> list[str]:
        """Which of the files that an undisturbed run leaves differ."""
        found = left_by(output)
        return [name for name in self.whole | found if not same(self.whole.get(name), found.get(name))]


def left_by(output: Path) -> dict[str, Any]:
    """What a run has left, without what depends on the clock."""
    found: dict[str, Any] = {}
    for name in ("model", "best"):
        found[name] = load_file(output / name / "model.safetensors") if (output / name).is_dir() else None
    if newest := newest_checkpoint(output / "checkpoints"):
        found["checkpoint"] = newest[1]["model"]
    for name in ("metrics.json", "best/metrics.json"):
        found[name] = (output / name).read_text() if (output / name).is_file() else None
    clocks = ("time", "images_per_second", "data_share")
    lines = (output / "log.jsonl").read_text().splitlines() if (output / "log.jsonl").is_file() else []
    found["log"] = [{k: v for k, v in json.loads(line).items() if k not in clocks} for line in lines]
    found["half-written"] = sorted(str(path) for path in output.rglob("*.part"))
    return found


def same(a: Any, b: Any) -> bool:
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    return a == b


def processes_of(session: int) -> list[int]:
    """The processes of a session that still run."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has just ended
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(path.parent.name))
    return found


def end(process: subprocess.Popen[str], counts: Counter[str], allowed: tuple[int, ...]) -> str:
    """Wait for the end of a process, and count how it went. Returns what it has said."""
    started = time.monotonic()
    try:
        output, _ = process.communicate(timeout=HANG_SECONDS)
    except subprocess.TimeoutExpired:
        counts["hangs"] += 1
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
    else:
        counts["slow to end"] += time.monotonic() - started > PROMPT_SECONDS
        if process.returncode not in allowed:
            counts[f"ended with {process.returncode}"] += 1
            print(output[-2000:])
    counts["tracebacks"] += "Traceback" in output
    if "Traceback" in output:
        print(output[-3000:])
    time.sleep(0.1)
    if left := processes_of(process.pid):
        counts["processes left"] += 1
        for pid in left:
            os.kill(pid, signal.SIGKILL)
    return output


def finish(runs: Runs, output: Path, counts: Counter[str]) -> None:
    """Continue a run to its end, and compare what it leaves."""
    process = runs.start(output)
    end(process, counts, (0,))
    different = runs.compare(output)
    counts["different"] += bool(different)
    if different:
        print(f"{output}: differs in {', '.join(different)}")
    else:
        shutil.rmtree(output)


def signals(runs: Runs, count: int, seed: int) -> Counter[str]:
    """SIGTERM, Ctrl-C and SIGKILL at random moments, to the process or to all of its session; then on to the end."""
    counts: Counter[str] = Counter()
    sent = 0
    for trial in range(count):
        rng = random.Random(f"{seed}/signals/{trial}")
        output = runs.folder / f"signals-{trial}"
        for _ in range(3):
            if sent >= count:
                break
            number = rng.choice((signal.SIGTERM, signal.SIGTERM, signal.SIGINT, signal.SIGINT, signal.SIGKILL))
            process = runs.start(output)
            time.sleep(rng.uniform(0.0, 1.1 * runs.seconds))
            if process.poll() is not None:
                counts["ended before the signal"] += 1
                counts["tracebacks"] += "Traceback" in process.communicate()[0]
                break
            (os.killpg if number != signal.SIGKILL and rng.random() < 0.5 else os.kill)(process.pid, number)
            sent += 1
            counts[f"{number.name} sent"] += 1
            # 0: the run was complete already. A negative code: before Python could take the signal over.
            end(process, counts, (128 + number, -number, 0))
            counts["complete all the same"] += process.returncode == 0
        finish(runs, output, counts)
        if sent >= count:
            return counts
    return counts


def workers(runs: Runs, count: int, seed: int) -> Counter[str]:
    """A loading process killed at a random moment, as a system without memory does; then on to the end."""
    counts: Counter[str] = Counter()
    while counts["killed"] < count:
        rng = random.Random(f"{seed}/workers/{counts['killed']}/{counts['too late']}")
        output = runs.folder / f"workers-{counts['killed']}"
        process = runs.start(output)
        time.sleep(rng.uniform(0.3, 1.0) * runs.seconds)
        children = [pid for pid in processes_of(process.pid) if pid != process.pid]
        if not children:
            counts["too late"] += 1
            process.communicate()
            shutil.rmtree(output, ignore_errors=True)
            continue
        os.kill(rng.choice(children), signal.SIGKILL)
        counts["killed"] += 1
        said = end(process, counts, (0, 1))  # 0: it was not needed any more
        counts["explained"] += process.returncode == 1 and "process that loads images" in said.splitlines()[-1]
        counts["not needed any more"] += process.returncode == 0
        finish(runs, output, counts)
    return counts


def disk(runs: Runs, count: int, seed: int) -> Counter[str]:
    """Files that cannot be written to their end; then, with room again, on to the end."""
    counts: Counter[str] = Counter()
    for trial in range(count):
        rng = random.Random(f"{seed}/disk/{trial}")
        output = runs.folder / f"disk-{trial}"
        process = runs.start(output, limit=int(10 ** rng.uniform(2, 7)))
        said = end(process, counts, (0, 1))
        counts["said"] += process.returncode == 1 and "cannot write" in said.splitlines()[-1]
        finish(runs, output, counts)
    return counts


def damaged_checkpoints(runs: Runs, count: int, seed: int) -> Counter[str]:
    """The newest checkpoint damaged: the one before is taken, and the run ends as if nothing had been."""
    counts: Counter[str] = Counter()
    for trial in range(count):
        output = runs.folder / f"checkpoints-{trial}"
        shutil.copytree(runs.folder / "whole", output)
        newest = checkpoints(output / "checkpoints")[-1]
        what = mutants.damage_checkpoint(newest, random.Random(f"{seed}/checkpoints/{trial}"))
        process = runs.start(output)
        said = end(process, counts, (0, 1))
        counts["continued"] += process.returncode == 0
        counts["refused in a line"] += process.returncode == 1
        different = runs.compare(output)
        if process.returncode == 0 and different:
            counts["different"] += 1
            print(f"{what}: differs in {', '.join(different)}")
        if process.returncode == 1:
            print(f"{what}: {said.splitlines()[-1]}")
        shutil.rmtree(output)
    return counts


class Hang(BaseException):
    """Something took longer than it may."""


def attempt(run: Callable[[], Any], name: str, what: str, counts: Counter[str]) -> None:
    """Run something on a damaged file, and count how it went: it worked, it was refused in a line that names the file,
    or anything else, which is a defect and printed."""

    def too_long(*_: object) -> None:
        raise Hang

    previous = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(HANG_SECONDS)
    try:
        run()
        counts["accepted"] += 1
    except (OSError, ValueError) as error:
        text = str(error)
        good = name in text and "\n" not in text
        counts["refused in a line" if good else "refused, but the line does not name the file"] += 1
        if not good:
            print(f"{what}: {type(error).__name__}: {text[:300]}")
    except Hang:
        counts["hangs"] += 1
        print(f"{what}: hangs")
    except Exception as error:
        counts["tracebacks"] += 1
        print(f"{what}: {type(error).__name__}: {str(error)[:300]}")
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


def damaged_json(runs: Runs, count: int, seed: int) -> Counter[str]:
    """Annotation files with one place changed: read as for training, boxes, masks and panoptic maps; what is read is
    scored, with the truth for predictions."""
    counts: Counter[str] = Counter()
    annotations, images = runs.data / "annotations", runs.data / "images/val"
    for trial in range(count):
        rng = random.Random(f"{seed}/json/{trial}")
        kind = rng.choice(("val.json", "val.json", "panoptic_val.json"))
        content, what = mutants.damage_json(json.loads((annotations / kind).read_text()), rng)
        path = annotations / f"damaged_{kind}" if kind == "val.json" else annotations / "panoptic_damaged.json"
        path.write_text(json.dumps(content))

        def run(path: Path = path, panoptic: bool = kind != "val.json", masks: bool = rng.random() < 0.5) -> None:
            if panoptic:
                data = read_panoptic(path, images, runs.data / "panoptic/val")
            else:
                data = read_coco(path, images, masks=masks)
            data.summary(10)
            truth = data.to_coco()
            if not panoptic and truth["annotations"]:
                fields = ("image_id", "category_id", "bbox")
                coco_metrics(
                    truth, [{**{name: a[name] for name in fields}, "score": 1.0} for a in truth["annotations"]]
                )

        attempt(run, path.name, f"json {what}", counts)
        path.unlink()
    return counts


def damaged_pictures(runs: Runs, count: int, seed: int) -> Counter[str]:
    """Pictures of many formats with damaged bytes, one by one and through `predict`, which must go on after them."""
    from PIL import Image

    counts: Counter[str] = Counter()
    folder = runs.folder / "pictures"
    folder.mkdir()
    detector = Detector.from_pretrained(runs.folder / "whole/model", device="cpu")
    formats = ("png", "jpg", "webp", "tiff", "bmp", "gif", "ppm")
    with Image.open(next((runs.data / "images/val").iterdir())) as picture:
        exif = Image.Exif()
        exif[0x0112] = 6
        for name in formats:
            picture.save(folder / f"whole.{name}", **({"exif": exif} if name in ("png", "jpg", "webp", "tiff") else {}))
    whole = {name: (folder / f"whole.{name}").read_bytes() for name in formats}
    for name in formats:
        (folder / f"whole.{name}").unlink()
    for trial in range(count):
        rng = random.Random(f"{seed}/pictures/{trial}")
        name = rng.choice(formats)
        content, what = mutants.damage_bytes(whole[name], rng)
        path = folder / f"{trial}.{name}"
        path.write_bytes(content)
        attempt(lambda path=path: detector(path), path.name, f"picture {name} {what}", counts)
    good = folder / "good.bmp"
    good.write_bytes(whole["bmp"])
    output = runs.folder / "predictions"
    attempt(
        lambda: predict(detector, find_images([str(folder)]), output, skip_bad_images=True),
        "predictions", "all of them", counts,
    )  # fmt: skip
    rows = [json.loads(line) for line in (output / "predictions.jsonl").read_text().splitlines()]
    counts["pictures without a row"] += count + 1 - len(rows)
    return counts


def damaged_models(runs: Runs, count: int, seed: int) -> Counter[str]:
    """Model folders with one file damaged: its JSON in one place, or its bytes."""
    counts: Counter[str] = Counter()
    picture = next((runs.data / "images/val").iterdir())
    for trial in range(count):
        rng = random.Random(f"{seed}/models/{trial}")
        folder = shutil.copytree(runs.folder / "whole/model", runs.folder / f"model-{trial}")
        path = folder / rng.choice(("config.json", "config.json", "preprocessor_config.json", "model.safetensors"))
        if path.suffix == ".json" and rng.random() < 0.9:
            content, what = mutants.damage_json(json.loads(path.read_text()), rng)
            path.write_text(json.dumps(content))
        else:
            damaged, what = mutants.damage_bytes(path.read_bytes(), rng)
            path.write_bytes(damaged)

        def run(folder: Path = folder) -> None:
            Detector.from_pretrained(folder, device="cpu")(picture)

        attempt(run, folder.name, f"{path.name} {what}", counts)
        shutil.rmtree(folder)
    return counts


KINDS: dict[str, tuple[Callable[[Runs, int, int], Counter[str]], int]] = {
    "signals": (signals, 20),
    "workers": (workers, 5),
    "disk": (disk, 5),
    "checkpoints": (damaged_checkpoints, 20),
    "json": (damaged_json, 500),
    "pictures": (damaged_pictures, 200),
    "models": (damaged_models, 200),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", nargs="*", choices=[*KINDS, []], help="default: all")
    parser.add_argument("--count", type=int, help="trials of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", help="also write the counts there, as JSON")
    options = parser.parse_args()
    counted: dict[str, dict[str, int]] = {}
    with tempfile.TemporaryDirectory() as folder:
        runs = Runs(Path(folder))
        for kind in options.kind or KINDS:
            run, count = KINDS[kind]
            counts = run(runs, options.count or count, options.seed)
            counted[kind] = {name: value for name, value in counts.items() if value}
            print(f"{kind}: " + ", ".join(f"{value} {name}" for name, value in counted[kind].items()), flush=True)
    if options.output:
        Path(options.output).write_text(json.dumps({"machine": machine(), "seed": options.seed, **counted}, indent=2))


if __name__ == "__main__":
    main()
