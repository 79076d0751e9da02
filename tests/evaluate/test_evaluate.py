"""Evaluation gives COCO's figures, and the same ones however it is run."""

import copy
import json
import os
import pickle
import subprocess
import sys
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from same_detections import assert_same_detections
from small_models import randomise, small_model

from conditional_detr.data.formats.coco import read_coco
from conditional_detr.data.splits import find_split
from conditional_detr.evaluate.coco_metrics import NAMES, coco_metrics
from conditional_detr.evaluate.evaluation import evaluate
from conditional_detr.evaluate.predictions import DatasetImages, predict_dataset
from conditional_detr.processors.image_processor import ConditionalDetrImageProcessor


def pycocotools_stats(annotations, results):
    truth = COCO()
    truth.dataset = annotations
    truth.createIndex()
    evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation


def noisy_results(annotations, rng):
    """Predictions that are partly right: moved boxes, wrong classes, duplicates, inventions."""
    categories = [c["id"] for c in annotations["categories"]]
    results = []
    for annotation in annotations["annotations"]:
        for _ in range(rng.integers(0, 3)):
            box = np.array(annotation["bbox"]) + rng.normal(0, 3, 4)
            box[2:] = np.abs(box[2:]) + 1
            category = annotation["category_id"] if rng.random() < 0.8 else int(rng.choice(categories))
            results.append(
                {
                    "image_id": annotation["image_id"],
                    "category_id": category,
                    "bbox": box.tolist(),
                    "score": float(rng.random()),
                }
            )
    return results


@pytest.mark.parametrize("crowds", [False, True])
def test_the_twelve_figures_and_the_class_table_are_pycocotools(scenes, crowds):
    annotations = json.loads((scenes / "annotations/train.json").read_text())
    rng = np.random.default_rng(0)
    if crowds:
        for annotation in annotations["annotations"][::7]:
            annotation["iscrowd"] = 1
    results = noisy_results(annotations, rng)
    ours = coco_metrics(annotations, results)
    theirs = pycocotools_stats(annotations, results)
    assert list(ours.summary) == list(NAMES.values())
    np.testing.assert_allclose(list(ours.summary.values()), theirs.stats, rtol=0, atol=1e-6)
    precision = theirs.eval["precision"][:, :, :, 0, -1]
    for k, row in enumerate(ours.per_class.values()):
        assert row["AP"] == pytest.approx(precision[:, :, k].mean(), abs=1e-6)
        assert row["AP50"] == pytest.approx(precision[0, :, k].mean(), abs=1e-6)


def test_perfect_predictions_score_one_and_none_score_zero(scenes):
    annotations = json.loads((scenes / "annotations/val.json").read_text())
    perfect = [
        {k: a[k] for k in ("image_id", "category_id", "bbox")} | {"score": 0.9} for a in annotations["annotations"]
    ]
    assert coco_metrics(annotations, perfect).summary["AP"] == pytest.approx(1)
    assert coco_metrics(annotations, []).summary["AP"] == 0


@pytest.fixture
def detector(scenes):
    dataset = read_coco(*find_split(scenes, "val"))
    model = small_model(id2label=dict(enumerate(dataset.category_names)))
    processor = ConditionalDetrImageProcessor(size={"shortest_edge": 64, "longest_edge": 128})
    return randomise(model).double().eval(), processor, dataset


def of_image(results, image_id):
    return [row for row in results if row["image_id"] == image_id]


@pytest.mark.numeric
def test_figures_do_not_depend_on_the_batch_size_or_on_workers(detector):
    runs = [
        predict_dataset(*detector, batch_size=size, workers=workers).results
        for size, workers in ((1, 0), (8, 0), (3, 2))
    ]
    for other in runs[1:]:
        assert len(other) == len(runs[0])
        for image_id in detector[2].image_ids:
            assert_same_detections(of_image(other, image_id), of_image(runs[0], image_id), score=1e-9, box=1e-7)
    annotations = detector[2].to_coco()
    figures = [list(coco_metrics(annotations, results).summary.values()) for results in runs]
    np.testing.assert_allclose(figures[1:], [figures[0]] * 2, rtol=0, atol=1e-6)


def test_over_several_processes_every_image_counts_once(detector, scenes, tmp_path):
    model, processor, _ = detector
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    for processes in (1, 2):
        command = [
            sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}",
            "-m", "conditional_detr.cli", "eval", "--model", str(tmp_path / "model"), "--data", str(scenes),
            "--batch_size", "3", "--workers", "0",
            "--predictions", str(tmp_path / f"p{processes}.json"), "--metrics", str(tmp_path / f"m{processes}.json"),
        ]  # fmt: skip
        run = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        assert run.returncode == 0, run.stdout + run.stderr
    one, two = (json.loads((tmp_path / f"p{n}.json").read_text()) for n in (1, 2))
    assert [row["image_id"] for row in one] == [row["image_id"] for row in two]
    for image_id in detector[2].image_ids:
        assert_same_detections(of_image(two, image_id), of_image(one, image_id), score=1e-4, box=0.02)
    one, two = (json.loads((tmp_path / f"m{n}.json").read_text()) for n in (1, 2))
    assert two["AP"] == pytest.approx(one["AP"], abs=1e-4) and two["AR_100"] == pytest.approx(one["AR_100"], abs=1e-4)


@pytest.mark.numeric
def test_predictions_are_written_with_the_data_sets_own_ids(detector, tmp_path):
    metrics = evaluate(*detector, predictions=tmp_path / "predictions.json", workers=0)
    results = json.loads((tmp_path / "predictions.json").read_text())
    assert {row["category_id"] for row in results} <= {1, 3, 5}
    assert len(results) == 10 * 30  # every pair of 10 queries and 3 classes, of 10 images
    annotations = detector[2].to_coco()
    np.testing.assert_allclose(list(metrics.summary.values()), pycocotools_stats(annotations, results).stats, atol=1e-6)


def test_a_test_set_without_annotations_gives_predictions_alone(detector, scenes, tmp_path):
    content = json.loads((scenes / "annotations/val.json").read_text())
    del content["annotations"]
    (tmp_path / "test.json").write_text(json.dumps(content))
    dataset = read_coco(tmp_path / "test.json", scenes / "images/val")
    assert evaluate(*detector[:2], dataset, predictions=tmp_path / "p.json", workers=0) is None
    assert len(json.loads((tmp_path / "p.json").read_text())) == 300


def test_a_model_of_other_classes_is_refused(detector):
    model = small_model(id2label={0: "circle", 1: "square", 2: "wolf"})
    with pytest.raises(ValueError, match="no class called 'triangle'"):
        predict_dataset(model, *detector[1:], workers=0)


def test_evaluation_leaves_training_as_it_was(detector):
    model = detector[0].train()
    state = torch.get_rng_state()
    evaluate(*detector, workers=0)
    assert model.training and torch.equal(torch.get_rng_state(), state)


def test_loading_processes_that_are_spawned_share_the_list_of_images(detector):
    """Else each would get a copy: of a large data set, hundreds of megabytes."""
    dataset = copy.copy(detector[2])
    names, sizes = dataset.file_names, dataset.sizes
    dataset.file_names = [f"{i}/{name}" for i in range(500) for name in names]
    dataset.sizes = np.tile(sizes, (500, 1))
    images = DatasetImages(dataset)
    sent = ForkingPickler.dumps(images)
    assert len(sent) < 5000
    there = pickle.loads(sent)
    assert len(there) == len(images) == 5000 and all(there[i] == images[i] for i in (0, 17, 4999))
