"""Weights go from every dialect into this package and back into transformers, computing the same."""

import argparse
import json

import pytest
import torch
import transformers
from golden_cases import golden, golden_weights, shared
from safetensors.torch import load_file, save_file
from small_models import FAMILIES, float64_by_default, randomise, small_config, small_model

from conditional_detr import AutoModelForObjectDetection
from conditional_detr.checkpoints.coco_names import COCO_LABELS
from conditional_detr.checkpoints.names import to_disk, to_memory, to_original
from conditional_detr.models.family import family_of

THEIRS = {
    "conditional_detr": transformers.ConditionalDetrForObjectDetection,
    "detr": transformers.DetrForObjectDetection,
}
EXPRESSIBLE = dict(backbone_norm="frozen", output_stride=32)  # what transformers' configuration can say


TOLERANCE = 1e-7  # of float64: positions are computed in float32, in transformers and here


def outputs(model, pixels, **options):
    """In float64, where implementations can be told apart on any processor."""
    with torch.no_grad():
        return model.double().eval()(pixels.double(), **options)


@pytest.mark.numeric
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("positions", ["sine", "learned"])
@pytest.mark.parametrize(
    "backbone", [dict(backbone="resnet18"), dict(backbone="resnet26", dilation=True)], ids=["C5", "DC5"]
)
def test_transformers_opens_what_is_saved_and_computes_the_same(family, positions, backbone, tmp_path):
    ours = randomise(small_model(family, position_embedding_type=positions, **EXPRESSIBLE, **backbone))
    ours.save_pretrained(tmp_path / "ours")
    theirs, info = THEIRS[family].from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    pixels = torch.randn(2, 3, 96, 128)
    a, b = outputs(ours, pixels), outputs(theirs, pixels)
    torch.testing.assert_close(a.logits, b.logits, rtol=0, atol=TOLERANCE)
    torch.testing.assert_close(a.pred_boxes, b.pred_boxes, rtol=0, atol=TOLERANCE)
    theirs.save_pretrained(tmp_path / "theirs")  # and the other way round
    back = family_of(family).detector.from_pretrained(tmp_path / "theirs")
    torch.testing.assert_close(outputs(back, pixels).logits, a.logits, rtol=0, atol=1e-12)
    assert back.config.id2label == ours.config.id2label


@pytest.mark.numeric
@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_is_transformers_but_for_the_class_weight(family, tmp_path):
    ours = randomise(small_model(family, **EXPRESSIBLE))
    ours.save_pretrained(tmp_path)
    theirs = THEIRS[family].from_pretrained(tmp_path)
    pixels = torch.randn(2, 3, 96, 128)
    labels = [
        {"class_labels": torch.tensor([0, 2, 1]), "boxes": (torch.rand(3, 4) * 0.4 + 0.2).double()},
        {"class_labels": torch.tensor([1]), "boxes": (torch.rand(1, 4) * 0.4 + 0.2).double()},
    ]
    a = outputs(ours, pixels, labels=labels)
    with float64_by_default():
        b = outputs(theirs, pixels, labels=labels)
    for name in ("loss_ce", "loss_bbox", "loss_giou"):
        assert a.loss_dict[name].item() == pytest.approx(b.loss_dict[name].item(), rel=1e-6), name
    extra = a.loss_dict["loss_ce"].item() if family == "conditional_detr" else 0.0  # they weigh it with 1, not 2
    assert a.loss.item() - extra == pytest.approx(b.loss.item(), rel=1e-6)


