"""`backbone_weights`: the features are those of the network the file is of; what does not fit is one line."""

import os

import pytest
import timm
import torch
import torchvision
from golden_cases import shared
from safetensors.torch import load_file, save_file
from small_models import randomise, small_model
from small_recipes import small_recipe

from conditional_detr.checkpoints.backbone import load_backbone
from conditional_detr.train.loop import train
from conditional_detr.train.recipe import Recipe
from conditional_detr.train.recipe_changes import changed_fields


def resnet(name="resnet18"):
    return randomise(timm.create_model(name)).eval()


def shapes(name):
    """A network's weights, all of them zeros."""
    with torch.device("meta"):
        state = timm.create_model(name).state_dict()
    return {n: torch.zeros((), dtype=t.dtype).expand(t.shape) for n, t in state.items()}


def saved(state, path):
    (save_file if path.suffix == ".safetensors" else torch.save)(state, path)
    return path


def loaded(path, backbone="resnet18", **config):
    backbone_of = small_model(
        backbone=backbone, **{"backbone_norm": "frozen", "output_stride": 32, **config}
    ).model.backbone
    said = load_backbone(backbone_of.model, path, backbone)
    return backbone_of.eval(), said


@pytest.mark.parametrize(
    ("name", "stride", "norm"),
    [
        ("resnet18", 32, "frozen"),
        ("resnet18", 8, "batch"),
        ("resnet18d", 16, "frozen"),
        ("resnet50", 8, "frozen"),
    ],
)
def test_the_features_are_those_of_the_network_that_was_saved(tmp_path, name, stride, norm):
    net = resnet(name)
    path = saved(net.state_dict(), tmp_path / "net.safetensors")
    backbone, _ = loaded(path, name, backbone_norm=norm, output_stride=stride)
    pixels = torch.randn(2, 3, 96, 64, dtype=torch.float64)
    expected = net.double().forward_intermediates(pixels, intermediates_only=True)[stride.bit_length() - 2]
    (features,) = backbone.double()(pixels, None)
    torch.testing.assert_close(features, expected, rtol=1e-12, atol=1e-12)


def test_torchvision_names_them_alike(tmp_path):
    net = randomise(torchvision.models.resnet18()).eval()
    path = saved(net.state_dict(), tmp_path / "resnet18.pth")
    backbone, said = loaded(path)
    pixels = torch.randn(1, 3, 64, 64)
    expected = torch.nn.Sequential(*list(net.children())[:-2])(pixels)
    torch.testing.assert_close(backbone(pixels, None)[0], expected, rtol=1e-4, atol=1e-4)
    assert f"100 weights of {path} in resnet18, conv1 to layer4; not used: " in said and "fc" in said


@pytest.mark.parametrize(
    ("wrapper", "prefix"),
    [
        (None, "module."),
        ("model", "backbone."),
        ("state_dict", "module.backbone."),
        ("state_dict", "features."),
        (None, "model."),
        ("model", "backbone.0.body."),
    ],
)
def test_what_stands_before_the_names_is_taken_off(tmp_path, wrapper, prefix):
    state = resnet().state_dict()
    named = {prefix + name: value for name, value in state.items()} | {"head.weight": torch.zeros(1)}
    path = saved({wrapper: named, "epoch": 3} if wrapper else named, tmp_path / "net.pth")
    backbone, said = loaded(path)
    assert torch.equal(backbone.model["layer4"][1].conv2.weight, state["layer4.1.conv2.weight"]) and "head" in said


def test_a_group_norm_takes_what_a_batch_norm_learned(tmp_path):
    net = resnet()
    backbone, said = loaded(saved(net.state_dict(), tmp_path / "net.pth"), backbone_norm="group")
    assert torch.equal(backbone.model["bn1"].weight, net.bn1.weight) and "all running_mean" in said


def without(state, *beginnings):
    return {name: value for name, value in state.items() if not name.startswith(beginnings)}


