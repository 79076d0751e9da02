"""Results that NumPy makes of an exported detector's outputs are those that PyTorch makes of a model's."""

import numpy as np
import pytest
import torch

from conditional_detr.families import CONFIG_CLASSES
from conditional_detr.results.arrays import array_results
from conditional_detr.results.image_results import image_results

SIZES = [(480, 640), (33, 1000), (7, 5)]


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.99])
@pytest.mark.parametrize("family", CONFIG_CLASSES)
def test_numpy_reads_logits_and_boxes_as_pytorch_does(family, threshold):
    config = CONFIG_CLASSES[family](num_labels=4)
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(3, 60, config.classes.outputs(4), generator=generator)
    boxes = torch.rand(3, 60, 4, generator=generator)
    logits[2, 0, 0], logits[2, 1, 0] = 200, -200  # beyond what exp holds
    outputs = {"logits": logits.numpy(), "pred_boxes": boxes.numpy()}
    found = array_results(outputs, config, SIZES, threshold)
    expected = image_results(logits, boxes, config.classes, SIZES, threshold)
    for ours, theirs in zip(found, expected, strict=True):
        assert np.array_equal(ours.labels, theirs.labels) and ours.labels.dtype == theirs.labels.dtype
        assert np.allclose(ours.scores, theirs.scores, rtol=0, atol=1e-6) and ours.scores.dtype == np.float32
        assert np.allclose(ours.boxes, theirs.boxes, rtol=1e-6, atol=1e-4) and ours.boxes.shape == theirs.boxes.shape
        assert ours.queries_used == theirs.queries_used
        assert ours.best_score == pytest.approx(theirs.best_score, abs=1e-6)


def test_of_nothing_above_the_threshold_there_is_nothing():
    config = CONFIG_CLASSES["detr"](num_labels=2)
    outputs = {"logits": np.full((1, 5, 3), -9, np.float32), "pred_boxes": np.zeros((1, 5, 4), np.float32)}
    (found,) = array_results(outputs, config, [(10, 10)], 0.5)
    assert found.boxes.shape == (0, 4) and found.scores.tolist() == [] and found.queries_used == 0
