"""Which detections of frames that follow one another are one object: ByteTrack, as the package `trackers` has it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from ..results.named import Detection

LEAST_TRACKED = 0.1  # score above which ByteTrack follows an object that it knows already, though it is unsure


class Tracker:
    """Numbers objects, from 0 on, in the frames of one video.

    Args:
        threshold: score above which an object is taken for new.
        rate: frames a second that come here.

    Raises:
        RuntimeError: the package is not installed, or does not load.
    """

    def __init__(self, threshold: float, rate: float) -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                import supervision
                from trackers import ByteTrackTracker
        except ImportError as error:
            raise RuntimeError(
                f"--track needs the package trackers: pip install conditional-detr[video] ({error})"
            ) from None
        self._empty, self._detections = supervision.Detections.empty, supervision.Detections
        self._tracker = ByteTrackTracker(
            frame_rate=rate,
            track_activation_threshold=threshold,
            high_conf_det_threshold=threshold,
            minimum_consecutive_frames=1,
        )

    def update(self, detections: Sequence[Detection]) -> list[int | None]:
        """The number of each detection of the next frame; None where it is not sure enough to be followed."""
        numbers: list[int | None] = [None] * len(detections)
        if detections:
            given = self._detections(
                xyxy=np.array([d.box for d in detections], dtype=np.float32),
                confidence=np.array([d.score for d in detections], dtype=np.float32),
                class_id=np.array([d.class_id for d in detections]),
                data={"position": np.arange(len(detections))},
            )
        else:
            given = self._empty()
        found = self._tracker.update(given)
        for position, number in zip(found.data.get("position", ()), found.tracker_id, strict=True):
            numbers[int(position)] = int(number) if number >= 0 else None
        return numbers
