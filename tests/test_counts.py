"""How much is computed, counted where a clock would only be noisy. What is counted here must not grow unseen."""

import itertools
from collections import Counter

import numpy as np
import pytest
import torch
import transformers
from small_models import FAMILIES, SMALL, small_config, small_model
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from conditional_detr import ConditionalDetrConfig, ConditionalDetrForObjectDetection, ConditionalDetrForSegmentation
from conditional_detr.data.augmentation import Augmentation
from conditional_detr.data.sampler import TrainingBatches
from conditional_detr.data.samples import seed_of
from conditional_detr.data.transforms import augmented_size, training_transform
from conditional_detr.images.sizes import size_after_resize
from conditional_detr.losses.criterion import detection_loss
from conditional_detr.predict.batches import batches_by_shape


def giga_multiply_adds(run):
    """Of convolutions, matrix products and attention."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() / 2e9


def on_meta(kind=ConditionalDetrForObjectDetection, **values):
    """A model without weights: its operations are counted, not computed."""
    with torch.device("meta"):
        return kind(ConditionalDetrConfig(num_labels=91, **values)).eval().requires_grad_(False)


# The same sizes counted on transformers' and the original's models.
@pytest.mark.parametrize(
    ("values", "expected"),
    [({}, 85.0), ({"dilation": True}, 180.7), ({"backbone": "resnet101"}, 148.5)],
    ids=["R50", "DC5-R50", "R101"],
)
def test_multiply_adds_of_an_image_of_800_by_1066(values, expected):
    model = on_meta(**values)
    counted = giga_multiply_adds(lambda: model(torch.empty(1, 3, 800, 1066, device="meta")))
    assert counted == pytest.approx(expected, abs=0.06)  # the figures are rounded to 0.1


@torch.no_grad()
def test_multiply_adds_are_no_more_than_transformers():
    theirs = transformers.ConditionalDetrForObjectDetection(
        transformers.ConditionalDetrConfig(num_labels=91, use_pretrained_backbone=False)
    )
    pixels = torch.zeros(1, 3, 224, 320)
    with sdpa_kernel(SDPBackend.MATH):  # not every PyTorch counts the fused kernels
        expected = giga_multiply_adds(lambda: theirs.eval().requires_grad_(False)(pixels))
    model = on_meta()
    assert giga_multiply_adds(lambda: model(pixels.to("meta"))) <= 1.001 * expected


def test_auxiliary_losses_cost_nothing_where_nothing_is_trained():
    pixels = torch.empty(1, 3, 800, 1066, device="meta")
    plain, auxiliary = on_meta(), on_meta(auxiliary_loss=True)
    heads = 5 * 300 * (256 * 91 + 2 * 256 * 256 + 256 * 4) / 1e9  # of the five earlier layers
    extra = giga_multiply_adds(lambda: auxiliary(pixels)) - giga_multiply_adds(lambda: plain(pixels))
    assert extra <= heads + 1e-6


@pytest.mark.parametrize("family", FAMILIES)
def test_groups_of_queries_cost_what_so_many_queries_do_but_for_self_attention(family):
    """Encoder, keys and values are computed once for all groups, and no query is compared with those of other groups."""
    images, queries, groups = 2, 20, 5
    pixels = torch.empty(images, 3, 160, 240, device="meta")

    def counted(**values):
        with torch.device("meta"):
            model = small_model(family, auxiliary_loss=True, **values).train().requires_grad_(False)
        return round(1e9 * giga_multiply_adds(lambda: model(pixels)))

    together = counted(num_queries=groups * queries)
    apart = counted(num_queries=queries, query_groups=groups)
    pairs = (groups * queries) ** 2 - groups * queries**2
    assert together - apart == images * SMALL["decoder_layers"] * 2 * SMALL["d_model"] * pairs
    assert apart < 1.5 * counted(num_queries=queries)


def test_masks_cost_by_their_number():
    model = on_meta(ConditionalDetrForSegmentation)
    pixels = torch.empty(1, 3, 480, 640, device="meta")
    none, few, every = (giga_multiply_adds(lambda n=n: model(pixels, mask_limit=n)) for n in (1, 21, 301))
    # What is computed once an image, and so many multiply-adds a mask.
    assert (every - none) / 299 == pytest.approx((few - none) / 20, rel=0.01)
    assert (few - none) / 20 < 0.7


PHOTOGRAPHS = [(480, 640), (640, 480), (427, 640), (640, 427), (500, 375), (375, 500), (333, 500), (612, 612), (640, 359), (426, 640)]  # fmt: skip


def photograph_sizes():
    """(512, 2) heights and widths, as they will be seen at a short side of 800 and at most 1333."""
    chosen = np.random.default_rng(0).choice(len(PHOTOGRAPHS), 512)
    limits = {"shortest_edge": 800, "longest_edge": 1333}
    return np.array([size_after_resize(*PHOTOGRAPHS[i], limits) for i in chosen])


def padded_share(sizes, batches):
    """Pixels of padding over pixels of images."""
    canvases = sum(len(batch) * sizes[batch].max(0).prod() for batch in batches)
    return canvases / sizes.prod(1).sum() - 1


@pytest.mark.parametrize(("group_by_shape", "most"), [(False, 0.8), (True, 0.025)])
def test_padding_of_training_batches(group_by_shape, most):
    sizes = photograph_sizes()
    drawn_size = (lambda epoch, index: tuple(sizes[index])) if group_by_shape else None
    options = dict(batch_size=16, parts=1, own_parts=range(1), epochs=1, seed=0, drawn_size=drawn_size)
    batches = [[index for _, index in batch] for batch in TrainingBatches(len(sizes), **options)]
    assert padded_share(sizes, batches) < most


def test_padding_of_training_batches_whose_sizes_are_drawn():
    """As `finetune` draws them: scales, and parts of any shape."""
    transform, counts = training_transform(Augmentation()), {}
    sizes = {
        (epoch, i): augmented_size(transform, size, seed_of(epoch, i))
        for epoch in range(2)
        for i, size in enumerate(PHOTOGRAPHS * 26)
    }
    for drawn_size in (None, lambda epoch, index: sizes[epoch, index]):
        batches = TrainingBatches(
            260, batch_size=16, parts=2, own_parts=range(2), epochs=2, seed=0, drawn_size=drawn_size
        )
        shapes = [np.array([sizes[key] for key in batch]) for batch in batches]
        canvases = sum(len(shape) * shape.max(0).prod() for shape in shapes)
        counts[drawn_size is None] = canvases / sum(shape.prod(1).sum() for shape in shapes) - 1
    assert counts[True] > 0.6 and counts[False] < 0.25


def test_evaluation_pads_nothing():
    sizes = photograph_sizes()
    batches = batches_by_shape(sizes, 8)
    assert sorted(itertools.chain(*batches)) == list(range(len(sizes)))
    assert padded_share(sizes, batches) == 0


class HostReads(TorchFunctionMode):
    """Counts what makes the host wait for the device, were there one, by name."""

    NAMES = ("cpu", "item", "tolist", "nonzero", "unique", "__bool__", "__int__", "__float__", "__index__")

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if getattr(function, "__name__", "") in self.NAMES:
            self.counts[function.__name__] += 1
        return function(*args, **(kwargs or {}))


class Sends(TorchFunctionMode):
    """Counts what would be copied to the device, were there one."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        name, named = getattr(function, "__name__", ""), (kwargs or {}).get("device")
        moved = name in ("to", "cuda") and (named is not None or any(isinstance(a, torch.device) for a in args))
        made = name in ("tensor", "as_tensor", "new_tensor") and (named is not None or name == "new_tensor")
        self.count += moved or made
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("family", FAMILIES)
def test_losses_send_as_few_tensors_for_many_images_and_objects_as_for_one(family):
    """Classes, boxes, which image each is of, and the assignment."""
    for images, objects in ((1, 1), (8, 20)):
        with Sends() as sends:
            loss_of(family, images, objects)()
        assert sends.count == 4


