"""The families by their configurations, read from and written to checkpoints: the one place that lists them.

A family is a class here and a file of its name in `models/`, which is found by `models.family.family_of`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from typing_extensions import Self

from .config import MOST_QUERIES, DetectionConfig, ranged, weight
from .files import write_json
from .messages import shown

# What needs PyTorch is imported where it is used, so that `cdetr --help` and the check of a recipe stay instant.
if TYPE_CHECKING:
    from .checkpoints.checkpoint import Checkpoint
    from .classes import ClassReading


class FamilyConfig(DetectionConfig):
    """A configuration that can be read from a checkpoint and written into a folder."""

    def to_json_file(self, json_file_path: str | Path) -> None:
        """Write `to_dict` as JSON.

        Raises:
            OSError: the file cannot be written.
        """
        write_json(Path(json_file_path), self.to_dict())

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path | Checkpoint, **options: Any) -> Self:
        """Read the configuration of a checkpoint.

        Args:
            pretrained_model_name_or_path: a folder, a `.pth` file, or a name on the Hugging Face hub; or a checkpoint
                that was found already.
            options: values that replace the checkpoint's; and `revision`, `cache_dir`, `token`, `local_files_only`.

        Raises:
            OSError: there is no such checkpoint, or no network.
            ValueError: it is of another model type, or not JSON.
        """
        from .checkpoints.checkpoint import Checkpoint
        from .checkpoints.hub import HUB_OPTIONS

        files = {option: options.pop(option) for option in HUB_OPTIONS if option in options}
        return Checkpoint.find(pretrained_model_name_or_path, **files).config(cls, options)

    def save_pretrained(self, save_directory: str | Path) -> None:
        """Write `config.json`.

        Raises:
            OSError: the folder cannot be written.
        """
        self.to_json_file(Path(save_directory) / "config.json")


@dataclass(kw_only=True, init=False)
class ConditionalDetrConfig(FamilyConfig):
    """Conditional DETR (arXiv 2108.06152): 300 queries, sigmoid classes, focal loss. Fields: `DetectionConfig`."""

    model_type: ClassVar[str] = "conditional_detr"
    family_name: ClassVar[str] = "Conditional DETR"
    paper: ClassVar[str] = "https://arxiv.org/abs/2108.06152"
    panoptic_threshold: ClassVar[float] = 0.3  # sigmoid scores trained by focal loss are lower than softmax scores

    cls_loss_coefficient: float = weight(2)
    focal_alpha: float = ranged(0.25, 0, 1)

    @property
    def classes(self) -> ClassReading:
        from .classes import SigmoidClasses

        return SigmoidClasses(self.focal_alpha, self.cls_loss_coefficient)


@dataclass(kw_only=True, init=False)
class DetrConfig(FamilyConfig):
    """DETR (arXiv 2005.12872): 100 queries, softmax with "no object". Fields: `DetectionConfig`."""

    model_type: ClassVar[str] = "detr"
    family_name: ClassVar[str] = "DETR"
    paper: ClassVar[str] = "https://arxiv.org/abs/2005.12872"
    panoptic_threshold: ClassVar[float] = 0.85  # the paper's

    num_queries: int = ranged(100, 1, MOST_QUERIES)
    class_cost: float = weight(1)
    eos_coefficient: float = weight(0.1)

    @property
    def classes(self) -> ClassReading:
        from .classes import SoftmaxClasses

        return SoftmaxClasses(self.eos_coefficient)


CONFIG_CLASSES: dict[str, type[FamilyConfig]] = {c.model_type: c for c in (ConditionalDetrConfig, DetrConfig)}


def config_class_of(checkpoint: Checkpoint) -> type[FamilyConfig]:
    """The configuration's class of the family that a checkpoint is of.

    Raises:
        OSError: no such checkpoint.
        ValueError: it is of another model type, or of none.
    """
    model_type = checkpoint.model_type
    if not isinstance(model_type, str) or model_type not in CONFIG_CLASSES:
        raise ValueError(
            f"{checkpoint.config_path} is of model_type {shown(model_type)}; this package knows {', '.join(CONFIG_CLASSES)}"
        )
    return CONFIG_CLASSES[model_type]
