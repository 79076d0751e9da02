"""A family is one file and one configuration: this file stands in for one in `models/`, and nothing else knows of it."""

import json
import sys
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from small_models import SMALL, randomise

from conditional_detr import AutoModelForObjectDetection, Detector
from conditional_detr.checkpoints.names import name_table
from conditional_detr.classes import SigmoidClasses
from conditional_detr.config import ranged
from conditional_detr.families import CONFIG_CLASSES, FamilyConfig
from conditional_detr.models import detr
from conditional_detr.models.detection_model import DetectionModel
from conditional_detr.models.detector import ObjectDetectionModel
from conditional_detr.models.family import Family
from conditional_detr.models.pretrained import PretrainedModel
from conditional_detr.models.segmenter import SegmentationModel
from conditional_detr.processors.image_processor import ConditionalDetrImageProcessor


@dataclass(kw_only=True, init=False)
class CentreDetrConfig(FamilyConfig):
    """DETR's layers, sigmoid classes, and every query's reference point at the centre of the image."""

    model_type: ClassVar[str] = "centre_detr"
    family_name: ClassVar[str] = "Centre DETR"
    paper: ClassVar[str] = "https://example.org/centre"
    panoptic_threshold: ClassVar[float] = 0.5

    sharpness: float = ranged(0.5, 0, 1)

    @property
    def classes(self):
        return SigmoidClasses(alpha=self.sharpness)


class CentreDecoder(detr.DetrDecoder):
    has_reference_points = True

    def reference_points(self, object_queries):
        return object_queries.new_zeros(1, object_queries.shape[1], 2)


NAMES = name_table("centre_detr", detr.NAMES.rows)


class CentreDetrModel(DetectionModel, PretrainedModel):
    config_class, weight_names, decoder_class = CentreDetrConfig, NAMES, CentreDecoder


class CentreDetrForObjectDetection(ObjectDetectionModel, PretrainedModel):
    config_class, weight_names, model_class = CentreDetrConfig, NAMES, CentreDetrModel


class CentreDetrForSegmentation(SegmentationModel, PretrainedModel):
    config_class, weight_names, detector_class = CentreDetrConfig, NAMES, CentreDetrForObjectDetection


FAMILY = Family(CentreDetrModel, CentreDetrForObjectDetection, CentreDetrForSegmentation)


@pytest.fixture
def third_family(monkeypatch):
    """What a file `models/centre_detr.py` and an entry in `families.py` would do."""
    monkeypatch.setitem(CONFIG_CLASSES, "centre_detr", CentreDetrConfig)
    monkeypatch.setitem(sys.modules, "conditional_detr.models.centre_detr", sys.modules[__name__])


def trained_a_step(model, **labels):
    """The loss before and after a step on one image, which is what the step was for."""
    pixels = torch.randn(2, 3, 64, 64)
    target = {"class_labels": torch.tensor([1]), "boxes": torch.tensor([[0.4, 0.5, 0.2, 0.3]]), **labels}
    optimizer = torch.optim.SGD(model.train().parameters(), lr=1e-3)
    losses = []
    for _ in range(2):
        loss = model(pixels, labels=[target, target]).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_it_trains_saves_loads_and_predicts(third_family, tmp_path):
    torch.manual_seed(0)
    model = randomise(
        CentreDetrForObjectDetection(CentreDetrConfig(**{**SMALL, "num_labels": 3, "sharpness": 0.75, "dropout": 0}))
    )
    before, after = trained_a_step(model)
    assert after < before
    model.eval().save_pretrained(tmp_path)
    processor = ConditionalDetrImageProcessor(size={"shortest_edge": 64, "longest_edge": 96})
    processor.save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert (values["model_type"], values["architectures"]) == ("centre_detr", ["CentreDetrForObjectDetection"])
    assert "Centre DETR with resnet18" in (tmp_path / "README.md").read_text(encoding="utf-8")
    loaded = AutoModelForObjectDetection.from_pretrained(tmp_path)
    assert type(loaded) is CentreDetrForObjectDetection and loaded.config == model.config
    pixels = torch.randn(1, 3, 64, 80)
    with torch.no_grad():
        expected, output = model(pixels), loaded(pixels)
    assert torch.equal(output.logits, expected.logits) and torch.equal(output.pred_boxes, expected.pred_boxes)
    bare = CentreDetrModel.from_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(bare(pixels).reference_points, torch.full((10, 1, 2), 0.5))
    detector = Detector.from_pretrained(tmp_path, device="cpu")
    image = torch.randint(256, (3, 64, 80), dtype=torch.uint8)
    found = detector(image, threshold=0.0)
    assert len(found) == 30 and found[0].score >= found[-1].score  # pairs of ten queries and three classes


def test_its_masks_train_and_load(third_family, tmp_path):
    torch.manual_seed(0)
    config = CentreDetrConfig(**{**SMALL, "num_labels": 3, "output_stride": 32, "d_model": 64, "dropout": 0})
    model = CentreDetrForSegmentation(config)
    before, after = trained_a_step(model, masks=torch.rand(1, 64, 64) > 0.5)
    assert after < before
    model.eval().save_pretrained(tmp_path)
    ConditionalDetrImageProcessor().save_pretrained(tmp_path)
    loaded = CentreDetrForSegmentation.from_pretrained(tmp_path)
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(loaded(pixels).pred_masks, model(pixels).pred_masks)
    assert Detector.from_pretrained(tmp_path, device="cpu", image_size=64).model.task == "instance"


def test_an_unknown_family_is_named(tmp_path):
    """Without the entry in `families.py` the same folder is refused in one line."""
    (tmp_path / "config.json").write_text('{"model_type": "centre_detr"}', encoding="utf-8")
    with pytest.raises(ValueError, match="is of model_type 'centre_detr'; this package knows conditional_detr, detr"):
        AutoModelForObjectDetection.from_pretrained(tmp_path)
