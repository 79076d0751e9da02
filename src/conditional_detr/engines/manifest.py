"""What an exported file says of itself: which model it was, and how pictures are prepared for it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from ..config import DetectionConfig, Task
from ..families import CONFIG_CLASSES
from ..messages import shown

MARK = "conditional_detr"  # the entry that tells this package's files from others'
LAYOUT = "1"  # its value: of inputs, outputs and entries


@dataclass(frozen=True)
class Manifest:
    """The entries of an exported file's metadata, each a string there, JSON where it is no plain text.

    Attributes:
        config: the model's.
        task: what it is for; with masks "instance" or "panoptic".
        preprocessing: of the image processor, as `preprocessor_config.json` has it.
        license: of the weights, as the model's card says; "" where it says nothing.
        producer: this package and its version.
    """

    config: DetectionConfig
    task: Task
    preprocessing: Mapping[str, Any]
    license: str = ""
    producer: str = ""

    def to_strings(self) -> dict[str, str]:
        """The entries. `class_names` and `family` repeat what `config` says, for other programs' sake."""
        config = self.config
        return {
            MARK: LAYOUT,
            "family": config.model_type,
            "task": self.task,
            "class_names": json.dumps([config.id2label[i] for i in range(config.num_labels)], ensure_ascii=False),
            "config": json.dumps(config.to_dict(), ensure_ascii=False),
            "preprocessing": json.dumps(dict(self.preprocessing), ensure_ascii=False),
            "license": self.license,
            "producer": self.producer,
        }

    @classmethod
    def from_strings(cls, entries: Mapping[str, str], path: Path) -> Manifest:
        """Read the entries of a file.

        Raises:
            ValueError: they are not of a file that this package exported, or damaged.
        """
        if MARK not in entries:
            raise ValueError(
                f"{path} holds another model: the description is missing that `cdetr export` writes into its files, and "
                "how pictures are prepared for it is not guessed. Export the model with cdetr export"
            )
        if entries[MARK] != LAYOUT:
            raise ValueError(
                f"{path} is laid out by a newer version ({shown(entries.get('producer', '?'))}): update this one"
            )
        try:
            values, preprocessing = json.loads(entries["config"]), json.loads(entries["preprocessing"])
            config = CONFIG_CLASSES[entries["family"]].from_dict(values)
            task: Task | None = next((task for task in get_args(Task) if task == entries["task"]), None)
            if not isinstance(preprocessing, dict) or task is None:
                raise ValueError("a value of the wrong kind")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(
                f"{path}: its description of the model is damaged: {shown(str(error))}. Export it anew"
            ) from None
        return cls(config, task, preprocessing, entries.get("license", ""), entries.get("producer", ""))
