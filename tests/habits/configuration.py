"""Making, reading and changing a configuration."""

import copy
import json

import pytest


def values_as_keywords(Config):
    config = Config(num_queries=50, d_model=64, encoder_layers=2, auxiliary_loss=True)
    assert (config.num_queries, config.d_model, config.encoder_layers, config.auxiliary_loss) == (50, 64, 2, True)


def number_of_classes(Config):
    assert Config(num_labels=7).num_labels == 7 and len(Config(num_labels=7).id2label) == 7


def names_of_classes(Config):
    config = Config(id2label={0: "cat", 1: "dog"}, label2id={"cat": 0, "dog": 1})
    assert config.num_labels == 2 and config.label2id == {"cat": 0, "dog": 1}


def number_of_classes_set_later(config):
    config.num_labels = 9
    assert len(config.id2label) == 9 and config.num_labels == 9


def names_set_later(config):
    config.id2label = {0: "a", 1: "b"}
    assert config.num_labels == 2


def numbers_by_name_set_later(config):
    config.label2id = {"a": 0, "b": 1, "c": 2}
    assert config.label2id["b"] == 1


def several_values_at_once(config):
    config.update({"dropout": 0.3, "num_queries": 20})
    assert config.dropout == 0.3 and config.num_queries == 20


def values_from_text(config):
    config.update_from_string("num_queries=33")
    assert config.num_queries == 33


def own_attributes(config):
    config.experiment = "one"
    assert config.experiment == "one" and config.to_dict()["experiment"] == "one"


def unknown_keywords_are_kept(Config):
    assert Config(my_field=[1, 2]).my_field == [1, 2]


def as_a_dictionary_and_back(Config, config):
    assert Config.from_dict(config.to_dict()).to_dict() == config.to_dict()


def from_a_dictionary_with_changes(Config, config):
    assert Config.from_dict(config.to_dict(), num_queries=5).num_queries == 5


def as_a_json_file(Config, config, tmp):
    config.to_json_file(tmp / "c.json")
    assert Config.from_json_file(tmp / "c.json").d_model == config.d_model


def as_a_json_file_of_all_values(config, tmp):
    config.to_json_file(tmp / "c.json", use_diff=False)
    assert json.loads((tmp / "c.json").read_text())["d_model"] == 32


def as_json_text(config):
    assert json.loads(config.to_json_string())["model_type"] == "conditional_detr"


def what_differs_from_the_defaults(config):
    values = config.to_diff_dict()
    assert values["d_model"] == 32 and set(values) < set(config.to_dict())


def printed(config):
    assert "ConditionalDetrConfig" in repr(config) and '"d_model": 32' in str(config)


def compared(Config, folder):
    assert Config.from_pretrained(folder) == Config.from_pretrained(folder)
    assert Config.from_pretrained(folder) != Config.from_pretrained(folder, d_model=64)


def copied(config):
    other = copy.deepcopy(config)
    other.id2label[0] = "changed"
    assert config.id2label[0] == "cat"


def common_names_of_sizes(config):
    assert config.hidden_size == config.d_model and config.num_attention_heads == config.encoder_attention_heads


def common_names_of_sizes_set(config):
    config.hidden_size = 64
    assert config.d_model == 64


def kind_of_model(Config, config):
    assert Config.model_type == config.model_type == "conditional_detr"


def where_it_came_from(model, folder):
    assert model.config._name_or_path == folder and model.name_or_path == folder


def which_classes_it_is_of(config):
    assert config.architectures == ["ConditionalDetrForObjectDetection"]


def precision(model):
    assert str(model.config.dtype).endswith("float32")


def type_of_all_configurations(config):
    from transformers import PretrainedConfig

    assert isinstance(config, PretrainedConfig)


def type_of_all_configurations_by_its_newer_name(config):
    from transformers import PreTrainedConfig

    assert isinstance(config, PreTrainedConfig)


def default_values_of_outputs(config):
    assert config.output_hidden_states is False and config.output_attentions is False and config.use_return_dict


def attention_outputs_set_later(Model, folder, pixels):
    model = Model.from_pretrained(folder, attn_implementation="eager")
    model.config.output_attentions = True
    assert model(pixels).cross_attentions[0].shape[:3] == (2, 8, 10)


def hidden_states_set_later(model, pixels):
    model.config.output_hidden_states = True
    assert len(model(pixels).decoder_hidden_states) >= 2


def attention_set(config):
    config._attn_implementation = "eager"
    assert config._attn_implementation == "eager"


def encoder_and_decoder(config):
    assert config.is_encoder_decoder and config.num_hidden_layers == 1


def loss_weights(config):
    assert config.bbox_loss_coefficient == 5 and config.giou_cost == 2 and config.focal_alpha == 0.25


def weights_of_losses_set_later(model, pixels, labels):
    before = model(pixels, labels=labels).loss
    model.config.bbox_loss_coefficient = 50
    assert model(pixels, labels=labels).loss > before


def backbone_by_configuration(t):
    backbone = t.AutoConfig.for_model("resnet", depths=[1, 1, 1, 1], hidden_sizes=[8, 8, 16, 16], layer_type="basic")
    config = t.ConditionalDetrConfig(backbone_config=backbone, use_timm_backbone=False)
    assert config.backbone_config.model_type == "resnet"


def model_of_a_resnet_of_transformers(t, pixels):
    from transformers import ResNetConfig

    backbone = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], layer_type="basic", out_features=["stage4"]
    )
    config = t.ConditionalDetrConfig(
        backbone_config=backbone, use_timm_backbone=False, d_model=32, num_queries=5, encoder_layers=1, decoder_layers=1,
        encoder_ffn_dim=32, decoder_ffn_dim=32, encoder_attention_heads=4, decoder_attention_heads=4, num_labels=3,
    )  # fmt: skip
    assert t.ConditionalDetrForObjectDetection(config).eval()(pixels).logits.shape == (2, 5, 3)


def backbone_in_the_saved_file(config, tmp):
    config.save_pretrained(tmp)
    values = json.loads((tmp / "config.json").read_text())
    assert "test_resnet" in json.dumps(values)


def of_another_model_is_refused(t):
    with pytest.raises((ValueError, TypeError)):
        t.AutoModelForObjectDetection.from_config({"model_type": "nonsense"})


def detr_beside_it(t):
    config = t.DetrConfig(num_labels=4, num_queries=12)
    assert config.model_type == "detr" and config.num_labels == 4
