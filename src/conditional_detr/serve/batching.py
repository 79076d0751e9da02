"""One thread that runs the model, on what waits for it: pictures of all requests, those of one shape together."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..config import Task
from ..predict.batches import PreparedBatch, batches_of_canvases
from ..predict.detector import BATCH, WINDOW, Detector
from ..predict.run import run_batches
from ..results.named import Detection, named_detections
from ..workers import worker_count
from .metrics import Metrics
from .pictures import Picture, reason_of
from .refusal import Refusal

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Found:
    """What is found in a picture."""

    size: tuple[int, int]
    detections: list[Detection]


Answer = Future[list[Found | str]]  # of a request: for each picture what is found, or what is wrong with it


@dataclass(eq=False)
class _Request:
    answer: Answer
    threshold: float
    results: list[Found | str]
    left: int  # pictures without a result


@dataclass(frozen=True, eq=False)
class _Waiting:
    picture: Picture
    request: _Request
    place: int  # among the request's pictures


class Batcher:
    """Runs a detector for many callers at once. Ends with `close`.

    What waits is batched when the model is free, as `Detector` batches a list: nobody waits for a batch to fill. The picture
    that waits longest is of the next batch, so none is passed over for ever. On a CPU the model's thread decodes too; for a
    GPU, threads of their own do.
    """

    def __init__(self, detector: Detector, most_waiting: int, metrics: Metrics) -> None:
        self.detector, self.metrics = detector, metrics
        self.most_waiting = most_waiting
        self.task: Task = "detection" if detector.model.task == "detection" else "instance"
        self._waiting: list[_Waiting] = []
        self._calls: list[tuple[Future[Any], Callable[[], Any]]] = []
        self._changed = threading.Condition()
        self._closed = False
        self._seconds_a_picture = 0.0
        decoders = worker_count(-1, detector.device.type)
        self._decoders = ThreadPoolExecutor(decoders, "decode") if decoders else None
        # Of no importance to Python's end: `close` waits for it, and a second Ctrl-C does not.
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        return len(self._waiting) + len(self._calls)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def submit(self, pictures: Sequence[Picture], threshold: float) -> Answer:
        """Have the model look at pictures; cancelling the answer takes those out that still wait.

        Raises:
            Refusal: too many wait already; or this is closed.
        """
        request = _Request(Future(), threshold, [""] * len(pictures), len(pictures))
        with self._changed:
            self._check_room(len(pictures))
            self._waiting += [_Waiting(picture, request, place) for place, picture in enumerate(pictures)]
            self._changed.notify()
        return request.answer

    def submit_call(self, call: Callable[[], Any]) -> Future[Any]:
        """Have something else done with the model, in its thread, between two batches: what `call` gives or raises.

        Raises:
            Refusal: see `submit`.
        """
        answer: Future[Any] = Future()
        with self._changed:
            self._check_room(1)
            self._calls.append((answer, call))
            self._changed.notify()
        return answer

    def _check_room(self, count: int) -> None:
        if self._closed:
            raise Refusal(503, "the server is stopping", retry_after=5)
        if self.waiting + count > self.most_waiting:
            self._waiting = [waiting for waiting in self._waiting if not waiting.request.answer.done()]
        if self.waiting + count > self.most_waiting:
            seconds = max(1, math.ceil(self.waiting * self._seconds_a_picture))
            raise Refusal(503, f"{self.waiting} pictures wait already; try again", retry_after=seconds)

    def close(self) -> None:
        """Take no more, finish what was taken, and end the threads."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()
        if self._decoders is not None:
            self._decoders.shutdown()

    def _work(self) -> None:
        torch.set_num_threads(torch.get_num_threads())  # OpenMP counts for each thread that calls it
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._calls or self._closed)
                call = self._calls.pop(0) if self._calls else None
                threshold = self._waiting[0].request.threshold if self._waiting else None
            if call is not None:
                _call(*call)
            if threshold is not None:
                self._run_or_refuse(threshold)
            elif call is None:
                return

    def _run_or_refuse(self, threshold: float) -> None:
        taken: list[_Waiting] = []
        try:
            self._run(threshold, taken)
        except Exception:
            logger.exception("the model failed on %d pictures", len(taken))
            for waiting in taken:
                left, waiting.request.left = waiting.request.left, 0
                if left and waiting.request.answer.set_running_or_notify_cancel():
                    waiting.request.answer.set_exception(_failed())

    def _run(self, threshold: float, taken: list[_Waiting]) -> None:
        """Run the model for as long as pictures wait; on a CPU one batch, whose results would be held back by the next."""
        model, names = self.detector.model, self.detector.model.config.id2label
        started = time.perf_counter()
        for batch, results in run_batches(
            model, self.detector.processor.preprocessing, self._batches(threshold, taken),
            threshold=threshold, task=self.task,
        ):  # fmt: skip
            seconds, started = time.perf_counter() - started, time.perf_counter()
            if count := len(batch.indices):
                self.metrics.batch(count, seconds)
                before = self._seconds_a_picture or seconds / count
                self._seconds_a_picture = 0.9 * before + 0.1 * seconds / count
            for index, message in batch.unreadable:
                _answer(taken[index], message)
            for index, found in zip(batch.indices, results, strict=True):
                _answer(taken[index], Found(taken[index].picture.size, named_detections(found, names)))

    def _batches(self, threshold: float, taken: list[_Waiting]) -> Iterator[PreparedBatch]:
        """Until nothing of this threshold waits, or something else does, or `WINDOW` pictures were taken, whose bytes are
        held as long."""
        while len(taken) < WINDOW and not self._calls and (own := self._take(threshold)):
            first = len(taken)
            taken += own
            decoded = (map if self._decoders is None else self._decoders.map)(self._decode, [w.picture for w in own])
            batch = PreparedBatch([], [], [])
            for i, image in enumerate(decoded):
                if isinstance(image, str):
                    batch.unreadable.append((first + i, image))
                else:
                    batch.images.append(image)
                    batch.sizes.append(own[i].picture.size)
                    batch.indices.append(first + i)
            yield batch
            if self.detector.device.type == "cpu":
                return

    def _take(self, threshold: float) -> list[_Waiting]:
        """The next batch: the picture that waits longest, and others of its canvas; none where that one has another
        threshold."""
        model = self.detector.model
        with self._changed:
            self._waiting = [waiting for waiting in self._waiting if not waiting.request.answer.done()]
            if not self._waiting or self._waiting[0].request.threshold != threshold:
                return []
            near = [waiting for waiting in self._waiting if waiting.request.threshold == threshold][:WINDOW]
            canvases = [waiting.picture.canvas for waiting in near]
            batches = batches_of_canvases(canvases, BATCH, model.device, model.recorded_shapes is not None)
            chosen = [near[i] for i in next(batch for batch in batches if 0 in batch)]
            gone = set(map(id, chosen))
            self._waiting = [waiting for waiting in self._waiting if id(waiting) not in gone]
            return chosen

    def _decode(self, picture: Picture) -> Tensor | str:
        """uint8 (3, h, w), or what is wrong with the file."""
        try:
            return self.detector.processor.preprocessing.read(picture.data, picture.size)
        except (OSError, ValueError) as error:
            return reason_of(error)


def _failed() -> Refusal:
    return Refusal(500, "the model failed; the server's log says why")


def _call(answer: Future[Any], call: Callable[[], Any]) -> None:
    if not answer.set_running_or_notify_cancel():
        return
    try:
        answer.set_result(call())
    except Refusal as refusal:
        answer.set_exception(refusal)
    except Exception:
        logger.exception("the model failed")
        answer.set_exception(_failed())


def _answer(waiting: _Waiting, result: Found | str) -> None:
    request = waiting.request
    request.results[waiting.place] = result
    request.left -= 1
    if not request.left and request.answer.set_running_or_notify_cancel():
        request.answer.set_result(request.results)
