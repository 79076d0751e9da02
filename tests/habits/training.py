"""Training: by hand, by Trainer, with adapters."""

import copy

import pytest
import torch


def a_step_by_hand(model, pixels, labels):
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    before = model.class_labels_classifier.weight.detach().clone()
    model.train()
    model(pixel_values=pixels, labels=labels).loss.backward()
    optimizer.step()
    assert not torch.equal(model.class_labels_classifier.weight, before)


def gradients_clipped(model, pixels, labels):
    model(pixels, labels=labels).loss.backward()
    assert torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1).isfinite()


def pictures_without_objects(model, pixels):
    empty = {"class_labels": torch.zeros(0, dtype=torch.long), "boxes": torch.zeros(0, 4)}
    assert model(pixels, labels=[empty, empty]).loss.isfinite()


def labels_of_the_processor(model, processor, image, annotation):
    batch = processor(images=[image], annotations=[annotation], return_tensors="pt")
    assert model(**batch).loss.isfinite()


def labels_without_a_mask(model, processor, image, annotation):
    batch = processor(images=[image], annotations=[annotation], return_tensors="pt")
    batch.pop("pixel_mask")
    assert model(**batch).loss.isfinite()


def labels_that_hold_more(model, pixels, labels):
    for label in labels:
        label.update(image_id=torch.tensor([1]), area=torch.ones(1), iscrowd=torch.zeros(1), orig_size=torch.ones(2))
    assert model(pixels, labels=labels).loss.isfinite()


def average_of_weights(model):
    averaged = torch.optim.swa_utils.AveragedModel(model)
    averaged.update_parameters(model)
    assert averaged.module.config.num_labels == 3


def a_frozen_teacher(model, pixels):
    teacher = copy.deepcopy(model).eval().requires_grad_(False)
    assert not teacher(pixels).logits.requires_grad


def a_schedule_of_transformers(model):
    from transformers import get_cosine_schedule_with_warmup

    get_cosine_schedule_with_warmup(torch.optim.SGD(model.parameters(), lr=1), 1, 10).step()


def an_optimizer_that_skips_decay(model):
    from transformers.trainer_pt_utils import get_parameter_names

    assert "class_labels_classifier.weight" in get_parameter_names(model, [torch.nn.LayerNorm])


def _collate(samples):
    batch = {name: torch.stack([s[name] for s in samples]) for name in ("pixel_values", "pixel_mask")}
    return {**batch, "labels": [s["labels"] for s in samples]}


def _trainer(model, samples, folder, **values):
    pytest.importorskip("accelerate")
    from transformers import Trainer, TrainingArguments

    values = {"max_steps": 2, "save_steps": 1, **values}
    arguments = TrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=2, per_device_eval_batch_size=2, report_to="none",
        remove_unused_columns=False, use_cpu=True, disable_tqdm=True, **values,
    )  # fmt: skip
    return Trainer(model=model, args=arguments, train_dataset=samples, eval_dataset=samples, data_collator=_collate)


def trainer_saves_a_model_that_opens(Model, model, samples, tmp):
    trainer = _trainer(model, samples, tmp)
    trainer.train()
    trainer.save_model()
    back = Model.from_pretrained(tmp)
    assert torch.equal(back.class_labels_classifier.weight, model.class_labels_classifier.weight)


def trainers_checkpoints_open(t, model, samples, tmp):
    _trainer(model, samples, tmp).train()
    assert t.AutoModelForObjectDetection.from_pretrained(tmp / "checkpoint-1").config.num_labels == 3


def trainer_goes_on(model, samples, tmp):
    _trainer(model, samples, tmp, max_steps=1).train()
    state = _trainer(model, samples, tmp).train(resume_from_checkpoint=True)
    assert state.global_step == 2


def trainer_evaluates(model, samples, tmp):
    assert _trainer(model, samples, tmp).evaluate()["eval_loss"] > 0


def trainer_predicts(model, samples, tmp):
    predicted = _trainer(model, samples, tmp).predict(samples).predictions
    logits = [value for value in predicted if getattr(value, "shape", ())[-1:] == (3,)]
    assert logits[0].shape == (4, 10, 3)


def trainer_measures(model, samples, tmp):
    trainer = _trainer(model, samples, tmp, eval_do_concat_batches=False)
    seen = []
    trainer.compute_metrics = lambda result: seen.append(result) or {"batches": len(result.predictions)}
    assert trainer.evaluate()["eval_batches"] == 2 and len(seen[0].label_ids[0]) == 2


def trainer_accumulates(model, samples, tmp):
    assert _trainer(model, samples, tmp, gradient_accumulation_steps=2, max_steps=1).train().training_loss > 0


def trainer_recomputes(model, samples, tmp):
    assert _trainer(model, samples, tmp, gradient_checkpointing=True, max_steps=1).train().training_loss > 0


def trainer_removes_columns_that_are_not_used(model, samples, tmp):
    trainer = _trainer(model, samples, tmp, max_steps=1)
    trainer._set_signature_columns_if_needed()
    assert {"pixel_values", "pixel_mask", "labels"} <= set(trainer._signature_columns)


def trainer_makes_the_model(t, folder, samples, tmp):
    from transformers import Trainer, TrainingArguments

    arguments = TrainingArguments(
        output_dir=str(tmp), max_steps=1, report_to="none", use_cpu=True, remove_unused_columns=False, disable_tqdm=True
    )
    make = lambda: t.AutoModelForObjectDetection.from_pretrained(folder)  # noqa: E731
    trainer = Trainer(model_init=make, args=arguments, train_dataset=samples, data_collator=_collate)
    assert trainer.train().training_loss > 0


def trainer_drops_a_processor_beside_the_model(t, model, processor, samples, tmp):
    trainer = _trainer(model, samples, tmp, max_steps=1)
    trainer.processing_class = processor
    trainer.save_model(str(tmp / "final"))
    assert t.AutoImageProcessor.from_pretrained(tmp / "final").size["shortest_edge"] == 64


def adapters_by_peft(model, samples, tmp):
    peft = pytest.importorskip("peft")
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj", "v_proj"]))
    _trainer(adapted, samples, tmp, max_steps=1).train()
    adapted.save_pretrained(tmp / "adapter")
    assert (tmp / "adapter" / "adapter_config.json").is_file()


def adapters_by_method(model):
    peft = pytest.importorskip("peft")
    model.add_adapter(peft.LoraConfig(target_modules=["q_proj"]))
    assert any("lora" in name for name, _ in model.named_parameters())


def accelerate_by_hand(model, pixels, labels):
    accelerate = pytest.importorskip("accelerate")
    accelerator = accelerate.Accelerator(cpu=True)
    model, optimizer = accelerator.prepare(model, torch.optim.AdamW(model.parameters(), lr=1e-4))
    accelerator.backward(model(pixels, labels=labels).loss)
    optimizer.step()
    assert accelerator.unwrap_model(model).config.num_labels == 3
