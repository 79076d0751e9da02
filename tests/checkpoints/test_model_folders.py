"""A damaged model folder opens, or is refused in one line that names the file, before anything is built."""

import argparse
import json
import random
from dataclasses import fields

import pytest
import torch
from config_mutants import mutants
from safetensors.torch import load_file, save_file
from small_models import FAMILIES, randomise, small_config, small_model

from conditional_detr import (
    AutoImageProcessor,
    AutoModelForObjectDetection,
    ConditionalDetrConfig,
    ConditionalDetrImageProcessor,
)
from conditional_detr.checkpoints.checkpoint import Checkpoint
from conditional_detr.checkpoints.names import to_original
from conditional_detr.models.family import family_of

CLASSES = {i: f"class {i}" for i in range(12)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "whole"
    config = dict(num_labels=12, id2label=CLASSES, category_ids=list(range(1, 13)), is_thing=[True] * 12)
    small_model(output_stride=16, backbone_norm="frozen", **config).save_pretrained(folder)
    ConditionalDetrImageProcessor(size={"shortest_edge": 64, "longest_edge": 96}).save_pretrained(folder)
    return folder


def opens(path, content, load):
    """What `load` gives where `path` holds `content`; None where it is refused as it should be."""
    before = path.read_bytes()
    path.write_bytes(content)
    try:
        return load(path.parent)
    except (OSError, ValueError) as error:
        message = str(error)
        assert path.name in message and "\n" not in message and len(message) < 2000, message
        return None
    finally:
        path.write_bytes(before)


def damaged_texts(value, seed, count):
    """Mutants as bytes; every tenth is damaged as text, too."""
    chance = random.Random(seed)
    for i, (_, mutant) in enumerate(mutants(value, seed, count)):
        content = json.dumps(mutant).encode()
        if i % 10 == 0:
            place = chance.randrange(len(content))
            content = content[:place] + chance.choice((b"", b"\xff", b"[" * 50_000, content))
        yield content


@pytest.mark.parametrize("nested", [False, True])
def test_a_damaged_configuration_loads_or_is_refused_in_a_line(folder, nested):
    path = folder / "config.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    if not nested:
        values["backbone"] = values.pop("backbone_config")["backbone"]
    loaded = 0
    for content in damaged_texts(values, seed=1, count=300):
        config = opens(path, content, ConditionalDetrConfig.from_pretrained)
        if config is not None:
            loaded += 1
            assert ConditionalDetrConfig.from_dict(json.loads(config.to_json_string())) == config
    assert 10 < loaded < 290


def test_a_damaged_processor_loads_or_is_refused_in_a_line(folder):
    path = folder / "preprocessor_config.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    loaded = 0
    for content in damaged_texts(values, seed=2, count=400):
        processor = opens(path, content, ConditionalDetrImageProcessor.from_pretrained)
        if processor is not None:
            loaded += 1
            pixels = torch.zeros(3, 20, 30, dtype=torch.uint8)
            assert processor(pixels, size=32, do_pad=False).pixel_values.isfinite().all()
    assert 10 < loaded < 390


def test_a_damaged_model_loads_or_is_refused_in_a_line(folder):
    """All of it, with its weights, by the automatic classes."""
    path = folder / "config.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    for content in damaged_texts(values, seed=3, count=30):
        opens(path, content, AutoModelForObjectDetection.from_pretrained)
        opens(path, content, AutoImageProcessor.from_pretrained)


@pytest.fixture(scope="module")
def sharded(folder, tmp_path_factory):
    sharded = tmp_path_factory.mktemp("sharded")
    (sharded / "config.json").write_bytes((folder / "config.json").read_bytes())
    weights = load_file(folder / "model.safetensors")
    weights = {name: weights[name] for name in sorted(weights) if ".decoder." in name}
    save_file(dict(list(weights.items())[::2]), sharded / "a.safetensors")
    save_file(dict(list(weights.items())[1::2]), sharded / "b.safetensors")
    weight_map = {name: "ab"[i % 2] + ".safetensors" for i, name in enumerate(weights)}
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (sharded / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return sharded


def test_a_damaged_index_loads_or_is_refused_in_a_line(sharded):
    path = sharded / "model.safetensors.index.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    for content in damaged_texts(values, seed=4, count=200):
        opens(path, content, lambda folder: Checkpoint(folder).weights())


@pytest.mark.parametrize(
    "shard",
    ["/etc/passwd", "../a.safetensors", "sub/a.safetensors", "C:a.safetensors", "..\\a.safetensors", "..", "", "config.json", 7, None],
)  # fmt: skip
def test_an_index_names_files_beside_it_alone(sharded, shard, tmp_path):
    for file in sharded.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    path = tmp_path / "model.safetensors.index.json"
    (tmp_path / "sub").mkdir()
    for elsewhere in (tmp_path / "sub", tmp_path.parent):
        (elsewhere / "a.safetensors").write_bytes((sharded / "a.safetensors").read_bytes())
    index = json.loads(path.read_text(encoding="utf-8"))
    index["weight_map"]["model.decoder.x"] = shard
    path.write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(
        ValueError, match=r"index\.json: weight_map names .* for 'model\.decoder\.x'; it must be the name"
    ):
        Checkpoint(tmp_path).weights()


def test_damaged_weights_load_or_are_refused_in_a_line(folder):
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    weights = load_file(path)
    names = sorted(weights)
    chance = random.Random(5)
    header = int.from_bytes(whole[:8], "little")
    contents = [b"", b"\0" * 100, whole[:4], whole[: len(whole) // 2], b"\xff" * 8 + whole[8:]]
    for _ in range(20):
        content = bytearray(whole)
        content[8 + chance.randrange(header)] = chance.randrange(256)
        contents.append(bytes(content))
    for content in contents:
        opens(path, content, AutoModelForObjectDetection.from_pretrained)
    for change in (
        lambda t, n: t.pop(n),
        lambda t, n: t.update({n: t[n].long()}),
        lambda t, n: t.update({n: t[n].flatten()[:-1].clone()}),
        lambda t, n: t.update({n: torch.zeros(())}),
        lambda t, n: t.update({n + "\nx": t[n].clone()}),
        lambda t, n: t.clear(),
    ):
        name = chance.choice(names)
        tensors = dict(weights)
        change(tensors, name)
        save_file(tensors, path)
        changed = path.read_bytes()
        path.write_bytes(whole)
        assert opens(path, changed, AutoModelForObjectDetection.from_pretrained) is None, name


@pytest.mark.parametrize("family", FAMILIES)
def test_a_damaged_original_file_loads_or_is_refused_in_a_line(family, tmp_path):
    model = small_model(family, output_stride=32, backbone_norm="frozen")
    # Of the right shapes, and small on disk.
    whole = {
        name: torch.zeros(1).expand(t.shape) for name, t in to_original(model.state_dict(), model.weight_names).items()
    }
    path = tmp_path / "model.pth"
    chance = random.Random(6)
    args = dict(nheads=8, dilation=False, dropout=0.1, aux_loss=True)
    cases = []
    for name in [n for n in whole if "backbone" not in n and "norm" not in n][::3]:
        weights = dict(whole)
        damage = chance.choice((torch.zeros(()), torch.zeros(1), torch.zeros(2, 3, 4), weights[name].long(), None))
        weights[name] = damage
        cases.append({"model": weights, "args": argparse.Namespace(**args)})
    for values in (dict(nheads="8"), dict(nheads=2**31), dict(dropout=7.0), dict(dilation="x"), dict(aux_loss=[])):
        cases.append({"model": whole, "args": argparse.Namespace(**{**args, **values})})
    cases += [{"model": {**whole, 7: torch.zeros(1)}}, {"model": whole, "args": 3}]
    refused = 0
    for case in cases:
        torch.save(case, path)
        content = path.read_bytes()
        refused += (
            opens(path, content, lambda folder: family_of(family).detector.from_pretrained(folder / "model.pth"))
            is None
        )
    assert refused == len(cases) - 2  # a key that is no name, and arguments that are none, do no harm


# ------------------------------------------------------------------------------------------------- each field by itself

SIZES = [spec.name for spec in fields(ConditionalDetrConfig) if spec.type == "int" and spec.name != "output_stride"]
NUMBERS = [spec.name for spec in fields(ConditionalDetrConfig) if spec.type == "float"]


@pytest.mark.parametrize("name", [*SIZES, "num_labels"])
@pytest.mark.parametrize("value", [2**31, 10**400, -1, "8", 1.5, True, [8]])
def test_a_size_that_no_model_has_is_refused_before_anything_is_built(name, value):
    with pytest.raises(ValueError, match=rf"ConditionalDetrConfig: {name} must be an integer from \d to \d+, got "):
        small_config(**{name: value})


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 10**400, -0.5, "0.1", True, None])
def test_a_number_that_means_nothing_is_refused(name, value):
    if value is None:  # null stands for the default
        assert getattr(small_config(**{name: value}), name) == getattr(ConditionalDetrConfig(), name)
        return
    with pytest.raises(ValueError, match=rf"ConditionalDetrConfig: {name} must be a number from 0 to [\d.]+, got "):
        small_config(**{name: value})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (dict(id2label={"0": "a", "2": "b"}), "id2label must map 0…1 to the names of 2 classes, each number once; got '2'"),
        (dict(id2label={"0": "a", "x": "b"}), "got 'x'"),
        (dict(id2label={"0": "a", 0: "b"}), "each number once"),
        (dict(id2label={0: "a", 1.5: "b"}), "got 1.5"),
        (dict(id2label={"0": None}), "id2label must have text for class 0, got None"),
        (dict(id2label={"0": "\ud800"}), r"id2label must have text for class 0, got '\\ud800'"),
        (dict(id2label={}), "id2label has 0 classes"),
        (dict(category_ids=[1, 2, "3"]), "category_ids must be a list of integers"),
        (dict(is_thing=[1, 0, 1]), "is_thing must be a list of true and false"),
        (dict(dilation="yes"), "dilation must be true or false, got 'yes'"),
        (dict(backbone="../x"), "backbone must be a timm network's name"),
        (dict(backbone="hf-hub:someone/something"), "backbone must be a timm network's name"),
        (dict(architectures="x"), "architectures must be a list of class names"),
        (dict(backbone=None, backbone_config=7), "backbone_config must be a JSON object"),
        (dict(backbone_config={"out_indices": 3}), "backbone_config.out_indices must be a list of stages"),
        (dict(backbone_config={"output_stride": 8}), "backbone_config.output_stride must be 16 or 32, got 8"),
        (dict(d_model=36), "d_model 36 is not a multiple of encoder_attention_heads 8"),
        (dict(activation_function=["relu"]), "activation_function must be one of relu, gelu, silu"),
    ],
)  # fmt: skip
def test_a_wrong_field_is_named_with_what_it_must_be(values, message):
    with pytest.raises(ValueError, match=message) as raised:
        ConditionalDetrConfig(**{"num_labels": None, "id2label": {0: "a", 1: "b", 2: "c"}, **values})
    assert "\n" not in str(raised.value)


