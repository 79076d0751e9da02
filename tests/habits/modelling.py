"""What is asked of a model, beside its predictions."""

import torch
from torch import nn


def is_a_model_of_transformers(model):
    from transformers import PreTrainedModel

    assert isinstance(model, PreTrainedModel)


def model_without_its_heads(model, t):
    assert isinstance(model.base_model, t.ConditionalDetrModel) and model.base_model_prefix == "model"


def input_that_matters(model):
    assert model.main_input_name == "pixel_values"


def its_configurations_class(Model, Config):
    assert Model.config_class is Config


def encoder_of_the_bare_model(t, folder):
    bare = t.ConditionalDetrModel.from_pretrained(folder)
    assert bare.get_encoder() is bare.encoder


def device_and_type(model):
    assert model.device == torch.device("cpu") and model.dtype == torch.float32


def other_types(model, pixels):
    assert model.half().dtype == torch.float16 and model.bfloat16().dtype == torch.bfloat16
    assert model.to(torch.float64)(pixels.double()).logits.dtype == torch.float64


def to_a_device(model):
    assert model.to("cpu").device.type == "cpu"


def on_no_device(Model, config):
    with torch.device("meta"):
        assert next(Model(config).parameters()).is_meta


def number_of_parameters(model):
    assert model.num_parameters() == sum(p.numel() for p in model.parameters())


def number_of_trainable_parameters(model):
    model.model.freeze_backbone()
    assert model.num_parameters(only_trainable=True) < model.num_parameters()


def number_of_parameters_without_embeddings(model):
    assert model.num_parameters(exclude_embeddings=True) < model.num_parameters()


def memory(model):
    assert model.get_memory_footprint() >= 4 * model.num_parameters()


def recomputing_is_supported(model):
    assert model.supports_gradient_checkpointing and not model.is_gradient_checkpointing


def recomputing(model, pixels, labels):
    model.train().gradient_checkpointing_enable()
    assert model.is_gradient_checkpointing
    model(pixels, labels=labels).loss.backward()
    model.gradient_checkpointing_disable()
    assert not model.is_gradient_checkpointing


def recomputing_with_its_options(model, pixels, labels):
    model.train().gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model(pixels, labels=labels).loss.backward()


def gradients_of_inputs(model):
    model.enable_input_require_grads()
    model.disable_input_require_grads()


def parts_by_their_names(model):
    assert model.class_labels_classifier.out_features == 3 and model.model.encoder.layers[0] is not None
    assert model.model.decoder.layers[1] is not None and model.model.query_position_embeddings.num_embeddings == 10
    assert model.model.input_projection.out_channels == 32 and len(model.bbox_predictor.layers) == 3


def a_new_classifier(model, pixels, labels):
    model.class_labels_classifier = nn.Linear(model.config.d_model, 5)
    model.config.num_labels = 5
    output = model(pixels, labels=labels)
    output.loss.backward()
    assert output.logits.shape[-1] == 5 and model.class_labels_classifier.weight.grad is not None


def frozen_parts_get_no_gradient(model, pixels, labels):
    for parameter in model.model.parameters():
        parameter.requires_grad_(False)
    model(pixels, labels=labels).loss.backward()
    assert model.class_labels_classifier.weight.grad is not None
    assert model.model.input_projection.weight.grad is None


def parameter_groups_by_name(model):
    backbone = [p for n, p in model.named_parameters() if "backbone" in n and p.requires_grad]
    others = [p for n, p in model.named_parameters() if "backbone" not in n and p.requires_grad]
    torch.optim.AdamW([{"params": others}, {"params": backbone, "lr": 1e-5}], lr=1e-4)
    assert backbone and others


def a_class_of_ones_own(Model, folder, pixels):
    class Mine(Model):
        def forward(self, *args, **kwargs):
            output = super().forward(*args, **kwargs)
            output.logits = output.logits * 2
            return output

    mine, plain = Mine.from_pretrained(folder), Model.from_pretrained(folder)
    torch.testing.assert_close(mine(pixels)["logits"], plain(pixels).logits * 2)


def inside_a_module_of_ones_own(model, pixels):
    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.detector = model

        def forward(self, x):
            return self.detector(pixel_values=x).pred_boxes

    assert Wrapped()(pixels).shape == (2, 10, 4)


def initialised_again(model):
    model.init_weights()
    assert all(p.isfinite().all() for p in model.parameters())


def a_hook_on_a_layer(model, pixels):
    seen = []
    handle = model.model.encoder.layers[0].register_forward_hook(lambda *_: seen.append(1))
    model(pixels)
    handle.remove()
    assert seen == [1]


def exported(model, pixels):
    program = torch.export.export(model.eval(), (), {"pixel_values": pixels[:1]}, strict=False)
    with torch.no_grad():
        found = program.module()(pixel_values=pixels[:1])
        torch.testing.assert_close(found.logits, model(pixels[:1]).logits, rtol=1e-4, atol=1e-4)


def traced(model, pixels):
    traced = torch.jit.trace(model, pixels, strict=False)
    with torch.no_grad():
        torch.testing.assert_close(traced(pixels)["logits"], model(pixels).logits)


def quantized_dynamically(model, pixels):
    smaller = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    with torch.no_grad():
        assert smaller(pixels).logits.shape == (2, 10, 3)


def autocast(model, pixels):
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert model(pixels).logits.shape == (2, 10, 3)


def one_channel(Model, Config, config):
    values = {**config.to_dict(), "num_channels": 1}
    if isinstance(values.get("backbone_config"), dict):
        values["backbone_config"] = {**values["backbone_config"], "num_channels": 1}
    model = Model(Config.from_dict(values)).eval()
    assert model(torch.randn(1, 1, 64, 64)).logits.shape == (1, 10, 3)


def loss_function_of_ones_own(model, pixels, labels):
    model.loss_function = lambda *args, **kwargs: (torch.tensor(7.0), {"mine": torch.tensor(7.0)}, None)
    assert model(pixels, labels=labels).loss == 7


def loss_function_by_name(model):
    assert callable(model.loss_function)


def other_attention(model, pixels):
    model.set_attn_implementation("eager")
    assert model(pixels, output_attentions=True).encoder_attentions[0].shape[1] == 8


def segmentation_of_a_detector(t, folder, pixels):
    model = t.ConditionalDetrForSegmentation.from_pretrained(folder)
    assert model(pixels).pred_masks.shape[:2] == (2, 10)


def tags(model):
    model.add_model_tags(["mine"])
    assert "mine" in model.model_tags
