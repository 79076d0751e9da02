"""Calling a model and reading what it returns."""

import copy
import pickle

import pytest
import torch


def by_name_attribute_and_position(output):
    assert output["logits"] is output.logits and output.pred_boxes is output[1] and output[0] is output.logits


def is_an_output_of_transformers(output):
    from transformers.utils import ModelOutput

    assert isinstance(output, ModelOutput)


def what_was_not_computed_is_none(output):
    assert output.loss is None and "loss" not in output and output.get("loss") is None


def as_a_tuple(output):
    assert output.to_tuple()[0] is output.logits and len(output.to_tuple()) == len(output)


def keys_and_items(output):
    assert list(output)[:2] == ["logits", "pred_boxes"] and dict(output.items())["logits"] is output.logits


def an_attribute_that_is_set(output):
    new = torch.zeros(1)
    output.logits = new
    assert output["logits"] is new and output[0] is new and output.to_tuple()[0] is new


def a_key_that_is_set(output):
    new = torch.zeros(1)
    output["pred_boxes"] = new
    assert output.pred_boxes is new and output.to_tuple()[1] is new


def unknown_names_are_refused(output):
    with pytest.raises(AttributeError):
        _ = output.no_such_name
    with pytest.raises(KeyError):
        _ = output["no_such_name"]


def entries_are_not_removed(output):
    with pytest.raises(Exception, match=r"pop|del"):
        output.pop("logits")


def copied(output):
    other = copy.deepcopy(output)
    assert torch.equal(other.logits, output.logits) and other.logits is not output.logits


def pickled(output):
    assert torch.equal(pickle.loads(pickle.dumps(output)).logits, output.logits)


def tree_of_tensors(output):
    leaves, spec = torch.utils._pytree.tree_flatten(output)
    assert any(leaf is output.logits for leaf in leaves)
    assert torch.utils._pytree.tree_unflatten(leaves, spec).logits is output.logits


def a_tuple_by_keyword(model, pixels):
    logits, boxes, *_ = model(pixels, return_dict=False)
    assert logits.shape == (2, 10, 3) and boxes.shape == (2, 10, 4)


def by_keywords(model, pixels):
    assert model(pixel_values=pixels, pixel_mask=torch.ones(2, 64, 64)).logits.shape == (2, 10, 3)


def what_the_processor_gives(model, processor, image):
    assert model(**processor(images=image, return_tensors="pt")).pred_boxes.shape == (1, 10, 4)


def whole_number_masks(model, pixels):
    mask = torch.ones(2, 64, 64, dtype=torch.long)
    assert torch.allclose(model(pixels, mask).logits, model(pixels).logits, atol=1e-5)


def hidden_states(model, pixels):
    output = model(pixels, output_hidden_states=True)
    assert len(output.encoder_hidden_states) == 2 and output.decoder_hidden_states[-1].shape == (2, 10, 32)


def attentions(Model, folder, pixels):
    model = Model.from_pretrained(folder, attn_implementation="eager")
    output = model(pixels, output_attentions=True)
    assert output.decoder_attentions[0].shape == (2, 8, 10, 10) and output.cross_attentions[0].shape == (2, 8, 10, 4)
    assert output.encoder_attentions[0].shape == (2, 8, 4, 4)


def last_states(output):
    assert output.last_hidden_state.shape == (2, 10, 32) and output.encoder_last_hidden_state.shape == (2, 4, 32)


def further_keywords(model, pixels):
    assert model(pixels, use_cache=False).logits.shape == (2, 10, 3)


def states_of_the_bare_model(t, folder, pixels):
    output = t.ConditionalDetrModel.from_pretrained(folder)(pixels)
    assert output.last_hidden_state.shape == (2, 10, 32) and output[0] is output.last_hidden_state


def losses_by_name(model, pixels, labels):
    output = model(pixels, labels=labels)
    assert {"loss_ce", "loss_bbox", "loss_giou"} <= set(output.loss_dict) and output[0] is output.loss


def losses_of_earlier_layers(Model, folder, pixels, labels):
    output = Model.from_pretrained(folder, auxiliary_loss=True)(pixels, labels=labels)
    assert "loss_ce_0" in output.loss_dict and output.auxiliary_outputs[0]["logits"].shape == (2, 10, 3)


def best_classes(output):
    assert output.logits.sigmoid().max(-1).values.shape == (2, 10)


def detached_and_on_the_cpu(output):
    assert {k: v.detach().cpu().numpy() for k, v in output.items() if isinstance(v, torch.Tensor)}["logits"].ndim == 3


def encoder_given_by_the_caller(model, pixels):
    from transformers.modeling_outputs import BaseModelOutput

    first = model(pixels)
    encoded = BaseModelOutput(last_hidden_state=first.encoder_last_hidden_state)
    assert torch.allclose(model(pixels, encoder_outputs=encoded).logits, first.logits, atol=1e-5)
