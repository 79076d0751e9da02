"""Frames of videos, cameras and streams, upright, with their numbers and times; needs PyAV, the extra `video`."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..messages import one_line

logger = logging.getLogger(__name__)

SECONDS_TO_OPEN = 10.0  # that a stream on the network may take to answer, and between two frames
_CAMERA_FORMAT = {"linux": "v4l2", "darwin": "avfoundation", "win32": "dshow"}  # FFmpeg's names of what reads cameras


@dataclass
class Frame:
    """A picture of a video.

    Attributes:
        number: counted from 0, frames that are passed over included.
        time: seconds, as the video says; counted from the first frame.
        pixels: uint8 (height, width, 3), RGB, upright.
    """

    number: int
    time: float
    pixels: np.ndarray


class BrokenVideo(OSError):
    """A video whose further frames cannot be read; the message is one line that names it."""


class Video:
    """A video file, camera or stream, opened.

    Args:
        source: a file; an address (rtsp://…, http://…); or the number of a camera, such as "0".

    Attributes:
        live: whether frames come when they are made, so that what is not taken in time is lost.
        rate: frames a second, about; 30 where the video does not say.
        count: frames that the file says it has; None where it does not.

    Raises:
        RuntimeError: PyAV is not installed.
        OSError: it is not there, or no video; one line.
    """

    def __init__(self, source: str) -> None:
        self.name = source
        is_camera = source.isdecimal()
        self.live = is_camera or re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", source) is not None
        self._damaged = 0
        self._container = _open(source, is_camera, self.live)
        try:
            self._stream = self._container.streams.video[0]
        except IndexError:
            self._container.close()
            raise OSError(f"{source}: there is no video in it, only sound or text") from None
        self._stream.thread_type = "AUTO"
        self.rate = float(self._stream.average_rate or self._stream.guessed_rate or 30)
        self.count: int | None = (self._stream.frames or None) if not self.live else None

    def close(self) -> None:
        self._container.close()

    def frames(self, every: int = 1) -> Iterator[Frame]:
        """Every n-th frame, from the first on.

        Raises:
            BrokenVideo: it cannot be read further; or has no frames.
        """
        number, begin = -1, None
        for frame in self._decoded():
            number += 1
            time = number / self.rate if frame.time is None else float(frame.time)
            begin = time if begin is None else begin
            if number % every == 0:
                yield Frame(number, time - begin, _upright(frame))
        if number < 0:
            raise BrokenVideo(f"{self.name}: the video has no frames")
        if self._damaged:
            logger.warning("%s: %d damaged frames are left out", self.name, self._damaged)
        if self.count is not None and number + 1 + self._damaged < self.count:
            raise BrokenVideo(f"{self.name}: it ends after {number + 1} of the {self.count} frames that it should have")

    def _decoded(self) -> Iterator[Any]:
        """All frames that can be decoded: one may be damaged, and streams lose parts of some."""
        import av

        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets)
            except (StopIteration, av.error.EOFError):
                return
            except av.error.FFmpegError as error:
                raise BrokenVideo(f"{self.name}: cannot be read further: {error.strerror}") from None
            try:
                yield from packet.decode()
            except av.error.EOFError:
                return
            except av.error.InvalidDataError:
                self._damaged += 1


def _open(source: str, is_camera: bool, live: bool) -> Any:
    try:
        import av
    except ImportError:
        raise RuntimeError("videos need PyAV: pip install conditional-detr[video]") from None
    av.logging.set_level(av.logging.PANIC)  # what goes wrong is raised, and said here
    if not live and not Path(source).is_file():
        reason = "a folder" if Path(source).is_dir() else "no such file"
        raise FileNotFoundError(
            f"{source}: {reason}; --video takes a file, an address such as rtsp://…, or a camera's number"
        )
    options: dict[str, Any] = {}
    place = source
    if is_camera:
        kind = _CAMERA_FORMAT.get(sys.platform)
        place = f"/dev/video{source}" if kind == "v4l2" else f"video={source}" if kind == "dshow" else source
        options["format"] = kind
    elif live:
        options["timeout"] = SECONDS_TO_OPEN
    try:
        return av.open(place, **options)
    except (OSError, ValueError) as error:  # FFmpeg's own errors are of these
        reason = getattr(error, "strerror", None) or one_line(error)
        if is_camera:
            raise OSError(f"there is no camera {source} ({place}): {reason}") from None
        what = "cannot be opened" if live else "not a video that FFmpeg can read"
        raise OSError(f"{source}: {what}: {reason}") from None


def _upright(frame: Any) -> np.ndarray:
    pixels = frame.to_ndarray(format="rgb24")
    turns = round(getattr(frame, "rotation", 0) / 90) % 4  # phones store what they film lying, with its rotation beside
    return np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels
