"""Post-processing, against the original implementations' and transformers' results."""

from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from golden_cases import golden
from torch import Tensor

from conditional_detr.classes import SigmoidClasses, SoftmaxClasses
from conditional_detr.processors.image_processor import ConditionalDetrImageProcessor, DetrImageProcessor
from conditional_detr.results.detections import detections

pytestmark = pytest.mark.numeric

DETECTIONS = {
    "conditional_detr": partial(detections, classes=SigmoidClasses()),
    "detr": partial(detections, classes=SoftmaxClasses(), top_k=None),
}


def assert_same(detections: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    torch.testing.assert_close(detections["scores"], expected["scores"], atol=1e-6, rtol=0)
    torch.testing.assert_close(detections["boxes"], expected["boxes"], atol=1e-3, rtol=1e-5)
    assert torch.equal(detections["labels"], expected["labels"])


@pytest.mark.parametrize("family", DETECTIONS)
def test_detections_are_those_of_the_original_implementation(family: str) -> None:
    cases, facts = golden(f"{family}_criterion")
    sizes = facts["target_sizes"]
    for given_sizes in (sizes, torch.tensor(sizes)):
        results = DETECTIONS[family](cases["logits"][-1], cases["boxes"][-1], target_sizes=given_sizes, threshold=-1.0)
        for index, result in enumerate(results):
            assert_same(result, {name: cases[f"post_{name}{index}"] for name in result})


@pytest.mark.parametrize("family", DETECTIONS)
@pytest.mark.parametrize("index", [0, 1])
def test_detections_of_a_whole_model_are_those_of_the_original(family: str, index: int) -> None:
    cases, _ = golden(f"{family}_r18")
    logits, boxes = cases[f"logits{index}"][-1:], cases[f"boxes{index}"][-1:]
    (result,) = DETECTIONS[family](logits, boxes, target_sizes=[(480, 640)], threshold=-1.0)
    assert_same(result, {name: cases[f"post_{name}{index}"] for name in result})


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 0.99])
@pytest.mark.parametrize(
    "sizes", [None, [(480, 640), (30, 20), (333, 500)], torch.tensor([[480, 640], [30, 20], [5, 7]])]
)
def test_the_processors_detect_what_transformers_detects(threshold: float, sizes) -> None:
    generator = torch.Generator().manual_seed(0)
    outputs = SimpleNamespace(
        logits=2 * torch.randn(3, 50, 8, generator=generator).double(),
        pred_boxes=torch.rand(3, 50, 4, generator=generator).double(),
    )
    pairs: list[tuple[Any, Any, list[dict[str, int]]]] = [
        (
            ConditionalDetrImageProcessor(),
            transformers.ConditionalDetrImageProcessor(),
            [{}, {"top_k": 7}, {"top_k": 9999}],
        ),
        (DetrImageProcessor(), transformers.DetrImageProcessor(), [{}]),
    ]
    for ours, theirs, variants in pairs:
        for options in variants:
            results = ours.post_process_object_detection(outputs, threshold, sizes, **options)
            expected = theirs.post_process_object_detection(outputs, threshold, sizes, **options)
            for result, wanted in zip(results, expected, strict=True):
                assert_same(result, wanted)


def test_detr_gives_its_best_queries_first_when_asked_for_some() -> None:
    logits, boxes = torch.randn(1, 20, 5), torch.rand(1, 20, 4)
    (every,) = DETECTIONS["detr"](logits, boxes, threshold=-1.0)
    (best,) = DETECTIONS["detr"](logits, boxes, threshold=-1.0, top_k=3)
    assert torch.equal(best["scores"], every["scores"].sort(descending=True).values[:3])


def test_a_score_that_is_not_a_number_hides_no_other() -> None:
    logits = torch.tensor([[[float("nan"), 3.0], [2.0, -9.0]]])
    (result,) = DETECTIONS["conditional_detr"](logits, torch.rand(1, 2, 4))
    assert result["labels"].tolist() == [1, 0]


def test_half_precision_outputs_give_boxes_to_a_pixel() -> None:
    boxes = torch.rand(1, 50, 4)
    logits = torch.randn(1, 50, 3)
    (exact,) = DETECTIONS["detr"](
        logits.bfloat16().float(), boxes.bfloat16().float(), target_sizes=[(800, 1333)], threshold=-1.0
    )
    (half,) = DETECTIONS["detr"](logits.bfloat16(), boxes.bfloat16(), target_sizes=[(800, 1333)], threshold=-1.0)
    assert_same(half, exact)


@pytest.mark.parametrize("sizes", [[(480, 640)], [(480, 640)] * 3, torch.zeros(2, 3), torch.zeros(2)])
@pytest.mark.parametrize("processor", [ConditionalDetrImageProcessor(), DetrImageProcessor()])
def test_target_sizes_must_be_one_pair_an_image(sizes, processor) -> None:
    outputs = SimpleNamespace(logits=torch.zeros(2, 5, 3), pred_boxes=torch.zeros(2, 5, 4))
    with pytest.raises(ValueError, match=r"target_sizes .* the 2 images"):
        processor.post_process_object_detection(outputs, target_sizes=sizes)
    with pytest.raises(ValueError, match=r"target_sizes must be \(height, width\) of each image, got \[480, 640\]"):
        processor.post_process_object_detection(outputs, target_sizes=[480, 640])
