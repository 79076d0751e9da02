"""Masks: transformers' weights, arguments and values, the detector's boxes, and nothing computed that is not asked for."""

import inspect

import pytest
import torch
import transformers
from safetensors.torch import load_file
from small_models import FAMILIES, float64_by_default, randomise, small_config

import conditional_detr
from conditional_detr.checkpoints.names import to_original
from conditional_detr.losses.criterion import count_normalizers, share_normalizers
from conditional_detr.models import mask_head
from conditional_detr.models.family import family_of

pytestmark = pytest.mark.numeric

STEMS = {"conditional_detr": "ConditionalDetr", "detr": "Detr"}
# What transformers can express: frozen norms, four stages.
SHARED = dict(backbone_norm="frozen", output_stride=32, encoder_attention_heads=8, decoder_attention_heads=8)
SIZES = [(97, 131), (150, 160)]


def small_segmenter(family, **values):
    """In float64, with weights that float32 holds."""
    torch.manual_seed(0)
    return randomise(family_of(family).segmenter(small_config(family, **values))).double().eval()


def padded_batch():
    """Two images of different sizes on one canvas, and each alone; in float64."""
    torch.manual_seed(1)
    images = [torch.randn(1, 3, *size).double() for size in SIZES]
    canvas, mask = torch.zeros(2, 3, 160, 170).double(), torch.zeros(2, 160, 170, dtype=torch.int64)
    for i, (height, width) in enumerate(SIZES):
        canvas[i, :, :height, :width] = images[i]
        mask[i, :height, :width] = 1
    return images, canvas, mask


def labels_for(sizes, counts, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        {
            "class_labels": torch.randint(3, (count,), generator=generator),
            "boxes": (torch.rand(count, 4, generator=generator) * 0.5 + 0.2).double(),
            "masks": torch.rand(count, *size, generator=generator) > 0.7,
        }
        for size, count in zip(sizes, counts, strict=True)
    ]


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dilation", [False, True])
def test_masks_and_logits_are_those_of_transformers(family, dilation, tmp_path):
    backbone = "resnet50" if dilation else "resnet18"
    small_segmenter(family, **SHARED, backbone=backbone, dilation=dilation).save_pretrained(tmp_path)
    name = f"{STEMS[family]}ForSegmentation"
    ours = getattr(conditional_detr, name).from_pretrained(tmp_path, dtype=torch.float64)
    theirs = getattr(transformers, name).from_pretrained(tmp_path).double().eval()
    pixels = torch.randn(1, 3, 97, 131, dtype=torch.float64)
    a, b = ours(pixels), theirs(pixels)
    assert list(a) == list(b)
    assert a.pred_masks.shape == (1, 10, 25, 33)
    torch.testing.assert_close(a.pred_masks, b.pred_masks, rtol=0, atol=1e-6)
    torch.testing.assert_close(a.logits, b.logits, rtol=0, atol=1e-7)
    theirs.save_pretrained(tmp_path / "theirs")
    again = getattr(conditional_detr, name).from_pretrained(tmp_path / "theirs", dtype=torch.float64)
    assert all(torch.equal(t, again.state_dict()[n]) for n, t in ours.state_dict().items())


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_files_have_the_names_that_transformers_and_the_original_give_them(family, tmp_path):
    """transformers writes the names it has read: so of a model that it made itself."""
    small_segmenter(family, **SHARED).save_pretrained(tmp_path / "ours")
    name = f"{STEMS[family]}ForSegmentation"
    config = getattr(transformers, f"{STEMS[family]}Config").from_pretrained(tmp_path / "ours")
    getattr(transformers, name)(config).save_pretrained(tmp_path / "theirs")
    ours, theirs = (set(load_file(tmp_path / folder / "model.safetensors")) for folder in ("ours", "theirs"))
    assert ours == {n for n in theirs if not n.endswith("num_batches_tracked")}
    original = {n for n in ours if n.startswith("mask_head.")}
    layers = [*(f"lay{i}" for i in range(1, 6)), *(f"gn{i}" for i in range(1, 6)), "adapter1", "adapter2", "adapter3"]
    assert original == {f"mask_head.{layer}.{part}" for layer in (*layers, "out_lay") for part in ("weight", "bias")}
    getattr(conditional_detr, name).from_pretrained(tmp_path / "theirs")


