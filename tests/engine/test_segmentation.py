"""Training, scoring and using segmentation models: four scenes are learned by heart, and then used in every way."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from small_recipes import small_recipe

from conditional_detr import ConditionalDetrForSegmentation, Detector
from conditional_detr.cli import main
from conditional_detr.data.augmentation import Augmentation
from conditional_detr.data.coco import read_coco
from conditional_detr.data.panoptic import read_panoptic
from conditional_detr.data.scenes import generate_scenes
from conditional_detr.engine.evaluate import Predictions, predict_dataset, score
from conditional_detr.engine.panoptic_files import write_panoptic_png
from conditional_detr.engine.train import train
from conditional_detr.processing.annotations import segment_ids
from conditional_detr.processing.reading import read_image

# Enough capacity and no noise: to learn by heart.
BY_HEART = dict(
    backbone="resnet10t",
    d_model=64,
    encoder_attention_heads=8,
    decoder_attention_heads=8,
    num_queries=20,
    cls_loss_coefficient=6,
    dropout=0.0,
)


def by_heart(data, output, **values):
    """A recipe that trains and evaluates on the same four scenes."""
    options = dict(
        task="panoptic",
        val_annotations=str(data / "annotations/panoptic_train.json"),
        val_images=str(data / "images/train"),
        model=BY_HEART,
        augmentation=Augmentation(horizontal_flip=0, scales=[64], max_size=128, crop=0),
        epochs=450,
        batch_size=4,
        eval_epochs=450,
        log_steps=50,
        lr=2e-3,
        backbone_lr=2e-3,
        schedule="cosine",
        warmup_steps=20,
        clip_norm=1.0,
    )
    return small_recipe(data, output, **{**options, **values})


@pytest.fixture(scope="module")
def four_scenes(tmp_path_factory):
    return generate_scenes(tmp_path_factory.mktemp("four"), {"train": 4, "val": 4}, size=64, max_objects=3, seed=0)


@pytest.fixture(scope="module")
def learned(four_scenes, tmp_path_factory):
    output = tmp_path_factory.mktemp("learned")
    return output, train(by_heart(four_scenes, output))


def test_four_scenes_are_learned_by_heart(learned):
    _, metrics = learned
    assert metrics["PQ"] > 0.9 and metrics["mask_AP"] > 0.8 and metrics["AP"] > 0.9


def test_predict_writes_masks_and_maps_that_score_as_the_evaluation_says(learned, four_scenes, tmp_path):
    model, metrics = learned[0] / "model", learned[1]
    code = main(
        ["predict", "--model", str(model), "--images", str(four_scenes / "images/train"), "--output", str(tmp_path),
         "--threshold", "0.4", "--workers", "0"]
    )  # fmt: skip
    assert code == 0
    rows = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    content = json.loads((tmp_path / "panoptic.json").read_text())
    assert [a["file_name"] for a in content["annotations"]] == [f"{i:06}.png" for i in range(1, 5)]
    data = read_panoptic(four_scenes / "annotations/panoptic_train.json", four_scenes / "images/train")
    for row, annotation in zip(rows, content["annotations"], strict=True):
        ids = segment_ids(read_image(tmp_path / "panoptic" / annotation["file_name"]))
        for segment in annotation["segments_info"]:
            assert int((ids == segment["id"]).sum()) == segment["area"]
        assert {s["label"] for s in row["segments"]} <= set(data.category_names)
        for detection in row["detections"]:
            x0, y0, x1, y1 = coco_mask.toBbox({**detection["mask"], "counts": detection["mask"]["counts"].encode()})
            assert [x0, y0, x0 + x1, y0 + y1] == pytest.approx(detection["box"], abs=6)
        with Image.open(row["panoptic_picture"]) as picture:
            assert picture.size == (256, 256)
    main(["eval", "--model", str(model), "--data", str(four_scenes), "--split", "train", "--workers", "0",
          "--metrics", str(tmp_path / "metrics.json"), "--predictions", str(tmp_path / "found.json")])  # fmt: skip
    again = json.loads((tmp_path / "metrics.json").read_text())
    assert again["PQ"] == pytest.approx(metrics["PQ"], abs=1e-4) and len(again["per_class"]) == 8
    assert (tmp_path / "found_panoptic" / "1.png").is_file()


def test_the_detector_gives_masks_and_a_map(learned, four_scenes):
    detector = Detector.from_pretrained(learned[0] / "model", device="cpu")
    image = four_scenes / "images/train/000001.png"
    best = detector(image, threshold=0.4)[0]
    assert best.mask.shape == (64, 64) and best.mask.dtype == bool and best.mask.any()
    drawn = detector.panoptic(image)
    assert drawn.ids.shape == (64, 64) and set(np.unique(drawn.ids)) == {s.id for s in drawn.segments}
    assert {s.is_thing for s in drawn.segments} == {True, False}
    assert detector.panoptic(image, threshold=1.0).segments == []


def test_classes_that_the_data_lacks_are_left_out_of_boxes_and_maps(learned, four_scenes, tmp_path):
    shutil.copytree(four_scenes / "images", tmp_path / "images")
    shutil.copytree(four_scenes / "panoptic", tmp_path / "panoptic")
    content = json.loads((four_scenes / "annotations/panoptic_train.json").read_text())
    lacking = {c["id"] for c in content["categories"] if c["name"] == "grass"}
    content["categories"] = [c for c in content["categories"] if c["id"] not in lacking]
    for annotation in content["annotations"]:
        file = tmp_path / "panoptic/train" / annotation["file_name"]
        ids = segment_ids(read_image(file)).numpy()
        gone = [s["id"] for s in annotation["segments_info"] if s["category_id"] in lacking]
        annotation["segments_info"] = [s for s in annotation["segments_info"] if s["id"] not in gone]
        write_panoptic_png(file, np.where(np.isin(ids, gone), 0, ids))
    (tmp_path / "panoptic_train.json").write_text(json.dumps(content))
    data = read_panoptic(tmp_path / "panoptic_train.json", tmp_path / "images/train", tmp_path / "panoptic/train")
    detector = Detector.from_pretrained(learned[0] / "model", device="cpu")
    found = predict_dataset(detector.model, detector.processor, data, workers=0)
    assert not {s["category_id"] for row, _ in found.maps for s in row["segments_info"]} & lacking
    assert score(found, data).summary["PQ"] > 0.9


def test_perfect_predictions_score_one(four_scenes):
    data = read_panoptic(four_scenes / "annotations/panoptic_train.json", four_scenes / "images/train")
    truth = data.to_coco()
    results = [
        {"image_id": a["image_id"], "category_id": a["category_id"], "bbox": a["bbox"], "score": 1.0,
         "segmentation": a["segmentation"]}
        for a in truth["annotations"]
    ]  # fmt: skip
    maps = [(row, (data.masks.folder / row["file_name"]).read_bytes()) for row in data.to_panoptic()["annotations"]]
    figures = score(Predictions(results, maps), data)
    assert figures.summary["PQ"] == figures.summary["mask_AP"] == figures.summary["AP"] == pytest.approx(1.0)
    assert figures.headline == figures.summary["PQ"]


def test_instance_masks_train_jointly_and_then_alone_on_a_frozen_detector(scenes, tmp_path):
    first = train(small_recipe(scenes, tmp_path / "joint", task="instance", epochs=1))
    assert {"mask_AP", "AP"} <= set(first) and "PQ" not in first
    start = tmp_path / "joint/model"
    recipe = small_recipe(
        scenes, tmp_path / "frozen", task="instance", freeze_detector=True, init_from=str(start), epochs=1
    )
    train(recipe)
    before, after = (
        ConditionalDetrForSegmentation.from_pretrained(f).state_dict() for f in (start, tmp_path / "frozen/model")
    )
    changed = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    assert changed and all(name.startswith(("mask_head.", "bbox_attention.")) for name in changed)


def test_a_detector_becomes_a_segmentation_model(scenes, tmp_path, caplog):
    train(small_recipe(scenes, tmp_path / "boxes", epochs=1))
    train(small_recipe(scenes, tmp_path / "masks", task="instance", init_from=str(tmp_path / "boxes/model"), epochs=1))
    assert "its mask head is new" in caplog.text
    assert Detector.from_pretrained(tmp_path / "masks/model", device="cpu").model.task == "instance"
    data = read_coco(scenes / "annotations/val.json", scenes / "images/val", masks=True)
    detector = Detector.from_pretrained(tmp_path / "boxes/model", device="cpu")
    with pytest.raises(ValueError, match="detector without masks"):
        predict_dataset(detector.model, detector.processor, data, workers=0)
    with pytest.raises(ValueError, match="panoptic maps need a segmentation model"):
        detector.panoptic(scenes / "images/val/000001.png")


def test_the_papers_way_boxes_of_things_and_stuff_first_and_then_masks(four_scenes, tmp_path):
    panoptic = {
        f"{split}_{what}": str(four_scenes / path)
        for split in ("train", "val")
        for what, path in (("annotations", f"annotations/panoptic_{split}.json"), ("images", f"images/{split}"))
    }
    boxes = train(small_recipe(four_scenes, tmp_path / "boxes", epochs=1, batch_size=4, **panoptic))
    assert len(boxes["per_class"]) == 8 and "PQ" not in boxes
    masks = by_heart(
        four_scenes, tmp_path / "masks", model={}, epochs=1, eval_epochs=1, freeze_detector=True,
        init_from=str(tmp_path / "boxes/model"),
    )  # fmt: skip
    assert "PQ" in train(masks)


def test_a_frozen_detector_must_know_the_classes(four_scenes, scenes, tmp_path):
    train(small_recipe(scenes, tmp_path / "things", epochs=1))
    with pytest.raises(ValueError, match="knows 3 classes, which are not the data's 8"):
        train(
            by_heart(
                four_scenes, tmp_path / "run", model={}, freeze_detector=True, init_from=f"{tmp_path}/things/model"
            )
        )


def test_an_evaluation_that_fails_leaves_what_was_trained(four_scenes, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(four_scenes, data)
    file = next((data / "panoptic/val").glob("*.png"))
    pixels = np.asarray(Image.open(file)).copy()
    pixels[:3, :3] = 77  # a segment that the JSON lacks: seen when the maps are scored
    Image.fromarray(pixels).save(file)
    recipe = small_recipe(data, tmp_path / "run", task="panoptic", epochs=1, batch_size=4)
    with pytest.raises(ValueError, match=file.name):
        train(recipe)
    assert (tmp_path / "run/checkpoints/step-00000001.pt").is_file()


def test_a_png_of_another_size_is_said_before_training(four_scenes, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(four_scenes, data)
    file = data / "panoptic/val/000002.png"
    Image.open(file).resize((50, 64), Image.Resampling.NEAREST).save(file)
    files = data / "annotations/panoptic_val.json", data / "images/val"
    with pytest.raises(ValueError, match=r"000002.png has 64×50 pixels; image \d+ has 64×64"):
        read_panoptic(*files)
    assert read_panoptic(*files, skip_missing_images=True).missing_images == 1


def test_predicting_never_overwrites_an_image_or_another_map(learned, four_scenes, tmp_path):
    model, picture = str(learned[0] / "model"), four_scenes / "images/train/000001.png"
    names = ("panoptic/a.png", "b/x.png", "c/x.png", "d/x-2.png", "e/x-panoptic.png", "f/y-panoptic.png", "g/y.png")
    for name in names:
        (tmp_path / name).parent.mkdir()
        shutil.copy(picture, tmp_path / name)
    before = (tmp_path / "panoptic/a.png").read_bytes()
    code = main(["predict", "--model", model, "--images", str(tmp_path / "panoptic"), "--output", str(tmp_path)])
    assert code == 1 and (tmp_path / "panoptic/a.png").read_bytes() == before
    images = [str(tmp_path / folder) for folder in "bcdefg"]
    assert (
        main(["predict", "--model", model, "--images", *images, "--output", str(tmp_path / "out"), "--workers", "0"])
        == 0
    )
    rows = [json.loads(line) for line in (tmp_path / "out/predictions.jsonl").read_text().splitlines()]
    written = [row[name] for row in rows for name in ("picture", "panoptic_picture", "panoptic")]
    assert len(set(written)) == len(written) == 18 and all(Path(name).is_file() for name in written)


def test_freezing_needs_a_detector_to_freeze_and_masks_to_train(scenes, tmp_path):
    with pytest.raises(ValueError, match="give a trained detector with --init_from"):
        train(small_recipe(scenes, tmp_path / "run", freeze_detector=True, task="instance"))
    with pytest.raises(ValueError, match="it needs --task instance or panoptic"):
        small_recipe(scenes, tmp_path, freeze_detector=True)
