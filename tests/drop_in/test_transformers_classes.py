"""The classes of `conditional_detr.transformers` are transformers' own, compute what the package's compute, and open and
write the same folders."""

import copy
import io
import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from small_models import FAMILIES, SMALL, randomise, small_config, small_model
from transformers.modeling_layers import GradientCheckpointingLayer

import conditional_detr
from conditional_detr import transformers as ours
from conditional_detr.checkpoints.names import to_original
from conditional_detr.models.family import family_of

STEMS = {"conditional_detr": "ConditionalDetr", "detr": "Detr"}
EXPRESSIBLE = dict(backbone="test_resnet", backbone_norm="frozen", output_stride=32)
KINDS = ("Model", "ForObjectDetection", "ForSegmentation")


def same_bits(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def own(family, kind="ForObjectDetection"):
    return getattr(ours, STEMS[family] + kind)


@pytest.fixture
def saved(tmp_path):
    """(family, kind) -> the folder of a small model, and the model."""

    def save(family="conditional_detr", kind="ForObjectDetection", **values):
        values = (
            {**EXPRESSIBLE, **values}
            if kind != "ForSegmentation"
            else {**EXPRESSIBLE, "d_model": 64, "encoder_attention_heads": 8, **values}
        )
        model = getattr(conditional_detr, STEMS[family] + kind)(small_config(family, **values))
        randomise(model).eval().save_pretrained(tmp_path / "saved")
        return tmp_path / "saved", model

    return save


def labels(classes=(1, 2), **more):
    boxes = torch.tensor([[0.4, 0.5, 0.2, 0.3]] * len(classes))
    return [{"class_labels": torch.tensor(classes), "boxes": boxes, **more}]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", KINDS)
def test_folders_open_in_both_and_in_transformers(family, kind, saved, tmp_path):
    folder, lean = saved(family, kind)
    model = own(family, kind).from_pretrained(folder)
    assert isinstance(model, transformers.PreTrainedModel) and isinstance(model.config, transformers.PreTrainedConfig)
    assert same_bits(model, lean)
    model.save_pretrained(tmp_path / "again")
    assert same_bits(getattr(conditional_detr, STEMS[family] + kind).from_pretrained(tmp_path / "again"), lean)
    theirs, info = getattr(transformers, STEMS[family] + kind).from_pretrained(
        tmp_path / "again", output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    theirs.save_pretrained(tmp_path / "theirs")
    assert same_bits(own(family, kind).from_pretrained(tmp_path / "theirs"), lean)


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_outputs_are_transformers_and_the_packages_bit_for_bit(family, saved):
    folder, lean = saved(family, auxiliary_loss=True)
    model = own(family).from_pretrained(folder, auxiliary_loss=True)
    lean.config.auxiliary_loss = True
    pixels = torch.randn(1, 3, 64, 96)
    a = model(pixels, labels=labels(), output_attentions=True, output_hidden_states=True, use_cache=False)
    b = lean(pixels, labels=labels(), output_attentions=True, output_hidden_states=True)
    assert isinstance(a, transformers.utils.ModelOutput) and set(a) == set(b)
    assert torch.equal(a.logits, b.logits) and torch.equal(a.pred_boxes, b.pred_boxes) and torch.equal(a.loss, b.loss)
    assert torch.equal(a["cross_attentions"][1], b.cross_attentions[1])
    a.logits = a.logits + 1
    assert a["logits"] is a.logits and any(part is a.logits for part in a.to_tuple())
    assert isinstance(model(pixels, return_dict=False), tuple)
    model.config.return_dict = False
    assert isinstance(model(pixels), tuple)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_resnet_by_its_sizes_opens_from_transformers_and_goes_back(family, tmp_path):
    sizes = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 18, 16, 24], depths=[1, 2, 1, 1], out_indices=[4]
    )
    values = dict(d_model=32, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=8, decoder_ffn_dim=8, num_queries=5)
    heads = dict(encoder_attention_heads=4, decoder_attention_heads=4, use_timm_backbone=False, backbone_config=sizes)
    assert own(family, "Config")(backbone=None, **heads).fields().backbone_config["depths"] == [1, 2, 1, 1]
    config = getattr(transformers, STEMS[family] + "Config")(**values, **heads)
    theirs = randomise(getattr(transformers, STEMS[family] + "ForObjectDetection")(config)).double().eval()
    theirs.save_pretrained(tmp_path / "theirs")
    pixels = torch.randn(1, 3, 64, 96, dtype=torch.float64)
    for opened in (
        own(family).from_pretrained(tmp_path / "theirs"),
        family_of(family).detector.from_pretrained(tmp_path / "theirs", dtype="auto"),
    ):
        with torch.no_grad():
            torch.testing.assert_close(opened(pixels).logits, theirs(pixels).logits, rtol=0, atol=1e-6)
        opened.save_pretrained(tmp_path / "back")
        assert same_bits(type(theirs).from_pretrained(tmp_path / "back"), theirs)


