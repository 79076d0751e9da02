"""The image processor of a checkpoint: this package's where it has one of that name, else transformers'."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import transformers

from ..checkpoints.checkpoint import Checkpoint
from .image_processor import ConditionalDetrImageProcessor, DetrImageProcessor

__all__ = ["AutoImageProcessor"]

IMAGE_PROCESSORS: dict[str, Any] = {
    "ConditionalDetrImageProcessor": ConditionalDetrImageProcessor,
    "DetrImageProcessor": DetrImageProcessor,
}
_FAMILIES: dict[Any, Any] = {"conditional_detr": ConditionalDetrImageProcessor, "detr": DetrImageProcessor}


class AutoImageProcessor(transformers.AutoImageProcessor):
    """As transformers' class of this name, but for `ConditionalDetrImageProcessor` and `DetrImageProcessor`, which are this
    package's; also of an original `.pth` file."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], *inputs: Any, **kwargs: Any) -> Any:
        """The processor that transformers would give; see there.

        Raises:
            OSError, ValueError: no such checkpoint; nothing that says of which class its processor is.
        """
        path = Path(pretrained_model_name_or_path)
        if path.suffix in (".pth", ".pt") and path.is_file():
            return _FAMILIES[Checkpoint(path).model_type].from_pretrained(path, *inputs, **kwargs)
        chosen = super().from_pretrained(pretrained_model_name_or_path, *inputs, **kwargs)
        processor = chosen[0] if isinstance(chosen, tuple) else chosen  # a tuple with return_unused_kwargs
        ours = IMAGE_PROCESSORS.get(type(processor).__name__.removesuffix("Fast").removesuffix("Pil"))
        if ours is None or isinstance(processor, ours):
            return chosen
        for option in ("config", "use_fast", "backend", "trust_remote_code"):  # which choose a class
            kwargs.pop(option, None)
        return ours.from_pretrained(pretrained_model_name_or_path, *inputs, **kwargs)
