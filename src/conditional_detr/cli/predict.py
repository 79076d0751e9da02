"""`cdetr predict`: what a model finds in pictures or a video, as rows and drawn."""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

from ..messages import printable
from .options import (
    add_cluster,
    add_device,
    add_engine,
    add_image_size,
    add_model,
    add_panoptic_threshold,
    add_pictures,
    add_speed,
    add_threads,
    add_tile,
    add_workers,
    check_cluster_options,
    image_size_of,
    speed_of,
    tile_of,
    values_of,
)
from .parser import CommandParser
from .progress import progress
from .threads import use_threads
from .usage import UsageError


def run(arguments: list[str]) -> None:
    values = values_of(_parser(), arguments)
    video = {name: values.pop(name) for name in ("video", "every", "track")}
    _check(values, video)
    if values["cluster"]:
        _predict_on_cluster(values)
        return
    use_threads(values.pop("threads"), pytorch=not _is_exported(values["model"]))
    if video["video"]:
        _predict_video(values, video)
    else:
        _predict(values)


def _parser() -> CommandParser:
    parser = CommandParser(
        "predict",
        "Detect in pictures, or a video; write predictions.jsonl and pictures, or a video, with boxes drawn; with a segmentation "
        "model also masks, and with a panoptic one maps of pictures in COCO's format.",
    )
    add_model(parser)
    add_pictures(parser, output="predictions", required=False)
    parser.add_argument(
        "--video",
        type=str,
        default="",
        help="in place of images: a file, an address (rtsp://…) or the number of a camera",
    )
    parser.add_argument("--every", type=int, default=1, help="of a video, every n-th frame")
    parser.add_argument(
        "--track",
        type=bool,
        default=False,
        help="of a video: give each object a number that it keeps from frame to frame",
    )
    add_panoptic_threshold(parser)
    parser.add_argument("--batch_size", type=int, default=8, help="images of a batch; only such of one size share one")
    add_workers(parser)
    add_cluster(parser)
    parser.add_argument(
        "--part_size", type=int, default=512, help="of a cluster: pictures whose results are written as one file"
    )
    add_device(parser)
    add_speed(parser)
    add_engine(parser)
    add_threads(parser)
    add_image_size(parser)
    add_tile(parser)
    parser.add_argument(
        "--write",
        type=Literal["jsonl", "coco", "csv", "yolo", "labelme", "parquet"],
        nargs="+",
        default=["jsonl"],
        help="forms to write, several allowed; predictions.jsonl is written always. On a cluster jsonl or parquet",
    )
    parser.add_argument("--draw", type=bool, default=True, help="draw pictures")
    parser.add_argument("--draw_labels", type=bool, default=True, help="write classes and scores into the pictures")
    parser.add_argument(
        "--line_width", type=int, default=0, help="of drawn boxes, in pixels; 0: by the picture and how crowded it is"
    )
    parser.add_argument(
        "--truth",
        type=str,
        default="",
        help="data set, or annotation file, of the pictures: their objects are drawn beside what is found",
    )
    parser.add_argument(
        "--skip_bad_images", type=bool, default=False, help="report unreadable images instead of stopping"
    )
    return parser


def _check(values: dict[str, Any], video: dict[str, Any]) -> None:
    """Raises UsageError for options that mean nothing, or nothing together."""
    if values["line_width"] < 0:
        raise UsageError(f"--line_width is {values['line_width']}; it is a number of pixels, or 0")
    if bool(values["images"]) == bool(video["video"]):
        raise UsageError("give --images or --video" + (", not both" if video["video"] else ""))
    if video["every"] < 1:
        raise UsageError(f"--every is {video['every']}; it is a number of frames, from 1 on")
    _check_cluster(values, video)
    if not video["video"]:
        if video["track"] or video["every"] > 1:
            raise UsageError("--track and --every are for --video")
        return
    for name in ("truth", "skip_bad_images", "panoptic_threshold"):
        if values[name]:
            raise UsageError(f"--{name} is for --images")
    if values["write"] != ["jsonl"]:
        raise UsageError("what is found in a video is written as predictions.jsonl alone: leave out --write")


def _check_cluster(values: dict[str, Any], video: dict[str, Any]) -> None:
    check_cluster_options(values)
    if values["part_size"] < 1:
        raise UsageError(f"--part_size is {values['part_size']}; it is a number of pictures, from 1 on")
    if not values["cluster"]:
        if "parquet" in values["write"]:
            raise UsageError("--write parquet is for --cluster")
        return
    if video["video"]:
        raise UsageError("--video is for one machine: leave out --cluster")
    if values["truth"]:
        raise UsageError("--truth is for one machine: on a cluster no pictures are drawn")
    if values["write"] not in (["jsonl"], ["parquet"]):
        raise UsageError("on a cluster --write is jsonl or parquet")


