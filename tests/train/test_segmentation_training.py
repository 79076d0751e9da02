"""Training, scoring and using segmentation models.

What uses a model takes one of random weights and what it sees, not one that was trained: what a short training learns
hangs on the processor.
"""

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from same_detections import assert_same_detections, threshold_between
from small_models import randomise, small_config
from small_recipes import small_recipe

from conditional_detr import ConditionalDetrForSegmentation, ConditionalDetrImageProcessor, Detector
from conditional_detr.cli import main
from conditional_detr.coco_masks import segment_ids
from conditional_detr.data.augmentation import Augmentation
from conditional_detr.data.formats.coco import read_coco
from conditional_detr.data.formats.coco_panoptic import read_panoptic
from conditional_detr.data.scenes import generate_scenes
from conditional_detr.evaluate.coco_metrics import panoptic_metrics
from conditional_detr.evaluate.evaluation import score
from conditional_detr.evaluate.predictions import DatasetPredictions, predict_dataset
from conditional_detr.images.find import find_images
from conditional_detr.images.read import read_image
from conditional_detr.results.panoptic_files import panoptic_row, write_panoptic_png
from conditional_detr.train.loop import train

PROCESSOR = ConditionalDetrImageProcessor(size={"shortest_edge": 64, "longest_edge": 128})

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
    assert metrics["PQ"] > 0.5 and metrics["mask_AP"] > 0.4 and metrics["AP"] > 0.5  # all above 0.9 where it was tried


def test_what_was_learned_is_saved_and_scores_the_same(learned, four_scenes, tmp_path):
    model, metrics = learned[0] / "model", learned[1]
    code = main(["eval", "--model", str(model), "--data", str(four_scenes), "--split", "train", "--workers", "0",
                 "--metrics", str(tmp_path / "metrics.json"), "--predictions", str(tmp_path / "found.json")])  # fmt: skip
    again = json.loads((tmp_path / "metrics.json").read_text())
    assert code == 0 and again["PQ"] == pytest.approx(metrics["PQ"], abs=0.02) and len(again["per_class"]) == 8
    assert (tmp_path / "found_panoptic" / "1.png").is_file()
    image = four_scenes / "images/train/000001.png"
    best = Detector.from_pretrained(model, device="cpu")(image, threshold=0.0)[0]
    (x0, y0, x1, y1), (rows, columns) = best.box, best.mask.nonzero()
    inside = (x0 - 3 < columns) & (columns < x1 + 3) & (y0 - 3 < rows) & (rows < y1 + 3)
    assert best.mask.any() and inside.mean() > 0.8


def model_that_sees(data):
    """Random weights, with queries that differ and classes that are spread over them: things and stuff in any picture."""
    config = small_config(
        num_labels=None, id2label=dict(enumerate(data.category_names)), category_ids=data.category_ids,
        is_thing=data.is_thing, num_queries=20,
    )  # fmt: skip
    torch.manual_seed(0)
    model = randomise(ConditionalDetrForSegmentation(config)).eval()
    inner, head = model.detector.model, model.detector.class_labels_classifier
    pictures = [read_image(data.image_path(i)) for i in range(len(data))]
    with torch.no_grad():
        inner.query_position_embeddings.weight *= 10
        for name, weight in [*inner.decoder.named_parameters(), *model.bbox_attention.named_parameters()]:
            if name.endswith("weight") and ("q_" in name or "k_" in name):
                weight *= 3
        model.mask_head.conv1.conv.weight[:, model.mask_head.width :] *= 30
        states = model.detector(**PROCESSOR(pictures, return_tensors="pt")).last_hidden_state
        head.weight.normal_(std=5)
        head.bias.copy_(-1 - head.weight @ states.mean((0, 1)))
    return model


