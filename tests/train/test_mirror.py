"""Runs and data at addresses: memory:// and file:// stand for the storage of a cloud."""

import io
import shutil

import fsspec
import pytest
import torch
from small_recipes import rows, small_recipe

from conditional_detr.cli import main
from conditional_detr.data import fetch
from conditional_detr.data.splits import read_split
from conditional_detr.remote import RemoteFolder
from conditional_detr.train import mirror
from conditional_detr.train.checkpoint_files import checkpoints, newest_checkpoint
from conditional_detr.train.failures import RunExists
from conditional_detr.train.loop import train


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CDETR_CACHE", str(tmp_path / "cache"))
    fsspec.filesystem("memory").store.clear()
    fetch._fetched.cache_clear()
    return tmp_path / "cache"


def test_a_run_at_an_address_is_continued_from_there_on_another_machine(scenes, tmp_path, cache):
    values = dict(ema=0.9, checkpoint_steps=1)
    train(small_recipe(scenes, tmp_path / "here", epochs=2, **values))
    train(small_recipe(scenes, "memory://bucket/run", epochs=1, **values))
    there = RemoteFolder("memory://bucket/run")
    names = set(there.sizes())
    assert {"recipe.yaml", "log.jsonl", "best/config.json", "model/model.safetensors", "metrics.json"} <= names
    kept = ["checkpoints/step-00000002.pt", "checkpoints/step-00000003.pt"]
    assert sorted(name for name in names if name.startswith("checkpoints/")) == kept
    assert not [name for name in names if name.startswith(".") or name.endswith(".part")]

    shutil.rmtree(cache)  # another machine
    with pytest.raises(RunExists):
        train(small_recipe(scenes, "memory://bucket/run", epochs=2, **values))
    train(small_recipe(scenes, "memory://bucket/run", epochs=2, resume="auto", **values))
    again = tmp_path / "again"
    there.get(list(there.sizes()), again)
    one, other = (newest_checkpoint(folder / "checkpoints")[1] for folder in (tmp_path / "here", again))
    assert one["progress"] == other["progress"]
    assert all(torch.equal(value, other["model"][name]) for name, value in one["model"].items())
    assert [row["step"] for row in rows(again, "train")] == [1, 2, 3, 4, 5, 6]
    assert len(checkpoints(again / "checkpoints")) == 2


def test_what_is_damaged_or_half_there_is_passed_over(tmp_path, cache):
    """The newest whole checkpoint is found, of those in the cache and those at the address."""
    run, address = tmp_path / "there/run", f"file://{tmp_path}/there/run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "recipe.yaml").write_text("epochs: 1\n")
    for step in (1, 2, 3):
        torch.save({"step": step}, run / f"checkpoints/step-{step:08d}.pt")
    newest = checkpoints(run / "checkpoints")[-1]
    newest.write_bytes(newest.read_bytes()[:300])
    kept = mirror.Mirror(address)
    kept.fetch()
    assert newest_checkpoint(kept.folder / "checkpoints")[1] == {"step": 2}
    torch.save({"step": 4}, kept.folder / "checkpoints/step-00000004.pt")  # was not sent before its machine was lost
    kept.fetch()
    assert newest_checkpoint(kept.folder / "checkpoints")[1] == {"step": 4}
    shutil.rmtree(run)  # its user begins anew
    kept.fetch()
    assert not kept.folder.exists()


@pytest.mark.parametrize("scheme", ["file", "memory"])
def test_a_copy_that_is_broken_off_leaves_what_was_there(tmp_path, monkeypatch, scheme):
    there = RemoteFolder(f"{scheme}://{tmp_path}/there")
    (tmp_path / "a").write_bytes(b"old" * 1000)
    there.put(tmp_path / "a", "checkpoints/a")
    (tmp_path / "a").write_bytes(b"newer" * 1000)

    def half(source, target, length=0):
        target.write(source.read(700))
        raise ConnectionResetError("connection reset")

    monkeypatch.setattr(shutil, "copyfileobj", half)
    for name in ("checkpoints/a", "checkpoints/b"):
        with pytest.raises(OSError, match=f"{scheme}://.* cannot be used: connection reset"):
            there.put(tmp_path / "a", name)
    assert there.sizes() == {"checkpoints/a": 3000}
    there.get(["checkpoints/a"], tmp_path / "back")
    assert (tmp_path / "back/checkpoints/a").read_bytes() == b"old" * 1000


@pytest.mark.parametrize("address", ["nothing://bucket/run", "file:///dev/null/run"])
def test_a_place_that_cannot_be_used_is_said_in_one_line_before_training(scenes, address, capsys):
    arguments = ["train", "--config", "scratch_small", "--data", str(scenes), "--output", address]
    assert main(arguments) == 1
    assert f"cdetr: {address} cannot be used: " in capsys.readouterr().err


def test_an_address_that_fails_while_training_does_not_stop_it(tmp_path, monkeypatch, caplog):
    kept = mirror.Mirror("memory://bucket/run")
    monkeypatch.setattr(mirror, "PAUSE", 0.01)
    kept.fetch()
    kept.start()
    opened = io.BytesIO()
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfileobj", lambda *_: opened.read("not a number"))
        (kept.folder / "log.jsonl").write_text("{}\n")
        while not caplog.records:
            kept._thread.join(0.01)
    assert "it is tried again" in caplog.text
    kept.finish()
    assert kept.there.sizes() == {"log.jsonl": 3}


@pytest.mark.parametrize("scheme", ["file", "memory"])
def test_data_at_an_address_is_fetched_once(scenes, tmp_path, cache, caplog, scheme):
    there = RemoteFolder(f"{scheme}://{tmp_path}/scenes")
    for path in (path for path in scenes.rglob("*") if path.is_file()):
        there.put(path, path.relative_to(scenes).as_posix())
    first = read_split(there.address, "train", "panoptic")
    assert first.fingerprint() == read_split(scenes, "train", "panoptic").fingerprint()
    assert cache in first.image_path(0).parents and caplog.text.count("fetching") == 1
    first.image_path(0).unlink()
    fetch._fetched.cache_clear()  # another process
    assert read_split(there.address, "train", "panoptic").fingerprint() == first.fingerprint()
    assert "fetching 1 files" in caplog.text
    fetch._fetched.cache_clear()
    with pytest.raises(FileNotFoundError, match=r"nowhere does not exist"):
        read_split(f"{scheme}://{tmp_path}/nowhere", "train")
