"""Pictures show what they are about, however much is in them."""

import numpy as np
import pytest
import torch

from conditional_detr.coco_masks import encode_segmentation
from conditional_detr.predict.draw import draw_comparison, draw_detections, drawn_size
from conditional_detr.results.named import Detection

GREY = torch.full((3, 480, 640), 128, dtype=torch.uint8)


def crowd(count, width=640, height=480):
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, [width - 60, height - 60], (count, 2))
    return [
        Detection("blood cell", float(score), (x, y, x + 60, y + 60), i % 3)
        for i, ((x, y), score) in enumerate(zip(corners.tolist(), np.linspace(0.99, 0.3, count), strict=True))
    ]


def written_over(detections, image=GREY):
    """The share of a picture that its labels change."""
    pictures = [np.asarray(draw_detections(image, detections, labels=labels)).astype(int) for labels in (True, False)]
    return (np.abs(pictures[0] - pictures[1]).max(-1) > 8).mean()


def test_labels_do_not_bury_a_crowded_picture():
    one, sixty, hundreds = (written_over(crowd(count)) for count in (1, 60, 300))
    assert 0.002 < one < 0.02
    assert one < sixty < 0.2 and hundreds < 0.3


def test_each_of_a_few_objects_has_its_label():
    apart = [Detection("cat", 0.9, (x, 100, x + 90, 200), 0) for x in (10, 210, 410)]
    (one, three) = (written_over(apart[:count]) for count in (1, 3))
    assert three == pytest.approx(3 * one, rel=0.05)


def test_labels_stay_inside_the_picture():
    for box in ((0, 0, 640, 480), (600, 0, 640, 30), (0, 460, 50, 480), (620, 470, 640, 480)):
        assert written_over([Detection("cat", 0.9, box, 0)]) > 0.0015  # OpenCV, where it is there, writes thinner


def coloured(picture):
    return (np.asarray(picture).astype(int).std(-1) > 5).sum()


def test_lines_are_as_wide_as_is_said_and_thinner_around_small_objects():
    one = [Detection("cat", 0.9, (100, 100, 400, 400), 0)]
    widths = [coloured(draw_detections(GREY, one, labels=False, line_width=width)) for width in (1, 2, 6)]
    assert widths[0] < widths[1] < widths[2]
    assert coloured(draw_detections(GREY, one, labels=False)) == widths[1]
    tiny = [Detection("cat", 0.9, (100, 100, 120, 120), 0)]
    plain = coloured(draw_detections(GREY, tiny, labels=False))
    assert plain == coloured(draw_detections(GREY, tiny, labels=False, line_width=1))


def test_a_picture_made_smaller_has_its_boxes_at_the_same_places():
    box = [Detection("cat", 0.9, (100, 100, 400, 400), 0)]
    doubled = [Detection("cat", 0.9, (200, 200, 800, 800), 0)]
    expected = draw_detections(GREY, box, labels=False)
    assert draw_detections(GREY, doubled, size=(960, 1280), labels=False).tobytes() == expected.tobytes()
    assert drawn_size(100, 200) == (100, 200) and drawn_size(13_000, 26_000) == (2048, 4096)
    assert drawn_size(1, 1_000_000) == (1, 4096)


def test_small_masks_lie_over_large_ones():
    found = []
    for i, (low, high) in enumerate(((100, 200), (50, 300))):
        outline = [[low, low, high, low, high, high, low, high]]
        found.append(Detection("cat", 0.9, (low, low, high, high), i, encode_segmentation(outline, 480, 640)))
    picture = np.asarray(draw_detections(GREY, found, labels=False))
    inner, outer, outside = picture[150, 150], picture[250, 250], picture[400, 400]
    assert (inner != outer).any() and (outer != outside).any() and (outside == 128).all()


def test_truth_and_predictions_stand_beside_each_other():
    for width, height in ((640, 480), (96, 64)):
        image = torch.full((3, height, width), 128, dtype=torch.uint8)
        box = [Detection("cat", 0.9, (10, 10, 60, 50), 0)]
        left, right = draw_detections(image, box, scores=False), draw_detections(image, [])
        sheet = draw_comparison(image, [], box)
        strip = sheet.height - left.height
        assert strip > 5 and sheet.width > 2 * left.width
        assert sheet.crop((0, strip, left.width, sheet.height)).tobytes() == left.tobytes()
        assert sheet.crop((sheet.width - right.width, strip, sheet.width, sheet.height)).tobytes() == right.tobytes()
        captions = np.asarray(sheet.crop((0, 0, sheet.width, strip)).convert("L"))
        assert (captions[:, : left.width] < 100).any() and (captions[:, left.width :] < 100).any()