def test_classes_change_and_the_ids_of_the_old_ones_go_and_this_is_said(saved, caplog):
    folder, _ = saved(num_labels=5, category_ids=[1, 2, 3, 5, 8])
    change = dict(num_labels=10, ignore_mismatched_sizes=True)
    for model_class in (conditional_detr.AutoModelForObjectDetection, ours.AutoModelForObjectDetection):
        for given in (change, dict(id2label=dict(enumerate("abcde")))):
            caplog.clear()
            model = model_class.from_pretrained(folder, **given)
            assert model.config.num_labels == given.get("num_labels", 5) and model.config.category_ids is None
            assert "category_ids of the classes before are dropped" in caplog.text
        assert model_class.from_pretrained(folder, num_labels=5).config.category_ids == [1, 2, 3, 5, 8]


def test_what_transformers_trained_to_other_classes_opens(saved, tmp_path):
    folder, _ = saved(num_labels=5, category_ids=[1, 2, 3, 5, 8])
    theirs = transformers.AutoModelForObjectDetection.from_pretrained(
        folder, num_labels=10, ignore_mismatched_sizes=True
    )
    theirs.save_pretrained(tmp_path / "ten")
    for auto in (conditional_detr.AutoModelForObjectDetection, ours.AutoModelForObjectDetection):
        config = auto.from_pretrained(tmp_path / "ten").config
        assert config.num_labels == 10 and config.category_ids is None


def test_configurations_are_transformers_in_all_habits(tmp_path):
    config = ours.ConditionalDetrConfig(num_labels=4, own_note="kept", output_stride=8, category_ids=[1, 2, 3, 4])
    assert isinstance(config, transformers.ConditionalDetrConfig) and config.hidden_size == config.d_model == 256
    assert (config.output_stride, config.backbone, config.backbone_config.out_indices) == (8, "resnet50", [2])
    config.save_pretrained(save_directory=tmp_path / "in" / "here")
    again, unused = ours.AutoConfig.from_pretrained(
        tmp_path / "in", subfolder="here", num_queries=7, return_unused_kwargs=True, odd=1
    )
    assert (again.own_note, again.num_queries, unused, again.category_ids) == ("kept", 7, {"odd": 1}, [1, 2, 3, 4])
    again.num_labels = 6
    assert again.category_ids is None and again.id2label[5] == "LABEL_5" and len(again.label2id) == 6
    again.update({"class_cost": 2.5})
    assert again.fields().class_cost == 2.5 and "class_cost" in again.to_diff_dict()
    plain = transformers.AutoConfig.from_pretrained(tmp_path / "in" / "here")
    assert type(plain) is transformers.ConditionalDetrConfig  # importing this room changes nothing of transformers
    lean = small_config(category_ids=[4, 5, 6])
    assert ours.ConditionalDetrConfig.of(lean).fields().to_dict() == {
        **lean.to_dict(),
        **ours.ConditionalDetrConfig.of(lean).fields().extra,
    }