def test_classes_have_the_order_of_their_numbers(tmp_path):
    """Whatever order a file has them in: sorted as text, 10 comes before 2."""
    config = ConditionalDetrConfig(id2label=CLASSES)
    values = {**config.to_dict(), "id2label": {key: CLASSES[int(key)] for key in sorted(map(str, CLASSES))}}
    assert list(values["id2label"])[:3] == ["0", "1", "10"]
    (tmp_path / "config.json").write_text(json.dumps(values), encoding="utf-8")
    back = ConditionalDetrConfig.from_pretrained(tmp_path)
    assert list(back.id2label.items()) == list(CLASSES.items()) and back == config


def test_the_number_of_classes_can_be_set():
    config = ConditionalDetrConfig(id2label=CLASSES, category_ids=list(range(12)), is_thing=[True] * 12)
    config.num_labels = 12
    assert config.id2label == CLASSES and config.category_ids
    config.num_labels = 2
    assert config.id2label == {0: "LABEL_0", 1: "LABEL_1"} and config.label2id == {"LABEL_0": 0, "LABEL_1": 1}
    assert config.category_ids is None and config.is_thing is None
    with pytest.raises(ValueError, match="num_labels must be an integer from 1 to 100000, got 2147483648"):
        config.num_labels = 2**31


