"""Each kind of mistake, once, in a set made by hand."""

import numpy as np
import pytest
from hotcoco import metrics

from conditional_detr.evaluate.coco_metrics import coco_evaluation
from conditional_detr.report.errors import TIDE_NAMES, confusion, image_errors, suspected_labels
from conditional_detr.report.figures import calibration
from conditional_detr.report.matches import class_matches
from conditional_detr.report.slices import by_objects, by_size
from conditional_detr.report.thresholds import best_threshold

CAT, DOG = 4, 9
IDS = ["second", "first", "empty"]  # not in the order of their names


def annotation(image, category, box, **more):
    return {"image_id": image, "category_id": category, "bbox": box, "area": box[2] * box[3], **more}


def result(image, category, box, score):
    return {"image_id": image, "category_id": category, "bbox": box, "score": score}


TRUTH = {
    "images": [{"id": i, "height": 200, "width": 200} for i in IDS],
    "categories": [{"id": DOG, "name": "dog"}, {"id": CAT, "name": "cat"}],
    "annotations": [
        annotation("first", CAT, [10, 10, 20, 20]),  # found, and found again
        annotation("first", DOG, [100, 100, 40, 40]),  # taken for a cat
        annotation("first", DOG, [10, 100, 20, 20]),  # nobody is near
        annotation("second", CAT, [10, 10, 40, 40]),  # a box that is too small
        annotation("second", DOG, [100, 10, 30, 30], iscrowd=1),
        annotation("second", DOG, [100, 100, 60, 60]),  # a cat is near
    ],
}
RESULTS = [
    result("first", CAT, [10, 10, 20, 20], 0.9),
    result("first", CAT, [10, 10, 20, 18], 0.7),  # duplicated
    result("first", CAT, [100, 100, 40, 38], 0.95),  # confused
    result("second", CAT, [10, 10, 40, 12], 0.8),  # misplaced
    result("second", DOG, [100, 10, 30, 30], 0.6),  # on a crowd: neither right nor wrong
    result("second", CAT, [100, 100, 60, 20], 0.5),  # both
    result("empty", DOG, [50, 50, 20, 20], 0.99),  # background
    result("empty", DOG, [150, 50, 20, 20], 0.1),  # too unsure to count
]


@pytest.fixture
def errors():
    return image_errors(TRUTH, RESULTS, IDS, 0.5)


def test_each_kind_is_told_from_the_others(errors):
    found = {(m.kind, IDS[m.image], m.label, m.score, m.other) for m in errors.mistakes}
    assert found == {
        ("duplicated", "first", "cat", 0.7, None),
        ("confused", "first", "cat", 0.95, "dog"),
        ("missed", "first", "dog", None, None),
        ("misplaced", "second", "cat", 0.8, None),
        ("both", "second", "cat", 0.5, "dog"),
        ("missed", "second", "dog", None, None),
        ("background", "empty", "dog", 0.99, None),
    }
    assert errors.right == [0.9]
    assert errors.found.tolist() == [True, False, False, False, False]


def test_the_kinds_are_those_of_hotcocos_tide(errors):
    kept = [row for row in RESULTS if row["score"] >= 0.5]
    tide = coco_evaluation(TRUTH, kept).evaluation.tide_errors()
    assert {TIDE_NAMES[name]: count for name, count in tide["counts"].items()} == errors.counts()


def test_the_worst_images_come_first():
    more = [*RESULTS, result("first", DOG, [150, 20, 20, 20], 0.6), result("first", DOG, [150, 170, 20, 20], 0.5)]
    errors = image_errors(TRUTH, more, IDS, 0.5)
    assert [(IDS[own[0].image], len(own)) for own in errors.worst_images("background", 5)] == [
        ("first", 2),
        ("empty", 1),
    ]
    assert len(errors.worst_images("background", 1)) == 1
    assert errors.worst_images("duplicated", 5) == [[m for m in errors.mistakes if m.kind == "duplicated"]]


def test_suspected_labels(errors):
    found = suspected_labels(TRUTH, RESULTS, IDS, errors, most=5)
    assert [(IDS[m.image], m.label, m.score) for m in found["unlabelled"]] == [("empty", "dog", 0.99)]
    assert [(IDS[m.image], m.label, m.other) for m in found["other class"]] == [("first", "cat", "dog")]
    unsupported = [(IDS[m.image], m.label, m.box[:2]) for m in found["unsupported"]]
    assert unsupported == [("second", "cat", (10, 10)), ("second", "dog", (100, 100)), ("first", "dog", (10, 100))]


def test_confusion_has_objects_in_rows_and_background_last():
    cat, dog, background = confusion(TRUTH, RESULTS, 0.5)
    assert cat == [1, 0, 1]  # the second cat's box is too small
    assert dog[:2] == [1, 0] and dog[2] >= 2
    assert background[0] == 3  # the second detection of a cat, the small box, the cat near a dog


def test_recall_by_size_and_figures_by_crowd(errors):
    rows = by_size(TRUTH, errors.found)
    assert [(row["size"], row["objects"], row["recall"]) for row in rows] == [("16–32", 2, 0.5), ("32–64", 3, 0.0)]
    done = coco_evaluation(TRUTH, RESULTS)
    mistakes = np.bincount([m.image for m in errors.mistakes], minlength=3)
    crowds = by_objects(TRUTH, IDS, done, mistakes)
    assert [(row["objects"], row["images"], row["mistakes_per_image"]) for row in crowds] == [
        ("0", 1, 1.0), ("2–3", 2, 3.0),
    ]  # fmt: skip


def test_the_best_threshold_is_the_best_of_all():
    cats = class_matches(coco_evaluation(TRUTH, RESULTS))["all"][0]
    best = best_threshold([cats])
    scores = sorted({row["score"] for row in RESULTS if row["category_id"] == CAT})

    def f1(threshold):  # one of two cats is found, by the detection that scores 0.9
        said = sum(row["category_id"] == CAT and row["score"] >= threshold for row in RESULTS)
        return 2 * (threshold <= 0.9) / (said + 2)

    assert best.f1 == pytest.approx(max(map(f1, scores))) == pytest.approx(0.5)
    assert (best.threshold, best.precision, best.recall) == (0.9, 0.5, 0.5)


def test_nothing_right_and_nothing_there_have_no_threshold():
    nothing = class_matches(coco_evaluation(TRUTH, []))["all"]
    assert best_threshold(nothing).to_dict() == {"threshold": -1.0, "f1": 0.0, "precision": 0.0, "recall": 0.0}
    empty = {**TRUTH, "annotations": []}
    assert best_threshold(class_matches(coco_evaluation(empty, RESULTS))["all"]).f1 == -1.0


def test_calibration_of_what_is_right_as_often_as_it_says():
    matches = class_matches(coco_evaluation(TRUTH, RESULTS))["all"]
    found = calibration(matches)
    scores = [0.9, 0.7, 0.95, 0.8, 0.5, 0.99, 0.1]  # without the one on a crowd
    right = [True] + [False] * 6
    assert found["detections"] == 7
    assert found["ece"] == pytest.approx(metrics.calibration_error(scores, right, 10)[0])
    assert sum(one["count"] for one in found["bins"]) == 7
