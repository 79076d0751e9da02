"""Groups of queries: trained as K models that share all weights but their queries, and no trace of them in prediction."""

import argparse
import json
import logging
import re

import pytest
import torch
import transformers
from golden_cases import golden, golden_weights
from safetensors.torch import load_file
from small_models import FAMILIES, randomise, small_config, small_model
from torch._dynamo.testing import CompileCounter

from conditional_detr import ConditionalDetrImageProcessor, Detector
from conditional_detr.families import ConditionalDetrConfig
from conditional_detr.losses.criterion import LossNormalizers, detection_loss
from conditional_detr.models.family import family_of

MASKS = dict(output_stride=32, d_model=64, encoder_attention_heads=8, decoder_attention_heads=8)


def batch(dtype=torch.float64, masks=False):
    """Two images on one canvas, the second smaller: pixels, pixel mask, labels of three objects and of none."""
    pixels = torch.randn(2, 3, 64, 96, dtype=dtype)
    pixel_mask = torch.ones(2, 64, 96, dtype=torch.bool)
    pixel_mask[1, 40:] = False
    labels = [
        {"class_labels": torch.randint(3, (n,)), "boxes": torch.rand(n, 4, dtype=dtype) * 0.4 + 0.2} for n in (3, 0)
    ]
    if masks:
        for label in labels:
            label["masks"] = torch.rand(len(label["boxes"]), 64, 96) > 0.5
    return pixels, pixel_mask, labels


def pair(family, groups=3, masks=False, **values):
    """A model without groups, and one of the same weights whose groups are all alike; without dropout, in training."""
    values = {**(MASKS if masks else {}), "dropout": 0.0, "auxiliary_loss": True, **values}
    kind = family_of(family).segmenter if masks else family_of(family).detector
    alone = randomise(kind(small_config(family, **values)).double())
    grouped = kind(small_config(family, query_groups=groups, **values)).double()
    state = alone.state_dict()
    (queries,) = (name for name in state if name.endswith("query_position_embeddings.weight"))
    further = queries.replace("query_position_embeddings", "further_query_groups")
    grouped.load_state_dict({**state, further: state[queries].repeat(groups - 1, 1)})
    return alone.train(), grouped.train(), queries, further


@pytest.mark.parametrize("masks", [False, True], ids=["boxes", "masks"])
@pytest.mark.parametrize("family", FAMILIES)
def test_copies_of_a_group_give_its_outputs_loss_and_gradients(family, masks):
    alone, grouped, queries, further = pair(family, masks=masks)
    pixels, pixel_mask, labels = batch(masks=masks)
    one, many = (model(pixels, pixel_mask, labels=labels) for model in (alone, grouped))
    assert set(one) == set(many) and one.logits.shape == many.logits.shape
    for name in ("logits", "pred_boxes", "last_hidden_state", *(["pred_masks"] if masks else [])):
        torch.testing.assert_close(many[name], one[name], rtol=1e-9, atol=1e-11)
    assert set(one.loss_dict) == set(many.loss_dict)
    for name, value in {**one.loss_dict, "loss": one.loss}.items():
        torch.testing.assert_close({**many.loss_dict, "loss": many.loss}[name], value, rtol=1e-10, atol=1e-12)
    one.loss.backward()
    many.loss.backward()
    gradients = {name: parameter.grad for name, parameter in grouped.named_parameters()}
    of_queries = torch.cat((gradients.pop(queries)[None], gradients.pop(further).unflatten(0, (2, -1)))).sum(0)
    for name, parameter in alone.named_parameters():
        if parameter.requires_grad:
            expected = of_queries if name == queries else gradients[name]
            torch.testing.assert_close(
                expected, parameter.grad, rtol=1e-7, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}"
            )


