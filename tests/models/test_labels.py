"""Labels that say how large their images are, beside a mask or in place of one that was dropped."""

import logging

import numpy as np
import pytest
import torch
from small_models import FAMILIES, randomise, small_config

from conditional_detr.models import labels as labels_module
from conditional_detr.models.family import family_of

SIZES = [(64, 48), (40, 64)]


@pytest.fixture(params=[(family, masks) for family in FAMILIES for masks in (False, True)], ids=str)
def model(request):
    family, masks = request.param
    kind = family_of(family).segmenter if masks else family_of(family).detector
    config = small_config(family, dropout=0.0, auxiliary_loss=True, **({"output_stride": 32} if masks else {}))
    return randomise(kind(config)).double()


@pytest.fixture
def batch():
    """Two images on a square canvas, what is beyond them not even 0."""
    torch.manual_seed(0)
    pixels, mask = torch.randn(2, 3, 64, 64, dtype=torch.float64), torch.zeros(2, 64, 64, dtype=torch.bool)
    labels = []
    for i, (height, width) in enumerate(SIZES):
        mask[i, :height, :width] = True
        labels.append(
            {
                "class_labels": torch.tensor([0, 2]),
                "boxes": torch.tensor([[0.4, 0.5, 0.3, 0.4], [0.6, 0.3, 0.2, 0.2]]),
                "masks": torch.rand(2, 64, 64) > 0.5,
                "size": torch.tensor([height, width]),
                "orig_size": torch.tensor([480, 640]),
            }
        )
    return pixels, mask, labels


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_a_dropped_mask_is_read_off_the_sizes(model, batch, training):
    """Loss, predictions and gradients are those of the call with the mask, bit for bit."""
    pixels, mask, labels = batch
    model.train(training)

    def run(mask, labels):
        model.zero_grad()
        output = model(pixels, mask, labels=labels)
        output.loss.backward()
        return output, [p.grad.clone() for p in model.parameters() if p.grad is not None]

    expected, gradients = run(mask, labels)
    found, own_gradients = run(None, labels)
    assert torch.equal(found.loss, expected.loss)
    for name in ("logits", "pred_boxes", "pred_masks"):
        if name in expected:
            assert torch.equal(found[name], expected[name]), name
    assert all(torch.equal(a, b) for a, b in zip(own_gradients, gradients, strict=True))

    canvas, _ = run(None, [{n: v for n, v in label.items() if n != "size"} for label in labels])
    assert not torch.allclose(canvas.pred_boxes, expected.pred_boxes)  # taken for as large as the canvas
    mask_wins, _ = run(torch.ones_like(mask), labels)
    assert torch.equal(mask_wins.pred_boxes, canvas.pred_boxes)


def test_images_without_a_size_or_as_large_as_the_canvas_fill_it(batch):
    pixels, mask, labels = batch
    assert labels_module.mask_of_sizes([{}, {"size": (64, 64)}], pixels) is None
    one = labels_module.mask_of_sizes([{}, labels[1]], pixels)
    assert one[0].all() and torch.equal(one[1], mask[1])
    for form in (list, tuple, np.array, torch.tensor):
        assert torch.equal(labels_module.mask_of_sizes([{"size": form(size)} for size in SIZES], pixels), mask)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (
            (480, 640),
            r"labels\[1\]\['size'\] says 480×640 pixels, and the canvas has 64×64: give the size of the image as",
        ),
        ((0, 64), r"says 0×64 pixels"),
        (64, r"labels\[1\]\['size'\] must be \(height, width\) in pixels, got 64"),
        (torch.tensor([[64, 64]]), r"must be \(height, width\) in pixels"),
        ("small", r"must be \(height, width\) in pixels, got 'small'"),
    ],
)
def test_a_size_that_cannot_be_is_refused_in_a_line(batch, size, message):
    pixels, _, labels = batch
    labels[1]["size"] = size
    with pytest.raises(ValueError, match=message) as error:
        labels_module.mask_of_sizes(labels, pixels)
    assert "\n" not in str(error.value)


def test_it_is_said_once(batch, caplog):
    pixels, _, labels = batch
    labels_module._say_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            labels_module.mask_of_sizes(labels, pixels)
    (record,) = caplog.records
    assert "Pass the pixel_mask in prediction too" in record.message and "\n" not in record.message