def _predict_on_cluster(values: dict[str, Any]) -> None:
    """List the pictures, detect in those that are missing, write parts and say how many."""
    from ..cluster.connect import check_cluster

    check_cluster(values["cluster"])
    from ..cluster.predict import begin

    given = {name: values[name] for name in ("threshold", "panoptic_threshold", "batch_size", "part_size", "actors")}
    options = {"device": values["device"] or None, **speed_of(values), **image_size_of(values)}
    (form,) = values["write"]
    run = begin(
        values["model"], values["images"], values["output"], options=options, form=form,
        threads=values["threads"] or 1, **given,
    )  # fmt: skip
    if run.done:
        print(f"{run.done} of {run.done + run.left} images are there already, in {run.output.folder}")
    done, bad, found, first = 0, 0, 0, ""
    try:
        with progress("predicting", run.left, True) as advance, closing(run.written(values["cluster"])) as written:
            for part in written:
                done, bad, found = done + part["pictures"], bad + part["bad"], found + part["found"]
                first = first or part["first_error"]
                advance(part["pictures"])
    except KeyboardInterrupt:
        _, written_to_disk = run.output.missing()  # which may be ahead of what this process has heard of
        print(f"{written_to_disk} of {run.done + run.left} images are in {run.output.folder}", file=sys.stderr)
        raise
    print(f"detections in {done - bad} images: {found}, in {run.output.folder}")
    if bad:
        print(f"{bad} images could not be used; first: {first}")


def _predict_video(values: dict[str, Any], video: dict[str, Any]) -> None:
    """Load, find, write and say how many."""
    from ..predict.detector import Detector
    from ..predict.video import video_predictions

    tile, speed, size = tile_of(values), speed_of(values), image_size_of(values)
    detector = Detector.from_pretrained(values["model"], device=values["device"] or None, **speed, **size)
    output = Path(values["output"])
    options = {name: values[name] for name in ("threshold", "batch_size", "draw", "draw_labels")}
    done, found, tracks = 0, 0, set()
    rows = video_predictions(
        detector, video["video"], output, every=video["every"], track=video["track"],
        line_width=values["line_width"] or None, **options, **tile,
    )  # fmt: skip
    try:
        with closing(rows):  # a stop here must close the drawn video, too
            for row in rows:
                done, found = done + 1, found + len(row["detections"])
                tracks |= {detection["track"] for detection in row["detections"] if "track" in detection}
    except (KeyboardInterrupt, OSError):
        if done:
            print(f"{done} frames are in {printable(output / 'predictions.jsonl')}", file=sys.stderr)
        raise
    numbered = f", {len(tracks)} tracks" if video["track"] else ""
    beside = ", the video beside it" if values["draw"] else ""
    print(f"detections in {done} frames: {found}{numbered}, in {printable(output / 'predictions.jsonl')}{beside}")


def _predict(values: dict[str, Any]) -> None:
    """Load, find, write and say how many."""
    from ..images.find import find_images
    from ..predict.detector import Detector
    from ..predict.write import predictions

    for name in ("cluster", "actors", "part_size"):
        del values[name]
    values["line_width"] = values["line_width"] or None
    values["forms"] = [form for form in values.pop("write") if form != "jsonl"]
    values |= tile_of(values)
    images = find_images(values.pop("images"))
    values["truth"] = _truth(values["truth"], images)
    speed, size = speed_of(values), image_size_of(values)
    detector = Detector.from_pretrained(values.pop("model"), device=values.pop("device") or None, **speed, **size)
    output = Path(values.pop("output"))
    values["workers"] = _workers(values["workers"], detector.model.device.type)
    with progress("predicting", len(images), True) as advance:
        found, bad, first = 0, 0, ""
        done = 0
        try:
            for row in predictions(detector, images, output, progress=advance, **values):
                done += 1
                found += len(row.get("detections", ()))
                if "error" in row:
                    bad, first = bad + 1, first or row["error"]
        except KeyboardInterrupt:
            print(f"{done} of {len(images)} images are in {printable(output / 'predictions.jsonl')}", file=sys.stderr)
            raise
    pictures = ", pictures beside it" if values["draw"] else ""
    print(f"detections in {len(images) - bad} images: {found}, in {printable(output / 'predictions.jsonl')}{pictures}")
    if bad:
        print(f"{bad} images could not be used; first: {first}")


# PyTorch takes seconds to load, and prediction with an exported detector needs none of it.


def _is_exported(model: str) -> bool:
    from ..engines.files import exported_file

    return exported_file(model) is not None


def _truth(data: str, images: list[Path]) -> Any:
    if not data:
        return None
    from ..evaluate.pictures import truth_of

    return truth_of(data, images)


def _workers(asked: int, device: str) -> int:
    if asked <= 0 and device == "cpu":
        return 0
    from ..workers import worker_count

    return worker_count(asked, device)