def test_arguments_are_those_of_transformers():
    for family, stem in STEMS.items():
        ours = list(inspect.signature(family_of(family).segmenter.forward).parameters)
        theirs = list(inspect.signature(getattr(transformers, f"{stem}ForSegmentation").forward).parameters)
        assert ours[: len(theirs) - 1] == [name for name in theirs if name != "kwargs"]


@torch.no_grad()
def test_losses_are_those_of_transformers_on_an_image_without_padding(tmp_path):
    small_segmenter("detr", **SHARED, dropout=0.0).save_pretrained(tmp_path)
    ours = conditional_detr.DetrForSegmentation.from_pretrained(tmp_path, dtype=torch.float64)
    theirs = transformers.DetrForSegmentation.from_pretrained(tmp_path).double().eval()
    labels = labels_for([(97, 131)], [4])
    pixels = torch.randn(1, 3, 97, 131, dtype=torch.float64)
    a = ours(pixels, labels=labels)
    with float64_by_default():
        b = theirs(pixels, labels=[{**labels[0], "masks": labels[0]["masks"].double()}])
    for name in ("loss_mask", "loss_dice", "loss_ce", "loss_giou"):
        assert a.loss_dict[name].item() == pytest.approx(b.loss_dict[name].item(), rel=1e-6)
    assert a.loss.item() == pytest.approx(b.loss.item(), rel=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_trap_3_boxes_are_the_detectors(family, tmp_path):
    model = small_segmenter(family)
    model.save_pretrained(tmp_path)
    detector = family_of(family).detector.from_pretrained(
        tmp_path, dtype=torch.float64
    )  # of a segmentation model, the detector
    pixels = torch.randn(2, 3, 97, 131, dtype=torch.float64)
    ours, boxes = model(pixels), detector(pixels)
    assert torch.equal(ours.pred_boxes, boxes.pred_boxes) and torch.equal(ours.logits, boxes.logits)


@torch.no_grad()
@pytest.mark.parametrize("norm", ["frozen", "batch", "group"])
@pytest.mark.parametrize("stride", [4, 8, 32])
def test_trap_1_a_padded_image_gives_the_masks_it_gives_alone(norm, stride):
    model = small_segmenter("conditional_detr", backbone_norm=norm, output_stride=stride)
    images, canvas, mask = padded_batch()
    together = model(canvas, mask)
    assert together.mask_sizes.tolist() == [[25, 33], [38, 40]]
    for i, image in enumerate(images):
        alone = model(image).pred_masks[0]
        rows, columns = together.mask_sizes[i].tolist()
        assert alone.shape[1:] == (rows, columns)
        torch.testing.assert_close(together.pred_masks[i, :, :rows, :columns], alone, rtol=0, atol=1e-9)


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_only_the_masks_asked_for_are_drawn_and_they_are_the_same(family):
    model = small_segmenter(family)
    _, canvas, mask = padded_batch()
    whole = model(canvas, mask)
    logits = whole.logits
    scores = (logits.sigmoid() if family == "conditional_detr" else logits.softmax(-1)[..., :-1]).amax(-1)
    threshold = scores.flatten().sort().values[-7:-5].mean().item()  # six of the two images' queries are above
    for options, wanted in (
        (dict(mask_score_threshold=threshold), scores > threshold),
        (dict(mask_limit=4), scores >= scores.topk(4, dim=1).values[:, -1:]),
        (dict(mask_score_threshold=1.0), scores > 1),
    ):
        some = model(canvas, mask, **options)
        drawn = some.mask_query_indices
        assert [sorted(row[row >= 0].tolist()) for row in drawn] == [row.nonzero()[:, 0].tolist() for row in wanted]
        for i, row in enumerate(drawn):
            for place, query in enumerate(row.tolist()):
                expected = (
                    whole.pred_masks[i, query] if query >= 0 else whole.pred_masks.new_zeros(whole.pred_masks.shape[2:])
                )
                torch.testing.assert_close(some.pred_masks[i, place], expected, rtol=0, atol=1e-9)


@torch.no_grad()
def test_chunks_change_nothing(monkeypatch):
    model = small_segmenter("conditional_detr")
    _, canvas, mask = padded_batch()
    whole = model(canvas, mask).pred_masks
    monkeypatch.setattr(mask_head, "CHUNK_BYTES", 1)  # one mask at a time
    torch.testing.assert_close(model(canvas, mask).pred_masks, whole, rtol=0, atol=1e-9)


def test_training_draws_matched_queries_only_and_reaches_every_weight():
    model = small_segmenter("conditional_detr", backbone_norm="batch").train()
    _, canvas, mask = padded_batch()
    output = model(canvas, mask, labels=labels_for(SIZES, [3, 1]))
    assert output.pred_masks.shape[:2] == (2, 3)
    assert output.mask_query_indices[1].tolist()[1:] == [-1, -1]
    output.loss.backward()
    assert all(p.grad is not None for p in model.parameters())


def test_mask_losses_do_not_depend_on_the_canvas_or_the_split_of_a_batch():
    model = small_segmenter("conditional_detr", dropout=0.0)
    images, canvas, mask = padded_batch()
    labels = labels_for(SIZES, [3, 2])
    together = model(canvas, mask, labels=labels)
    of_all = share_normalizers(count_normalizers(model.config, labels), 1)
    alone = [model(image, labels=[label], normalizers=of_all) for image, label in zip(images, labels, strict=True)]
    for name in ("loss_mask", "loss_dice"):
        assert together.loss_dict[name].item() == pytest.approx(sum(o.loss_dict[name].item() for o in alone), rel=1e-6)


def test_gradient_checkpointing_changes_no_gradient():
    grads = []
    for checkpointing in (False, True):
        model = small_segmenter("conditional_detr", dropout=0.0, backbone_norm="frozen").train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        _, canvas, mask = padded_batch()
        model(canvas, mask, labels=labels_for(SIZES, [3, 2])).loss.backward()
        grads.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys()
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[1][name], grad)


