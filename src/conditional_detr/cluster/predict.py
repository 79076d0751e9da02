"""`cdetr predict --cluster`: detect in pictures by the million, and write a file a part of them."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .connect import connected
from .detect import Detecting
from .listing import pictures_of
from .model_files import ModelFiles
from .parts import PICTURES, Output, Part
from .pipeline import Work, write_parts
from .places import Place

FORMS = ("jsonl", "parquet")


@dataclass(frozen=True)
class Run:
    """A run whose pictures are listed, new or begun before.

    Attributes:
        output: where it writes to.
        missing: the parts that are not there.
        done: pictures in the parts that are.
        work: what is asked of the cluster.
    """

    output: Output
    missing: Sequence[Part]
    done: int
    work: Work

    @property
    def left(self) -> int:
        """Pictures in the parts that are missing."""
        return sum(part.count for part in self.missing)

    def written(self, cluster: str) -> Generator[dict[str, Any]]:
        """Detect in what is missing.

        Args:
            cluster: see `connect.connected`.

        Yields:
            of each part, once it is written, what `write.PartWriter` says of it.

        Raises:
            OSError, ValueError, RuntimeError: see `connect.connected` and `pipeline.write_parts`.
        """
        if self.missing:
            with connected(cluster):
                yield from write_parts(self.work, self.missing, self.output.folder / PICTURES, self.output.form)


def begin(
    model: str,
    images: Sequence[str],
    output: str,
    *,
    options: Mapping[str, Any],
    threshold: float = 0.5,
    panoptic_threshold: float | None = None,
    batch_size: int = 8,
    part_size: int = 512,
    form: str = "jsonl",
    threads: int = 1,
    actors: int = 0,
) -> Run:
    """Begin a run in a folder, or go on with the one that is there.

    Args:
        model: see `Detector.from_pretrained`.
        images: see `listing.pictures_of`.
        output: a folder, or an address of one.
        options: of `Detector.from_pretrained`.
        threshold, panoptic_threshold: least scores, see `run_batches`.
        batch_size: at most so many pictures at once; see `batches_of_canvases`.
        part_size: pictures of a part.
        form: one of `FORMS`.
        threads: of each actor, on a CPU.
        actors: how many hold a model; 0: one a GPU, or as many as there are cores for.

    Raises:
        OSError: the model or the pictures cannot be read, or the folder not be written to.
        ValueError: the folder holds another run's parts; or see `pictures_of`.
    """
    files = ModelFiles.read(model)
    asked = {
        "model": files.digest, "images": list(images), "threshold": threshold, "panoptic_threshold": panoptic_threshold,
        "batch_size": batch_size, **{name: str(value) for name, value in options.items() if name != "device"},
    }  # fmt: skip
    run = Output(Place.of(output), asked, part_size, form)
    run.begin(lambda: pictures_of(images))
    missing, done = run.missing()
    detecting = Detecting(files, options, threads, threshold, panoptic_threshold=panoptic_threshold)
    return Run(run, missing, done, Work(detecting, batch_size, actors))