@pytest.mark.parametrize("family", FAMILIES)
def test_a_group_sees_nothing_of_another(family):
    _, model, _, _ = pair(family)
    pixels, pixel_mask, labels = batch()
    before = model(pixels, pixel_mask, labels=labels)
    with torch.no_grad():
        model.model.further_query_groups.weight[:10] += 1
    after = model(pixels, pixel_mask, labels=labels)
    assert torch.equal(before.logits, after.logits) and torch.equal(before.pred_boxes, after.pred_boxes)
    assert before.loss != after.loss
    # Nor is a change of the first group seen by the second.
    states = model.model.states(pixels, pixel_mask, True).decoded.normed
    with torch.no_grad():
        model.model.query_position_embeddings.weight += 1
    changed = model.model.states(pixels, pixel_mask, True).decoded.normed
    same = [torch.equal(a, b) for a, b in zip(states.split(10, 2), changed.split(10, 2), strict=True)]
    assert same == [False, True, True]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_is_the_mean_of_the_groups(family):
    """Each matched by itself; cross entropy's sum of weights, too, is one group's."""
    config = small_config(family)
    classes = config.classes.outputs(3)
    logits = torch.randn(2, 2, 30, classes, dtype=torch.float64)
    boxes = torch.rand(2, 2, 30, 4, dtype=torch.float64) * 0.4 + 0.3
    _, _, labels = batch()
    for normalizers in (None, LossNormalizers(2.5, 7.0)):
        together, parts = detection_loss(config, logits, boxes, labels, normalizers, groups=3)
        each = [
            detection_loss(config, a, b, labels, normalizers)
            for a, b in zip(logits.split(10, 2), boxes.split(10, 2), strict=True)
        ]
        torch.testing.assert_close(together, sum(loss for loss, _ in each) / 3)
        for name, value in parts.items():
            torch.testing.assert_close(value, sum(part[name] for _, part in each) / 3, check_dtype=False)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_else_is_asked_for_is_of_the_first_group(family):
    alone, grouped, _, _ = pair(family, groups=2)
    pixels, pixel_mask, _ = batch()
    options = dict(
        output_attentions=True,
        output_hidden_states=True,
        decoder_attention_mask=torch.arange(10) < torch.tensor([[8], [5]]),
        decoder_inputs_embeds=torch.randn(2, 10, 32, dtype=torch.float64),
    )
    expected, output = (model(pixels, pixel_mask, **options).to_tuple() for model in (alone, grouped))
    torch.testing.assert_close(output, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("masks", [False, True], ids=["boxes", "masks"])
@pytest.mark.parametrize("family", FAMILIES)
def test_evaluation_and_saved_models_have_the_first_group(family, masks, tmp_path):
    family = family_of(family)
    kind = family.segmenter if masks else family.detector
    values = MASKS if masks else {"output_stride": 32}
    model = randomise(kind(small_config(family.config_class.model_type, query_groups=4, **values))).eval()
    model.save_pretrained(tmp_path)
    assert "query_groups" not in json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert not any("further" in name for name in load_file(tmp_path / "model.safetensors"))
    pixels, pixel_mask, _ = batch(torch.float32)
    loaded = kind.from_pretrained(tmp_path)
    assert loaded.config.query_groups == 1
    with torch.no_grad():
        expected, output = model(pixels, pixel_mask), loaded(pixels, pixel_mask)
    assert set(output) == set(expected)
    for name in ("logits", "pred_boxes", *(["pred_masks"] if masks else [])):
        assert torch.equal(output[name], expected[name])
    theirs = getattr(transformers, kind.__name__).from_pretrained(tmp_path).eval()
    with torch.no_grad():
        logits = theirs(pixels[:1], pixel_mask[:1].long()).logits
    torch.testing.assert_close(logits, expected.logits[:1], rtol=1e-3, atol=1e-4)


def test_a_saved_model_without_groups_says_nothing_of_them(tmp_path):
    config = ConditionalDetrConfig(num_labels=3)
    assert "query_groups" not in config.to_dict() and config.query_groups == 1
    assert ConditionalDetrConfig(query_groups=4).to_dict()["query_groups"] == 4


@pytest.mark.parametrize("family", FAMILIES)
def test_groups_are_added_to_a_saved_model(family, tmp_path):
    kind = family_of(family).detector
    model = randomise(small_model(family))
    model.save_pretrained(tmp_path)
    grouped = kind.from_pretrained(tmp_path, query_groups=3)
    first, further = grouped.model.query_position_embeddings.weight, grouped.model.further_query_groups.weight
    assert torch.equal(first, model.model.query_position_embeddings.weight) and further.shape == (20, 32)
    noise = further - first.repeat(2, 1)  # without it they would stay alike
    assert noise.std().item() == pytest.approx(0.1, abs=0.02) and noise.unique().numel() == noise.numel()
    bare = family_of(family).model.from_pretrained(tmp_path, query_groups=3)
    assert bare.further_query_groups.weight.shape == (20, 32)


@pytest.mark.parametrize("family", FAMILIES)
def test_recomputing_layers_changes_no_gradient(family):
    _, model, _, _ = pair(family)
    pixels, pixel_mask, labels = batch()
    gradients = []
    for recompute in (False, True):
        if recompute:
            model.gradient_checkpointing_enable()
        model.zero_grad()
        model(pixels, pixel_mask, labels=labels).loss.backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.requires_grad])
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("family", FAMILIES)
def test_it_compiles_into_one_graph(family):
    torch._dynamo.reset()
    counter = CompileCounter()
    model = small_model(family, query_groups=3, backbone_norm="frozen", auxiliary_loss=True).train()
    model.compile(backend=counter, dynamic=True, fullgraph=True)
    label = {"class_labels": torch.tensor([1]), "boxes": torch.full((1, 4), 0.5)}
    for height, width in ((64, 96), (80, 56), (48, 104)):
        model(torch.randn(2, 3, height, width), labels=[label] * 2).loss.backward()
    assert counter.frame_count == 1