def test_transformers_configurations_are_taken(saved):
    folder, lean = saved()
    config = transformers.AutoConfig.from_pretrained(folder)
    for built in (
        conditional_detr.ConditionalDetrForObjectDetection(config),
        ours.ConditionalDetrForObjectDetection(config),
        ours.AutoModelForObjectDetection.from_config(config),
        conditional_detr.AutoModelForObjectDetection.from_pretrained(folder, config=config),
        transformers.AutoModelForObjectDetection.from_config(ours.AutoConfig.from_pretrained(folder)),
        ours.AutoModelForObjectDetection.from_pretrained(folder, config=config),
    ):
        assert (
            type(built).__module__.startswith("conditional_detr")
            and built.config.num_queries == lean.config.num_queries
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_an_original_file_opens(family, tmp_path):
    lean = randomise(
        small_model(
            family, backbone_norm="frozen", output_stride=32, encoder_attention_heads=8, decoder_attention_heads=8
        )
    )
    torch.save({"model": to_original(lean.state_dict(), lean.weight_names)}, tmp_path / "checkpoint.pth")
    model = ours.AutoModelForObjectDetection.from_pretrained(tmp_path / "checkpoint.pth")
    assert same_bits(model, lean)


def test_a_subclass_with_weights_of_its_own_loads_from_a_plain_folder(saved, tmp_path):
    class Counting(ours.ConditionalDetrForObjectDetection):
        def __init__(self, config):
            super().__init__(config)
            self.count = torch.nn.Linear(32, 1)
            self.post_init()

    folder, lean = saved()
    model, info = Counting.from_pretrained(folder, output_loading_info=True)
    assert info["missing_keys"] == {"count.weight", "count.bias"} and not info["unexpected_keys"]
    assert torch.equal(model.class_labels_classifier.weight, lean.class_labels_classifier.weight)
    model.save_pretrained(tmp_path / "counting")
    assert same_bits(Counting.from_pretrained(tmp_path / "counting"), model)


def test_a_detector_becomes_a_segmentation_model_whose_new_weights_are_as_in_a_new_model(saved):
    folder, lean = saved(d_model=64)
    torch.manual_seed(3)
    model, info = ours.AutoModelForImageSegmentation.from_pretrained(folder, output_loading_info=True)
    assert all(name.startswith(("mask_head.", "bbox_attention.")) for name in info["missing_keys"])
    torch.manual_seed(3)
    new = type(model)(model.config)
    assert torch.equal(new.mask_head.conv1.conv.weight, model.mask_head.conv1.conv.weight)
    assert torch.equal(model.conditional_detr.class_labels_classifier.weight, lean.class_labels_classifier.weight)


def test_shards_variants_types_and_devices(saved, tmp_path):
    folder, lean = saved()
    model = ours.ConditionalDetrForObjectDetection.from_pretrained(
        folder, device_map={"": "cpu"}, quantization_config=None, weights_only=True
    )
    model.save_pretrained(tmp_path / "parts", max_shard_size="1MB", variant="v")
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) > 1
    again = ours.ConditionalDetrForObjectDetection.from_pretrained(tmp_path / "parts", variant="v")
    assert same_bits(again, lean)
    half = ours.ConditionalDetrForObjectDetection.from_pretrained(
        pretrained_model_name_or_path=folder, dtype=torch.bfloat16
    )
    assert half.dtype == torch.bfloat16 and half.get_memory_footprint() < model.get_memory_footprint()


def test_parts_and_counts_are_where_transformers_has_them(saved):
    folder, _ = saved()
    model = ours.ConditionalDetrForObjectDetection.from_pretrained(folder)
    assert model.base_model is model.model and model.get_encoder() is model.model.encoder
    assert model.main_input_name == "pixel_values" and model.supports_gradient_checkpointing
    assert (
        model.num_parameters(exclude_embeddings=True)
        < model.num_parameters()
        == sum(p.numel() for p in model.parameters())
    )
    model.enable_input_require_grads()
    model.disable_input_require_grads()
    model.train()
    pixels = torch.randn(1, 3, 64, 64)
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False, "preserve_rng_state": True})
        torch.manual_seed(0)
        model.zero_grad()
        model(pixels, labels=labels()).loss.backward()
        gradients.append(model.model.input_projection.weight.grad.clone())
    assert model.is_gradient_checkpointing
    torch.testing.assert_close(*gradients)


