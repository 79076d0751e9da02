"""All of a data set looked at: its files, its boxes and its pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...config import Task
from ...messages import one_line, printable
from ...workers import worker_count
from ..dataset import DetectionDataset
from ..formats.coco import COCO
from ..formats.format import Format, Found
from ..holdout import SPLITS
from ..splits import find_data
from .advice import Advice, advise
from .entries import read_coco_leniently
from .findings import SEVERITIES, STOPS, Example, Finding, Findings
from .objects import Seen, check_objects, check_splits, class_counts
from .pictures import Picture, check_copies, check_pictures, look_at_all

FEW = 300  # pictures: starting processes takes longer than looking at them
VERSION = 1  # of what `to_dict` gives


@dataclass
class Examination:
    """What was found.

    Args:
        sets: what could be read of each split; "" is a data set without splits.
        findings: the worst first.
        advice: of what is trained on; None where there are no objects.
    """

    data: Path
    format: str
    task: Task
    seen: Seen
    sets: dict[str, DetectionDataset]
    findings: list[Finding] = field(default_factory=list)
    advice: Advice | None = None

    @property
    def stops(self) -> bool:
        """Whether something stops training."""
        return any(finding.severity == STOPS for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, such as JSON has; the keys stay."""
        return {
            "version": VERSION,
            "data": printable(self.data),
            "format": self.format,
            "task": self.task,
            "model": {
                "image_size": self.seen.image_size,
                "max_size": self.seen.max_size,
                "output_stride": self.seen.stride,
                "num_queries": self.seen.num_queries,
            },
            "stops": self.stops,
            "splits": {name: _split_facts(data) for name, data in self.sets.items()},
            "findings": [finding.to_dict() for finding in self.findings],
            "recommended": None if self.advice is None else self.advice.to_dict(),
        }


def _split_facts(data: DetectionDataset) -> dict[str, Any]:
    objects = data.objects_per_image()
    return {
        "annotations": printable(data.annotation_file),
        "images": len(data),
        "objects": int(objects.sum()),
        "most_objects": int(objects.max(initial=0)),
        "classes": dict(zip(data.category_names, class_counts(data).tolist(), strict=True)),
        "notes": list(data.notes),
    }


def examine(
    folder: str | Path,
    task: Task = "detection",
    seen: Seen | None = None,
    workers: int = -1,
    progress: Callable[[int], Callable[[int], None]] = lambda total: lambda done: None,
) -> Examination:
    """Look at every split of a data set, and at every picture. Nothing is written.

    Args:
        seen: how the model to be trained will see it.
        workers: processes that decode; -1: one for each core, at most 8, and none for few pictures.
        progress: called with the number of pictures, gives what is called with how many more are done.

    Raises:
        OSError, ValueError: there is no data set that is known.
    """
    seen = seen or Seen()
    known = find_data(folder, task)
    if known is None:
        raise FileNotFoundError(
            f"{folder} holds no data set of a known format: COCO, YOLO, Pascal VOC, CVAT, LabelMe or Open Images"
        )
    form, found = known
    result = Examination(Path(folder), form.name, task, seen, {})
    of_split: dict[str, Findings] = {}
    for split in sorted(
        found.splits, key=lambda name: (SPLITS.index(name) if name in SPLITS else len(SPLITS), name)
    ) or ("",):
        of_split[split] = Findings(split)
        if (data := _read(form, found, split, task, of_split[split])) is not None:
            result.sets[split] = data
    across = Findings("")
    for split, data in result.sets.items():
        check_objects(data, split, seen, of_split[split])
        for remark in data.warnings:
            of_split[split].add("reader_remarks", Example(remark))
    check_splits(result.sets, across)
    _look_at_pictures(result.sets, of_split, across, workers, progress)
    result.findings = sorted(
        (finding for findings in (across, *of_split.values()) for finding in findings),
        key=lambda finding: list(SEVERITIES).index(finding.severity),
    )
    _name_images(result)
    learned = result.sets.get("train", next(iter(result.sets.values()), None))
    unsure = ("normalised_boxes", "corner_boxes", "centre_boxes", "exchanged_boxes", "exchanged_sizes")
    if learned is not None and not any(f.name in unsure and f.severity == STOPS for f in result.findings):
        result.advice = advise(learned, seen)
    return result


def _read(form: Format, found: Found, split: str, task: Task, findings: Findings) -> DetectionDataset | None:
    """A split, as far as it can be read."""
    try:
        if form is COCO and (files := found.files(split)) is not None:
            return read_coco_leniently(*files, task == "instance", findings)
        data = found.read(split, task, True)
    except (OSError, ValueError) as error:
        findings.add("unreadable_annotations", Example(one_line(error)))
        return None
    if data.missing_images:
        findings.add("missing_pictures", _first_missing(found, split, task), data.missing_images)
    return data


def _first_missing(found: Found, split: str, task: Task) -> Example | None:
    """The reader's word on the first picture that is not there."""
    try:
        found.read(split, task, False)
    except (OSError, ValueError) as error:
        return Example(one_line(error))
    return None


def _look_at_pictures(
    sets: dict[str, DetectionDataset],
    of_split: dict[str, Findings],
    across: Findings,
    workers: int,
    progress: Callable[[int], Callable[[int], None]],
) -> None:
    paths = [data.image_path(index) for data in sets.values() for index in range(len(data))]
    processes = 0 if workers < 0 and len(paths) < FEW else worker_count(workers)
    pictures: list[Picture] = list(look_at_all(paths, processes, progress(len(paths))))
    start = 0
    for split, data in sets.items():
        check_pictures(data, split, pictures[start : start + len(data)], of_split[split])
        start += len(data)
    check_copies(sets, pictures, of_split, across)


def _name_images(result: Examination) -> None:
    """Let examples that name a picture know which image that is."""
    wanted = [
        (f, e) for f in result.findings for e in f.examples if e.image < 0 and e.file_name and f.split in result.sets
    ]
    index_of = {
        split: {name: index for index, name in enumerate(result.sets[split].file_names)}
        for split in {f.split for f, _ in wanted}
    }
    for finding, example in wanted:
        example.split, example.image = finding.split, index_of[finding.split].get(example.file_name, -1)
