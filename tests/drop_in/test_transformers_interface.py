"""`forward` takes transformers' arguments and gives transformers' outputs: names, order, shapes, values."""

import inspect

import pytest
import torch
import transformers
from small_models import FAMILIES, randomise, small_model

import conditional_detr

pytestmark = pytest.mark.numeric

EXPRESSIBLE = dict(backbone_norm="frozen", output_stride=32)
TOLERANCE = 1e-7  # positions are computed in float32, there and here
STEMS = {"conditional_detr": "ConditionalDetr", "detr": "Detr"}


def pair(folder, family, kind="ForObjectDetection", **values):
    """(ours, theirs) with the same weights, in float64."""
    randomise(small_model(family, **EXPRESSIBLE, **values)).save_pretrained(folder)
    name = STEMS[family] + kind
    ours = getattr(conditional_detr, name).from_pretrained(folder)
    theirs = getattr(transformers, name).from_pretrained(folder, attn_implementation="eager")
    return ours.double().eval(), theirs.double().eval()


def assert_same(a, b, name):
    if isinstance(b, torch.Tensor):
        assert a.shape == b.shape, name
        assert a.dtype == b.dtype, name
        torch.testing.assert_close(a, b, rtol=0, atol=TOLERANCE, msg=lambda text: f"{name}: {text}")
    elif isinstance(b, dict):
        assert set(a) >= set(b), name
        for key in b:
            assert_same(a[key], b[key], f"{name}.{key}")
    else:
        assert len(a) == len(b), name
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{name}[{i}]")


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["Model", "ForObjectDetection"])
def test_every_output_is_transformers(family, kind, tmp_path):
    ours, theirs = pair(tmp_path, family, kind)
    pixels = torch.randn(2, 3, 96, 128, dtype=torch.float64)
    wanted = dict(output_attentions=True, output_hidden_states=True)
    a, b = ours(pixels, **wanted), theirs(pixels, **wanted)
    assert list(a) == list(b)
    assert_same(a, b, "outputs")
    assert_same(ours(pixels, return_dict=False, **wanted), theirs(pixels, return_dict=False, **wanted), "tuple")


@pytest.mark.parametrize("kind", ["Model", "ForObjectDetection"])
def test_arguments_stand_in_transformers_order(kind):
    for stem in STEMS.values():
        theirs = list(inspect.signature(getattr(transformers, stem + kind).forward).parameters)
        ours = list(inspect.signature(getattr(conditional_detr, stem + kind).forward).parameters)
        theirs.remove("kwargs")
        assert ours[: len(theirs)] == theirs


@torch.no_grad()
def test_the_configuration_says_what_is_returned_unless_the_call_does(tmp_path):
    small_model(output_attentions=True, output_hidden_states=True, return_dict=False).save_pretrained(tmp_path)
    model = conditional_detr.ConditionalDetrForObjectDetection.from_pretrained(tmp_path)
    pixels = torch.randn(1, 3, 64, 64)
    assert isinstance(model(pixels), tuple)
    assert model(pixels, return_dict=True).cross_attentions[0].shape == (1, 4, 10, 64)
    plain = model(pixels, output_attentions=False, output_hidden_states=False, return_dict=True)
    assert plain.cross_attentions is None and plain.encoder_hidden_states is None


@torch.no_grad()
def test_masked_queries_and_given_content_are_transformers(tmp_path):
    """In transformers' DETR; its Conditional DETR takes these arguments and ignores them."""
    ours, theirs = pair(tmp_path, "detr")
    pixels, content = torch.randn(2, 3, 96, 128).double(), torch.randn(2, 10, 32).double()
    mask = torch.ones(2, 10, dtype=torch.long)
    mask[0, 4:] = 0
    given = dict(decoder_attention_mask=mask, decoder_inputs_embeds=content)
    a, b = ours(pixels, **given), theirs(pixels, **given)
    assert_same(a, b, "outputs")
    assert (a.logits - ours(pixels).logits).abs().max() > 1e-2


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_a_masked_query_changes_no_other(family):
    model = randomise(small_model(family)).double().eval()
    pixels, content = torch.randn(1, 3, 64, 64).double(), torch.randn(1, 10, 32).double()
    other = content.clone()
    other[:, 7] += 1
    mask = torch.ones(1, 10)
    mask[:, 7] = 0
    a, b = (model(pixels, decoder_attention_mask=mask, decoder_inputs_embeds=c).logits for c in (content, other))
    kept = mask[0].bool()
    torch.testing.assert_close(a[:, kept], b[:, kept])
    assert (a[:, 7] - b[:, 7]).abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_encoder_outputs_replace_the_encoder(family):
    model = randomise(small_model(family)).double().eval()
    pixels = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    once = model(pixels, output_hidden_states=True)
    memory = once.encoder_last_hidden_state
    for form in (
        (memory,),
        (memory, once.encoder_hidden_states),
        transformers.modeling_outputs.BaseModelOutput(last_hidden_state=memory),
    ):
        again = model(pixels, encoder_outputs=form)
        torch.testing.assert_close(again.logits, once.logits)
        torch.testing.assert_close(again.encoder_last_hidden_state, memory)
    assert (model(pixels, encoder_outputs=(memory + 1,)).logits - once.logits).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (dict(inputs_embeds=torch.zeros(1, 64, 32)), "inputs_embeds is not supported"),
        (dict(encoder_outputs=(torch.zeros(1, 63, 32),)), r"\(1, 63, 32\) are not of these pixel_values, which have \(1, 64, 32\)"),
        (dict(decoder_inputs_embeds=torch.zeros(1, 9, 32)), r"decoder_inputs_embeds must have the shape \(1, 10, 32\), got \(1, 9, 32\)"),
        (dict(labels=[]), "0 labels for 1 images"),
        (dict(labels=[{"boxes": torch.rand(1, 4)}]), r"labels\[0\] lacks class_labels"),
        (dict(decoder_attention_mask=torch.ones(2, 10)), r"decoder_attention_mask must have the shape \(1, 10\)"),
    ],
)  # fmt: skip
def test_arguments_that_do_not_fit_are_named(given, message):
    with pytest.raises(ValueError, match=message):
        small_model().eval()(torch.randn(1, 3, 64, 64), **given)