def test_a_loss_that_is_set_is_used(saved):
    folder, _ = saved()
    model = ours.ConditionalDetrForObjectDetection.from_pretrained(folder)
    pixels = torch.randn(1, 3, 64, 64)
    before = model(pixels, labels=labels())
    for auxiliary in (False, True):
        model.config.auxiliary_loss = auxiliary
        expected = model(pixels, labels=labels()).loss
        default = type(model).loss_function.fget(model)
        model.loss_function = lambda *a, default=default, **k: (2 * default(*a, **k)[0], {}, None)
        torch.testing.assert_close(model(pixels, labels=labels()).loss, 2 * expected)
        del model._loss_function
    assert (expected - before.loss).abs() > 1e-3


def test_a_loss_that_is_set_is_used_with_masks(saved):
    folder, _ = saved("detr", "ForSegmentation")
    model = ours.DetrForSegmentation.from_pretrained(folder)
    given = {}

    def loss(logits, labels, device, pred_boxes, pred_masks, config, *layers):
        given.update(masks=pred_masks.shape, boxes=pred_boxes.shape, queries=config.num_queries)
        return pred_masks.mean(), {"mine": logits.mean()}, None

    model.loss_function = loss
    output = model(torch.randn(1, 3, 64, 64), labels=labels(masks=torch.ones(2, 64, 64)))
    torch.testing.assert_close(output.loss, output.pred_masks.mean())
    assert given == {"masks": (1, 10, 16, 16), "boxes": (1, 10, 4), "queries": 10} and "mine" in output.loss_dict


@pytest.mark.parametrize("family", FAMILIES)
def test_every_n_layers_counts_the_layers_of_encoder_and_decoder(family):
    config = ours.AutoConfig.for_model(
        family, d_model=32, encoder_layers=2, decoder_layers=3, encoder_ffn_dim=8, decoder_ffn_dim=8, num_queries=5,
        encoder_attention_heads=4, decoder_attention_heads=4, num_labels=3, backbone="test_resnet",
        use_pretrained_backbone=False,
    )  # fmt: skip
    model = own(family)(config).train()
    stacks = (model.model.encoder, model.model.decoder)
    layers = [layer for stack in stacks for layer in stack.layers]
    assert all(isinstance(layer, GradientCheckpointingLayer) for layer in layers)
    for options, expected in (({}, [2] * 5), ({"every_n_layers": 2}, [2, 1, 2, 1, 2])):
        model.activation_checkpointing_enable({"use_reentrant": False}, **options)
        calls = [0] * 5
        hooks = [
            layer.self_attn.register_forward_hook(lambda *_, at=at, calls=calls: calls.__setitem__(at, calls[at] + 1))
            for at, layer in enumerate(layers)
        ]
        model(torch.randn(1, 3, 32, 32), labels=labels()).loss.backward()
        assert calls == expected
        for hook in hooks:
            hook.remove()


def test_a_folder_with_the_queries_of_all_groups_in_one_matrix_opens_with_the_first(saved, caplog):
    folder, lean = saved()
    weights = load_file(folder / "model.safetensors")
    (name,) = (name for name in weights if name.endswith("query_position_embeddings.weight"))
    weights[name] = torch.cat((weights[name], torch.randn(20, 32)))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, "group_detr": 3}))
    model = ours.AutoModelForObjectDetection.from_pretrained(folder)
    assert same_bits(model, lean) and "30 object queries are taken for 3 groups of 10" in caplog.text


def test_further_groups_begin_as_the_first_and_weights_that_lack_them_say_so(saved, caplog):
    folder, lean = saved()
    model = ours.ConditionalDetrForObjectDetection.from_pretrained(folder, query_groups=3)
    first, further = lean.model.query_position_embeddings.weight, model.model.further_query_groups.weight.detach()
    assert (further - first.repeat(2, 1)).abs().mean() < 0.2 < (further[:10] - further[10:]).abs().max()
    model.load_state_dict(lean.state_dict(), strict=False)  # what Trainer does to resume
    assert "no further groups of queries" in caplog.text
    assert torch.equal(model.model.further_query_groups.weight, further)


