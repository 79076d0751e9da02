"""Getting a model, a configuration or a processor from somewhere."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch


def name_as_a_keyword(Model, folder):
    assert Model.from_pretrained(pretrained_model_name_or_path=folder).config.num_labels == 3


def configuration_by_keyword_name(Config, folder):
    assert Config.from_pretrained(pretrained_model_name_or_path=folder).d_model == 32


def processor_by_keyword_name(Processor, folder):
    assert Processor.from_pretrained(pretrained_model_name_or_path=folder).do_resize


def auto_model_by_keyword_name(t, Model, folder):
    assert isinstance(t.AutoModelForObjectDetection.from_pretrained(pretrained_model_name_or_path=folder), Model)


def auto_configuration_by_keyword_name(t, Config, folder):
    assert isinstance(t.AutoConfig.from_pretrained(pretrained_model_name_or_path=folder), Config)


def auto_processor_by_keyword_name(t, folder):
    assert t.AutoImageProcessor.from_pretrained(pretrained_model_name_or_path=folder).do_pad


def auto_model_without_heads(t, folder):
    assert isinstance(t.AutoModel.from_pretrained(folder), t.ConditionalDetrModel)


def folder_as_a_path(Model, folder):
    assert Model.from_pretrained(Path(folder)).config.num_queries == 10


def configuration_from_its_file(Config, folder):
    assert Config.from_json_file(os.path.join(folder, "config.json")).d_model == 32


def configuration_folder_as_a_path(Config, folder):
    assert Config.from_pretrained(Path(folder)).d_model == 32


def evaluation_mode_after_loading(Model, folder):
    assert not Model.from_pretrained(folder).training


def configuration_object_replaces_the_files(Model, Config, folder):
    config = Config.from_pretrained(folder, auxiliary_loss=True)
    assert Model.from_pretrained(folder, config=config).config.auxiliary_loss


def configuration_by_a_folders_name(Model, folder):
    assert Model.from_pretrained(folder, config=folder).config.d_model == 32


def configuration_object_of_the_auto_class(t, folder):
    config = t.AutoConfig.from_pretrained(folder, id2label={0: "a", 1: "b"}, label2id={"a": 0, "b": 1})
    model = t.AutoModelForObjectDetection.from_pretrained(folder, config=config, ignore_mismatched_sizes=True)
    assert model.config.id2label == {0: "a", 1: "b"} and model.class_labels_classifier.out_features == 2


def other_classes_by_count(Model, folder):
    model = Model.from_pretrained(folder, num_labels=10, ignore_mismatched_sizes=True)
    assert model.config.num_labels == 10 and model.class_labels_classifier.out_features == 10


def other_classes_by_names(t, folder):
    names = {0: "car", 1: "bus", 2: "tram", 3: "bike"}
    model = t.AutoModelForObjectDetection.from_pretrained(
        folder, id2label=names, label2id={v: k for k, v in names.items()}, ignore_mismatched_sizes=True
    )
    assert model.config.id2label == names and model.config.label2id["tram"] == 2


def other_classes_of_a_model_with_category_ids(Model, folder, tmp):
    shutil.copytree(folder, tmp / "m")
    path = tmp / "m" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "category_ids": [1, 5, 9]}))
    assert Model.from_pretrained(tmp / "m", num_labels=10, ignore_mismatched_sizes=True).config.num_labels == 10


def values_of_the_configuration_as_keywords(Model, folder):
    model = Model.from_pretrained(folder, auxiliary_loss=True, bbox_cost=7)
    assert model.config.auxiliary_loss and model.config.bbox_cost == 7


def sizes_that_do_not_fit_are_refused(Model, folder):
    with pytest.raises((RuntimeError, ValueError)):
        Model.from_pretrained(folder, decoder_ffn_dim=48)


def subfolder_of_a_model(Model, folder, tmp):
    shutil.copytree(folder, tmp / "repository" / "detector")
    assert Model.from_pretrained(tmp / "repository", subfolder="detector").config.d_model == 32


def subfolder_of_a_configuration(Config, folder, tmp):
    shutil.copytree(folder, tmp / "repository" / "detector")
    config = Config.from_pretrained(str(tmp / "repository"), subfolder="detector")
    assert config.d_model == 32 and "subfolder" not in config.to_dict()


def subfolder_of_a_processor(Processor, folder, tmp):
    shutil.copytree(folder, tmp / "repository" / "detector")
    processor = Processor.from_pretrained(str(tmp / "repository"), subfolder="detector")
    assert processor.size["shortest_edge"] == 64


def variant(Model, model, tmp):
    model.save_pretrained(tmp / "v", variant="fp16")
    assert (tmp / "v" / "model.fp16.safetensors").is_file()
    assert Model.from_pretrained(tmp / "v", variant="fp16").config.d_model == 32


def state_dict_in_place_of_the_files(Model, model, config):
    weights = {name: tensor + 1 for name, tensor in model.state_dict().items() if "num_batches" not in name}
    loaded = Model.from_pretrained(None, config=config, state_dict=weights)
    torch.testing.assert_close(loaded.class_labels_classifier.bias, model.class_labels_classifier.bias + 1)


def loading_info(Model, folder):
    model, info = Model.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["mismatched_keys"] and model.config.d_model == 32


def loading_info_names_new_weights(Model, folder):
    _, info = Model.from_pretrained(folder, num_labels=9, ignore_mismatched_sizes=True, output_loading_info=True)
    names = {entry[0] if isinstance(entry, tuple | list) else entry for entry in info["mismatched_keys"]}
    assert names == {"class_labels_classifier.weight", "class_labels_classifier.bias"}


def no_quantization(Model, folder):
    assert Model.from_pretrained(folder, quantization_config=None).dtype == torch.float32


def weights_only(Model, folder):
    assert Model.from_pretrained(folder, weights_only=True).config.d_model == 32


def half_precision(Model, folder):
    assert Model.from_pretrained(folder, dtype=torch.float16).dtype == torch.float16


def half_precision_by_name(Model, folder):
    assert Model.from_pretrained(folder, dtype="bfloat16").dtype == torch.bfloat16


def half_precision_by_its_older_name(Model, folder):
    assert Model.from_pretrained(folder, torch_dtype=torch.bfloat16).dtype == torch.bfloat16


def the_files_own_precision(Model, folder):
    assert Model.from_pretrained(folder, dtype="auto").dtype == torch.float32


def device_map_of_the_whole_model(Model, folder):
    pytest.importorskip("accelerate")
    assert Model.from_pretrained(folder, device_map={"": "cpu"}).device.type == "cpu"


def device_map_by_name(Model, folder):
    pytest.importorskip("accelerate")
    assert Model.from_pretrained(folder, device_map="cpu").device.type == "cpu"


def little_memory(Model, folder):
    assert Model.from_pretrained(folder, low_cpu_mem_usage=True).config.d_model == 32


def safetensors_only(Model, folder):
    assert Model.from_pretrained(folder, use_safetensors=True).config.d_model == 32


def eager_attention(Model, folder):
    assert Model.from_pretrained(folder, attn_implementation="eager").config._attn_implementation == "eager"


def local_files(t, folder):
    assert t.AutoModelForObjectDetection.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def a_place_that_is_not(Model, tmp):
    with pytest.raises(OSError):
        Model.from_pretrained(str(tmp / "nothing"))


def a_folder_without_a_configuration(Model, tmp):
    with pytest.raises(OSError):
        Model.from_pretrained(str(tmp))


def from_a_configuration_alone(t, config, Model):
    assert isinstance(t.AutoModelForObjectDetection.from_config(config), Model)


def frozen_backbone_by_name(Model, folder):
    model = Model.from_pretrained(folder)
    for name, parameter in model.named_parameters():
        if "backbone" in name:
            parameter.requires_grad = False
    assert not any(p.requires_grad for p in model.model.backbone.parameters())


def frozen_by_method(model):
    model.model.freeze_backbone()
    assert not any(p.requires_grad for p in model.model.backbone.parameters())
    model.model.unfreeze_backbone()
    assert any(p.requires_grad for p in model.model.backbone.parameters())


def further_head_on_a_plain_checkpoint(Model, folder):
    class WithHead(Model):
        def __init__(self, config):
            super().__init__(config)
            self.extra = torch.nn.Linear(config.d_model, 2)
            self.post_init()

    model = WithHead.from_pretrained(folder)
    assert model.extra.weight.isfinite().all() and not model.extra.weight.is_meta


def bare_model_from_a_detectors_checkpoint(t, folder, model):
    bare = t.ConditionalDetrModel.from_pretrained(folder)
    assert torch.equal(bare.query_position_embeddings.weight, model.model.query_position_embeddings.weight)


def unused_keywords_of_a_configuration(Config, folder):
    config, unused = Config.from_pretrained(folder, return_unused_kwargs=True, foo=1, d_model=64)
    assert unused == {"foo": 1} and config.d_model == 64


def dictionary_of_a_configuration(Config, folder):
    values, unused = Config.get_config_dict(folder)
    assert values["d_model"] == 32 and isinstance(unused, dict)


def dictionary_of_a_processor(Processor, folder):
    values, _ = Processor.get_image_processor_dict(folder)
    assert values["size"]["shortest_edge"] == 64
