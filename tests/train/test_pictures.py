"""What a run shows of itself, and the losses on the validation set that are part of it."""

import json

import pytest
import torch
from PIL import Image
from small_models import FAMILIES, randomise, small_model

from conditional_detr.boxes import xyxy_to_cxcywh
from conditional_detr.data.formats.coco import read_coco
from conditional_detr.evaluate.evaluation import evaluate
from conditional_detr.images.read import read_image
from conditional_detr.predict.draw import contact_sheet
from conditional_detr.processors.auto_processor import IMAGE_PROCESSORS
from conditional_detr.train.pictures import draw_curves


@pytest.mark.numeric
@pytest.mark.parametrize("family", FAMILIES)
def test_losses_of_an_evaluation_are_those_of_the_model_on_all_images_as_one_batch(scenes, family):
    data = read_coco(scenes / "annotations/val.json", scenes / "images/val")
    model = randomise(small_model(family, id2label=dict(enumerate(data.category_names)))).double().eval()
    processor = IMAGE_PROCESSORS[family](size={"shortest_edge": 64, "longest_edge": 64})
    images, labels = [], []
    for i in range(len(data)):
        images.append(read_image(data.image_path(i), expected=tuple(data.sizes[i].tolist())))
        rows = slice(data.first[i], data.first[i + 1])
        boxes = xyxy_to_cxcywh(torch.from_numpy(data.boxes[rows])) / 64
        labels.append({"class_labels": torch.from_numpy(data.classes[rows]), "boxes": boxes.double()})
    inputs = processor(images, return_tensors="pt")
    with torch.no_grad():
        expected = model(inputs.pixel_values.double(), inputs.pixel_mask, labels=labels).loss_dict
    metrics = evaluate(model, processor, data, batch_size=3, workers=0, losses=True)
    assert set(metrics.losses) == {"loss_ce", "loss_bbox", "loss_giou"}
    for name, value in metrics.losses.items():
        assert value == pytest.approx(expected[name].item(), rel=1e-5), name  # pixels are float32


def test_curves_can_be_drawn_of_any_log(tmp_path):
    first = {"kind": "train", "step": 1, "epoch": 0.5, "loss": 3.0, "loss_ce": 1.0}
    logs = (
        [first],
        [first, {"kind": "eval", "step": 2, "epoch": 1.0, "AP": 0.0, "AP50": 0.0}],
        [first, {**first, "loss_ce": float("inf"), "loss_bbox": "x"}, {"kind": "eval", "step": 2, "epoch": 1.0}],
    )
    for i, rows in enumerate(logs):
        draw_curves(tmp_path / f"{i}.png", json.loads(json.dumps(rows)))
        assert Image.open(tmp_path / f"{i}.png").size[0] > 1000


def test_a_contact_sheet_holds_every_picture():
    pictures = [Image.new("RGB", (40 + 10 * i, 30), (200, 0, 0)) for i in range(5)]
    sheet = contact_sheet(pictures, columns=2, side=50)
    red = sum(1 for pixel in sheet.getdata() if pixel[0] > 150 and pixel[1] < 50)
    drawn = [picture.copy() for picture in pictures]
    for picture in drawn:
        picture.thumbnail((50, 50))
    assert red == sum(picture.width * picture.height for picture in drawn)