@pytest.fixture(scope="module")
def seen(four_scenes, tmp_path_factory):
    """A model, and a data set of what it sees in four scenes: whatever that is, evaluation must find it again."""
    folder = tmp_path_factory.mktemp("seen")
    source = four_scenes / "annotations/panoptic_train.json"
    scenes = read_panoptic(source, four_scenes / "images/train")
    model_that_sees(scenes).save_pretrained(folder / "model")
    PROCESSOR.save_pretrained(folder / "model")
    detector = Detector.from_pretrained(folder / "model", device="cpu")

    shutil.copytree(four_scenes / "images", folder / "data/images")
    (folder / "data/panoptic/train").mkdir(parents=True)
    (folder / "data/annotations").mkdir()
    rows = []
    for i, image_id in enumerate(scenes.image_ids):
        drawn, name = detector.panoptic(scenes.image_path(i)), f"{scenes.image_path(i).stem}.png"
        segments = [{"id": s.id, "label_id": s.class_id} for s in drawn.segments]
        rows.append(panoptic_row(image_id, name, drawn.ids, segments, scenes.category_ids))
        write_panoptic_png(folder / "data/panoptic/train" / name, drawn.ids)
    content = {**json.loads(source.read_text()), "annotations": rows}
    (folder / "data/annotations/panoptic_train.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def seen_data(seen):
    return read_panoptic(seen / "data/annotations/panoptic_train.json", seen / "data/images/train")


@pytest.mark.numeric
def test_predict_writes_masks_and_maps_that_score_as_the_evaluation_says(seen, seen_data, tmp_path):
    model, images = str(seen / "model"), seen / "data/images/train"
    detector = Detector.from_pretrained(model, device="cpu")
    every = detector.detect(find_images([str(images)]), threshold=0.0)
    threshold = threshold_between([d.score for found in every for d in found])
    code = main(
        ["predict", "--model", model, "--images", str(images), "--output", str(tmp_path),
         "--threshold", str(threshold), "--workers", "0"]
    )  # fmt: skip
    assert code == 0
    rows = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    content = json.loads((tmp_path / "panoptic.json").read_text())
    assert [a["file_name"] for a in content["annotations"]] == [f"{i:06}.png" for i in range(1, 5)]
    for row, annotation in zip(rows, content["annotations"], strict=True):
        ids = segment_ids(read_image(tmp_path / "panoptic" / annotation["file_name"]))
        for segment in annotation["segments_info"]:
            assert int((ids == segment["id"]).sum()) == segment["area"]
        assert {s["label"] for s in row["segments"]} <= set(seen_data.category_names)
        expected = detector(row["file"], threshold)
        partners = assert_same_detections(row["detections"], expected, score=2e-4, box=0.03)
        for detection, partner in zip(row["detections"], partners, strict=True):
            mask = coco_mask.decode({**detection["mask"], "counts": detection["mask"]["counts"].encode()}) > 0
            assert (mask != expected[partner].mask).sum() <= 20  # of 4096 pixels; masks of equal boxes may be swapped
        with Image.open(row["panoptic_picture"]) as picture:
            assert picture.size == (256, 256)

    code = main(["eval", "--model", model, "--data", str(seen / "data"), "--split", "train", "--workers", "0",
                 "--metrics", str(tmp_path / "metrics.json"), "--predictions", str(tmp_path / "found.json")])  # fmt: skip
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert code == 0 and metrics["PQ"] > 0.95 and len(metrics["per_class"]) == 8
    assert (tmp_path / "found_panoptic" / "1.png").is_file()
    for annotation, image_id in zip(content["annotations"], seen_data.image_ids, strict=True):
        annotation["image_id"] = image_id
    written = panoptic_metrics(
        seen_data.to_panoptic(), seen_data.masks.folder, content["annotations"], tmp_path / "panoptic"
    )
    assert written.summary["PQ"] == pytest.approx(metrics["PQ"], abs=0.05)  # a pixel more or less


@pytest.mark.numeric
def test_the_detector_gives_masks_and_a_map(seen):
    detector = Detector.from_pretrained(seen / "model", device="cpu")
    image = seen / "data/images/train/000001.png"
    best = detector(image, threshold=0.4)[0]
    assert best.mask.shape == (64, 64) and best.mask.dtype == bool and best.mask.any()
    drawn = detector.panoptic(image)
    assert drawn.ids.shape == (64, 64) and set(np.unique(drawn.ids)) == {s.id for s in drawn.segments}
    assert {s.is_thing for s in drawn.segments} == {True, False}
    assert detector.panoptic(image, threshold=1.0).segments == []


@pytest.mark.numeric
def test_classes_that_the_data_lacks_are_left_out_of_boxes_and_maps(seen, tmp_path):
    shutil.copytree(seen / "data/images", tmp_path / "images")
    shutil.copytree(seen / "data/panoptic", tmp_path / "panoptic")
    content = json.loads((seen / "data/annotations/panoptic_train.json").read_text())
    areas = Counter()
    for annotation in content["annotations"]:
        areas.update({s["category_id"]: s["area"] for s in annotation["segments_info"]})
    ((largest, _),) = areas.most_common(1)
    content["categories"] = [c for c in content["categories"] if c["id"] != largest]
    for annotation in content["annotations"]:
        file = tmp_path / "panoptic/train" / annotation["file_name"]
        ids = segment_ids(read_image(file)).numpy()
        gone = [s["id"] for s in annotation["segments_info"] if s["category_id"] == largest]
        annotation["segments_info"] = [s for s in annotation["segments_info"] if s["id"] not in gone]
        write_panoptic_png(file, np.where(np.isin(ids, gone), 0, ids))
    (tmp_path / "panoptic_train.json").write_text(json.dumps(content))
    data = read_panoptic(tmp_path / "panoptic_train.json", tmp_path / "images/train", tmp_path / "panoptic/train")
    detector = Detector.from_pretrained(seen / "model", device="cpu")
    found = predict_dataset(detector.model, detector.processor, data, workers=0)
    assert largest not in {s["category_id"] for row, _ in found.maps for s in row["segments_info"]}
    assert largest not in {row["category_id"] for row in found.results}
    assert score(found, data).summary["PQ"] > 0.95


def test_perfect_predictions_score_one(four_scenes):
    data = read_panoptic(four_scenes / "annotations/panoptic_train.json", four_scenes / "images/train")
    truth = data.to_coco()
    results = [
        {"image_id": a["image_id"], "category_id": a["category_id"], "bbox": a["bbox"], "score": 1.0,
         "segmentation": a["segmentation"]}
        for a in truth["annotations"]
    ]  # fmt: skip
    maps = [(row, (data.masks.folder / row["file_name"]).read_bytes()) for row in data.to_panoptic()["annotations"]]
    figures = score(DatasetPredictions(results, maps), data)
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


def test_predicting_never_overwrites_an_image_or_another_map(seen, four_scenes, tmp_path):
    model, picture = str(seen / "model"), four_scenes / "images/train/000001.png"
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
