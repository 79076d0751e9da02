"""Facts about predictions that users of the models rely on."""

import pytest
import torch
from small_models import FAMILIES, randomise, small_config, small_model

from conditional_detr.models.family import family_of


@pytest.mark.numeric
@pytest.mark.parametrize("family", FAMILIES)
def test_auxiliary_loss_and_labels_never_change_predictions(family):
    """Trap 2: transformers feeds normalised states on when auxiliary losses are on."""
    model = randomise(small_model(family)).double().eval()
    pixels = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    labels = [{"class_labels": torch.tensor([1]), "boxes": torch.rand(1, 4)}] * 2
    plain = model(pixels)
    model.config.auxiliary_loss = True
    trained = model(pixels, labels=labels)
    torch.testing.assert_close(trained.logits, plain.logits)
    torch.testing.assert_close(trained.pred_boxes, plain.pred_boxes)
    assert len(trained.auxiliary_outputs) == 1 and plain.auxiliary_outputs is None


@pytest.mark.numeric
@pytest.mark.parametrize("family", FAMILIES)
def test_gradient_checkpointing_and_attention_outputs_change_nothing(family):
    model = randomise(small_model(family, dropout=0.0, backbone_norm="group", auxiliary_loss=True)).double().train()
    pixels = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    labels = [{"class_labels": torch.tensor([1]), "boxes": torch.rand(1, 4)}] * 2

    def run(**options):
        model.zero_grad()
        output = model(pixels, labels=labels, **options)
        output.loss.backward()
        return output, {n: p.grad.clone() for n, p in model.named_parameters()}

    plain, gradients = run()
    shown, shown_gradients = run(output_attentions=True, output_hidden_states=True)
    torch.testing.assert_close(shown.logits, plain.logits)
    assert shown.cross_attentions[0].shape == (2, 4, 10, 96) and len(shown.decoder_hidden_states) == 3
    torch.testing.assert_close(shown.cross_attentions[0].sum(-1), torch.ones(2, 4, 10).double())
    model.gradient_checkpointing_enable()
    saved, saved_gradients = run()
    torch.testing.assert_close(saved.logits, plain.logits)
    for name, gradient in gradients.items():
        torch.testing.assert_close(saved_gradients[name], gradient, msg=name)
        torch.testing.assert_close(shown_gradients[name], gradient, msg=name)


def test_outputs_are_read_by_name_attribute_and_position():
    output = small_model().eval()(torch.randn(1, 3, 64, 64))
    assert output["logits"] is output.logits is output[0] and output.pred_boxes is output[1]
    assert output.loss is None and output.loss_dict is None
    with pytest.raises(AttributeError):
        _ = output.no_such_field


@pytest.mark.parametrize("family", FAMILIES)
def test_training_starts_as_the_papers_start(family):
    model = family_of(family).detector(small_model(family).config)
    encoder = model.model.encoder.layers[0]
    bound = (6 / (32 + 3 * 32)) ** 0.5  # Xavier of the packed (3d, d) matrix
    assert 0.9 * bound < encoder.self_attn.q_proj.weight.abs().max() <= bound
    assert encoder.self_attn.q_proj.bias.abs().max() == 0
    if family == "conditional_detr":
        assert model.class_labels_classifier.bias.sigmoid().tolist() == pytest.approx([0.01] * 3, rel=1e-4)
        assert model.bbox_predictor.layers[-1].weight.abs().max() == 0


def test_learned_positions_say_where_they_end():
    model = small_model(position_embedding_type="learned", output_stride=4).eval()
    with pytest.raises(ValueError, match=r"50 cells a side, this feature map has 16×51"):
        model(torch.randn(1, 3, 64, 204))


def test_a_pretrained_backbone_freezes_stem_and_first_stage_only():
    frozen = {
        n.split(".")[3]
        for n, p in small_model(backbone_norm="frozen", output_stride=32).named_parameters()
        if not p.requires_grad
    }
    assert frozen == {"conv1", "layer1"}
    assert all(p.requires_grad for p in small_model(backbone_norm="batch").parameters())


def test_without_network_a_pretrained_backbone_says_how_to_go_on(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match=r"resnet18\.tv_in1k.*not on this machine.*--init_from"):
        small_model(use_pretrained_backbone=True, backbone_norm="frozen")


def test_an_unknown_backbone_or_stride_is_named():
    with pytest.raises(ValueError, match="backbone 'resnet5000' is not a timm network"):
        small_model(backbone="resnet5000")
    with pytest.raises(ValueError, match="output_stride must be one of 4, 8, 16, 32, got 12"):
        small_model(output_stride=12)


@pytest.mark.numeric
@pytest.mark.parametrize("family", FAMILIES)
def test_compiling_takes_the_model_in_one_graph_and_changes_nothing(family):
    torch._dynamo.reset()  # graphs are counted over all models of a process
    model = randomise(small_model(family)).double().eval()
    pixels, mask = torch.randn(2, 3, 64, 96).double(), torch.ones(2, 64, 96, dtype=torch.bool)
    mask[0, 50:] = False
    plain = model(pixels, mask)
    model.compile(backend="eager", fullgraph=True)
    for _ in range(2):
        torch.testing.assert_close(model(pixels, mask).logits, plain.logits)
    assert model(pixels[:, :, :48]).logits.shape == plain.logits.shape


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_refuses_the_configuration_of_another_family(family):
    """Built all the same, it would have one family's layers and the other's classes, and could not be opened again."""
    (other,) = set(FAMILIES) - {family}
    models = family_of(family)
    for model_class in (models.model, models.detector, models.segmenter):
        with pytest.raises(
            ValueError, match=f"^{model_class.__name__} is built from a {models.config_class.__name__}, got a"
        ):
            model_class(small_config(other))
