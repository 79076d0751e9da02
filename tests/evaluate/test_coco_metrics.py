"""COCO's figures for masks and panoptic maps are those of pycocotools, and of the definitions worked out by hand."""

import json

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from conditional_detr.evaluate.coco_metrics import NAMES, coco_metrics, panoptic_metrics
from conditional_detr.results.panoptic_files import write_panoptic_png


def run_lengths(mask):
    encoded = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}


def blob(rng, height, width, radius):
    y, x = np.mgrid[:height, :width]
    cy, cx = rng.uniform(0, height), rng.uniform(0, width)
    angle = np.arctan2(y - cy, x - cx) * rng.integers(2, 6) + rng.uniform(0, 6)
    return np.hypot(y - cy, x - cx) < radius * (1 + 0.3 * np.sin(angle))


@pytest.fixture(scope="module")
def masks():
    """Annotations as polygons, both kinds of run lengths and crowds, in all three ranges of area, and results that are
    partly right: shifted, of other classes, twice, too much, and one without a pixel."""
    rng = np.random.default_rng(0)
    sizes = {7: (150, 200), 3: (240, 180), 11: (97, 131)}
    annotations, results = [], []
    for image, (height, width) in sizes.items():
        for number in range(16):
            radius = rng.choice([6, 20, 60])
            mask = blob(rng, height, width, radius)
            category = int(rng.choice([1, 4, 90]))
            y, x = (int(np.mean(where)) for where in mask.nonzero()) if mask.any() else (0, 0)
            if number % 4 == 0:
                points = np.array([x, y]) + radius * rng.uniform(-1, 1, (rng.integers(3, 8), 2))
                segmentation = [points.round(2).ravel().tolist()]
                mask = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))) > 0
            elif number % 4 == 1:
                runs = np.flatnonzero(np.diff(mask.ravel(order="F"), prepend=False)).tolist()
                segmentation = {"size": [height, width], "counts": np.diff([0, *runs, mask.size]).tolist()}
            else:
                segmentation = run_lengths(mask)
            annotations.append(
                {"id": len(annotations) + 1, "image_id": image, "category_id": category, "segmentation": segmentation,
                 "area": float(mask.sum()), "bbox": [0, 0, width, height], "iscrowd": int(number % 4 == 1)}
            )  # fmt: skip
            for _ in range(rng.integers(0, 4)):
                found = np.roll(mask, rng.integers(-radius // 6, radius // 6 + 1, 2), (0, 1))
                predicted = category if rng.random() < 0.8 else int(rng.choice([1, 4, 90]))
                results.append(
                    {"image_id": image, "category_id": predicted, "segmentation": run_lengths(found),
                     "score": float(rng.random())}
                )  # fmt: skip
    nothing = {"image_id": 7, "category_id": 1, "segmentation": run_lengths(np.zeros((150, 200))), "score": 0.99}
    images = [{"id": i, "height": h, "width": w, "file_name": f"{i}.jpg"} for i, (h, w) in sizes.items()]
    categories = [{"id": i, "name": f"class {i}"} for i in (1, 4, 90)]
    return {"images": images, "annotations": annotations, "categories": categories}, [*results, nothing]


def test_the_twelve_figures_of_masks_are_pycocotools(masks, capsys):
    annotations, results = masks
    ours = coco_metrics(annotations, results, iou_type="segm")
    assert capsys.readouterr().out == ""
    truth = COCO()
    truth.dataset = json.loads(json.dumps(annotations))
    truth.createIndex()
    theirs = COCOeval(truth, truth.loadRes(json.loads(json.dumps(results))), "segm")
    theirs.evaluate()
    theirs.accumulate()
    theirs.summarize()
    assert list(ours.summary) == list(NAMES.values())
    assert (theirs.stats > 0.05).all(), "every range of area has something to find"
    np.testing.assert_allclose(list(ours.summary.values()), theirs.stats, rtol=0, atol=1e-6)
    precision = theirs.eval["precision"][:, :, :, 0, -1]
    for k, row in enumerate(ours.per_class.values()):
        assert row["AP"] == pytest.approx(precision[:, :, k].mean(), abs=1e-6)
        assert row["AP50"] == pytest.approx(precision[0, :, k].mean(), abs=1e-6)


def test_the_annotated_masks_as_predictions_score_one(masks):
    annotations, _ = masks
    results = []
    for annotation in annotations["annotations"]:
        image = next(i for i in annotations["images"] if i["id"] == annotation["image_id"])
        segmentation = annotation["segmentation"]
        if isinstance(segmentation, list):
            encoded = coco_mask.merge(coco_mask.frPyObjects(segmentation, image["height"], image["width"]))
            segmentation = run_lengths(coco_mask.decode(encoded))
        results.append(
            {**{k: annotation[k] for k in ("image_id", "category_id")}, "segmentation": segmentation, "score": 1.0}
        )
    assert coco_metrics(annotations, results, "segm").summary["AP"] == pytest.approx(1)
    assert coco_metrics(annotations, [], "segm").summary["AP"] == 0


# Panoptic maps. Images of one row, so that areas can be counted by eye; a thing `cat`, and `sky` and `sea`.

CATEGORIES = [
    {"id": 3, "name": "cat", "isthing": 1},
    {"id": 8, "name": "sky", "isthing": 0},
    {"id": 9, "name": "sea", "isthing": 0},
]
CAT, SKY, SEA = 3, 8, 9


@pytest.fixture
def score(tmp_path):
    """([(true ids, true segments), ...], [(predicted ids, predicted segments) or None, ...]) -> PanopticMetrics; segments
    are {id: category} or {id: (category, "crowd")}."""

    def row(image, folder, ids, segments):
        write_panoptic_png(tmp_path / folder / f"{image}.png", np.array([ids]))
        listed = []
        for number, category in segments.items():
            crowd = isinstance(category, tuple)
            listed.append({"id": number, "category_id": category[0] if crowd else category, "iscrowd": int(crowd)})
            if number in ids:  # COCO's files have it, but it need not be there
                listed[-1]["area"] = ids.count(number)
        return {"image_id": image, "file_name": f"{image}.png", "segments_info": listed}

    def score(true, predicted):
        annotations = [row(image, "true", *one) for image, one in enumerate(true, start=1)]
        predictions = [row(image, "predicted", *one) for image, one in enumerate(predicted, start=1) if one is not None]
        truth = {"annotations": annotations, "categories": CATEGORIES}
        return panoptic_metrics(truth, tmp_path / "true", predictions, tmp_path / "predicted")

    return score


def quality(metrics, name):
    return [metrics.per_class[name][key] for key in ("PQ", "SQ", "RQ")]


def test_a_prediction_that_is_the_truth_scores_one(score, capsys):
    image = ([7, 7, 70000, 70000, 5], {7: CAT, 70000: CAT, 5: SKY})
    metrics = score([image, image], [image, image])
    assert set(metrics.summary.values()) == {1.0}
    assert metrics.per_class["cat"] == {"PQ": 1.0, "SQ": 1.0, "RQ": 1.0, "objects": 4}
    assert metrics.per_class["sea"] == {"PQ": -1.0, "SQ": -1.0, "RQ": -1.0, "objects": 0}, "counts in no mean"
    assert metrics.to_dict() == {**metrics.summary, "per_class": metrics.per_class}
    assert capsys.readouterr().out == ""


def test_generated_scenes_predicted_perfectly_score_one(scenes):
    truth = json.loads((scenes / "annotations/panoptic_val.json").read_text())
    metrics = panoptic_metrics(truth, scenes / "panoptic/val", truth["annotations"], scenes / "panoptic/val")
    assert list(metrics.summary) == [name + of for of in ("", "_things", "_stuff") for name in ("PQ", "SQ", "RQ")]
    assert set(metrics.summary.values()) == {1.0}


def test_matches_misses_and_inventions_by_hand(score):
    # cat 1: 3 of 4 pixels found, IoU 3/4. cat 2: missed. cat 6: invented. sky: 4 pixels, 6 predicted, IoU 4/6. sea: invented.
    metrics = score(
        [([1, 1, 1, 1, 2, 2, 3, 3, 3, 3, 0], {1: CAT, 2: CAT, 3: SKY}), ([4, 4, 4, 4], {4: SKY})],
        [([1, 1, 1, 3, 3, 3, 3, 3, 3, 3, 0], {1: CAT, 3: SKY}), ([4, 5, 6, 6], {4: SKY, 5: SEA, 6: CAT})],
    )
    assert quality(metrics, "cat") == pytest.approx([0.75 / 2, 0.75, 1 / 2])  # 1 matched, 1 missed, 1 invented
    assert quality(metrics, "sky") == pytest.approx([4 / 7 / 2, 4 / 7, 1 / 2])  # 1 matched, 1 missed, 1 invented
    assert quality(metrics, "sea") == [0, 0, 0]
    assert metrics.summary == pytest.approx(
        {"PQ": (0.375 + 2 / 7) / 3, "SQ": (0.75 + 4 / 7) / 3, "RQ": 1 / 3,
         "PQ_things": 0.375, "SQ_things": 0.75, "RQ_things": 0.5,
         "PQ_stuff": 1 / 7, "SQ_stuff": 2 / 7, "RQ_stuff": 0.25}
    )  # fmt: skip
    assert [row["objects"] for row in metrics.per_class.values()] == [2, 2, 0]


def test_half_an_overlap_is_no_match_and_a_pixel_more_is_one(score):
    half = score([([1, 1, 1, 1, 0], {1: CAT})], [([1, 1, 0, 0, 0], {1: CAT})])
    assert quality(half, "cat") == [0, 0, 0]
    more = score([([1, 1, 1, 1, 0], {1: CAT})], [([1, 1, 1, 0, 0], {1: CAT})])
    assert quality(more, "cat") == [0.75, 0.75, 1]


def test_a_match_needs_the_class(score):
    metrics = score([([1, 1, 2], {1: CAT, 2: SKY})], [([1, 1, 2], {1: SEA, 2: SKY})])
    assert quality(metrics, "cat") == quality(metrics, "sea") == [0, 0, 0] and quality(metrics, "sky") == [1, 1, 1]


def test_void_counts_in_no_union_and_excuses_what_is_mostly_in_it(score):
    # Void at the last five pixels; the cat's two void pixels do not lower its IoU of 3/3.
    true = [([1, 1, 1, 2, 2, 0, 0, 0, 0, 0], {1: CAT, 2: SKY})]
    metrics = score(true, [([1, 1, 1, 2, 4, 4, 4, 1, 1, 0], {1: CAT, 2: SKY, 4: SEA})])
    assert quality(metrics, "cat") == [1, 1, 1]
    assert quality(metrics, "sky") == [0, 0, 0]  # 1 of 2 pixels
    assert quality(metrics, "sea") == [-1, -1, -1]  # 2 of 3 pixels void: not invented
    half = score(true, [([1, 1, 1, 2, 4, 4, 0, 0, 0, 0], {1: CAT, 2: SKY, 4: SEA})])
    assert quality(half, "sea") == [0, 0, 0]  # 1 of 2: invented
    # What is predicted void is missing from the prediction, not from the truth.
    assert quality(score(true, [([1, 1, 0, 2, 2, 0, 0, 0, 0, 0], {1: CAT, 2: SKY})]), "cat") == [2 / 3, 2 / 3, 1]


def test_a_crowd_is_not_missed_and_excuses_its_own_class_alone(score):
    true = [([1, 1, 1, 1, 2, 2], {1: (CAT, "crowd"), 2: SKY})]
    none = score(true, [([0, 0, 0, 0, 2, 2], {2: SKY})])
    assert quality(none, "cat") == [-1, -1, -1] and none.per_class["cat"]["objects"] == 0
    inside = score(true, [([1, 1, 3, 3, 2, 2], {1: CAT, 3: CAT, 2: SKY})])
    assert quality(inside, "cat") == [-1, -1, -1] and quality(inside, "sky") == [1, 1, 1]
    other = score(true, [([1, 1, 1, 1, 2, 2], {1: SEA, 2: SKY})])
    assert quality(other, "sea") == [0, 0, 0]
    half = score(true, [([0, 0, 0, 1, 1, 2], {1: CAT, 2: SKY})])
    assert quality(half, "cat") == [0, 0, 0], "half in the crowd is not more than half"


def test_an_image_without_a_prediction_is_missed(score):
    image = ([1, 1, 2, 2, 5], {1: CAT, 2: SKY, 5: (CAT, "crowd")})
    metrics = score([image, image], [image, None])
    assert quality(metrics, "cat") == quality(metrics, "sky") == pytest.approx([1 / 1.5, 1, 1 / 1.5])
    assert metrics.per_class["cat"]["objects"] == 2
    assert score([image], [([0] * 5, {})]).summary == score([image], [None]).summary
    assert score([image], [None]).summary["PQ"] == 0
    assert set(score([], []).summary.values()) == {-1.0}


@pytest.mark.parametrize(
    ("predicted", "message"),
    [
        (([1, 2], {1: CAT, 2: 77}), r"predicted/1.png: image 1: predicted segment 2 has unknown category_id 77"),
        (([1, 6], {1: CAT}), r"predicted/1.png: image 1: predicted segment 6 is in the PNG but not in segments_info"),
        (([1, 0], {1: CAT, 6: SKY}), r"predicted/1.png: image 1: predicted segment 6 is in segments_info but not in"),
        (([1, 2, 2], {1: CAT, 2: SKY}), r"predicted/1.png: image 1: ground truth is 1×2 but the prediction is 1×3"),
    ],
)
def test_a_prediction_that_contradicts_itself_is_named(score, predicted, message):
    with pytest.raises(ValueError, match=message) as caught:
        score([([1, 2], {1: CAT, 2: SKY})], [predicted])
    assert "\n" not in str(caught.value)


def test_wrong_rows_are_named(tmp_path):
    write_panoptic_png(tmp_path / "a.png", np.array([[1]]))
    row = {"image_id": 5, "file_name": "a.png", "segments_info": [{"id": 1, "category_id": CAT}]}

    def score(annotations, predictions):
        panoptic_metrics({"annotations": annotations, "categories": CATEGORIES}, tmp_path, predictions, tmp_path)

    score([row], [row])
    with pytest.raises(ValueError, match="a.png: image 5 is not in the annotations, or is predicted twice"):
        score([row], [row, row])
    with pytest.raises(ValueError, match="a.png: image 6 is not in the annotations"):
        score([row], [{**row, "image_id": 6}])
    twice = {**row, "segments_info": row["segments_info"] * 2}
    with pytest.raises(ValueError, match="a.png: image 5: annotated segment 1 is listed twice"):
        score([twice], [row])
    with pytest.raises(FileNotFoundError, match="b.png"):
        score([row], [{**row, "file_name": "b.png"}])
