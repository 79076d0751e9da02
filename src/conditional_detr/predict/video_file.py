"""A drawn video, whole under its name, or clearly a part; needs PyAV, the extra `video`."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from PIL import Image

from ..stopping import Interrupted

CODECS = ("libx264", "libopenh264", "mpeg4")  # the first that this FFmpeg has; all players know the first two
TICKS = 1000  # of a second: times are kept to a millisecond


class VideoFile:
    """Writes frames into an MP4 file.

    While it grows it is `.NAME.mp4.PID.part`; closed after all frames it is `path`, after an error or a stop `NAME-partial.mp4`,
    which plays up to the last frame that was written. Without frames there is no file.

    Args:
        path: of the whole video.
        rate: frames a second, about.
        endless: being stopped is how it ends, as with a camera.
    """

    def __init__(self, path: Path, rate: float, endless: bool = False) -> None:
        self.path, self.rate, self.endless = path, rate, endless
        self.written: Path | None = None  # the file, once it is closed
        self._beside = path.with_name(f".{path.name}.{os.getpid()}.part")
        self._container: Any = None
        self._stream: Any = None
        self._last = -1

    def __enter__(self) -> VideoFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._container is None:
            return
        try:
            self._container.mux(self._stream.encode())
            self._container.close()
            whole = kind is None or (self.endless and issubclass(kind, KeyboardInterrupt | Interrupted | GeneratorExit))
            self.written = self.path if whole else self.path.with_name(f"{self.path.stem}-partial{self.path.suffix}")
            os.replace(self._beside, self.written)
        except OSError as failed:
            if kind is None:
                raise OSError(f"cannot write {self.path}: {failed.strerror}") from None
        finally:
            self._beside.unlink(missing_ok=True)

    def add(self, picture: Image.Image, time: float) -> None:
        """Write a frame.

        Args:
            picture: of any size; the first one's is the video's.
            time: in seconds, later than that of the frame before.

        Raises:
            OSError: it cannot be written.
        """
        import av

        try:
            if self._container is None:
                self._begin(picture)
            if picture.size != self._size:
                picture = picture.resize(self._size)
            width, height = self._stream.width, self._stream.height
            frame = av.VideoFrame.from_ndarray(
                np.ascontiguousarray(np.asarray(picture)[:height, :width]), format="rgb24"
            )
            self._last = max(self._last + 1, round(time * TICKS))
            frame.pts, frame.time_base = self._last, Fraction(1, TICKS)
            self._container.mux(self._stream.encode(frame))
        except OSError as error:
            raise OSError(f"cannot write {self.path}: {error.strerror}; choose another folder (--output)") from None

    def _begin(self, picture: Image.Image) -> None:
        import av

        self._container = av.open(str(self._beside), "w", format="mp4")
        name = next((codec for codec in CODECS if codec in av.codecs_available), "mpeg4")
        self._stream = self._container.add_stream(name, rate=Fraction(self.rate).limit_denominator(1001))
        self._size = picture.size
        self._stream.width, self._stream.height = (
            max(2, side // 2 * 2) for side in picture.size
        )  # even, as colours are halved
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.time_base = Fraction(1, TICKS)
        if name == "mpeg4":
            self._stream.bit_rate = 4 * self._stream.width * self._stream.height
