"""Why a run cannot go on, what is left of it, and what to do: the errors and their texts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..images.open_file import REPAIR
from ..stopping import Interrupted
from .checkpoint_files import checkpoints

CONTINUE = "Continue with --resume auto"
LESS_MEMORY_SAME_RESULT = "a larger --accumulate (the same result) or --gradient_checkpointing true"
LESS_MEMORY = "a smaller --batch_size, --precision bf16, or smaller --augmentation.scales"
FINITE_LOSS = "Look at these images; else lower lr, set clip_norm, or use --precision bf16 or fp32 instead of fp16"


def what_is_left(output: Path) -> str:
    """What a run that ends between two checkpoints leaves in its folder."""
    saved = checkpoints(output / "checkpoints")
    return f"the last checkpoint is {saved[-1]}. {CONTINUE}" if saved else "nothing has been saved yet"


def stopped_after_saving(signal_number: int, path: Path) -> Interrupted:
    return Interrupted(signal_number, f"state saved in {path}. {CONTINUE}")


def stopped_before_saving(signal_number: int, output: Path) -> Interrupted:
    return Interrupted(signal_number, what_is_left(output))


class TrainingError(RuntimeError):
    """A run that cannot go on; the message says why and what to do."""

    def __reduce__(self) -> tuple[type[TrainingError], tuple[str]]:
        return TrainingError, (str(self),)  # other processes get the message; classes below take what it is made of


class RunExists(TrainingError):
    """A new run, and the folder holds one."""

    def __init__(self, output: Path) -> None:
        super().__init__(f"{output} holds a run already: continue it with --resume auto, or choose another --output")


class RecipeChanged(TrainingError):
    """A run to continue, and what it learns from, or how, is not what it was."""

    def __init__(self, path: Path, changes: Sequence[str]) -> None:
        super().__init__(
            f"cannot resume {path}: the recipe changed ({'; '.join(changes)}). Undo that, or start a new "
            "run with another --output and --init_from"
        )


class NoUsableCheckpoint(TrainingError):
    """A run to continue, and all of its checkpoints are damaged."""

    def __init__(self, output: Path) -> None:
        folder = output / "checkpoints"
        super().__init__(
            f"none of the {len(checkpoints(folder))} checkpoints in {folder} can be used: see above. Start a new run with "
            f"another --output, and --init_from {output / 'best'} if that is there"
        )


class DamagedImage(TrainingError):
    """An image that cannot be read, where the recipe does not leave such images out."""

    def __init__(self, message: str) -> None:
        super().__init__(f"{message}. {REPAIR}")


class LoadingEnded(TrainingError):
    """A process that loads images has died, between two steps."""

    def __init__(self, message: str, saved: Path) -> None:
        super().__init__(f"{message}. The state is saved in {saved}. {CONTINUE}")


class LoadingEndedInEvaluation(TrainingError):
    """A process that loads images has died in an evaluation, which is done again on resuming."""

    def __init__(self, message: str, output: Path) -> None:
        super().__init__(f"{message}; {what_is_left(output)}")


class ProcessLost(TrainingError):
    """Another process of the run has ended, or is silent, so this one cannot go on.

    Args:
        who: "process 1 of 2 (7031 on node7)", and what became of it.
    """

    def __init__(self, who: str, output: Path) -> None:
        super().__init__(f"{who}; {what_is_left(output)}")


class LossNotFinite(TrainingError):
    """A step whose loss or gradient is not finite. It has not been made.

    Args:
        step: its number, from 1.
        image_ids: of its images, on all processes.
        saved: the checkpoint from before it; None where the weights had been spoiled already.
    """

    def __init__(self, step: int, image_ids: Sequence[Any], saved: Path | None, output: Path) -> None:
        earlier = checkpoints(output / "checkpoints")
        if saved is not None:
            left = f"the state from before it is in {saved}"
        else:
            left = f"the last good state is in {earlier[-1]}" if earlier else "no earlier checkpoint had been saved"
        super().__init__(
            f"the loss is not finite at step {step} (image ids {', '.join(map(str, image_ids))}): {left}. {FINITE_LOSS}"
        )
        self.image_ids = list(image_ids)


class OutOfMemory(TrainingError):
    """A step that needs more memory than there is. It has not been made.

    Args:
        step: its number, from 1.
        shapes: of its micro-batches.
        saved: the checkpoint from before it.
    """

    def __init__(self, step: int, shapes: Sequence[tuple[int, ...]], saved: Path) -> None:
        super().__init__(
            f"out of memory at step {step} (batches of {', '.join(map(str, shapes))}); the state from before it is in "
            f"{saved}. {CONTINUE} and {LESS_MEMORY_SAME_RESULT}; or start anew with {LESS_MEMORY}"
        )

    @staticmethod
    def is_meant_by(error: RuntimeError) -> bool:
        """Whether PyTorch says by this error that memory is full: a GPU's has a class, the host's a text."""
        return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


class DeviceFailed(TrainingError):
    """A device that computes no more; nothing can be fetched from it.

    Args:
        step: the step that it failed in, from 1.
    """

    def __init__(self, step: int, error: torch.AcceleratorError, output: Path) -> None:
        earlier = checkpoints(output / "checkpoints")
        last = f"the last checkpoint is {earlier[-1]}" if earlier else "no checkpoint had been saved"
        super().__init__(
            f"the device failed at step {step} ({str(error).splitlines()[0]}): {last}. Look at the machine's log, then "
            "continue with --resume auto; --checkpoint_steps 500 would lose less"
        )


class PreflightFailed(TrainingError):
    """What would end the run later, found before its first step."""

    def __init__(self, fault: str) -> None:
        super().__init__(f"preflight: {fault}. No step has been made; --preflight false begins all the same")


class BatchTooLarge(PreflightFailed):
    """The largest batch that the data can make, and memory does not hold it.

    Args:
        shape: of the micro-batch.
        objects: of its fullest image.
        needed: bytes that it would take, where that is known without trying.
        limit: bytes that there are, likewise.
        tried: the shape of the micro-batch that memory did not hold.
    """

    def __init__(
        self,
        shape: Sequence[int],
        objects: int,
        needed: int | None = None,
        limit: int | None = None,
        tried: Sequence[int] = (),
    ) -> None:
        if tried and tuple(tried) != tuple(shape):
            why = f" (one of {tuple(tried)} was too much already)"
        else:
            why = "" if needed is None or limit is None else f" (some {amount(needed)}, and there are {amount(limit)})"
        super().__init__(
            f"memory does not hold the largest batch that the data can make, {tuple(shape)} with up to {objects} objects an "
            f"image{why}: take {LESS_MEMORY_SAME_RESULT}; or {LESS_MEMORY}"
        )


class FirstLossNotFinite(PreflightFailed):
    """The loss of the first batch, and it is not finite.

    Args:
        step: of those that were tried on it, from 1.
        image_ids: of its images.
    """

    def __init__(self, step: int, image_ids: Sequence[Any]) -> None:
        ids = ", ".join(map(str, image_ids))
        super().__init__(f"the loss of one batch (image ids {ids}) is not finite at step {step}. {FINITE_LOSS}")


class EvaluationFails(PreflightFailed):
    """The evaluation of the largest validation images, which ends in an error."""

    def __init__(self, error: Exception) -> None:
        reason = str(error).replace("--batch_size", "--eval_batch_size")  # the option that training has
        super().__init__(f"an evaluation would fail: {reason}")


class DiskTooSmall(PreflightFailed):
    """Checkpoints and models take more than is free.

    Args:
        needed, free: in bytes.
        keep: checkpoints that are kept.
    """

    def __init__(self, output: Path, needed: int, free: int, keep: int) -> None:
        super().__init__(
            f"{keep} checkpoints, one being written and the models take {amount(needed)}, and {amount(free)} are "
            f"free for {output}: free some space, choose another --output, or keep fewer (--keep_checkpoints)"
        )


def amount(count: int) -> str:
    """Bytes in words."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{max(1, count // 2**20)} MiB"
