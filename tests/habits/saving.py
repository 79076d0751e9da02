"""Writing models, configurations and processors, and what comes back."""

import copy
import json
import pickle

import torch


def directory_by_keyword_name(model, tmp):
    model.save_pretrained(save_directory=tmp / "m")
    assert (tmp / "m" / "config.json").is_file() and (tmp / "m" / "model.safetensors").is_file()


def configuration_by_keyword_name(config, tmp):
    config.save_pretrained(save_directory=tmp / "m")
    assert (tmp / "m" / "config.json").is_file()


def processor_by_keyword_name(processor, tmp):
    processor.save_pretrained(save_directory=str(tmp / "m"))
    assert (tmp / "m" / "preprocessor_config.json").is_file()


def a_model_and_back(Model, model, pixels, tmp):
    model.save_pretrained(tmp / "m")
    back = Model.from_pretrained(tmp / "m")
    with torch.no_grad():
        torch.testing.assert_close(back(pixels).logits, model(pixels).logits)


def a_processor_and_back(t, processor, tmp):
    processor.save_pretrained(tmp / "m")
    assert t.AutoImageProcessor.from_pretrained(tmp / "m").to_dict() == processor.to_dict()


def a_changed_processor_and_back(Processor, tmp):
    Processor(do_normalize=False, size={"height": 32, "width": 40}).save_pretrained(tmp / "p")
    back = Processor.from_pretrained(tmp / "p")
    assert not back.do_normalize and back.size["height"] == 32 and back.size["width"] == 40


def settings_that_are_none_and_back(Processor, tmp):
    processor = Processor()
    processor.do_normalize = None
    processor.save_pretrained(tmp / "p")
    assert not json.loads((tmp / "p" / "preprocessor_config.json").read_text()).get("do_normalize")


def weights_given_apart(Model, model, tmp):
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    weights["class_labels_classifier.bias"] += 1
    model.save_pretrained(tmp / "m", state_dict=weights)
    back = Model.from_pretrained(tmp / "m")
    torch.testing.assert_close(back.class_labels_classifier.bias, model.class_labels_classifier.bias + 1)


def several_files(Model, model, tmp):
    model.save_pretrained(tmp / "m", max_shard_size="10MB")
    assert Model.from_pretrained(tmp / "m").config.d_model == 32


def in_the_main_process_alone(model, tmp):
    model.save_pretrained(tmp / "m", is_main_process=True)
    assert (tmp / "m" / "config.json").is_file()


def the_class_is_named_in_the_file(model, tmp):
    model.save_pretrained(tmp / "m")
    values = json.loads((tmp / "m" / "config.json").read_text())
    assert values["architectures"] == [type(model).__name__] and values["model_type"] == "conditional_detr"


def precision_is_named_in_the_file(model, tmp):
    model.to(torch.bfloat16).save_pretrained(tmp / "m")
    values = json.loads((tmp / "m" / "config.json").read_text())
    assert values.get("dtype", values.get("torch_dtype")) == "bfloat16"


def precision_comes_back(Model, model, tmp):
    model.to(torch.bfloat16).save_pretrained(tmp / "m")
    assert Model.from_pretrained(tmp / "m", dtype="auto").dtype == torch.bfloat16


def weights_by_torch(model, t, folder, tmp):
    torch.save(model.state_dict(), tmp / "weights.pt")
    other = t.ConditionalDetrForObjectDetection(model.config)
    other.load_state_dict(torch.load(tmp / "weights.pt", weights_only=True))
    assert torch.equal(other.class_labels_classifier.bias, model.class_labels_classifier.bias)


def a_whole_model_by_torch(model, pixels, tmp):
    torch.save(model, tmp / "model.pt")
    back = torch.load(tmp / "model.pt", weights_only=False)
    with torch.no_grad():
        assert torch.equal(back(pixels).logits, model(pixels).logits)


def a_deep_copy(model, pixels):
    with torch.no_grad():
        assert torch.equal(copy.deepcopy(model)(pixels).logits, model(pixels).logits)


def a_pickled_configuration(config):
    assert pickle.loads(pickle.dumps(config)).to_dict() == config.to_dict()


def a_pickled_processor(processor, image):
    back = pickle.loads(pickle.dumps(processor))
    assert torch.equal(
        back(image, return_tensors="pt")["pixel_values"], processor(image, return_tensors="pt")["pixel_values"]
    )


def own_attributes_of_a_configuration(Config, config, tmp):
    config.dataset = "mine"
    config.save_pretrained(tmp / "m")
    assert Config.from_pretrained(tmp / "m").dataset == "mine"


def own_attributes_of_a_models_configuration(Model, model, tmp):
    model.config.note = {"run": 3}
    model.save_pretrained(tmp / "m")
    assert Model.from_pretrained(tmp / "m").config.note == {"run": 3}


def other_classes_and_back(Model, folder, tmp):
    model = Model.from_pretrained(folder, num_labels=10, ignore_mismatched_sizes=True)
    model.save_pretrained(tmp / "m")
    back = Model.from_pretrained(tmp / "m")
    assert back.config.num_labels == 10 and torch.equal(
        back.class_labels_classifier.weight, model.class_labels_classifier.weight
    )


def renamed_classes_and_back(Model, model, tmp):
    model.config.id2label = {0: "x", 1: "y", 2: "z"}
    model.config.label2id = {"x": 0, "y": 1, "z": 2}
    model.save_pretrained(tmp / "m")
    config = Model.from_pretrained(tmp / "m").config
    assert config.id2label == {0: "x", 1: "y", 2: "z"} and config.label2id["z"] == 2


def a_frozen_part_is_saved(Model, model, tmp):
    model.model.freeze_backbone()
    model.save_pretrained(tmp / "m")
    assert Model.from_pretrained(tmp / "m").config.d_model == 32


def processor_as_json(processor, tmp):
    processor.to_json_file(tmp / "p.json")
    assert json.loads((tmp / "p.json").read_text())["size"] == json.loads(processor.to_json_string())["size"]


def processor_from_json(Processor, processor, tmp):
    processor.to_json_file(tmp / "p.json")
    assert Processor.from_json_file(tmp / "p.json").size["shortest_edge"] == 64


def processor_as_a_dictionary(Processor, processor):
    assert Processor.from_dict(processor.to_dict()).to_dict() == processor.to_dict()


def segmentation_and_back(t, config, tmp):
    model = t.ConditionalDetrForSegmentation(config)
    model.save_pretrained(tmp / "m")
    back = t.ConditionalDetrForSegmentation.from_pretrained(tmp / "m")
    assert torch.equal(back.mask_head.output_conv.weight, model.mask_head.output_conv.weight)


def bare_model_and_back(t, folder, tmp):
    bare = t.ConditionalDetrModel.from_pretrained(folder)
    bare.save_pretrained(tmp / "m")
    back = t.ConditionalDetrModel.from_pretrained(tmp / "m")
    assert torch.equal(back.query_position_embeddings.weight, bare.query_position_embeddings.weight)
