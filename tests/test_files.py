"""Files are whole or absent; what killed processes leave is found again."""

import json
import os
import stat
import subprocess
import sys

import pytest

from conditional_detr.files import read_json, remove_leftovers, write_atomically, write_json


def test_a_file_is_flushed_by_a_handle_that_may_write(tmp_path, monkeypatch):
    """Windows refuses to flush any other."""
    flushed = []
    flush = os.fsync

    def as_windows_does(handle):
        kind = os.fstat(handle).st_mode
        if stat.S_ISREG(kind):
            os.write(handle, b"")  # EBADF where it is open for reading only
        flushed.append(stat.S_IFMT(kind))
        flush(handle)

    monkeypatch.setattr(os, "fsync", as_windows_does)
    write_json(tmp_path / "a.json", {"a": 1})
    assert read_json(tmp_path / "a.json") == {"a": 1}
    # then, where the system can, its new name
    assert flushed == ([stat.S_IFREG, stat.S_IFDIR] if os.name == "posix" else [stat.S_IFREG])


def test_text_that_utf8_cannot_hold_is_written_with_escapes(tmp_path):
    """Names of files may be half characters."""
    write_json(tmp_path / "a.json", {"name": "caf\udce9", "other": "é"})
    assert read_json(tmp_path / "a.json") == {"name": "caf\udce9", "other": "é"}
    write_json(tmp_path / "b.json", {"other": "é"})
    assert "é" in (tmp_path / "b.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("text", ["[" * 100_000, "9" * 5000, '"\udce9', "{"])
def test_json_that_cannot_be_read_is_named_in_a_line(text, tmp_path):
    (tmp_path / "a.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=r"a\.json is not JSON") as raised:
        read_json(tmp_path / "a.json")
    assert "\n" not in str(raised.value)


def dead_process():
    """The number of a process that was, and is no more."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.mark.skipif(os.name != "posix", reason="Windows goes by the age of a file")
def test_leftovers_of_killed_processes_are_removed_and_nothing_else(tmp_path):
    code = (
        "import os, signal, sys; from pathlib import Path; from conditional_detr.files import write_atomically\n"
        "write_atomically(Path(sys.argv[1]), lambda beside: (beside.touch(), os.kill(os.getpid(), signal.SIGKILL)))"
    )
    for name in ("step-00000010.pt", "model/model.safetensors"):
        killed = subprocess.run([sys.executable, "-c", code, str(tmp_path / name)])
        assert killed.returncode == -9
    left = sorted(tmp_path.rglob(".*.part"))
    assert len(left) == 2
    dead = dead_process()
    (tmp_path / f".mine.{os.getpid()}.part").touch()  # of a process before this one that had the same number
    kept = [f".a.{os.getppid()}.part", f"a.{dead}.part", f".{dead}.part", ".a.0.part", ".a.part", f".a.{dead}.parts", f".a.{10**30}.part"]  # fmt: skip
    for name in kept:
        (tmp_path / name).touch()
    (tmp_path / f".folder.{dead}.part").mkdir()
    assert sorted(remove_leftovers(tmp_path)) == sorted([*left, tmp_path / f".mine.{os.getpid()}.part"])
    assert {file.name for file in tmp_path.iterdir()} == {*kept, f".folder.{dead}.part", "model"}
    assert remove_leftovers(tmp_path / "nowhere") == []


def test_a_write_that_fails_leaves_nothing(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(1), encoding="utf-8")

    def fail(beside):
        beside.touch()
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match=r"cannot write .*a\.json: No space left on device"):
        write_atomically(tmp_path / "a.json", fail)
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"] and read_json(tmp_path / "a.json") == 1
