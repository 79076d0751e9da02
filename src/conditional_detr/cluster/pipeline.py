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
from .read import PartReader
from .write import PartWriter

WRITERS = 4  # at once
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
        pictures: the list of them, see `parts.Output`.
        part_size: pictures of each part but the last.
        batch_size: at most so many pictures at once.
        actors: how many hold a model; 0: as many as there is room for.
    """

    detecting: Detecting
    pictures: Place
    part_size: int
    batch_size: int
    actors: int = 0


def write_parts(work: Work, parts: Sequence[Part], folder: Place, form: str) -> Iterator[dict[str, Any]]:
    """Detect in parts of a list, and write a file each.

    Yields:
        of each part, once it is written, what `PartWriter` says of it.

    Raises:
        OSError, ValueError, RuntimeError: the model cannot be opened on the cluster, or there is no room for it; or a part not be
            written.
    """
    from ray.data import TaskPoolStrategy

    with causes():
        written = _results(work, parts).map_batches(
            PartWriter(folder, form),
            batch_size=work.part_size,
            batch_format="pyarrow",
            num_cpus=0,
            compute=TaskPoolStrategy(WRITERS),
        )
        yield from written.iter_rows()


def _results(work: Work, parts: Sequence[Part]) -> Any:
    """A Dataset of Ray's, a row a picture, in order, see `BatchDetector`; in blocks that are each of one part."""
    import ray
    from ray.data import ActorPoolStrategy, DataContext, TaskPoolStrategy

    context = DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    context.raise_original_map_exception = True
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    asked = work.detecting
    actors = actors_of(ray.cluster_resources(), str(asked.options.get("device") or ""), asked.threads, work.actors)
    asked = replace(
        asked, options={**asked.options, "device": "cuda" if actors.gpus else asked.options.get("device") or "cpu"}
    )
    on_actor: dict[str, Any] = {"num_gpus": actors.gpus, "num_cpus": actors.cpus}
    shared = ray.put(asked)
    batching = ray.get(
        ray.remote(batching_of)
        .options(**on_actor)
        .remote(shared, __version__, work.batch_size, WINDOW * work.batch_size)
    )
    # On CPUs the models have the cores, and readers take what little they need of them.
    read: dict[str, Any] = (
        {"num_cpus": 1} if actors.gpus else {"num_cpus": 0, "compute": TaskPoolStrategy(actors.count)}
    )
    items = ray.data.from_items([asdict(part) for part in parts], override_num_blocks=len(parts))
    return items.map_batches(
        PartReader(work.pictures, batching), batch_size=None, batch_format="pyarrow", **read
    ).map_batches(
        BatchDetector, fn_constructor_args=(shared,), batch_size=None, batch_format="pyarrow",
        compute=ActorPoolStrategy(size=actors.count), **on_actor,
    )  # fmt: skip
