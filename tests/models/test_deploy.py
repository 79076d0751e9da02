"""A model prepared for inference predicts what it did before."""

import copy

import pytest
import torch
from small_models import FAMILIES, randomise, skip_without, small_model

from conditional_detr.models.deploy import check_dtype, prepare_for_inference

pytestmark = pytest.mark.numeric

CPU = torch.device("cpu")


def images(*sizes):
    """Pixels and mask of images of these sizes on one canvas."""
    height, width = (max(size[i] for size in sizes) for i in (0, 1))
    pixels, mask = torch.randn(len(sizes), 3, height, width), torch.zeros(len(sizes), height, width)
    for i, (h, w) in enumerate(sizes):
        mask[i, :h, :w] = 1
    return pixels, mask


def prepared_twin(model, dtype=torch.float32):
    twin = type(model)(model.config).to(model.dtype)
    twin.load_state_dict(model.state_dict())
    prepare_for_inference(twin, CPU, dtype)
    return twin


def assert_same_predictions(model, twin, logits, boxes, dtype):
    """Of the twin in its type, and of the model in float64."""
    exact = copy.deepcopy(model).double().eval()
    for pixels, mask in (images((64, 96)), images((65, 97), (90, 41))):
        with torch.inference_mode():
            expected, found = exact(pixels.double(), mask), twin(pixels.to(dtype), mask)
        assert found.logits.dtype == found.pred_boxes.dtype == torch.promote_types(dtype, torch.float32)
        torch.testing.assert_close(found.logits.double(), expected.logits, rtol=0, atol=logits)
        torch.testing.assert_close(found.pred_boxes.double(), expected.pred_boxes, rtol=0, atol=boxes)


def assert_predictions_stay(model):
    """Exactly in float64, and in float32, where oneDNN computes, to rounding (measured: 6e-7)."""
    assert_same_predictions(model, prepared_twin(model), 1e-4, 1e-4, torch.float32)
    model.double()
    assert_same_predictions(model, prepared_twin(model, torch.float64), 1e-10, 1e-10, torch.float64)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("norm", ["frozen", "batch", "group"])
def test_predictions_stay(family, norm):
    assert_predictions_stay(randomise(small_model(family, backbone_norm=norm, output_stride=16)))


@pytest.mark.parametrize(
    "values",
    [
        {"backbone": "resnet26", "dilation": True, "output_stride": 32},
        {"backbone": "resnet26d"},
        {"backbone": "resnet10t", "backbone_norm": "frozen"},
        {"backbone": "mobilenetv3_small_050", "output_stride": 16},
        {"position_embedding_type": "learned"},
    ],
    ids=lambda values: " ".join(map(str, values.values())),
)
def test_predictions_stay_with_other_networks(values):
    assert_predictions_stay(randomise(small_model(**values)))


@pytest.mark.parametrize("norm", ["frozen", "batch"])
def test_no_norm_of_a_resnet_is_left_to_compute(norm):
    model = randomise(small_model(backbone_norm=norm))
    backbone = prepared_twin(model).model.backbone
    assert not [name for name, _ in backbone.named_modules() if name.endswith(("bn1", "bn2")) and "Norm" in str(_)]


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_stays_close(family):
    """The bound is 8 bits of the logits' own spread; heads and reference points are in float32."""
    skip_without(torch.bfloat16)
    model = randomise(small_model(family, backbone_norm="frozen", output_stride=16))
    assert_same_predictions(model, prepared_twin(model, torch.bfloat16), 0.05, 0.02, torch.bfloat16)


def test_a_prepared_model_can_neither_be_saved_nor_trained(tmp_path):
    model = small_model()
    prepare_for_inference(model, CPU)
    with pytest.raises(RuntimeError, match="prepared for prediction.*to save or train it, load it"):
        model.save_pretrained(tmp_path)
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_training_goes_on_after_prediction_saw_the_same_shape():
    """Positions are kept by shape; those made while predicting must serve training too."""
    model = randomise(small_model(backbone_norm="group", d_model=48))  # a width of its own: nothing is kept yet
    with torch.inference_mode():
        model.eval()(torch.randn(1, 3, 64, 80))
    model.train()(torch.randn(1, 3, 64, 80)).logits.sum().backward()
    assert model.model.encoder.layers[0].self_attn.k_proj.weight.grad is not None


def test_types_a_device_lacks_are_named():
    for dtype in (torch.float64, torch.int8):
        with pytest.raises(ValueError, match=r"dtype (float64|int8) is not for this device \(cpu\); it has float32"):
            check_dtype(CPU, dtype)
    check_dtype(CPU, torch.float32)
    if not torch.ops.mkldnn._is_mkldnn_fp16_supported():
        with pytest.raises(ValueError, match="dtype float16 is not for this device"):
            check_dtype(CPU, torch.float16)
