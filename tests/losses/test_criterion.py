"""Matching and losses are the originals', in one go, whatever is in the batch."""

import pytest
import torch
from golden_cases import golden
from small_models import FAMILIES, small_config, small_model

from conditional_detr.losses.criterion import count_normalizers, detection_loss, share_normalizers
from conditional_detr.losses.matcher import gather_targets, match

pytestmark = pytest.mark.numeric


def golden_criterion(family):
    cases, facts = golden(f"{family}_criterion")
    config = small_config(family, num_labels=facts["num_classes"], num_queries=20)
    labels = [{"class_labels": cases[f"target_labels{b}"], "boxes": cases[f"target_boxes{b}"]} for b in range(3)]
    return cases, facts, config, labels


@pytest.mark.parametrize("family", FAMILIES)
def test_the_assignment_is_the_originals(family):
    cases, _, config, labels = golden_criterion(family)
    matches = match(config, cases["logits"], cases["boxes"], gather_targets(labels, torch.device("cpu"), torch.float64))
    first = [0, 4, 4]
    for layer in range(3):
        for b in range(3):
            chosen = (matches.layer == layer) & (matches.image == b)
            pairs = set(zip(matches.query[chosen].tolist(), (matches.target[chosen] - first[b]).tolist(), strict=True))
            queries, targets = cases[f"match_query_l{layer}_b{b}"], cases[f"match_target_l{layer}_b{b}"]
            assert pairs == set(zip(queries.tolist(), targets.tolist(), strict=True))


@pytest.mark.parametrize("family", FAMILIES)
def test_losses_of_all_layers_and_their_gradients_are_the_originals(family):
    cases, facts, config, labels = golden_criterion(family)
    logits, boxes = cases["logits"].requires_grad_(), cases["boxes"].requires_grad_()
    total, parts = detection_loss(config, logits, boxes, labels)
    assert total.item() == pytest.approx(facts["total_loss"], rel=1e-6)
    for name, value in facts["losses"].items():
        if name in parts and (family == "detr" or name != "cardinality_error"):
            assert parts[name].item() == pytest.approx(value, rel=1e-6), name
    total.backward()
    torch.testing.assert_close(logits.grad, cases["grad_logits"], rtol=0, atol=1e-6)
    torch.testing.assert_close(boxes.grad, cases["grad_boxes"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_without_any_object_trains(family):
    model = small_model(family, auxiliary_loss=True)
    empty = {"class_labels": torch.zeros(0, dtype=torch.int64), "boxes": torch.zeros(0, 4)}
    output = model(torch.randn(2, 3, 64, 64), labels=[empty, empty])
    output.loss.backward()
    assert output.loss.isfinite() and output.loss > 0
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("family", FAMILIES)
def test_more_objects_than_queries_match_every_query_once(family):
    config = small_config(family)
    labels = [{"class_labels": torch.randint(3, (25,)), "boxes": torch.rand(25, 4) * 0.5 + 0.1}]
    logits = torch.randn(2, 1, 10, 3 + (family == "detr"))
    matches = match(config, logits, torch.rand(2, 1, 10, 4), gather_targets(labels, logits.device))
    for layer in range(2):
        assert sorted(matches.query[matches.layer == layer].tolist()) == list(range(10))
    assert detection_loss(config, logits, torch.rand(2, 1, 10, 4), labels)[0].isfinite()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_parts_of_a_batch_sum_to_the_whole(family):
    """Both normalisers: micro-batches with the step's normalisers give the loss of the whole batch."""
    cases, _, config, labels = golden_criterion(family)
    whole, _ = detection_loss(config, cases["logits"], cases["boxes"], labels)
    shares = [count_normalizers(config, labels[:1]), count_normalizers(config, labels[1:])]
    total = share_normalizers(type(shares[0])(*(a + b for a, b in zip(*shares, strict=True))), processes=1)
    parts = [
        detection_loss(config, cases["logits"][:, part], cases["boxes"][:, part], labels[part], total)[0]
        for part in (slice(0, 1), slice(1, 3))
    ]
    torch.testing.assert_close(sum(parts), whole)


def test_boxes_without_area_give_finite_losses_and_gradients():
    config = small_config()
    boxes = torch.rand(1, 1, 10, 4)
    boxes[..., 2:] = 0
    boxes.requires_grad_()
    labels = [
        {
            "class_labels": torch.zeros(2, dtype=torch.int64),
            "boxes": torch.tensor([[0.5, 0.5, 0, 0], [0.2, 0.2, 0.1, 0]]),
        }
    ]
    total, _ = detection_loss(config, torch.randn(1, 1, 10, 3), boxes, labels)
    total.backward()
    assert total.isfinite() and boxes.grad.isfinite().all()


def test_a_class_the_model_does_not_have_is_named():
    labels = [{"class_labels": torch.tensor([3]), "boxes": torch.rand(1, 4), "image_id": 17}]
    with pytest.raises(ValueError, match="image 17 reach 3, the model has 3 classes"):
        detection_loss(small_config(), torch.randn(1, 1, 10, 3), torch.rand(1, 1, 10, 4), labels)