def test_a_frozen_detector_trains_the_mask_head_alone():
    model = small_segmenter("conditional_detr")
    model.freeze_detector()
    model.train()
    assert not model.detector.training
    for counts in ([2, 1], [0, 0]):
        model.zero_grad()
        _, canvas, mask = padded_batch()
        output = model(canvas, mask, labels=labels_for(SIZES, counts))
        output.loss.backward()
        grads = {n: p.grad for n, p in model.named_parameters()}
        assert {n for n, g in grads.items() if g is not None} == {
            n for n in grads if "mask_head" in n or "bbox_" in n[:5]
        }
    assert output.loss.item() == 0


@torch.no_grad()
def test_the_original_dialect_loads(tmp_path):
    for family in FAMILIES:
        model = small_segmenter(family, **SHARED, d_model=64)
        original = to_original(model.state_dict(), model.weight_names)
        assert {"detr.class_embed.weight", "mask_head.lay5.weight", "bbox_attention.q_linear.bias"} <= set(original)
        torch.save({"model": original}, tmp_path / "seg.pth")
        loaded = family_of(family).segmenter.from_pretrained(
            tmp_path / "seg.pth", decoder_attention_heads=8, dtype=torch.float64
        )
        pixels = torch.randn(1, 3, 64, 64, dtype=torch.float64)
        torch.testing.assert_close(loaded(pixels).pred_masks, model(pixels).pred_masks, rtol=0, atol=1e-9)


def test_a_detector_opened_for_segmentation_gets_a_new_mask_head_and_says_so(tmp_path, caplog):
    family_of("detr").detector(small_config("detr")).save_pretrained(tmp_path)
    model = conditional_detr.AutoModelForImageSegmentation.from_pretrained(tmp_path)
    assert "is a detector: its mask head is new" in caplog.text
    assert all(p.isfinite().all() for p in model.parameters()) and model.mask_head.conv1.conv.weight.std() > 0


def test_masks_of_another_size_are_named():
    model = small_segmenter("detr")
    labels = labels_for([(60, 60)], [2])
    with pytest.raises(ValueError, match="masks of image 7 have the shape"):
        model(torch.randn(1, 3, 64, 64).double(), labels=[{**labels[0], "image_id": 7}])


def test_a_backbone_without_stages_is_refused():
    with pytest.raises(ValueError, match="masks need the stages of a ResNet"):
        family_of("detr").segmenter(small_config("detr", backbone="efficientnet_b0", output_stride=32))