def test_a_card_is_written_and_what_transformers_cannot_express_is_said(saved, tmp_path, caplog):
    folder, _ = saved()
    model = ours.ConditionalDetrForObjectDetection.from_pretrained(folder)
    model.save_pretrained(tmp_path / "plain", dataset="a thousand cats", metrics={"AP": 0.4})
    card = (tmp_path / "plain" / "README.md").read_text()
    assert "a thousand cats" in card and "| AP | 0.4 |" in card and "opens in this package only" not in caplog.text
    model.config.class_cost = 2.5
    model.save_pretrained(tmp_path / "own")
    assert "opens in this package only; transformers cannot express class_cost 2.5" in caplog.text


def test_a_mask_of_queries_is_used_and_any_other_is_not_and_this_is_said(saved):
    folder, _ = saved()
    model = ours.ConditionalDetrForObjectDetection.from_pretrained(folder).eval()
    pixels = torch.randn(1, 3, 64, 64)
    some = torch.ones(1, 10)
    some[:, 5:] = 0
    with torch.no_grad():
        all_of_them, other, masked = (
            model(pixels, decoder_attention_mask=mask).logits for mask in (None, torch.ones(1, 64), some)
        )
    assert torch.equal(all_of_them, other) and not torch.equal(all_of_them, masked)


@pytest.mark.parametrize("classes", [conditional_detr, ours])
def test_pictures_of_one_channel_and_a_map_of_one_device(classes, tmp_path):
    config = classes.DetrConfig(**{**SMALL, **EXPRESSIBLE}, num_channels=1, num_labels=3)
    model = classes.DetrForObjectDetection(config).eval()
    model.save_pretrained(tmp_path / "grey")
    again = classes.DetrForObjectDetection.from_pretrained(tmp_path / "grey", device_map={"": "cpu"})
    pixels = torch.randn(1, 1, 64, 64)
    with torch.no_grad():
        assert torch.equal(again(pixels).logits, model(pixels).logits)


@pytest.mark.filterwarnings("ignore")
def test_linear_layers_are_quantized_dynamically(saved):
    folder, _ = saved()
    model = ours.ConditionalDetrForObjectDetection.from_pretrained(folder)
    quantized = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert (quantized(pixels).pred_boxes - model(pixels).pred_boxes).abs().max() < 0.1


@pytest.mark.slow
def test_models_are_traced_exported_and_copied(saved):
    folder, _ = saved()
    model = ours.ConditionalDetrForObjectDetection.from_pretrained(folder).eval()
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = model(pixels).logits
        traced = torch.jit.trace(model, pixels, strict=False)
        torch.testing.assert_close(traced(pixels)["logits"], expected)
        exported = torch.export.export(model, (pixels,))
        torch.testing.assert_close(exported.module()(pixels).logits, expected)
        assert torch.equal(copy.deepcopy(model)(pixels).logits, expected)
        buffer = io.BytesIO()
        torch.save(model, buffer)
        buffer.seek(0)
        assert torch.equal(torch.load(buffer, weights_only=False)(pixels).logits, expected)


class Pictures(torch.utils.data.Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        return {"pixel_values": torch.randn(3, 32, 32, generator=generator), "labels": labels((index % 3,))[0]}


def collate(samples):
    return {"pixel_values": torch.stack([s["pixel_values"] for s in samples]), "labels": [s["labels"] for s in samples]}


def trained(model, folder, **options):
    arguments = transformers.TrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=2, max_steps=4, save_steps=2, logging_steps=1, report_to=[],
        remove_unused_columns=False, use_cpu=True, disable_tqdm=True, dataloader_num_workers=0,
    )  # fmt: skip
    trainer = transformers.Trainer(model=model, args=arguments, train_dataset=Pictures(), data_collator=collate)
    trainer.train(**options)
    return trainer


