"""Trap 1: a padded image predicts what it predicts alone. In float64, where rounding hides no leak."""

import pytest
import timm
import torch
from golden_cases import golden
from small_models import FAMILIES, randomise, small_model

pytestmark = pytest.mark.numeric

SIZES = ((129, 211), (160, 99))
CANVASES = ((160, 211), (173, 250), (192, 256))


def canvas_of(images, size):
    """Images at the top left of one canvas whose padding is full of noise."""
    pixels = torch.randn(len(images), 3, *size, dtype=torch.float64) * 5
    mask = torch.zeros(len(images), *size, dtype=torch.bool)
    for i, image in enumerate(images):
        height, width = image.shape[-2:]
        pixels[i, :, :height, :width] = image
        mask[i, :height, :width] = True
    return pixels, mask


def assert_padding_changes_nothing(model, images, canvases, tolerance=1e-10):
    model, images = model.double().eval(), [image.double() for image in images]
    with torch.no_grad():
        alone = [model(image[None]) for image in images]
        for canvas in canvases:
            together = model(*canvas_of(images, canvas))
            for i, own in enumerate(alone):
                torch.testing.assert_close(together.logits[i], own.logits[0], rtol=0, atol=tolerance)
                torch.testing.assert_close(together.pred_boxes[i], own.pred_boxes[0], rtol=0, atol=tolerance)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dilation", [False, True], ids=["C5", "DC5"])
def test_a_padded_image_predicts_what_it_predicts_alone(family, dilation, golden_model):
    model = golden_model(family)
    if dilation:  # ResNet-18 has no dilated form: the same transformer behind a bottleneck network
        model = randomise(
            type(model)(type(model.config).from_dict(model.config.to_dict(), backbone="resnet26", dilation=True))
        )
    assert_padding_changes_nothing(model, [torch.randn(3, *size) for size in SIZES], CANVASES)


@pytest.mark.parametrize("norm", ["frozen", "batch", "group"])
@pytest.mark.parametrize("stride", [4, 8, 16, 32])
def test_it_holds_for_every_norm_and_output_stride(norm, stride):
    model = randomise(small_model(backbone_norm=norm, output_stride=stride))
    assert_padding_changes_nothing(model, [torch.randn(3, 65, 97), torch.randn(3, 90, 41)], [(90, 97), (101, 128)])


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("backbone", ["resnet10t", "resnet26d", "resnet26"])
def test_it_holds_for_the_variants_of_resnet(backbone, norm):
    """Deep stems, average-pooled shortcuts, bottlenecks."""
    model = randomise(small_model(backbone=backbone, output_stride=16, backbone_norm=norm))
    assert model.model.backbone.is_plain_resnet
    assert_padding_changes_nothing(model, [torch.randn(3, 65, 97), torch.randn(3, 90, 41)], [(90, 97), (101, 128)])


def test_it_holds_for_learned_positions():
    model = randomise(small_model(position_embedding_type="learned"))
    assert_padding_changes_nothing(model, [torch.randn(3, 65, 97), torch.randn(3, 90, 41)], [(101, 128)])


@pytest.mark.parametrize("backbone", ["mobilenetv3_small_050", "seresnet33ts"])
def test_other_backbones_see_one_size_at_a_time(backbone):
    assert backbone in timm.list_models()
    model = randomise(small_model(backbone=backbone, output_stride=16))
    assert not model.model.backbone.is_plain_resnet
    assert_padding_changes_nothing(model, [torch.randn(3, 65, 97), torch.randn(3, 90, 41)], [(101, 128)])


def test_gradients_ignore_padding_too(golden_model):
    """With frozen norms, training on a padded batch is training on its images."""
    cases, _ = golden("conditional_detr_r18")
    label = {"class_labels": cases["target_labels"], "boxes": cases["target_boxes"]}
    image = cases["image0"]
    model = golden_model("conditional_detr")
    model(image[None], labels=[label]).loss.backward()
    alone = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    model(*canvas_of([image], [side + 45 for side in image.shape[-2:]]), labels=[label]).loss.backward()
    for name, parameter in model.named_parameters():
        if name in alone:
            scale = max(alone[name].abs().max().item(), 1)  # some are zero but for rounding
            torch.testing.assert_close(parameter.grad, alone[name], rtol=0, atol=1e-10 * scale, msg=name)