def test_a_file_that_ends_early_serves_the_stride_it_reaches(tmp_path):
    path = saved(without(resnet().state_dict(), "layer4", "fc"), tmp_path / "net.safetensors")
    assert "conv1 to layer3" in loaded(path, output_stride=16)[1]
    assert "conv1 to layer2; not used: layer3" in loaded(path, output_stride=8)[1]
    with pytest.raises(
        ValueError, match=r"ends with layer3 \(stride 16\), and the model needs layer4: set model.output_stride 16"
    ):
        loaded(path)


def test_what_does_not_fit_is_one_line_that_names_the_file(tmp_path):
    whole = shapes("resnet18")
    group = {n: v for n, v in whole.items() if "running" not in n and "tracked" not in n}
    damaged = {**whole, "bn1.weight": torch.full((64,), torch.nan)}
    for number, (state, config, message) in enumerate(
        [
            (shapes("resnet34"), {}, "holds 'layer1.2.* set model.backbone resnet34"),
            (shapes("resnet50"), {}, "set model.backbone resnet50"),
            (whole, {"backbone": "resnet34"}, "lacks layer1.2.* set model.backbone resnet18"),
            (whole, {"num_channels": 1}, r"conv1.weight is \(64, 3, 7, 7\), the model needs \(64, 1, 7, 7\)"),
            (shapes("wide_resnet50_2"), {"backbone": "resnet50"}, "the model needs"),
            (shapes("vgg11"), {}, "is no ResNet as torchvision and timm name it"),
            (group, {}, "no running statistics .* set model.backbone_norm group"),
            (damaged, {}, "damaged: bn1.weight"),
            ({**whole, **{f"module.{n}": v for n, v in whole.items()}}, {}, "several networks are in it"),
        ]
    ):
        path = saved(state, tmp_path / f"{number}.pth")
        with pytest.raises(ValueError, match=message) as error:
            loaded(path, **config)
        assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_nothing_in_a_file_is_executed(tmp_path):
    torch.save({"model": resnet(), "run": print}, tmp_path / "net.pth")
    with pytest.raises(ValueError, match="opening it could run code"):
        loaded(tmp_path / "net.pth")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10")
    with pytest.raises(ValueError, match="damaged"):
        loaded(tmp_path / "cut.safetensors")
    with pytest.raises(OSError, match="does not exist"):
        loaded(tmp_path / "absent.pth")


def test_a_run_begins_with_them_and_goes_on_without_the_file(scenes, tmp_path, capsys):
    path = saved(without(resnet().state_dict(), "layer3", "layer4"), tmp_path / "net.safetensors")
    model = {"backbone_norm": "frozen", "use_pretrained_backbone": True}  # nothing is downloaded
    recipe = small_recipe(scenes, tmp_path / "run", model, epochs=1, backbone_weights=str(path))
    train(recipe)
    assert "weights of" in capsys.readouterr().out
    trained = load_file(tmp_path / "run/model/model.safetensors")
    stem = next(value for name, value in trained.items() if name.endswith("conv1.weight") and value.shape[1] == 3)
    assert torch.equal(stem, load_file(path)["conv1.weight"])  # the stem is frozen
    assert f"backbone_weights: {path}" in (tmp_path / "run/recipe.yaml").read_text()
    os.remove(path)
    train(small_recipe(scenes, tmp_path / "run", model, epochs=2, backbone_weights=str(path), resume="auto"))
    assert not changed_fields(recipe.to_dict(), {**recipe.to_dict(), "backbone_weights": ""}, 1, 3)


def test_it_is_one_or_the_other(scenes, tmp_path):
    with pytest.raises(ValueError, match="init_from is a whole model, its backbone with it"):
        Recipe(init_from="model", backbone_weights="net.pth")
    with pytest.raises(
        ValueError, match="backbone_weights is for ResNets, and model.backbone is mobilenetv3_small_050"
    ):
        train(small_recipe(scenes, tmp_path, {"backbone": "mobilenetv3_small_050"}, backbone_weights="net.pth"))


def test_the_weights_that_are_shared_fit():
    _, said = loaded(shared("data/weights") / "resnet18_stride16.safetensors", output_stride=16)
    assert said.endswith("in resnet18, conv1 to layer3")