@pytest.mark.parametrize("value", [0, -1, 1.5, 101, "two", True])
def test_query_groups_is_a_count(value):
    with pytest.raises(ValueError, match=r"query_groups must be an integer from 1 to 100, got"):
        ConditionalDetrConfig(query_groups=value)


def test_more_queries_than_can_be_trained_are_refused():
    with pytest.raises(ValueError, match="query_groups 100 of num_queries 2000 are more than 100000 queries"):
        ConditionalDetrConfig(query_groups=100, num_queries=2000)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_detector_that_stays_as_it_is_has_no_groups(family):
    model = family_of(family).segmenter(small_config(family, query_groups=2, **MASKS))
    with pytest.raises(ValueError, match=r"query_groups 2: groups of queries train a detector, which is to stay"):
        model.freeze_detector()


def original_with_groups(path, family, groups, args=None):
    """A `.pth` file of another tool that keeps the queries of all groups in one matrix; and the first group's."""
    _, facts = golden(f"{family}_r18")
    weights = golden_weights(facts["parameters"])
    first = weights["query_embed.weight"]
    weights["query_embed.weight"] = torch.cat([first + i for i in range(groups)])
    torch.save({"model": weights, **({} if args is None else {"args": argparse.Namespace(**args)})}, path)
    return first


@pytest.mark.parametrize(
    ("args", "options"),
    [
        (None, {"num_queries": 20}),
        ({"nheads": 8}, {"num_queries": 20}),
        ({"num_queries": 20}, {}),
        ({"group_detr": 3}, {}),
        ({"num_queries": 20, "group_detr": 3}, {}),
    ],
)
@pytest.mark.parametrize("family", FAMILIES)
def test_of_another_tools_groups_the_first_is_opened_and_said(family, args, options, tmp_path, caplog):
    first = original_with_groups(tmp_path / "a.pth", family, 3, args)
    model = family_of(family).detector.from_pretrained(tmp_path / "a.pth", **options)
    assert model.config.num_queries == 20 and model.config.query_groups == 1
    assert torch.equal(model.model.query_position_embeddings.weight, first)
    assert "its 60 object queries are taken for 3 groups of 20, which training had; the first is kept" in caplog.text


def test_groups_are_never_guessed(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    kind = family_of("detr").detector
    for args in (None, {"nheads": 8}, {"num_queries": 60}, {"num_queries": 60, "group_detr": 1}):
        original_with_groups(tmp_path / "a.pth", "detr", 3, args)
        assert kind.from_pretrained(tmp_path / "a.pth").config.num_queries == 60
        assert not caplog.records
    # A file that says how many queries it has keeps none of them for another number: as always, they are made anew.
    model = kind.from_pretrained(tmp_path / "a.pth", num_queries=30)
    assert "made anew" in caplog.text and len(model.model.query_position_embeddings.weight) == 30
    original_with_groups(tmp_path / "a.pth", "detr", 3, {"num_queries": 20, "group_detr": 4})
    with pytest.raises(
        ValueError, match=r"60 object queries are not what it says: group_detr 4 groups of num_queries 20"
    ):
        kind.from_pretrained(tmp_path / "a.pth")


def test_a_folder_says_its_groups_in_its_configuration(tmp_path, caplog):
    model = small_model(num_queries=30)
    model.save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    kind = type(model)
    for more, opens in (({"num_queries": 10}, False), ({"num_queries": 10, "group_detr": 3}, True)):
        (tmp_path / "config.json").write_text(json.dumps({**values, **more}), encoding="utf-8")
        if not opens:
            with pytest.raises(ValueError, match="of another size"):
                kind.from_pretrained(tmp_path)
            continue
        opened = kind.from_pretrained(tmp_path).model.query_position_embeddings.weight
        assert torch.equal(opened, model.model.query_position_embeddings.weight[:10])
        assert re.search("30 object queries are taken for 3 groups of 10", caplog.text)


def test_a_detector_predicts_from_a_model_that_was_trained_with_groups(tmp_path):
    model = randomise(small_model(query_groups=3)).eval()
    model.save_pretrained(tmp_path)
    ConditionalDetrImageProcessor(size={"shortest_edge": 64, "longest_edge": 96}).save_pretrained(tmp_path)
    found = Detector.from_pretrained(tmp_path, device="cpu")(torch.zeros(3, 64, 80, dtype=torch.uint8), threshold=0.0)
    assert len(found) == 30  # pairs of ten queries and three classes