@pytest.mark.numeric
@pytest.mark.parametrize("family", FAMILIES)
def test_attention_maps_are_transformers(family, tmp_path):
    ours = randomise(small_model(family, **EXPRESSIBLE))
    ours.save_pretrained(tmp_path)
    theirs = THEIRS[family].from_pretrained(tmp_path, attn_implementation="eager")
    pixels = torch.randn(1, 3, 96, 128)
    a, b = (outputs(model, pixels, output_attentions=True) for model in (ours, theirs))
    for name in ("encoder_attentions", "decoder_attentions", "cross_attentions"):
        assert len(a[name]) == len(b[name])
        for x, y in zip(a[name], b[name], strict=True):
            torch.testing.assert_close(x, y, rtol=0, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_original_name_has_its_place_and_comes_back(family):
    _, facts = golden(f"{family}_r18")
    original, table = golden_weights(facts["parameters"]), family_of(family).weight_names
    memory = to_memory(original, table)
    assert set(memory) == set(family_of(family).detector(_golden_config(family, facts)).state_dict())
    back = to_original(memory, table)
    assert set(back) == set(original)
    assert all(torch.equal(back[name], tensor) for name, tensor in original.items())
    assert all(torch.equal(t, memory[n]) for n, t in to_memory(to_disk(memory, table), table).items())


def _golden_config(family, facts):
    return small_config(
        family, backbone_norm="frozen", output_stride=32, d_model=256, encoder_layers=2, decoder_layers=3,
        encoder_ffn_dim=512, decoder_ffn_dim=512, num_queries=20, num_labels=facts["num_classes"],
    )  # fmt: skip


def original_file(path, family, **more):
    _, facts = golden(f"{family}_r18")
    torch.save({"model": golden_weights(facts["parameters"]), **more}, path)
    return path


@pytest.mark.parametrize("family", FAMILIES)
def test_an_original_file_says_what_its_model_is(family, tmp_path):
    args = argparse.Namespace(nheads=8, dilation=False, dropout=0.1, aux_loss=True, backbone="resnet18")
    for more in ({}, {"args": args, "epoch": 49}):
        config = family_of(family).detector.from_pretrained(original_file(tmp_path / "a.pth", family, **more)).config
        assert (config.backbone, config.num_queries, config.num_labels) == ("resnet18", 20, 7)
        assert (config.encoder_layers, config.decoder_layers, config.decoder_ffn_dim) == (2, 3, 512)
        # the paper's training, not transformers' defaults
        assert (config.dropout, config.attention_dropout, config.auxiliary_loss) == (0.1, 0.1, True)


@pytest.mark.parametrize("family", FAMILIES)
def test_published_files_know_cocos_names_by_id(family, tmp_path):
    """Trap 9: 91 classes numbered by COCO id, of which data sets have 80; evaluation maps them by name."""
    _, facts = golden(f"{family}_r18")
    weights = golden_weights(facts["parameters"])
    rows = 91 if family == "conditional_detr" else 92
    weights["class_embed.weight"], weights["class_embed.bias"] = torch.zeros(rows, 256), torch.zeros(rows)
    torch.save({"model": weights}, tmp_path / "coco.pth")
    config = family_of(family).detector.from_pretrained(tmp_path / "coco.pth").config
    assert (config.num_labels, config.id2label[1], config.id2label[17], config.id2label[90]) == (
        91,
        "person",
        "cat",
        "toothbrush",
    )
    assert sum(name != "N/A" for name in config.id2label.values()) == 80


def test_cocos_names_are_those_of_its_annotations():
    for category in json.loads(shared("data/coco_cats/instances.json").read_text())["categories"]:
        assert COCO_LABELS[91][category["id"]] == category["name"]


def test_a_file_that_could_run_code_is_refused(tmp_path):
    class Surprise:
        def __reduce__(self):
            return (open, (str(tmp_path / "was_executed"), "w"))

    torch.save({"model": {"class_embed.weight": torch.zeros(1)}, "args": Surprise()}, tmp_path / "bad.pth")
    with pytest.raises(ValueError, match="was not opened") as error:
        family_of("detr").detector.from_pretrained(tmp_path / "bad.pth")
    assert not (tmp_path / "was_executed").exists() and "\n" not in str(error.value)


def saved(folder, **values):
    small_model(**{**EXPRESSIBLE, **values}).save_pretrained(folder)
    return folder


def edit_config(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def with_index(folder, text):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(text)


def load(folder, **options):
    return family_of("conditional_detr").detector.from_pretrained(folder, **options)


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (lambda f: (f / "config.json").unlink(), OSError, "holds no config.json"),
        (lambda f: (f / "model.safetensors").unlink(), OSError, "holds no weights"),
        (lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:999]), ValueError,
         "model.safetensors is damaged"),
        (lambda f: (f / "config.json").write_text("{"), ValueError, "config.json is not JSON"),
        (lambda f: edit_config(f, model_type="detr"), ValueError, "is of model_type 'detr'"),
        (lambda f: edit_config(f, use_timm_backbone=False), ValueError, "use_timm_backbone=false needs the sizes of a ResNet"),
        (lambda f: edit_config(f, encoder_ffn_dim=77), ValueError, r"of another size: model.encoder.*\(64, 32\), the model needs \(77, 32\)"),
        (lambda f: edit_config(f, decoder_layers=3), ValueError, "missing: model.decoder.layers.2"),
        (lambda f: edit_config(f, decoder_layers=1), ValueError, "unexpected: model.decoder.layers.1"),
        (lambda f: (f / "config.json").write_text("[]"), ValueError, "config.json is not a model's configuration"),
        (lambda f: edit_config(f, d_model="32"), ValueError, "config.json: .*d_model must be an integer from 4 to 4096, got '32'"),
        (lambda f: edit_config(f, encoder_attention_heads=0), ValueError, "encoder_attention_heads must be an integer from 1 to"),
        (lambda f: edit_config(f, id2label=["a"]), ValueError, "id2label must be an object of class names"),
        (lambda f: edit_config(f, activation_function="swoosh"), ValueError, "activation_function must be one of relu, .*'swoosh'"),
        (lambda f: edit_config(f, backbone="resnet5000"), ValueError, "config.json: backbone 'resnet5000' is not a timm network"),
        (lambda f: with_index(f, "{}"), ValueError, "index.json is not an index of weights"),
        (lambda f: with_index(f, '{"weight_map": {"a": "gone.safetensors"}}'), OSError, "holds no gone.safetensors"),
    ],
)  # fmt: skip
def test_a_damaged_folder_is_one_clear_error(tmp_path, damage, error, message):
    damage(saved(tmp_path))
    with pytest.raises(error, match=message) as raised:
        load(tmp_path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is damaged or not a PyTorch file"),
        (b"hello", "is damaged or not a PyTorch file"),
        ([1, 2], "holds no weights"),
        ({"model": {"a.b": torch.zeros(1)}}, "is not an original Conditional DETR or DETR checkpoint"),
        (torch.nn.Linear(1, 1), r"was not opened: .* could run code \(torch\.nn\.modules\.linear\.Linear\)"),
    ],
)
def test_a_damaged_or_foreign_file_is_one_clear_error(tmp_path, content, message):
    path = tmp_path / "a.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(ValueError, match=rf"a\.pth.* {message}") as raised:
        load(path)
    assert "\n" not in str(raised.value) and "\x1b" not in str(raised.value)


