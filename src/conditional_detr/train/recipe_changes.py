"""What a resumed run's recipe may say otherwise than the recipe it began with."""

from __future__ import annotations

from typing import Any

from .recipe import Recipe

# May change: it decides where and how often things are written or how fast data arrives, not what
# is learned.
FREE_ON_RESUME = (
    "data", "train_annotations", "train_images", "val_annotations", "val_images", "split",  # what is in them is compared instead
    "output", "resume", "init_from", "backbone_weights", "workers", "keep_checkpoints", "checkpoint_steps", "log_steps", "eval_batch_size",
    "preflight", "accumulate", "gradient_checkpointing", "compile", "tensorboard", "threads",
)  # fmt: skip


def changed_fields(saved: dict[str, Any], now: dict[str, Any], step: int, steps_per_epoch: int) -> list[str]:
    """Which fields of a resumed run's recipe differ in a way that changes what was, or will be, learned.

    What decides later steps alone may change: `epochs` and `drop_epochs` that lie ahead under schedule "step", and
    `eval_epochs` unless it decides when to stop. A field that `saved` lacks, as a version before wrote it, had its
    default.

    Args:
        saved: the recipe in the checkpoint, as `Recipe.to_dict` gives it.
        now: the recipe that is to continue, likewise.
        step: steps that the checkpoint has done.
        steps_per_epoch: steps of an epoch.

    Returns:
        "name: saved → now" of each, and why it matters where that is not plain.
    """
    defaults = Recipe().to_dict()
    saved = {**defaults, **saved}
    saved["augmentation"] = {**defaults["augmentation"], **saved["augmentation"]}
    done = -(-step // steps_per_epoch)  # epochs, the one that has begun included
    changes = []
    for name in sorted({*saved, *now} - set(FREE_ON_RESUME)):
        before: Any = saved.get(name)
        after: Any = now.get(name)
        if before == after:
            continue
        change, free = f"{name}: {before} → {after}", False
        if name not in now:
            change += ", which this version does not know"
        elif name == "epochs":
            ahead = after * steps_per_epoch >= step
            free = ahead and (now["schedule"] == "step" or step <= now["warmup_steps"])
            if ahead:
                change += ", over which schedule cosine has spread the rates from the start"
            else:
                change += f", and the checkpoint is from epoch {step / steps_per_epoch:g}"
        elif name == "drop_epochs":
            free = now["schedule"] != "step" or {d for d in before if d < done} == {d for d in after if d < done}
        elif name == "eval_epochs":
            free = not now["early_stopping"]
            change += ", which decides when early_stopping ends the run"
        elif isinstance(before, dict) and isinstance(after, dict):
            inner = [k for k in sorted({*before, *after}) if before.get(k) != after.get(k)]
            changes += [f"{name}.{k}: {before.get(k)} → {after.get(k)}" for k in inner]
            continue
        if not free:
            changes.append(change)
    return changes
