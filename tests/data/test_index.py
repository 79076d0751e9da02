"""Large annotation files: read in one pass as entry by entry, and the second time from an index."""

import json
import os
import pickle
import random
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from json_mutants import mutants

from conditional_detr.data.formats import coco, index
from conditional_detr.data.sharing import SharedList
from conditional_detr.data.splits import read_split


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, which small files are kept in too."""
    monkeypatch.setenv("CDETR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(index, "LEAST", 1)
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path, scenes):
    """A copy of generated scenes with an annotation file that may be changed."""
    (tmp_path / "data/annotations").mkdir(parents=True)
    (tmp_path / "data/images").symlink_to(scenes / "images")
    (tmp_path / "data/panoptic").symlink_to(scenes / "panoptic")
    for file in (scenes / "annotations").iterdir():
        (tmp_path / "data/annotations" / file.name).write_bytes(file.read_bytes())
    return tmp_path / "data"


def content_of(data):
    """All that a data set says, to be compared."""
    values = {name: value for name, value in vars(data).items() if name not in ("masks", "_moved")}
    masks = data.masks
    if masks is not None:
        values |= {f"masks.{name}": value for name, value in vars(masks).items()}
    lists = {name: list(value) for name, value in values.items() if isinstance(value, SharedList)}
    return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in values.items()} | lists


@pytest.mark.parametrize("task", ["detection", "instance", "panoptic"])
def test_an_index_gives_what_the_file_gave_without_reading_it(folder, cache, task, monkeypatch):
    first = read_split(folder, "train", task)
    monkeypatch.setattr(coco, "read_stream", None)  # whoever reads again fails
    monkeypatch.setattr(coco, "read_json", None)
    again = read_split(folder, "train", task)
    assert content_of(again) == content_of(first) and again.summary() == first.summary()
    assert again.fingerprint() == first.fingerprint() == pickle.loads(pickle.dumps(again)).fingerprint()
    assert [f.suffix for f in sorted(cache.iterdir())] == [".lock", ".safetensors"]
    assert sorted(f.name for f in (folder / "annotations").iterdir()) == sorted(
        ["train.json", "val.json", "panoptic_train.json", "panoptic_val.json"]
    ), "nothing is written beside the data"


def test_what_was_counted_while_reading_is_said_again(folder, cache):
    file = folder / "annotations/train.json"
    content = json.loads(file.read_text())
    content["annotations"][0]["bbox"] = [-50, -50, 20, 20]
    content["annotations"][1]["bbox"][0] = -3
    content["annotations"][2]["segmentation"] = [[1, 2, 3, 4], [0, 0, 9, 0, 9, 9]]
    content["annotations"][3].pop("segmentation")
    file.write_text(json.dumps(content))
    lines = read_split(folder, "train", "instance").summary()
    assert {"without area", "were cut", "without a mask", "fewer than 3 points"} <= {
        text for text in ("without area", "were cut", "without a mask", "fewer than 3 points") if text in str(lines)
    }
    assert read_split(folder, "train", "instance").summary() == lines


def test_a_changed_file_is_read_anew_even_where_size_and_time_stay(folder, cache):
    file = folder / "annotations/train.json"
    before = read_split(folder, "train")
    content = json.loads(file.read_text())
    named = content["categories"][0]["name"]
    state = file.stat()
    file.write_text(file.read_text().replace(f'"{named}"', f'"{named[::-1]}"'))
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert file.stat().st_size == state.st_size
    assert named in before.category_names and named[::-1] in read_split(folder, "train").category_names


def test_a_damaged_index_is_made_anew(folder, cache):
    first = content_of(read_split(folder, "train", "instance"))
    (file,) = cache.glob("*.safetensors")
    whole = file.read_bytes()
    chance = random.Random(0)
    damaged = [b"", whole[:7], whole[: len(whole) // 2], b"\xff" * 40, b"\0" * len(whole), whole + b"x"]
    for _ in range(30):
        place = chance.randrange(len(whole))
        damaged.append(whole[:place] + bytes([whole[place] ^ 1 << chance.randrange(8)]) + whole[place + 1 :])
    for content in damaged:
        file.write_bytes(content)
        assert content_of(read_split(folder, "train", "instance")) == first
    assert file.stat().st_size == len(whole)


def test_an_index_of_another_version_is_made_anew(folder, cache, monkeypatch):
    read_split(folder, "train")
    (file,) = cache.glob("*.safetensors")
    old = file.read_bytes()
    monkeypatch.setattr(index, "VERSION", "other")
    read_split(folder, "train")
    assert file.read_bytes() != old


def test_missing_pictures_are_missed_and_faults_named_although_there_is_an_index(folder, cache):
    read_split(folder, "train")
    images, real = folder / "images", (folder / "images").resolve()
    images.unlink()
    images.mkdir()
    (images / "train").mkdir()
    pictures = sorted((real / "train").iterdir())
    for picture in pictures[1:]:
        (images / "train" / picture.name).symlink_to(picture)
    with pytest.raises(FileNotFoundError, match=pictures[0].name):
        read_split(folder, "train")
    assert len(read_split(folder, "train", skip_bad=True)) == len(pictures) - 1
    file = folder / "annotations/train.json"
    content = json.loads(file.read_text())
    content["annotations"][5]["bbox"] = None
    file.write_text(json.dumps(content))
    for _ in range(2):
        with pytest.raises(ValueError, match=r"train.json: annotations\[5\] \(id .*\): bbox is None; expected four"):
            read_split(folder, "train", skip_bad=True)


def test_pictures_that_may_be_missing_are_remembered_until_they_are_there(folder, cache, monkeypatch):
    images, real = folder / "images", (folder / "images").resolve()
    images.unlink()
    (images / "train").mkdir(parents=True)
    pictures = sorted((real / "train").iterdir())
    for picture in pictures[2:]:
        (images / "train" / picture.name).symlink_to(picture)
    first = read_split(folder, "train", skip_bad=True)
    assert first.missing == [picture.name for picture in pictures[:2]]
    with monkeypatch.context() as patched:
        patched.setattr(coco, "read_stream", None)  # whoever reads again fails
        assert content_of(read_split(folder, "train", skip_bad=True)) == content_of(first)
    with pytest.raises(FileNotFoundError, match=f"2 of {len(pictures)} images are not in"):
        read_split(folder, "train")
    (images / "train" / pictures[2].name).unlink()
    assert read_split(folder, "train", skip_bad=True).missing_images == 3
    for picture in pictures[:3]:
        (images / "train" / picture.name).symlink_to(picture)
    assert len(read_split(folder, "train", skip_bad=True)) == len(pictures)


def test_without_a_cache_nothing_is_kept(folder, cache, monkeypatch):
    for place in ("", os.devnull + "/no folder"):
        monkeypatch.setenv("CDETR_CACHE", place)
        assert len(read_split(folder, "train")) == 24
    assert not cache.exists()


def test_the_cache_is_where_the_system_has_it(tmp_path, monkeypatch):
    monkeypatch.delenv("CDETR_CACHE", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("HOME", str(tmp_path))
    for value, place in [("/x", "/x"), ("", tmp_path / ".cache"), ("relative", tmp_path / ".cache")]:
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert str(index.cache_folder()) == f"{place}/conditional-detr"


def test_indices_that_are_not_used_go(folder, cache, monkeypatch):
    monkeypatch.setattr(index, "MOST", 1)
    read_split(folder, "train")
    (old,) = cache.glob("*.safetensors")
    os.utime(old, (0, 0))
    read_split(folder, "val")
    assert len(list(cache.glob("*.safetensors"))) == 1 and not old.exists()


def test_of_several_that_start_together_one_reads(folder, cache, monkeypatch):
    read, calls = coco.read_stream, []

    def slow(*given):
        calls.append(given)
        time.sleep(0.3)
        return read(*given)

    monkeypatch.setattr(coco, "read_stream", slow)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: read_split(folder, "train").fingerprint(), range(4)))
    assert len(set(found)) == 1 and len(calls) == 1


@pytest.mark.slow
def test_of_processes_that_start_together_one_reads(folder, cache):
    code = (
        "import sys, time; from conditional_detr.data.formats import coco, index; index.LEAST = 1\n"
        "from conditional_detr.data.splits import read_split\n"
        "read = coco.read_stream\n"
        "def slow(*given):\n    print('read', flush=True); time.sleep(5); return read(*given)\n"
        "coco.read_stream = slow; print(read_split(sys.argv[1], 'train').fingerprint())"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    lines = [process.communicate()[0].split() for process in processes]
    assert all(process.returncode == 0 for process in processes)
    assert sorted(map(len, lines)) == [1, 1, 2] and len({line[-1] for line in lines}) == 1


@pytest.mark.parametrize("task", ["detection", "instance"])
def test_both_readers_of_coco_agree_on_damaged_files(folder, task, monkeypatch):
    """What is read in one pass is what is read entry by entry; both refuse the same in the same words."""
    file = folder / "annotations/train.json"
    content = json.loads(file.read_text())
    few = {image["id"] for image in content["images"][:4]}
    content["images"] = content["images"][:4]
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in few]
    read_at_once = 0

    def outcome():
        try:
            return content_of(read_split(folder, "train", task))
        except (OSError, ValueError) as error:
            return str(error)

    stream = coco.read_stream
    for mutant in mutants(content, seed=7, count=60):
        file.write_text(json.dumps(mutant))
        with monkeypatch.context() as patched:
            patched.setattr(coco, "read_stream", lambda *given: None)
            expected = outcome()
        read_at_once += stream(file, task == "instance") is not None
        assert outcome() == expected
    assert read_at_once > 4


def test_whatever_the_order_of_its_lists_a_file_is_read_alike(folder):
    file = folder / "annotations/train.json"
    content = json.loads(file.read_text())
    for task in ("detection", "instance"):
        file.write_text(json.dumps(content))
        expected = content_of(read_split(folder, "train", task))
        file.write_text(json.dumps(dict(sorted(content.items())), indent=1))  # annotations first
        assert content_of(read_split(folder, "train", task)) == expected


def test_a_byte_that_is_not_utf8_is_refused_wherever_it_stands(folder):
    file = folder / "annotations/train.json"
    file.write_bytes(file.read_bytes().rstrip().removesuffix(b"}") + b', "info": "\xff"}')
    with pytest.raises(ValueError, match="is not JSON"):
        read_split(folder, "train")
