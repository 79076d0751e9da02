"""Opening data sets of COCO's size, first and again: `python -m benchmarks.annotations`.

The files are made up, with as many images and objects as COCO's train2017, and lie in a temporary folder (some GB; `TMPDIR`
says where); pictures are hard links to a few. Each reading is a process of its own with an empty cache of indices, and after
it another that finds the index. Beside the wall clock stands processor time, which other programs on the machine change less.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .measure import arguments, machine, peak_memory_gib, report

WIDTH, HEIGHT = 640, 480
LINKS = 10_000  # names of one file; file systems allow some ten thousand
CATEGORIES = [{"supercategory": "x", "id": c, "name": f"class {c}", "isthing": int(c < 60)} for c in range(1, 81)]
FIELDS = {
    "license": 3,
    "coco_url": "http://images.cocodataset.org/train2017/000000000009.jpg",
    "date_captured": "2013-11-14 11:18:45",
    "flickr_url": "http://farm9.staticflickr.com/8186/8119368305_4e622c8349_z.jpg",
}  # of an image in COCO's files, which nobody here needs


def pictures(folder: Path, count: int, suffix: str) -> list[str]:
    """Make so many picture files; gives their names."""
    folder.mkdir(parents=True)
    names = [f"{number:012d}{suffix}" for number in range(count)]
    for i, name in enumerate(names):
        if i % LINKS:
            os.link(folder / names[i - i % LINKS], folder / name)
        else:
            Image.new("RGB", (WIDTH, HEIGHT), (1, 0, 0)).save(folder / name)
    return names


def boxes(count: int) -> Iterator[list[float]]:
    """x, y, width, height of objects inside an image."""
    chance = random.Random(1)
    for _ in range(count):
        width, height = chance.uniform(8, 300), chance.uniform(8, 220)
        x, y = chance.uniform(0, WIDTH - width), chance.uniform(0, HEIGHT - height)
        yield [round(x, 2), round(y, 2), round(width, 2), round(height, 2)]


def segmentation(box: list[float], number: int, chance: np.random.Generator) -> Any:
    """A polygon of 6 to 53 points in a box; of every hundredth object uncompressed run lengths, as COCO's crowds have."""
    if number % 100 == 99:
        runs = chance.integers(1, 300, 200).tolist()
        return {"counts": [*runs, WIDTH * HEIGHT - sum(runs)], "size": [HEIGHT, WIDTH]}
    x, y, width, height = box
    angles = np.sort(chance.uniform(0, 2 * np.pi, int(chance.integers(6, 54))))
    points = [x + width / 2 * (1 + np.cos(angles)), y + height / 2 * (1 + np.sin(angles))]
    return [np.stack(points, axis=1).round(2).ravel().tolist()]


def write_list(file: Any, name: str, entries: Iterator[dict[str, Any]]) -> None:
    """A list of a JSON file, entry by entry."""
    file.write(f', "{name}": [')
    for i, entry in enumerate(entries):
        file.write((", " if i else "") + json.dumps(entry))
    file.write("]")


def coco(folder: Path, names: list[str], objects: int, polygons: bool) -> None:
    """annotations/train.json, the objects in random order as COCO's are."""
    chance, generator = random.Random(0), np.random.default_rng(0)

    def annotations() -> Iterator[dict[str, Any]]:
        for number, box in enumerate(boxes(objects)):
            outline = {"segmentation": segmentation(box, number, generator)} if polygons else {}
            yield outline | {
                "area": round(box[2] * box[3] * 0.7, 4),
                "iscrowd": int(polygons and number % 100 == 99),
                "image_id": chance.randrange(len(names)),
                "bbox": box,
                "category_id": chance.randrange(1, 81),
                "id": number,
            }

    _write_json(folder / "annotations/train.json", names, annotations())