def test_trainer_saves_resumes_and_its_checkpoints_open(saved, tmp_path):
    folder, _ = saved(dropout=0.0)
    trainer = trained(ours.ConditionalDetrForObjectDetection.from_pretrained(folder), tmp_path / "run")
    trainer.save_model(tmp_path / "final")
    for opened in (
        ours.ConditionalDetrForObjectDetection.from_pretrained(tmp_path / "final"),
        conditional_detr.ConditionalDetrForObjectDetection.from_pretrained(tmp_path / "run" / "checkpoint-4"),
    ):
        assert same_bits(opened, trainer.model)
    again = ours.ConditionalDetrForObjectDetection.from_pretrained(folder)
    resumed = trained(again, tmp_path / "run", resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    assert same_bits(resumed.model, trainer.model)


def test_pipeline_finds_objects(saved):
    folder, lean = saved()
    model = ours.ConditionalDetrForObjectDetection.from_pretrained(folder)
    processor = transformers.ConditionalDetrImageProcessor(size={"shortest_edge": 64, "longest_edge": 96})
    detect = transformers.pipeline("object-detection", model=model, image_processor=processor, threshold=0.0)
    from PIL import Image

    found = detect(Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 80, 3), dtype=np.uint8)))
    assert found and {"score", "label", "box"} == set(found[0]) and found[0]["label"] in lean.config.id2label.values()


def test_lora_adapters_train_save_and_load(saved, tmp_path):
    peft = pytest.importorskip("peft")
    folder, _ = saved()
    model = ours.ConditionalDetrForObjectDetection.from_pretrained(folder)
    model.add_adapter(peft.LoraConfig(r=2, target_modules=["q_content_proj", "v_proj"], init_lora_weights=False))
    model.eval()
    pixels = torch.randn(1, 3, 64, 64)
    model(pixels, labels=labels()).loss.backward()
    model.save_pretrained(tmp_path / "adapter")
    again = ours.ConditionalDetrForObjectDetection.from_pretrained(folder)
    again.load_adapter(str(tmp_path / "adapter"))
    with torch.no_grad():
        assert torch.equal(again.eval()(pixels).logits, model(pixels).logits)


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (lambda folder: ours.DetrForObjectDetection.from_pretrained(folder), ValueError, "model_type 'conditional_detr' is not a DetrConfig"),
        (lambda folder: ours.DetrForObjectDetection(ours.ConditionalDetrConfig()), ValueError, "a DetrConfig is needed, got a ConditionalDetrConfig of conditional_detr"),
        (lambda folder: ours.ConditionalDetrForObjectDetection.from_pretrained(folder, num_labels=7), RuntimeError, "ignore_mismatched_sizes"),
        (lambda folder: ours.ConditionalDetrForObjectDetection.from_pretrained(folder / "gone"), OSError, "gone"),
        (lambda folder: ours.ConditionalDetrForObjectDetection(ours.ConditionalDetrConfig(d_model=30)), ValueError, "d_model 30 is not a multiple of 4"),
        (lambda folder: ours.ConditionalDetrForObjectDetection(ours.ConditionalDetrConfig(num_labels=3, category_ids=[1, 2])), ValueError, "category_ids has 2 entries for 3 classes"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_error(wrong, error, message, saved):
    folder, _ = saved()
    with pytest.raises(error, match=message):
        wrong(folder)


@pytest.mark.parametrize(
    ("installed", "message"),
    [
        ("None", r"needs transformers, which is not installed: pip install 'conditional-detr\[transformers\]'"),
        ("type(sys)('transformers')", "needs transformers 5 or later, and 4.57.1 is installed"),
    ],
)
def test_transformers_that_is_absent_or_too_old_is_said(installed, message):
    code = (
        f"import sys; sys.modules['transformers'] = {installed}\n"
        "if sys.modules['transformers']: sys.modules['transformers'].__version__ = '4.57.1'\n"
        "import conditional_detr.transformers"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert re.search(f"ImportError: conditional_detr.transformers {message}", done.stderr), done.stderr
