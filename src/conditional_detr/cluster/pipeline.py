"""The way of the pictures through a cluster: parts of a list -> batches, read -> results -> files. Ray's streaming keeps what
is on the way bounded, starts again what a dead worker had, and keeps the order.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from .. import __version__
from .connect import causes
from .detect import BatchDetector, Detecting, batching_of
from .parts import Part
from .places import Place
from .read import Batching, PartReader
from .write import PartWriter

WRITERS = 4  # at once
BLOCK = 2**26  # bytes of pictures, about, that go to an actor together; those of a part can go to several
WINDOW = 64  # batches of pictures that follow one another are grouped by shape, as `predict.write` does


@dataclass(frozen=True)
class Actors:
    """The processes that hold a model.

    Args:
        count: how many.
        gpus, cpus: that each takes.
    """

    count: int
    gpus: int
    cpus: int


def actors_of(cluster: dict[str, float], device: str, threads: int, asked: int) -> Actors:
    """As many as the cluster has GPUs, or cores for.

    Args:
        cluster: what it has, by Ray's names.
        device: "" takes GPUs where there are some.
        threads: of each, on a CPU.
        asked: how many the user wants; 0: as many as there is room for.

    Raises:
        ValueError: there is no room for so many.
    """
    gpus, cores = int(cluster.get("GPU", 0)), int(cluster.get("CPU", 0))
    on_gpu = gpus > 0 if not device else device.startswith("cuda")
    most = gpus if on_gpu else cores // threads
    if asked > most or not most:
        what = f"{gpus} GPUs" if on_gpu else f"{cores} cores, and --threads is {threads}"
        raise ValueError(f"the cluster has {what}: no room for {max(asked, 1)} actors")
    return Actors(asked or most, int(on_gpu), 0 if on_gpu else threads)


@dataclass(frozen=True)
class Work:
    """What is asked of a cluster.

    Args:
        detecting: the model and what is asked of it. A `device` in its options is one of each machine.
        batch_size: at most so many pictures at once.
        actors: how many hold a model; 0: as many as there is room for.
    """

    detecting: Detecting
    batch_size: int
    actors: int = 0


class Pipeline:
    """Work, on the cluster that this process has joined, see `connect.connected`.

    Attributes:
        batching: how the model wants pictures.

    Raises:
        OSError, ValueError, RuntimeError: the model cannot be opened on the cluster, or there is no room for it.
    """

    def __init__(self, work: Work) -> None:
        import ray

        asked = work.detecting
        device = str(asked.options.get("device") or "")
        self.actors = actors_of(ray.cluster_resources(), device, asked.threads, work.actors)
        options = {**asked.options, "device": device or ("cuda" if self.actors.gpus else "cpu")}
        self._asked = ray.put(replace(asked, options=options))
        self._takes: dict[str, Any] = {"num_gpus": self.actors.gpus, "num_cpus": self.actors.cpus}
        window = WINDOW * work.batch_size
        opened = (
            ray.remote(batching_of).options(**self._takes).remote(self._asked, __version__, work.batch_size, window)
        )
        with causes():
            self.batching: Batching = ray.get(opened)

    def results(self, parts: Sequence[dict[str, Any]], pictures: Place | None = None) -> Any:
        """A Dataset of Ray's, a row a picture, see `BatchDetector`; in blocks of one part each, in the order of the parts.

        Args:
            parts: `name`, `count`, and `offset` and `length` in the list or `planned`, see `PartReader`.
            pictures: the list.
        """
        import ray
        from ray.data import ActorPoolStrategy, DataContext, TaskPoolStrategy

        context = DataContext.get_current()
        context.execution_options.preserve_order = True
        context.enable_progress_bars = False
        context.raise_original_map_exception = True
        context.target_max_block_size = BLOCK
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)
        # On CPUs the models have the cores, and readers take what little they need of them.
        few = {"num_cpus": 0, "compute": TaskPoolStrategy(-(-self.actors.count // 2))}
        read: dict[str, Any] = {"num_cpus": 1} if self.actors.gpus else few
        blocks: dict[str, Any] = {"batch_size": None, "batch_format": "pyarrow"}
        return (
            ray.data.from_items(list(parts), override_num_blocks=len(parts))
            .map_batches(PartReader(self.batching, pictures), **blocks, **read)
            .map_batches(
                BatchDetector,
                fn_constructor_args=(self._asked,),
                compute=ActorPoolStrategy(size=self.actors.count),
                **blocks,
                **self._takes,
            )
        )


def write_parts(work: Work, parts: Sequence[Part], pictures: Place, form: str) -> Iterator[dict[str, Any]]:
    """Detect in parts of a list, and write a file each beside it.

    Args:
        pictures: the list, see `parts.Output`.
        form: see `PartWriter`.

    Yields:
        of each part, once it is written, what `PartWriter` says of it.

    Raises:
        OSError, ValueError, RuntimeError: see `Pipeline`; or a part cannot be written.
    """
    from ray.data import TaskPoolStrategy

    rows = [{"planned": b"", **asdict(part)} for part in parts]
    found = Pipeline(work).results(rows, pictures)
    # Blocks that follow one another are put together up to the size of a part, so that each call gets one.
    written = found.map_batches(
        PartWriter(pictures.parent, form), batch_size=parts[0].count, batch_format="pyarrow", num_cpus=0,
        compute=TaskPoolStrategy(WRITERS),
    )  # fmt: skip
    with causes():
        yield from written.iter_rows()
