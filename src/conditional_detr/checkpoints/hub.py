"""Files of a checkpoint, in a folder or on the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def find_file(name: str | Path, file_name: str, *, required: bool = True, **options: Any) -> Path | None:
    """Path of one file of a checkpoint; None where it is absent and not required.

    Args:
        name: a folder, or a repository on the hub ("microsoft/conditional-detr-resnet-50").
        options: `revision`, `cache_dir`, `token`, `local_files_only`, as `huggingface_hub.hf_hub_download` takes them.

    Raises:
        OSError: no such folder or repository, no network, or a required file is absent.
    """
    folder = Path(name)
    if folder.is_dir():
        path = folder / file_name
        if path.is_file():
            return path
        if required:
            raise OSError(f"{folder} holds no {file_name}: not the folder of a saved model")
        return None
    if folder.is_absolute() or str(name).startswith(".") or str(name).count("/") > 1:
        raise OSError(f"{name} does not exist")

    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    try:
        return Path(hf_hub_download(str(name), file_name, **options))
    except LocalEntryNotFoundError:
        if not required and _cached(name, **options):
            return None
        raise OSError(
            f"{name} is neither a folder here nor in the local cache, and the hub cannot be reached: "
            "check the name, connect, or give a folder"
        ) from None
    except RepositoryNotFoundError:
        raise OSError(f"{name} is neither a folder here nor a repository on the hub that you may read") from None
    except EntryNotFoundError:
        if required:
            raise OSError(f"{name} on the hub has no {file_name}") from None
        return None
    except (HfHubHTTPError, ValueError, OSError) as error:
        raise OSError(f"cannot load {file_name} of {name}: {str(error).splitlines()[0]}") from None


def _cached(name: str | Path, **options: Any) -> bool:
    """Whether the repository's configuration is in the local cache, so that an absent file is simply absent."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(
        str(name), "config.json", cache_dir=options.get("cache_dir"), revision=options.get("revision")
    )
    return isinstance(found, str)
