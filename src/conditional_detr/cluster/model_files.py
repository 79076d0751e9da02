"""A model on its way to other machines: as the bytes of its files, so that it need be where the command runs and nowhere else."""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..engines.files import exported_file
from ..predict.detector import Detector

# What may stand beside a file of weights, or an exported one, and belongs to it.
BESIDE = ("config.json", "preprocessor_config.json")


@dataclass(frozen=True)
class ModelFiles:
    """A saved model.

    Attributes:
        name: as it was given, for messages.
        opened: which of the files to open; "" for the folder of all, None where the name is one of the hub's.
        files: their contents.
        digest: of all of them.
    """

    name: str
    opened: str | None
    files: dict[str, bytes]
    digest: str

    @classmethod
    def read(cls, name: str) -> ModelFiles:
        """The files of a model.

        Raises:
            OSError: one cannot be read.
            ValueError: it is a program of `torch.export`.
        """
        given = Path(name)
        if given.is_dir():
            paths, opened = [path for path in given.iterdir() if path.is_file()], ""
        elif given.is_file():
            exported = exported_file(given)
            paths = [path for path in given.parent.iterdir() if path.is_file() and _belongs(path, given, exported)]
            opened = given.name
        else:
            return cls(name, None, {}, name)
        files = {path.name: path.read_bytes() for path in sorted(paths)}
        digest = hashlib.sha256()
        for file, content in files.items():
            digest.update(f"{file} {len(content)} ".encode("utf-8", "backslashreplace"))
            digest.update(content)
        return cls(name, opened, files, digest.hexdigest()[:16])

    def detector(self, **options: Any) -> Detector:
        """Open it, on whichever machine this is. Options and errors: see `Detector.from_pretrained`."""
        if self.opened is None:
            return Detector.from_pretrained(self.name, **options)
        with tempfile.TemporaryDirectory() as folder:
            for name, content in self.files.items():
                (Path(folder) / name).write_bytes(content)
            try:
                return Detector.from_pretrained(Path(folder) / self.opened, **options)
            except (OSError, ValueError) as error:
                raise type(error)(str(error).replace(str(Path(folder) / self.opened), self.name)) from None


def _belongs(path: Path, given: Path, exported: Path | None) -> bool:
    if path == given or (exported is None and path.name in BESIDE):
        return True
    return exported is not None and path.name.startswith(f"{given.stem}.")
