"""The most memory that was in use at once: of a GPU PyTorch's tensors, of the host this process."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import torch

from ..predict.memory import free_memory

PROCESS = Path("/proc/self")  # Linux's account of this process


def begin_peak(device: torch.device) -> None:
    """Forget the peak so far."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif device.type == "cpu" and (PROCESS / "clear_refs").is_file():
        with suppress(OSError):  # some containers do not allow it; then it is the peak of the process's life
            (PROCESS / "clear_refs").write_text("5")  # see proc(5)


def peak_memory(device: torch.device) -> int | None:
    """Bytes at the peak since `begin_peak`; None where the system does not say."""
    return torch.cuda.max_memory_reserved(device) if device.type == "cuda" else _of_process("VmHWM", device)


def memory_in_use(device: torch.device) -> int | None:
    """Bytes now; None where the system does not say."""
    return torch.cuda.memory_reserved(device) if device.type == "cuda" else _of_process("VmRSS", device)


def memory_limit(device: torch.device) -> int | None:
    """Bytes that this process can have in all; None where the system does not say."""
    free, used = free_memory(device), memory_in_use(device)
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    return None if free is None or used is None else free + used


def _of_process(name: str, device: torch.device) -> int | None:
    status = PROCESS / "status"
    if device.type != "cpu" or not status.is_file():
        return None
    lines = (line.split() for line in status.read_text(encoding="utf-8").splitlines())
    return next((int(line[1]) * 1024 for line in lines if line[0] == f"{name}:"), None)
