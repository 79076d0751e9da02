"""Images that memory would not hold: said before they are tried, and in one line where they were."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .batches import Device

# Values alive at once for each pixel of an image. Measured on R50: 44 of 1024×1024 pixels, 32 of 1536×1536 and more;
# with DC5 57 and 46. Networks with wider first stages hold more.
VALUES_PER_PIXEL = 40
CONTAINER = Path("/sys/fs/cgroup")  # where Linux tells a container's limits


def check_size(size: tuple[int, int], device: Device, dtype: Any) -> None:
    """Check that memory can hold the features of an image.

    Args:
        size: height and width as the model would see it.

    Raises:
        ValueError: it cannot; the message names the size and the limit.
    """
    if (reason := too_large(size, device, dtype, free_memory(device))) is not None:
        raise ValueError(reason)


def too_large(size: tuple[int, int], device: Device, dtype: Any, free: int | None) -> str | None:
    """Why `free` bytes of memory cannot hold the features of an image of this size (height and width); None if they can."""
    if free is None or size[0] * size[1] <= (most := free // (VALUES_PER_PIXEL * dtype.itemsize)):
        return None
    return (
        f"an image of {size[0]}×{size[1]} pixels, as the model would see it, does not fit into memory: "
        f"{device.type} has {free / 2**30:.1f} GiB free, enough for {most / 1e6:.1f} million pixels. "
        "Make it smaller, or give the image processor a smaller size (--image_size)"
    )


def free_memory(device: Device) -> int | None:
    """Bytes that can still be allocated; None where the system does not say."""
    if device.type == "cuda":
        import torch

        place: Any = device
        cached = torch.cuda.memory_reserved(place) - torch.cuda.memory_allocated(place)
        return torch.cuda.mem_get_info(place)[0] + cached
    facts = Path("/proc/meminfo")
    if device.type != "cpu" or not facts.is_file():
        return None
    lines = (line.split() for line in facts.read_text(encoding="utf-8").splitlines())
    available = next((int(line[1]) * 1024 for line in lines if line[0] == "MemAvailable:"), None)
    left = _left_to_container()
    return available if available is None or left is None else min(available, left)


def _left_to_container() -> int | None:
    """Bytes that a container may still take; None outside of one, or without a limit. Pages of files, which the kernel
    counts as the container's, are given back when they are needed."""
    try:
        limit, used, facts = (
            (CONTAINER / name).read_text(encoding="utf-8") for name in ("memory.max", "memory.current", "memory.stat")
        )
    except OSError:
        return None
    if not limit.strip().isdigit():  # "max"
        return None
    files = next((int(line.split()[1]) for line in facts.splitlines() if line.startswith("file ")), 0)
    return max(0, int(limit) - int(used) + files)


@contextmanager
def enough_memory(device: Device) -> Iterator[None]:
    """Turn a failed allocation into RuntimeError with one line of advice."""
    import torch

    try:
        yield
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
            raise RuntimeError(
                f"{device.type} ran out of memory: take a smaller batch (--batch_size), smaller images, or bfloat16"
            ) from None
        raise
