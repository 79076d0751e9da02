"""Image processors as files: `preprocessor_config.json`, which transformers reads and writes too, in folders and on the hub."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from typing_extensions import Self

from ..checkpoints.checkpoint import PREPROCESSOR_FILE, Checkpoint
from ..checkpoints.hub import HUB_OPTIONS, local_path, upload_folder
from ..files import read_json, write_json
from .processor_arguments import replaced

_STEPS = ("do_resize", "do_rescale", "do_normalize")
_TRANSFORMERS_CHOICES = ("use_fast", "backend", "trust_remote_code", "_from_auto")


class ProcessorFiles:
    """Loading and saving of an image processor, whose public attributes are its constructor's arguments.

    Attributes:
        extra: fields of the file that are unknown here, written back as they were.
    """

    extra: dict[str, Any]

    def __init__(self, /, **arguments: Any) -> None:
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        """What `preprocessor_config.json` holds, in transformers' form, unknown fields with it."""
        values = {name: value for name, value in self._arguments().items() if value is not None}
        return {**self.extra, **values, "image_processor_type": type(self).__name__}

    def to_json_string(self) -> str:
        """`to_dict` as JSON, sorted by name."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"

    def to_json_file(self, json_file_path: str | os.PathLike[str]) -> None:
        """Write `to_dict` as JSON, sorted by name.

        Raises:
            OSError: the file cannot be written.
        """
        write_json(Path(json_file_path), dict(sorted(self.to_dict().items())))

    def __repr__(self) -> str:
        return f"{type(self).__name__} {self.to_json_string()}"

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], /, **overrides: Any) -> Self:
        """Build from the contents of a `preprocessor_config.json`; `overrides` replace its values, by whichever name.

        Raises:
            ValueError: a value that means nothing; the message names it.
        """
        # Null stands for the default in what transformers 4 writes; of a step, transformers takes it for "not".
        given = {
            name: False if value is None and name in _STEPS else value
            for name, value in replaced(values, overrides).items()
            if value is not None or name in _STEPS
        }
        for name in ("image_processor_type", "feature_extractor_type", *_TRANSFORMERS_CHOICES):
            given.pop(name, None)
        return cls(**given)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str] | Checkpoint, **overrides: Any
    ) -> Self:
        """Read the processor of a checkpoint.

        Args:
            pretrained_model_name_or_path: a folder that holds `preprocessor_config.json`, that file itself, a repository
                on the Hugging Face hub, or a `.pth` file, which says nothing about images, so that the defaults are taken;
                or a checkpoint that was found already.
            overrides: arguments of the constructor that replace what the file says; and `revision`, `cache_dir`, `token`,
                `local_files_only`, `force_download` for the hub, `subfolder` for both.

        Raises:
            OSError: no such folder, file or repository, or no network; one line.
            ValueError: the file is not JSON, or holds a value that means nothing; one line that names the file.
        """
        options = {option: overrides.pop(option) for option in HUB_OPTIONS if option in overrides}
        if isinstance(pretrained_model_name_or_path, Checkpoint):
            found = pretrained_model_name_or_path.preprocessor_path
            if found is None:
                return cls.from_dict({}, **overrides)
            path = found
        else:
            path = Path(pretrained_model_name_or_path)
            if path.suffix in (".pth", ".pt"):
                if not path.is_file():
                    raise FileNotFoundError(f"{path}: no such file")
                return cls.from_dict({}, **overrides)
            if not path.is_file():
                path = local_path(str(pretrained_model_name_or_path), PREPROCESSOR_FILE, **options)
        values = read_json(path)
        if not isinstance(values, dict):
            raise ValueError(f"{path} is not an image processor's configuration: a JSON object is needed")
        try:
            return cls.from_dict(values, **overrides)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        *,
        push_to_hub: bool = False,
        repo_id: str | None = None,
        token: str | bool | None = None,
    ) -> list[str]:
        """Write `preprocessor_config.json`, which transformers' `AutoImageProcessor` reads, and return its path in a list.

        The folder is made if need be; the file appears whole or not at all. With `push_to_hub` it goes to `repo_id` (the
        folder's name, if None) as well.

        Raises:
            OSError: the folder is a file, or cannot be written; or the upload failed.
        """
        folder = Path(save_directory)
        if folder.is_file():
            raise NotADirectoryError(f"{folder} is a file, not a folder to save an image processor in")
        self.to_json_file(folder / PREPROCESSOR_FILE)
        if push_to_hub:
            self.push_to_hub(repo_id or folder.resolve().name, token=token)
        return [str(folder / PREPROCESSOR_FILE)]

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str = "Upload image processor",
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        create_pr: bool = False,
    ) -> str:
        """Upload `preprocessor_config.json` to a repository on the hub, and return the commit's address.

        Args:
            repo_id: "OWNER/NAME"; made if need be.
            commit_message, private, token, revision, create_pr: as `huggingface_hub` takes them.

        Raises:
            OSError: no network, no permission, or no such name; one line.
        """
        return upload_folder(
            repo_id,
            self.save_pretrained,
            commit_message=commit_message,
            private=private,
            token=token,
            revision=revision,
            create_pr=create_pr,
        )

    def _arguments(self) -> dict[str, Any]:
        """The constructor's arguments with which this processor would be made again, but for `extra`."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in vars(self).items()
            if name != "extra"
        }
