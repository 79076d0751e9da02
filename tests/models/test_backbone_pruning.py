"""A backbone ends at its last feature: nothing behind it is held, computed or waited for."""

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from small_models import randomise, small_config, small_model

from conditional_detr import AutoModelForObjectDetection
from conditional_detr.models.backbone import Backbone

NAMES = ("resnet18", "efficientnet_b0", "efficientnet_lite0", "mobilenetv3_small_100")
# timm's other ways to take features out of a network: HRNet's, and hooks in a rewritten network.
OTHERS = ("hrnet_w18_small", "xception41")
LABELS = [{"class_labels": torch.tensor([0, 2]), "boxes": torch.tensor([[0.3, 0.4, 0.2, 0.2], [0.6, 0.6, 0.3, 0.4]])}]


def whole_network(name, backbone):
    """timm's own network with the backbone's weights, everything behind its last feature included."""
    net = timm.create_model(name, features_only=True, out_indices=(backbone.stage,))
    net.load_state_dict({**randomise(net).state_dict(), **backbone.model.state_dict()})
    return net.eval()


@pytest.mark.parametrize("stride", [8, 16, 32])
@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_gets_a_gradient(name, stride):
    """Parameters without one stop training on several devices."""
    model = small_model(backbone=name, output_stride=stride, auxiliary_loss=True).train()
    model(torch.randn(1, 3, 64, 96), labels=LABELS).loss.backward()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


@torch.no_grad()
@pytest.mark.parametrize("stride", [8, 16, 32])
@pytest.mark.parametrize("name", [*NAMES, *OTHERS])
def test_the_features_are_those_of_timms_whole_network(name, stride):
    backbone = randomise(Backbone(small_config(backbone=name, output_stride=stride))).eval()
    pixels = torch.randn(1, 3, 64, 96, dtype=torch.float64)
    expected = whole_network(name, backbone).double()(pixels)
    torch.testing.assert_close(backbone.double()(pixels, None), expected)


@pytest.mark.parametrize("name", OTHERS)
def test_what_a_network_cannot_do_without_is_not_trained(name):
    backbone = Backbone(small_config(backbone=name, output_stride=16)).eval()
    (feature,) = backbone(torch.randn(1, 3, 64, 96), None)
    feature.sum().backward()
    assert [n for n, p in backbone.named_parameters() if p.requires_grad != (p.grad is not None)] == []


def test_blocks_behind_the_last_feature_are_not_held():
    few, all_ = (
        sum(p.numel() for p in Backbone(small_config(backbone="efficientnet_b0", output_stride=stride)).parameters())
        for stride in (8, 32)
    )
    assert few < all_ / 20


@torch.no_grad()
def test_weights_that_were_saved_with_all_of_the_network_open(tmp_path):
    """As this package wrote them before it left blocks out."""
    model = randomise(small_model(backbone="efficientnet_lite0", output_stride=8)).eval()
    model.save_pretrained(tmp_path)
    rest = whole_network("efficientnet_lite0", model.model.backbone).state_dict()
    on_disk = {f"model.backbone.conv_encoder.model.{n}": t.contiguous() for n, t in rest.items()}
    weights = load_file(tmp_path / "model.safetensors")
    assert len(set(on_disk) - set(weights)) > 100
    save_file({**on_disk, **weights}, tmp_path / "model.safetensors")
    back = AutoModelForObjectDetection.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(tensor, back[n]) for n, tensor in model.state_dict().items())
    state = {**{f"model.backbone.model.{n}": t for n, t in rest.items()}, **model.state_dict()}
    assert len(state) > len(model.state_dict())
    small_model(backbone="efficientnet_lite0", output_stride=8).load_state_dict(state)  # a training checkpoint's


def test_a_network_that_cannot_be_built_so_is_refused_in_a_line():
    with pytest.raises(
        ValueError, match="backbone 'swin_tiny_patch4_window7_224' cannot be built with {'output_stride': 16}"
    ):
        Backbone(small_config(backbone="swin_tiny_patch4_window7_224", output_stride=32, dilation=True))