def test_other_classes_than_the_files_bring_their_own_ids(folder):
    for classes in (dict(num_labels=5), dict(id2label={0: "a"})):
        model = AutoModelForObjectDetection.from_pretrained(folder, **classes)
        assert model.config.category_ids is None and model.config.is_thing is None
    assert ConditionalDetrConfig.from_pretrained(folder, num_labels=12).category_ids == list(range(1, 13))
    assert ConditionalDetrConfig.from_dict({"num_labels": 3}, id2label={0: "a"}).id2label == {0: "a"}


# --------------------------------------------------------------------------------------------------- transformers' names


def test_the_keywords_are_transformers(folder, tmp_path):
    model = AutoModelForObjectDetection.from_pretrained(pretrained_model_name_or_path=folder)
    model = type(model).from_pretrained(pretrained_model_name_or_path=folder)
    model.save_pretrained(save_directory=tmp_path)
    config = ConditionalDetrConfig.from_pretrained(pretrained_model_name_or_path=tmp_path)
    config.save_pretrained(save_directory=tmp_path / "config")
    config.to_json_file(tmp_path / "config.json")
    assert (tmp_path / "config.json").read_bytes() == (tmp_path / "config/config.json").read_bytes()
    processor = AutoImageProcessor.from_pretrained(pretrained_model_name_or_path=folder)
    processor = type(processor).from_pretrained(pretrained_model_name_or_path=folder)
    processor.save_pretrained(save_directory=tmp_path)
    processor.to_json_file(json_file_path=tmp_path / "x.json")
    assert (tmp_path / "x.json").read_bytes() == (folder / "preprocessor_config.json").read_bytes()


