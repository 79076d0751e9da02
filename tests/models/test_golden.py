"""The models compute what the original implementations compute, in float64."""

import pytest
import torch
from golden_cases import golden
from small_models import FAMILIES

pytestmark = pytest.mark.numeric


@pytest.mark.parametrize("family", FAMILIES)
def test_every_decoder_layer_predicts_what_the_original_predicts(family, golden_model):
    cases, _ = golden(f"{family}_r18")
    model = golden_model(family)
    for k in range(2):
        with torch.no_grad():
            output = model(cases[f"image{k}"][None])
        layers = [*output.auxiliary_outputs, {"logits": output.logits, "pred_boxes": output.pred_boxes}]
        logits = torch.cat([layer["logits"] for layer in layers])
        boxes = torch.cat([layer["pred_boxes"] for layer in layers])
        torch.testing.assert_close(logits, cases[f"logits{k}"], rtol=0, atol=1e-6)
        torch.testing.assert_close(boxes, cases[f"boxes{k}"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_losses_and_gradients_are_the_originals(family, golden_model):
    cases, facts = golden(f"{family}_r18")
    model = golden_model(family)  # evaluation mode: no dropout, as the golden run
    label = {"class_labels": cases["target_labels"], "boxes": cases["target_boxes"]}
    output = model(cases["image0"][None], labels=[label])
    assert output.loss.item() == pytest.approx(facts["total_loss"], rel=1e-6)
    for name, value in facts["losses"].items():
        if not name.startswith("cardinality_error") and name in output.loss_dict:
            assert output.loss_dict[name].item() == pytest.approx(value, rel=1e-6), name
    output.loss.backward()

    from conditional_detr.checkpoints.names import to_original

    gradients = {n: p.grad if p.grad is not None else torch.zeros_like(p) for n, p in model.named_parameters()}
    norms = {n: g.norm().item() for n, g in to_original(gradients, model.weight_names).items()}
    for name, value in facts["gradient_norms"].items():  # some are zero: of keys' biases, of queries over equal values
        assert norms[name] == pytest.approx(value, rel=1e-6, abs=1e-6), name
    frozen = {
        n for n, g in to_original(dict(model.named_parameters()), model.weight_names).items() if not g.requires_grad
    }
    assert frozen == {name for name in facts["frozen"] if name in norms}