def panoptic(folder: Path, names: list[str], objects: int) -> None:
    """annotations/panoptic_train.json, and its PNG files."""
    pngs = pictures(folder / "panoptic/train", len(names), ".png")
    chance, every = random.Random(0), boxes(objects)

    def annotations() -> Iterator[dict[str, Any]]:
        for image, png in enumerate(pngs):
            own = range(objects * image // len(pngs), objects * (image + 1) // len(pngs))
            segments = [
                {"id": 1 + number % 2**20, "category_id": chance.randrange(1, 81), "iscrowd": 0,
                 "bbox": [int(side) for side in next(every)], "area": chance.randrange(50, 9000)}
                for number in own
            ]  # fmt: skip
            yield {"segments_info": segments, "file_name": png, "image_id": image}

    _write_json(folder / "annotations/panoptic_train.json", names, annotations())


def _write_json(path: Path, names: list[str], annotations: Iterator[dict[str, Any]]) -> None:
    path.parent.mkdir()
    with open(path, "w", encoding="utf-8") as file:
        file.write('{"info": {"description": "as large as COCO 2017"}')
        images = ({"file_name": n, "height": HEIGHT, "width": WIDTH, "id": i, **FIELDS} for i, n in enumerate(names))
        write_list(file, "images", images)
        write_list(file, "annotations", annotations)
        file.write(f', "categories": {json.dumps(CATEGORIES)}}}')


def by_image(names: list[str], objects: int) -> Iterator[tuple[str, list[tuple[int, list[float]]]]]:
    """Each image with its objects, class and box, for formats that list them so."""
    every, chance = boxes(objects), random.Random(0)
    for i, name in enumerate(names):
        count = objects * (i + 1) // len(names) - objects * i // len(names)
        yield name, [(chance.randrange(80), next(every)) for _ in range(count)]


def yolo(folder: Path, names: list[str], objects: int) -> None:
    """data.yaml, and a text file an image."""
    (folder / "labels/train").mkdir(parents=True)
    classes = [category["name"] for category in CATEGORIES]
    (folder / "data.yaml").write_text(f"train: images/train\nnames: {json.dumps(classes)}\n", encoding="utf-8")
    for name, own in by_image(names, objects):
        rows = [
            f"{kind} {(x + w / 2) / WIDTH:.6f} {(y + h / 2) / HEIGHT:.6f} {w / WIDTH:.6f} {h / HEIGHT:.6f}\n"
            for kind, (x, y, w, h) in own
        ]
        (folder / "labels/train" / f"{name[:-4]}.txt").write_text("".join(rows), encoding="utf-8")


def voc(folder: Path, names: list[str], objects: int) -> None:
    """An XML file an image."""
    (folder / "annotations/train").mkdir(parents=True)
    for name, own in by_image(names, objects):
        rows = [
            f"<object>\n<name>class {kind + 1}</name>\n<difficult>0</difficult>\n<bndbox>\n<xmin>{x + 1:.0f}</xmin>\n"
            f"<ymin>{y + 1:.0f}</ymin>\n<xmax>{x + w:.0f}</xmax>\n<ymax>{y + h:.0f}</ymax>\n</bndbox>\n</object>\n"
            for kind, (x, y, w, h) in own
        ]
        size = f"<size>\n<width>{WIDTH}</width>\n<height>{HEIGHT}</height>\n<depth>3</depth>\n</size>\n"
        text = f"<annotation>\n<filename>{name}</filename>\n{size}{''.join(rows)}</annotation>\n"
        (folder / "annotations/train" / f"{name[:-4]}.xml").write_text(text, encoding="utf-8")


def cvat(folder: Path, names: list[str], objects: int) -> None:
    """annotations.xml."""
    labels = "".join(f"<label><name>class {c}</name><type>any</type></label>\n" for c in range(1, 81))
    with open(folder / "annotations.xml", "w", encoding="utf-8") as file:
        file.write(f"<annotations>\n<meta><task><labels>\n{labels}</labels></task></meta>\n")
        for i, (name, own) in enumerate(by_image(names, objects)):
            file.write(f'<image id="{i}" name="{name}" subset="train" width="{WIDTH}" height="{HEIGHT}">\n')
            for kind, (x, y, w, h) in own:
                file.write(
                    f'<box label="class {kind + 1}" source="manual" occluded="0" xtl="{x}" ytl="{y}" '
                    f'xbr="{x + w:.2f}" ybr="{y + h:.2f}" z_order="0">\n</box>\n'
                )
            file.write("</image>\n")
        file.write("</annotations>\n")


# ------------------------------------------------------------------------------------------------ reading


def read(folder: str, task: str) -> dict[str, float]:
    """Read a data set; gives what it took."""
    from conditional_detr.data.splits import read_split

    imported = peak_memory_gib()
    wall, processor = time.perf_counter(), time.process_time()
    dataset = read_split(folder, "train", task, shares="")  # type: ignore[arg-type]
    taken = {"wall": time.perf_counter() - wall, "processor": time.process_time() - processor}
    taken |= {"peak_gib": peak_memory_gib(), "imports_gib": imported}
    return taken | {"images": len(dataset), "objects": len(dataset.boxes)}


def read_apart(folder: str, task: str) -> dict[str, float]:
    """As `read`, in a process of its own: memory is not given back."""
    code = "import json, sys; from benchmarks.annotations import read; print(json.dumps(read(*sys.argv[1:])))"
    command = [sys.executable, "-c", code, folder, task]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    if done.returncode:
        raise RuntimeError(f"reading failed in its own process:\n{done.stderr}")
    found: dict[str, float] = json.loads(done.stdout)
    return found


def first_and_again(folder: Path, task: str, options: argparse.Namespace) -> dict[str, list[dict[str, float]]]:
    """Read with an empty cache and then with what it holds, so many times; without `--peaks` in this process."""
    reading = read_apart if options.peaks else read
    found: dict[str, list[dict[str, float]]] = {"first": [], "again": []}
    before = os.environ.get("CDETR_CACHE")
    for _ in range(options.repeats):
        with tempfile.TemporaryDirectory() as cache:
            os.environ["CDETR_CACHE"] = cache
            for runs in found.values():
                runs.append(reading(str(folder), task))
    del os.environ["CDETR_CACHE"]
    if before is not None:
        os.environ["CDETR_CACHE"] = before
    return found


def row_of(name: str, runs: dict[str, list[dict[str, float]]], megabytes: int) -> dict[str, Any]:
    first, again = runs["first"], runs["again"]

    def median(of: list[dict[str, float]], what: str) -> float:
        return statistics.median(run[what] for run in of)

    return {
        "name": name,
        "megabytes": megabytes,
        "images": first[0]["images"],
        "objects": first[0]["objects"],
        "median_seconds": median(first, "processor"),
        "wall_seconds": median(first, "wall"),
        "peak_gib": median(first, "peak_gib"),
        "imports_gib": median(first, "imports_gib"),
        "again_median_seconds": median(again, "processor"),
        "again_wall_seconds": median(again, "wall"),
        "again_peak_gib": median(again, "peak_gib"),
        "runs": runs,
    }


@contextmanager
def data_set(names: list[str], write: Callable[[Path, list[str]], None], images: Path) -> Iterator[Path]:
    """A folder with what `write` makes of it, and the pictures."""
    with tempfile.TemporaryDirectory(dir=images.parent) as place:
        folder = Path(place)
        (folder / "images/train").mkdir(parents=True)
        for name in names:
            os.link(images / name, folder / "images/train" / name)
        write(folder, names)
        yield folder


def main(argv: list[str] | None = None) -> None:
    quick = {"images": 40, "objects": 200, "segments": 200, "files": 20}
    options = arguments(
        __doc__, argv, quick=quick, images=118_000, objects=860_000, segments=1_300_000, files=20_000, repeats=3
    )
    few = options.objects * options.files // options.images
    kinds: list[tuple[dict[str, str], int, Callable[[Path, list[str]], None]]] = [
        ({"COCO": "detection"}, options.images, lambda f, n: coco(f, n, options.objects, polygons=False)),
        (
            {"COCO with polygons": "detection", "COCO with polygons, masks": "instance"},
            options.images,
            lambda f, n: coco(f, n, options.objects, polygons=True),
        ),
        ({"COCO panoptic": "panoptic"}, options.images, lambda f, n: panoptic(f, n, options.segments)),
        ({"YOLO": "detection"}, options.files, lambda f, n: yolo(f, n, few)),
        ({"Pascal VOC": "detection"}, options.files, lambda f, n: voc(f, n, few)),
        ({"CVAT": "detection"}, options.files, lambda f, n: cvat(f, n, few)),
    ]
    rows = []
    with tempfile.TemporaryDirectory() as place:
        images = Path(place) / "pictures"
        every = pictures(images, max(options.images, options.files), ".jpg")
        for tasks, count, write in kinds:
            with data_set(every[:count], write, images) as folder:
                annotations = [f for f in folder.rglob("*") if f.suffix in (".json", ".txt", ".xml")]
                megabytes = round(sum(file.stat().st_size for file in annotations) / 1e6)
                for title, task in tasks.items():
                    rows.append(row_of(title, first_and_again(folder, task, options), megabytes))
    columns = {
        "": [row["name"] for row in rows],
        "images": [f"{row['images']:,}" for row in rows],
        "objects": [f"{row['objects']:,}" for row in rows],
        "MB": [f"{row['megabytes']}" for row in rows],
    }
    for title, start in (("first", ""), ("again", "again_")):
        columns[f"{title}: processor"] = [f"{row[f'{start}median_seconds']:.2f} s" for row in rows]
        columns[f"{title}: wall"] = [f"{row[f'{start}wall_seconds']:.2f} s" for row in rows]
        if options.peaks:
            columns[f"{title}: peak"] = [f"{row[f'{start}peak_gib']:.2f} GiB" for row in rows]
    facts = {**machine(size=256 if options.quick else 2048), "command": options.command}
    facts["peak_of_imports_gib"] = round(rows[0]["imports_gib"], 2)

    def draw(axes: Any) -> None:
        axes.barh([row["name"] for row in rows], [row["median_seconds"] for row in rows], color="tab:blue")
        axes.invert_yaxis()
        axes.set_xlabel("seconds of processor time, the first time (median)")

    report("Annotations: data sets opened, first and again", columns, rows, facts, options, draw)


if __name__ == "__main__":
    main()
