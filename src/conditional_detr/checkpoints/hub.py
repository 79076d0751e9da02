"""Files of a checkpoint, in a folder or on the Hugging Face hub."""

from __future__ import annotations

import socket
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, overload

HUB_OPTIONS = ("revision", "cache_dir", "token", "local_files_only", "force_download", "subfolder")
FILE_SUFFIXES = (".pth", ".pt", ".bin", ".safetensors", ".json", ".yaml", ".yml")


@overload
def local_path(name: str | Path, file_name: str, *, required: Literal[True] = True, **options: Any) -> Path: ...


@overload
def local_path(name: str | Path, file_name: str, *, required: bool, **options: Any) -> Path | None: ...


def local_path(name: str | Path, file_name: str, *, required: bool = True, **options: Any) -> Path | None:
    """Where one file of a checkpoint is on this machine, fetched from the hub if need be; None where it is absent and not
    required.

    Args:
        name: a folder, or a repository on the hub ("microsoft/conditional-detr-resnet-50").
        options: `HUB_OPTIONS`, as `huggingface_hub.hf_hub_download` takes them; `subfolder` also of a folder.

    Raises:
        OSError: no such folder or repository, or a required file is absent.
        ConnectionError: no network; it is an OSError, too.
    """
    folder = Path(name)
    if not str(name):
        raise OSError("no checkpoint is named: give a folder, a file or a hub name")
    if folder.is_dir():
        folder /= options.get("subfolder") or ""
        path = folder / file_name
        if path.is_file():
            return path
        if required:
            of_run = next(
                (inner for inner in (folder / "model", folder / "best") if (inner / file_name).is_file()), None
            )
            hint = f"the run's model is in {of_run}" if of_run else "not the folder of a saved model"
            raise OSError(f"{folder} holds no {file_name}: {hint}")
        return None
    said_to_be_here = folder.is_absolute() or str(name).startswith(".") or folder.suffix in FILE_SUFFIXES
    if said_to_be_here or str(name).count("/") > 1:
        raise OSError(f"{name} does not exist")

    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    if not _hub_has_an_address():  # the client would try for half a minute, and say so ten times
        options["local_files_only"] = True
    try:
        return Path(hf_hub_download(str(name), file_name, **options))
    except LocalEntryNotFoundError:
        if not required and _cached(name, **options):
            return None
        raise ConnectionError(
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


def _hub_has_an_address() -> bool:
    """Whether this machine can look up the hub's name, or leaves that to a proxy: False is no network for sure."""
    from huggingface_hub import constants

    if urllib.request.getproxies():
        return True
    try:
        socket.getaddrinfo(urllib.parse.urlsplit(constants.ENDPOINT).hostname, None)
    except OSError:
        return False
    return True


def upload_folder(
    repo_id: str,
    write: Callable[[Path], Any],
    *,
    commit_message: str,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
) -> str:
    """Put what `write` leaves in a folder into a repository on the hub, which is made if need be.

    Args:
        repo_id: "NAME" or "OWNER/NAME".
        write: called with an empty folder.
        commit_message, private, token, revision, create_pr: as `huggingface_hub.HfApi` takes them.

    Returns:
        the commit's address.

    Raises:
        OSError: no network, no permission, or no such name; one line.
    """
    from huggingface_hub import HfApi

    with TemporaryDirectory() as folder:
        write(Path(folder))
        try:
            api = HfApi(token=token)
            repo = api.create_repo(repo_id, private=private, exist_ok=True)
            commit = api.upload_folder(
                repo_id=repo.repo_id,
                folder_path=folder,
                commit_message=commit_message,
                revision=revision,
                create_pr=create_pr,
            )
        except Exception as error:  # the client's errors differ by version: requests', httpx's, its own
            reason = " ".join(str(error).split()) or type(error).__name__
            raise OSError(f"cannot upload to {repo_id}: {reason}") from error
    return str(commit.commit_url)


def _cached(name: str | Path, **options: Any) -> bool:
    """Whether the repository's configuration is in the local cache, so that an absent file is simply absent."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(
        str(name), "config.json", cache_dir=options.get("cache_dir"), revision=options.get("revision")
    )
    return isinstance(found, str)
