"""Intervals count the same matches as the figures do: exactly, for any images, however often."""

import numpy as np
import pytest

from conditional_detr.evaluate.coco_metrics import coco_evaluation, coco_metrics
from conditional_detr.report.bootstrap import chance, draw_images, interval, resampled_figures
from conditional_detr.report.matches import class_matches


@pytest.fixture(scope="module")
def case():
    """A set of 20 images with crowds and objects of all sizes, and results with ties that are partly right."""
    rng = np.random.default_rng(0)
    images = [{"id": f"image {i}", "height": 300, "width": 300} for i in range(20)]
    truth = {"images": images, "categories": [{"id": i, "name": n} for i, n in ((7, "a"), (2, "b"))], "annotations": []}
    results = []
    for image in images:
        for _ in range(rng.integers(0, 6)):
            x, y, w, h = (*rng.uniform(0, 120, 2), *rng.uniform(10, 150, 2))
            own = {"image_id": image["id"], "category_id": int(rng.choice([7, 2])), "bbox": [x, y, w, h], "area": w * h}
            truth["annotations"].append({**own, "iscrowd": int(rng.random() < 0.1)})
            for _ in range(rng.integers(0, 3)):
                moved = np.array([x, y, w, h]) + rng.normal(0, 6, 4)
                found = {**own, "bbox": moved.clip(1).tolist(), "score": round(float(rng.random()), 1)}
                results.append({name: found[name] for name in ("image_id", "category_id", "bbox", "score")})
    return truth, results


def repeated(truth, results, counts):
    """The data set in which each image is there as often as `counts` says."""
    copies = {
        image["id"]: [f"{image['id']}/{n}" for n in range(c)] for image, c in zip(truth["images"], counts, strict=True)
    }
    images = [{**image, "id": new} for image in truth["images"] for new in copies[image["id"]]]
    rows = [
        [{**row, "image_id": new} for row in rows for new in copies[row["image_id"]]]
        for rows in (truth["annotations"], results)
    ]
    return {**truth, "images": images, "annotations": rows[0]}, rows[1]


def test_every_image_once_gives_cocos_figures(case):
    matches = class_matches(coco_evaluation(*case))
    found = resampled_figures(matches, np.ones((1, 20), np.int32))
    expected = coco_metrics(*case)
    assert {name: pytest.approx(values[0], abs=1e-12) for name, values in found.figures.items()} == expected.summary
    for k, name in enumerate(("b", "a")):  # in the order of their ids
        for figure in ("AP", "AP50"):
            assert found.classes[figure][0, k] == pytest.approx(expected.per_class[name][figure], abs=1e-12)


def test_a_resample_has_the_figures_of_the_data_set_that_it_stands_for(case):
    truth, results = case
    # Detections of one score in two images come in the order of their ids, which copies share.
    results = [{**row, "score": row["score"] + 1e-3 * n / len(results)} for n, row in enumerate(results)]
    counts = draw_images(20, 1, seed=3)
    order = {image["id"]: n for n, image in enumerate(sorted(truth["images"], key=lambda i: i["id"]))}
    by_id = [int(counts[0, order[image["id"]]]) for image in truth["images"]]
    found = resampled_figures(class_matches(coco_evaluation(truth, results)), counts)
    expected = coco_metrics(*repeated(truth, results, by_id)).summary
    assert max(by_id) > 1 and min(by_id) == 0
    assert {name: pytest.approx(values[0], abs=1e-9) for name, values in found.figures.items()} == expected


def test_intervals_hold_the_figure_and_are_the_same_each_time(case):
    matches = class_matches(coco_evaluation(*case))
    first, second = (resampled_figures(matches, draw_images(20, 200, seed=1)) for _ in range(2))
    for name, value in coco_metrics(*case).summary.items():
        low, high = interval(first.figures[name])
        assert low <= value <= high, name
        assert low < high or value == 0, name
        np.testing.assert_array_equal(first.figures[name], second.figures[name])
    assert interval(first.figures["AP"]) != interval(
        resampled_figures(matches, draw_images(20, 200, seed=2)).figures["AP"]
    )


def test_what_cannot_be_measured_has_no_interval():
    assert interval(np.full(5, np.nan)) is None
    assert chance(np.full(5, np.nan)) is None


def test_chance_is_small_only_where_resamples_agree():
    assert chance(np.full(999, 0.1)) == pytest.approx(0.002)
    assert chance(np.array([-0.1, 0.1] * 500)) == 1.0
    assert chance(np.zeros(10)) == 1.0