@pytest.mark.parametrize("trained", [True, False])
def test_weights_that_transformers_trained_with_auxiliary_losses_are_warned_of(trained, tmp_path, caplog):
    """Trap 2. Not so what this package trained with them: its decoder is the same with and without."""
    saved(tmp_path)
    edit_config(tmp_path, auxiliary_loss=True, **(dict(transformers_version="5.23.0") if trained else {}))
    load(tmp_path)
    assert ("says auxiliary_loss: true" in caplog.text) == trained


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(OSError, match="nowhere does not exist"):
        load(tmp_path / "nowhere")


def test_without_a_network_a_hub_name_is_a_clear_error(monkeypatch, tmp_path):
    with pytest.raises(OSError, match="nobody/nothing is neither a folder here nor"):
        load("nobody/nothing", local_files_only=True, cache_dir=tmp_path)


def test_heads_are_resized_only_when_asked(tmp_path, caplog):
    saved(tmp_path)
    model = load(tmp_path, num_labels=5)
    assert model.class_labels_classifier.weight.shape == (5, 32) and "class_labels_classifier" in caplog.text
    model = load(tmp_path, id2label={0: "a"}, num_queries=4)
    assert model.config.label2id == {"a": 0} and model.model.query_position_embeddings.weight.shape == (4, 32)
    with pytest.raises(ValueError, match="of another size"):
        load(tmp_path, d_model=64)
    assert load(tmp_path, encoder_ffn_dim=77, ignore_mismatched_sizes=True).config.encoder_ffn_dim == 77


def test_unknown_configuration_fields_survive(tmp_path):
    saved(tmp_path / "a")
    edit_config(tmp_path / "a", a_field_of_tomorrow={"x": [1]})
    load(tmp_path / "a").save_pretrained(tmp_path / "b")
    assert json.loads((tmp_path / "b/config.json").read_text())["a_field_of_tomorrow"] == {"x": [1]}


def test_sharded_and_pickled_weights_load(tmp_path):
    saved(tmp_path / "whole")
    weights = load_file(tmp_path / "whole/model.safetensors")
    expected = load(tmp_path / "whole").state_dict()
    config = (tmp_path / "whole/config.json").read_text()
    names = sorted(weights)
    for folder in ("sharded", "pickled"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "config.json").write_text(config)
    weight_map = {}
    for i, part in enumerate((names[::2], names[1::2])):
        save_file({n: weights[n] for n in part}, tmp_path / f"sharded/model-{i}.safetensors")
        weight_map.update(dict.fromkeys(part, f"model-{i}.safetensors"))
    (tmp_path / "sharded/model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    torch.save(weights, tmp_path / "pickled/pytorch_model.bin")
    for folder in ("sharded", "pickled"):
        assert all(torch.equal(expected[n], t) for n, t in load(tmp_path / folder).state_dict().items())


@pytest.mark.parametrize("name", ["model.pth", "weights.bin", "model.safetensors"])
def test_a_file_beside_its_configuration_loads(name, tmp_path):
    """A raw state_dict, as `torch.save(model.state_dict(), …)` leaves it, or one file of a saved folder."""
    model = randomise(small_model(**EXPRESSIBLE)).eval()
    model.save_pretrained(tmp_path)
    if name != "model.safetensors":
        torch.save(model.state_dict(), tmp_path / name)
    for loader in (family_of("conditional_detr").detector, AutoModelForObjectDetection):
        found = loader.from_pretrained(tmp_path / name).state_dict()
        assert all(torch.equal(tensor, found[n]) for n, tensor in model.state_dict().items())


@pytest.mark.numeric
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_norms_trained_from_scratch_survive_saving(norm, tmp_path):
    model = randomise(small_model(backbone_norm=norm)).eval()
    model.save_pretrained(tmp_path)
    pixels = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(outputs(load(tmp_path), pixels).logits, outputs(model, pixels).logits)
    assert all(p.device.type == "cpu" for p in load(tmp_path).parameters())
