"""Other libraries, and transformers' own machinery, around these classes."""

import pytest
import torch


def pipeline_of_objects(model, processor, image):
    from transformers import pipeline

    found = pipeline("object-detection", model=model, image_processor=processor)(image, threshold=0.0)
    assert set(found[0]) == {"score", "label", "box"} and set(found[0]["box"]) == {"xmin", "ymin", "xmax", "ymax"}


def pipeline_of_a_folder(folder, image):
    from transformers import pipeline

    assert isinstance(pipeline("object-detection", model=folder)(image, threshold=0.0), list)


def pipeline_of_a_model_and_a_folder(model, folder, image):
    from transformers import pipeline

    assert isinstance(pipeline("object-detection", model=model, image_processor=folder)(image), list)


def pipeline_of_several_pictures(model, processor, image):
    from transformers import pipeline

    detector = pipeline("object-detection", model=model, image_processor=processor)
    assert len(detector([image, image], threshold=0.0)) == 2


def pipeline_of_a_file(model, processor, image, tmp):
    from transformers import pipeline

    image.save(tmp / "a.png")
    assert isinstance(pipeline("object-detection", model=model, image_processor=processor)(str(tmp / "a.png")), list)


def registering_a_class_of_ones_own(t, Config, Model):
    import transformers

    class MineConfig(Config):
        model_type = "mine_of_this_test"

    class Mine(Model):
        config_class = MineConfig

    transformers.AutoConfig.register("mine_of_this_test", MineConfig, exist_ok=True)
    transformers.AutoModelForObjectDetection.register(MineConfig, Mine, exist_ok=True)
    assert transformers.AutoConfig.for_model("mine_of_this_test").model_type == "mine_of_this_test"


def registering_with_the_auto_class_of_models(Config, Model):
    import transformers

    class OtherConfig(Config):
        model_type = "another_of_this_test"

    class Other(Model):
        config_class = OtherConfig

    transformers.AutoModel.register(OtherConfig, Other, exist_ok=True)


def results_in_supervision(processor, output, model):
    supervision = pytest.importorskip("supervision")
    found = processor.post_process_object_detection(output, threshold=0.0, target_sizes=[(48, 64)] * 2)[0]
    detections = supervision.Detections.from_transformers(found, id2label=model.config.id2label)
    assert len(detections) == len(found["scores"])


def lightning(model, samples):
    lightning = pytest.importorskip("lightning")

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = model

        def training_step(self, batch, index):
            return self.model(**batch).loss

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=1e-4)

    def collate(some):
        return {"pixel_values": torch.stack([s["pixel_values"] for s in some]), "labels": [s["labels"] for s in some]}

    trainer = lightning.Trainer(max_steps=1, accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.fit(Module(), torch.utils.data.DataLoader(samples, batch_size=2, collate_fn=collate))


def sahi(folder):
    sahi = pytest.importorskip("sahi")
    model = sahi.AutoDetectionModel.from_pretrained("huggingface", model_path=folder, device="cpu")
    assert model.model.config.num_labels == 3


def feature_extractor_of_a_folder(folder):
    from transformers import AutoImageProcessor

    assert AutoImageProcessor.from_pretrained(folder).do_pad


def transformers_opens_what_is_saved(model, pixels, tmp):
    import transformers

    model.save_pretrained(tmp)
    other = transformers.AutoModelForObjectDetection.from_pretrained(tmp)
    with torch.no_grad():
        torch.testing.assert_close(other(pixels).logits, model(pixels).logits, rtol=1e-4, atol=1e-4)


def data_loader_of_the_processor(processor, image, annotation):
    def collate(some):
        return processor(images=[s[0] for s in some], annotations=[s[1] for s in some], return_tensors="pt")

    (batch,) = torch.utils.data.DataLoader([(image, annotation)] * 2, batch_size=2, collate_fn=collate)
    assert batch["pixel_values"].shape[0] == 2 and len(batch["labels"]) == 2


def pushing_to_a_local_folder(model, processor, tmp):
    model.save_pretrained(tmp / "out", push_to_hub=False)
    processor.save_pretrained(tmp / "out", push_to_hub=False)
    assert {"config.json", "model.safetensors", "preprocessor_config.json"} <= {f.name for f in (tmp / "out").iterdir()}


def loading_by_its_type_in_the_saved_file(model, tmp):
    import transformers

    model.save_pretrained(tmp)
    assert transformers.AutoConfig.from_pretrained(tmp).model_type == "conditional_detr"