def test_a_processors_keywords_win_by_their_older_names_too(folder):
    read = ConditionalDetrImageProcessor.from_dict
    assert read({"do_pad": True}, pad_and_return_pixel_mask=False).do_pad is False
    assert read({"do_pad": False}, pad_and_return_pixel_mask=True).do_pad is True
    assert read({"pad_and_return_pixel_mask": False}, do_pad=True).do_pad is True
    assert read({"pad_and_return_pixel_mask": False}).do_pad is False
    assert read({"do_pad": False}, pad_and_return_pixel_mask=None).do_pad is False
    size = {"shortest_edge": 800, "longest_edge": 1333}
    assert read({"size": size}, max_size=600).size == {"shortest_edge": 800, "longest_edge": 600}
    assert read({"size": size}, size=300, max_size=600).size == {"shortest_edge": 300, "longest_edge": 600}
    assert ConditionalDetrImageProcessor.from_pretrained(folder, pad_and_return_pixel_mask=False).do_pad is False


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (dict(image_mean=[0.5, 0.5]), "image_mean must be a number or 3, one a channel"),
        (dict(image_mean=[0.5, 0.5, float("nan")]), "image_mean must be a number from -1e.06 to 1e.06, got nan"),
        (dict(image_std=0), "image_std must be a number from 1e-06 to 1e.06, got 0"),
        (dict(image_std=["a", 1, 1]), "image_std must be a number from .* got 'a'"),
        (dict(rescale_factor=0), "rescale_factor must be a number from 1e-12 to 1e.06, got 0"),
        (dict(do_resize="no"), "do_resize must be true or false, got 'no'"),
        (dict(do_pad=1.0), "do_pad must be true or false, got 1.0"),
        (dict(size={"shortest_edge": 2**31}), "size: shortest_edge must be at most 1000000 pixels"),
        (dict(pad_size=[10**9, 10]), "pad_size: height must be at most 1000000 pixels"),
        (dict(resample=5), "resample must be a PIL filter"),
        (dict(resample=[]), "resample must be a PIL filter"),
        (dict(format=["coco_detection"]), "format must be one of coco_detection, coco_panoptic"),
    ],
)
def test_a_processors_wrong_value_is_named(values, message):
    with pytest.raises(ValueError, match=message):
        ConditionalDetrImageProcessor.from_dict(values)


def test_names_that_are_python_words_are_fields_like_others():
    for kind in (ConditionalDetrConfig, ConditionalDetrImageProcessor):
        assert kind.from_dict({"self": 1, "values": 2, "cls": 3}).to_dict()["self"] == 1


def test_weights_of_another_shape_name_both_files(folder, tmp_path):
    randomise(small_model(output_stride=16, backbone_norm="frozen")).save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "config.json").write_text(json.dumps({**values, "num_queries": 11}), encoding="utf-8")
    with pytest.raises(ValueError, match=r"model\.safetensors does not fit .* as .*config\.json has it; weights 1 of"):
        AutoModelForObjectDetection.from_pretrained(tmp_path)
