"""A checkpoint is looked for and read once, whoever asks for its family, its configuration, its weights or its processor."""

import sys
from collections import Counter
from pathlib import Path

import huggingface_hub
import pytest
import torch
from small_models import FAMILIES, small_model

from conditional_detr import (
    AutoImageProcessor,
    AutoModelForObjectDetection,
    ConditionalDetrImageProcessor,
    Detector,
)
from conditional_detr.checkpoints import hub, weights
from conditional_detr.checkpoints.names import to_original

OPENED: list[Path] = []


def _note_opened(event, arguments):
    if event == "open" and isinstance(arguments[0], str | Path):
        OPENED.append(Path(arguments[0]))


sys.addaudithook(_note_opened)  # cannot be taken away again


@pytest.fixture
def opened(monkeypatch):
    """() -> how often each file of a folder was opened since the last call; safetensors opens its own unseen."""
    load_file = weights.load_file

    def load_and_note(path):
        OPENED.append(Path(path))
        return load_file(path)

    monkeypatch.setattr(weights, "load_file", load_and_note)

    def count(folder):
        found = Counter(path.name for path in OPENED if path.parent == folder)
        OPENED.clear()
        return dict(found)

    return count


@pytest.fixture
def saved(tmp_path):
    model = small_model("conditional_detr")
    model.save_pretrained(tmp_path)
    ConditionalDetrImageProcessor().save_pretrained(tmp_path)
    return tmp_path


ONCE = {"config.json": 1, "model.safetensors": 1, "preprocessor_config.json": 1}


def test_a_detector_opens_each_file_of_a_folder_once(saved, opened):
    opened(saved)
    Detector.from_pretrained(saved, device="cpu")
    assert opened(saved) == ONCE


def test_a_detector_opens_what_lies_beside_a_file_of_weights_once(saved, opened):
    opened(saved)
    detector = Detector.from_pretrained(saved / "model.safetensors", device="cpu")
    assert opened(saved) == ONCE
    assert detector.model.config.backbone == "resnet18"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_detector_reads_an_original_file_once(family, tmp_path, opened, monkeypatch):
    model = small_model(
        family, output_stride=32, backbone_norm="frozen", encoder_attention_heads=8, decoder_attention_heads=8
    )
    path = tmp_path / "original.pth"
    torch.save({"model": to_original(model.state_dict(), model.weight_names)}, path)
    reads = []
    load = torch.load
    monkeypatch.setattr(torch, "load", lambda *a, **k: reads.append(a[0]) or load(*a, **k))
    Detector.from_pretrained(path, device="cpu")
    assert reads == [path]


def test_weights_of_an_original_file_are_in_memory_and_not_in_the_file(tmp_path):
    """What is trained does not change with the file, nor the file with it."""
    model = small_model(output_stride=32, backbone_norm="frozen", encoder_attention_heads=8, decoder_attention_heads=8)
    path = tmp_path / "original.pth"
    torch.save({"model": to_original(model.state_dict(), model.weight_names)}, path)
    content = path.read_bytes()
    loaded = AutoModelForObjectDetection.from_pretrained(path)
    before = {name: tensor.clone() for name, tensor in loaded.state_dict().items()}
    path.write_bytes(bytes(len(content)))
    assert all(torch.equal(tensor, before[name]) for name, tensor in loaded.state_dict().items())


def test_a_detector_asks_the_hub_for_each_file_once(saved, monkeypatch):
    asked = []

    def download(repository, file_name, **options):
        asked.append((repository, file_name))
        return str(saved / file_name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(hub, "_hub_has_an_address", lambda: True)
    Detector.from_pretrained("someone/a-detector", device="cpu")
    assert sorted(asked) == [("someone/a-detector", name) for name in sorted(ONCE)]
    asked.clear()
    AutoImageProcessor.from_pretrained("someone/a-detector")
    assert sorted(name for _, name in asked) == ["config.json", "preprocessor_config.json"]


@pytest.mark.parametrize("content", [b"", b"not a checkpoint"], ids=["empty", "text"])
def test_a_file_that_is_no_checkpoint_is_named_once(content, tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    for opens in (Detector, AutoModelForObjectDetection, AutoImageProcessor):
        with pytest.raises(ValueError) as error:
            opens.from_pretrained(path)
        assert str(error.value).count(str(path)) == 1