class Operations(TorchDispatchMode):
    """Counts operations that PyTorch runs, of which each is a kernel on a GPU or a view."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.counts[str(function)] += 1
        return function(*args, **(kwargs or {}))


def loss_of(family, images, objects):
    """A function that computes the losses of six layers, and their gradients."""
    config = small_config(family, auxiliary_loss=True)
    logits = torch.randn(6, images, 30, 3 + (family == "detr"), requires_grad=True)
    boxes = (torch.rand(6, images, 30, 4) * 0.4 + 0.2).requires_grad_()
    labels = [
        {"class_labels": torch.randint(3, (objects,)), "boxes": torch.rand(objects, 4) * 0.4 + 0.2}
        for _ in range(images)
    ]
    return lambda: detection_loss(config, logits, boxes, labels)[0].backward()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_attention_on_a_cpu_keeps_its_products_to_itself(family, precision):
    """Encoder, self- and cross-attention run in PyTorch's fused kernel, forwards and backwards, padded images too."""
    model = small_model(family).train()
    mask = torch.ones(2, 64, 96, dtype=torch.bool)
    mask[1, 40:] = False
    with Operations() as operations, torch.autocast("cpu", precision, enabled=precision != torch.float32):
        model(torch.randn(2, 3, 64, 96), mask).logits.sum().backward()
    attentions = sum(n for name, n in operations.counts.items() if "flash_attention_for_cpu" in name)
    config = model.config
    assert attentions == 2 * (config.encoder_layers + 2 * config.decoder_layers)
    assert not any("softmax" in name for name in operations.counts)


@pytest.mark.parametrize("family", FAMILIES)
def test_losses_of_all_layers_wait_for_the_device_once(family):
    for images, objects in ((1, 1), (8, 20)):
        with HostReads() as reads:
            loss_of(family, images, objects)()
        # Classes are checked where reading them is free: labels on the CPU.
        assert reads.counts.pop("__int__", 0) <= 2 * images
        assert reads.counts == {"cpu": 1}


@pytest.mark.parametrize("family", FAMILIES)
def test_losses_take_as_many_operations_for_many_objects_and_images_as_for_one(family):
    counts = []
    for images, objects in ((1, 1), (8, 20)):
        run = loss_of(family, images, objects)
        with Operations() as operations:
            run()
        checks = ("aten.min.default", "aten.max.default", "aten._local_scalar_dense.default")
        counts.append(Counter({name: n for name, n in operations.counts.items() if name not in checks}))
    one, many = counts
    assert one.total() < 500
    extra = many - one
    # Nothing but looking at the labels of each image may grow.
    assert extra.total() <= 4 * 8, extra


def test_a_forward_pass_takes_as_many_operations_for_many_images_as_for_two():
    model = on_meta()
    counts = []
    for images in (2, 2, 8):  # the first fills what is remembered by shape
        with torch.no_grad(), Operations() as operations:
            model(torch.empty(images, 3, 480, 640, device="meta"))
        counts.append(operations.counts.total())
    assert counts[1] == counts[2] <= counts[0]
    assert counts[2] < 1900
