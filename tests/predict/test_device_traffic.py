"""What goes between host and device in prediction, counted without one: PyTorch's "meta" device stands for it."""

from collections import Counter
from copy import deepcopy

import numpy as np
import pytest
import torch
from small_models import FAMILIES, randomise, small_config, small_model
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from conditional_detr.models.deploy import prepare_for_inference
from conditional_detr.models.family import family_of
from conditional_detr.predict import device
from conditional_detr.predict.batches import PreparedBatch, batches_of_canvases
from conditional_detr.predict.device import start
from conditional_detr.predict.run import run_batches
from conditional_detr.processors.auto_processor import IMAGE_PROCESSORS


class CopiesToDevice(TorchDispatchMode):
    """Counts tensors that are copied from the CPU to another device, and numbers that become tensors there."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()
        self.made = _Made(self.counts)

    def __enter__(self):
        self.made.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self.made.__exit__(*error)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        given = [value.device.type for value in args if isinstance(value, torch.Tensor) and value.dim()]
        if isinstance(result, torch.Tensor) and result.device.type != "cpu" and "cpu" in given:
            self.counts["copies"] += 1
        return result


class _Made(TorchFunctionMode):
    def __init__(self, counts):
        super().__init__()
        self.counts = counts

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if getattr(function, "__name__", "") in ("tensor", "as_tensor", "new_tensor") and result.device.type != "cpu":
            self.counts["made of numbers"] += 1
        return result


def test_the_counter_sees_what_it_is_for():
    there = torch.empty(3, device="meta")
    with CopiesToDevice() as traffic:
        torch.ones(3).to("meta")
        there.copy_(torch.ones(3))
        there[:2] = torch.ones(2)
        torch.tensor([1.0], device="meta")
        there.new_tensor([1.0])
        there.mul_(2).add_(there)
    assert traffic.counts == {"copies": 3, "made of numbers": 2}


def small_processor(family):
    return IMAGE_PROCESSORS[family](size={"shortest_edge": 64, "longest_edge": 128})


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("sizes", [[(64, 64)] * 3, [(64, 64), (64, 80), (70, 64)]], ids=["one size", "padded"])
def test_a_batch_sends_its_pixels_and_nothing_else(family, sizes):
    with torch.device("meta"):
        model = family_of(family).detector(small_config(family)).eval()
    images = [torch.zeros(3, *size, dtype=torch.uint8) for size in sizes]
    preprocessing = small_processor(family).preprocessing
    start(model, preprocessing, images)  # constants are made once
    with CopiesToDevice() as traffic:
        start(model, preprocessing, images)
    assert traffic.counts == {"copies": len(images)}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_mask_may_be_of_bools_or_numbers(family):
    model = randomise(small_model(family, output_stride=16)).eval().double()
    pixels = torch.randn(2, 3, 64, 80, dtype=torch.float64)
    mask = torch.zeros(2, 64, 80, dtype=torch.bool)
    mask[0, :48, :64] = mask[1] = True
    with torch.no_grad():
        expected = model(pixels, mask).logits
        for dtype in (torch.int64, torch.uint8, torch.float32):
            assert torch.equal(model(pixels, mask.to(dtype)).logits, expected)


class LargeFloat32(TorchDispatchMode):
    """Counts feature maps that are computed in float32 by multiplying, as a mask does."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function is torch.ops.aten.mul.Tensor and result.dim() == 4 and len(result) == 2 and result.shape[1] > 3:
            self.count += result.dtype == torch.float32
        return result


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50"])
def test_under_autocast_a_mask_leaves_features_in_the_lower_precision(backbone):
    model = small_model(backbone=backbone, backbone_norm="frozen", output_stride=16, use_pretrained_backbone=False)
    mask = torch.ones(2, 64, 80, dtype=torch.bool)
    mask[0, :, 60:] = False
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), LargeFloat32() as features:
        (last,) = model.model.backbone(torch.randn(2, 3, 64, 80), mask)
    assert last.dtype == torch.bfloat16 and features.count == 0


def test_batches_for_recorded_graphs_are_of_few_sizes():
    canvases = [(64, 64)] * 21 + [(64, 128)] * 3
    batches = batches_of_canvases(canvases, 8, torch.device("cuda"), few_sizes=True)
    assert sorted(map(len, batches)) == [1, 1, 2, 4, 8, 8]
    assert sorted(index for batch in batches for index in batch) == list(range(24))


def test_of_many_shapes_few_are_recorded_and_all_give_the_same(monkeypatch):
    torch._dynamo.reset()
    monkeypatch.setattr(device, "MOST_GRAPHS", 3)
    plain = randomise(small_model(output_stride=32)).eval()
    model = deepcopy(plain)
    prepare_for_inference(model, torch.device("cpu"))
    ran = []

    def backend(graph, inputs):
        def run(*args):
            ran.append(tuple(tuple(a.shape) for a in args if isinstance(a, torch.Tensor) and a.shape[1:2] == (3,)))
            return graph(*args)

        return run

    model.compile(backend=backend)
    model.recorded_shapes = set()
    processor = small_processor("conditional_detr")
    try:
        for width in (64, 96, 128, 160, 192, 64):
            image = torch.randint(256, (3, 64, width), dtype=torch.uint8)
            batch = PreparedBatch([image], [(64, width)], [0])
            found, expected = (
                next(run_batches(m, processor.preprocessing, [batch], threshold=0.0))[1][0] for m in (model, plain)
            )
            assert np.allclose(found.scores, expected.scores, rtol=0, atol=1e-4)
    finally:
        torch._dynamo.reset()
    assert len(ran) == 4 and len(model.recorded_shapes) == 3
