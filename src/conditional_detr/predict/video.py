"""Detect in a video, camera or stream, and write what was found: `cdetr predict --video`."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from ..results.named import Detection
from .detector import Detector
from .draw import draw_detections
from .row_file import RowFile
from .tiles import TileSide
from .tracks import LEAST_TRACKED, Tracker
from .video_file import VideoFile
from .video_frames import Frame, Video


def video_predictions(
    detector: Detector,
    source: str,
    output: Path,
    *,
    threshold: float = 0.5,
    every: int = 1,
    track: bool = False,
    batch_size: int = 8,
    draw: bool = True,
    draw_labels: bool = True,
    line_width: int | None = None,
    tile: TileSide | None = None,
) -> Generator[dict[str, Any]]:
    """Detect in frames; write `predictions.jsonl`, a whole line a frame as it goes, and beside it the video with boxes and masks drawn.

    A drawn video is `NAME.mp4` once it is whole; one that an error or a stop ended is `NAME-partial.mp4`, and plays. A camera's or a stream's
    ends by a stop.

    Args:
        source: a file, an address or the number of a camera; see `video_frames.Video`.
        threshold: least score of a detection.
        every: detect in every n-th frame; the drawn video has these alone.
        track: give each object a number that it keeps from frame to frame; see `tracks.Tracker`.
        batch_size: frames that are computed at once; of a live source one, since more would have to be waited for.
        draw, draw_labels, line_width: whether to draw a video, and how; see `draw.draw_detections`.
        tile: see `Detector.detect`.

    Yields:
        Once it is written, one dict a frame: `frame` (its number, from 0), `time` (in seconds), `width`, `height` and `detections` (label,
        score, box as x0, y0, x1, y1 in pixels, `track` where it has one, and, of a segmentation model, mask as COCO run lengths).

    Raises:
        OSError: the video cannot be opened, or read to its end; the output cannot be written.
        RuntimeError: what reads or tracks is not installed; the message says which extra.
    """
    with ExitStack() as stack:
        video = stack.enter_context(closing(Video(source)))
        tracker = Tracker(threshold, video.rate / every) if track else None
        frames = video.frames(every)
        first = list(islice(frames, 1))  # before anything is written: there may be none
        path = output / f"{_stem(source, video.live)}.mp4"
        if draw and not video.live and path.exists() and path.samefile(source):
            raise ValueError(f"--output {output}: this would overwrite the video {source}; choose another folder")
        output.mkdir(parents=True, exist_ok=True)
        lines = stack.enter_context(RowFile(output / "predictions.jsonl"))
        drawn = stack.enter_context(VideoFile(path, video.rate / every, endless=video.live)) if draw else None
        position = 0
        for batch in _batches(first, frames, 1 if video.live else batch_size):
            least = threshold if tracker is None else min(threshold, LEAST_TRACKED)
            found = detector.detect([frame.pixels for frame in batch], least, tile)
            for frame, detections in zip(batch, found, strict=True):
                numbers = [None] * len(detections) if tracker is None else tracker.update(detections)
                kept = [pair for pair in zip(detections, numbers, strict=True) if pair[0].score > threshold]
                lines.add(position, _row(frame, kept))
                if drawn is not None:
                    image = torch.from_numpy(frame.pixels).permute(2, 0, 1)
                    shown = [_shown(*pair) for pair in kept]
                    drawn.add(draw_detections(image, shown, labels=draw_labels, line_width=line_width), frame.time)
                yield from lines.write_ready()
                position += 1


def _batches(first: Sequence[Frame], frames: Iterator[Frame], size: int) -> Iterator[list[Frame]]:
    """All frames; those before one that cannot be read come before its error."""
    batch = list(first)
    while True:
        try:
            batch += islice(frames, size - len(batch))
        except OSError:
            if batch:
                yield batch
            raise
        if not batch:
            return
        yield batch
        batch = []


def _row(frame: Frame, kept: Sequence[tuple[Detection, int | None]]) -> dict[str, Any]:
    return {
        "frame": frame.number,
        "time": round(frame.time, 3),
        "width": frame.pixels.shape[1],
        "height": frame.pixels.shape[0],
        "detections": [
            {"label": d.label, "score": round(d.score, 4), "box": [round(v, 2) for v in d.box]}
            | ({} if number is None else {"track": number})
            | ({"mask": d.run_lengths} if d.run_lengths else {})
            for d, number in kept
        ],
    }


def _shown(detection: Detection, number: int | None) -> Detection:
    """A tracked object has its number in its label, and its own colour."""
    if number is None:
        return detection
    return replace(detection, label=f"{detection.label} #{number}", class_id=number)


def _stem(source: str, live: bool) -> str:
    if not live:
        return Path(source).stem
    return f"camera-{source}" if source.isdecimal() else "stream"
