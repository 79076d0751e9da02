"""Large pictures in tiles: nothing is missed between them, and each object comes out once, whole."""

import json
from itertools import pairwise

import numpy as np
import pytest
from hotcoco import mask as coco_mask
from PIL import Image
from same_detections import assert_same_detections
from small_models import FAMILIES, randomise, small_config

from conditional_detr import ConditionalDetrImageProcessor, Detector
from conditional_detr.cli import main
from conditional_detr.coco_masks import as_text, merged_masks, placed_mask
from conditional_detr.data.scenes import generate_scenes
from conditional_detr.images.prepare import Preprocessing
from conditional_detr.models.family import family_of
from conditional_detr.predict.tiles import OVERLAP, tile_side, tiles_of
from conditional_detr.results.image_results import ImageResults
from conditional_detr.results.merged import Part, merge_parts

SIZE = (400, 560)  # of the picture in the tests of merging
SIDE = 160


@pytest.mark.parametrize("size", [(100, 100), (101, 640), (640, 101), (1000, 777), (90, 3000)])
def test_tiles_cover_every_pixel_and_whatever_is_no_larger_than_what_they_share(size):
    tiles = tiles_of(size, 100)
    covered = np.zeros(size, bool)
    for left, top, right, bottom in tiles:
        assert (right - left, bottom - top) == (min(100, size[1]), min(100, size[0]))
        covered[top:bottom, left:right] = True
    assert covered.all()
    side = round(OVERLAP * 100)
    for length, axis in ((size[1], 0), (size[0], 1)):
        for first in range(max(1, length - side + 1)):
            assert any(tile[axis] <= first and first + side <= tile[axis + 2] for tile in tiles) or length < side


def test_auto_cuts_what_the_model_would_see_at_less_than_half_its_size():
    preprocessing = Preprocessing({"shortest_edge": 320, "longest_edge": 512})
    assert tile_side("auto", (480, 640), preprocessing) is None
    assert tile_side("auto", (630, 640), preprocessing) is None
    assert tile_side("auto", (650, 660), preprocessing) == 320  # seen pixel for pixel
    assert tile_side("auto", (15_000, 20_000), preprocessing) == 320
    assert tile_side("auto", (15_000, 20_000), Preprocessing(None)) is None
    assert tile_side(700, (480, 640), preprocessing) is None
    for wrong in (0, -5, 1.5, True, "all"):
        with pytest.raises(ValueError, match="tile must be a number of pixels, or 'auto'"):
            tile_side(wrong, (480, 640), preprocessing)


def results(boxes, scores, labels, masks=None):
    return ImageResults(
        np.array(scores, np.float32),
        np.array(labels, np.int64),
        np.array(boxes, np.float32).reshape(-1, 4),
        max(scores, default=0.0),
        len(scores),
        np.zeros((10, 3), np.float32),
        np.zeros((10, 4), np.float32),
        masks,
    )


def seen_by_a_perfect_model(objects, labels, rng, with_masks=False, noise=0.0):
    """What a model that errs by `noise` pixels finds in all of a picture, if it is larger than 50 pixels, and in its tiles, if a fifth is there."""
    places = [(0, 0, SIZE[1], SIZE[0]), *tiles_of(SIZE, SIDE)]
    parts = []
    for number, (left, top, right, bottom) in enumerate(places):
        boxes, scores, found, masks = [], [], [], []
        for box, label in zip(objects, labels, strict=True):
            cut = np.array([max(box[0], left), max(box[1], top), min(box[2], right), min(box[3], bottom)])
            sides, whole = (cut[2:] - cut[:2]).clip(0), box[2:] - box[:2]
            if sides.prod() < 0.2 * whole.prod() or (number == 0 and max(whole) < 50):
                continue
            boxes.append(cut - [left, top, left, top] + rng.uniform(-noise, noise, 4))
            scores.append(rng.uniform(0.5, 1))
            found.append(label)
            mask = np.zeros((bottom - top, right - left), np.uint8)
            x0, y0, x1, y1 = (int(v) for v in cut - [left, top, left, top])
            mask[y0:y1, x0:x1] = 1
            masks.append(as_text(coco_mask.encode(np.asfortranarray(mask))))
        one = results(boxes, scores, found, masks if with_masks else None)
        parts.append(Part((left, top, right, bottom), (bottom - top, right - left), one, SIDE if not number else 0))
    return parts


def grid_of_objects(rng):
    """Objects of all sizes that touch no other, in random order."""
    objects = []
    edges_x = np.sort(rng.choice(np.arange(10, SIZE[1] - 10), 9, replace=False))
    edges_y = np.sort(rng.choice(np.arange(10, SIZE[0] - 10), 7, replace=False))
    for x0, x1 in pairwise(edges_x):
        for y0, y1 in pairwise(edges_y):
            if x1 - x0 > 10 and y1 - y0 > 10:
                objects.append([x0, y0, x1, y1])
    return np.array(objects, float)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("noise", [0.0, 1.5])
def test_each_object_comes_out_once_and_whole_wherever_seams_cut_it(seed, noise):
    rng = np.random.default_rng(seed)
    objects = grid_of_objects(rng)
    labels = rng.integers(0, 2, len(objects))
    parts = seen_by_a_perfect_model(objects, labels, rng, noise=noise)
    assert sum(len(part.results.scores) for part in parts) > 1.3 * len(objects)
    merged = merge_parts(parts, SIZE)
    assert len(merged.boxes) == len(objects)
    assert merged.scores.tolist() == sorted(merged.scores.tolist(), reverse=True)
    for box, label in zip(objects, labels, strict=True):
        off = (merged.boxes - box).__abs__().max(1)
        assert off.min() <= noise + 1e-3
        assert merged.labels[off.argmin()] == label


def test_masks_of_an_object_in_pieces_are_united_pixel_by_pixel():
    rng = np.random.default_rng(0)
    objects = np.array([[20, 30, 300, 60], [150, 100, 190, 380], [400, 200, 420, 230]], float)  # two longer than a tile
    parts = seen_by_a_perfect_model(objects, [0, 1, 2], rng, with_masks=True)[1:]  # the tiles alone
    parts[0].results.best_score = 0.97
    merged = merge_parts(parts, SIZE)
    assert sorted(merged.labels.tolist()) == [0, 1, 2]
    assert merged.best_score >= 0.97
    for box, label, mask in zip(merged.boxes.tolist(), merged.labels.tolist(), merged.masks, strict=True):
        x0, y0, x1, y1 = (int(v) for v in objects[label])
        assert box == pytest.approx(objects[label].tolist())
        expected = np.zeros(SIZE, np.uint8)
        expected[y0:y1, x0:x1] = 1
        assert mask["size"] == list(SIZE) and np.array_equal(coco_mask.decode(mask), expected)


def test_of_parts_with_nothing_in_them_nothing_is_merged():
    merged = merge_parts([Part((0, 0, 560, 400), SIZE, results([], [], []))], SIZE)
    assert merged.boxes.shape == (0, 4) and len(merged.scores) == 0


@pytest.mark.parametrize("seed", range(4))
def test_a_placed_mask_is_the_one_that_pixels_say(seed):
    """Shifted, made larger and smaller; the run lengths are those that hotcoco makes of the pixels, byte for byte."""
    rng = np.random.default_rng(seed)
    mask = rng.random((12, 9)) < (0.0, 0.5, 0.9, 1.0)[seed]
    given = as_text(coco_mask.encode(np.asfortranarray(mask.astype(np.uint8))))
    for place, size in (
        ((5, 3, 14, 15), (20, 30)),
        ((0, 0, 9, 12), (12, 9)),
        ((1, 2, 28, 38), (40, 31)),
        ((3, 0, 8, 7), (7, 9)),
    ):
        left, top, right, bottom = place
        whole = np.zeros(size, np.uint8)
        rows = np.searchsorted(np.round(np.arange(1, 13) * ((bottom - top) / 12)), np.arange(bottom - top), "right")
        columns = np.searchsorted(np.round(np.arange(1, 10) * ((right - left) / 9)), np.arange(right - left), "right")
        whole[top:bottom, left:right] = mask[rows][:, columns]
        assert placed_mask(given, place, size) == as_text(coco_mask.encode(np.asfortranarray(whole)))
    both = merged_masks([placed_mask(given, (0, 0, 9, 12), (12, 20)), placed_mask(given, (11, 0, 20, 12), (12, 20))])
    assert coco_mask.area(both) == 2 * mask.sum()


@pytest.fixture
def picture(tmp_path):
    Image.effect_noise((220, 150), 70).convert("RGB").save(tmp_path / "large.png")
    return tmp_path / "large.png"


def test_what_a_tile_shows_is_what_the_model_finds_in_it_alone(model_folder, picture):
    """Of the only tile that has a corner of the picture, detections near that corner are those of the corner cut out."""
    detector = Detector.from_pretrained(model_folder, device="cpu")
    everything = detector(picture, threshold=0.0, tile=100)
    corner = detector(Image.open(picture).crop((0, 0, 100, 100)), threshold=0.0)
    inner = [d for d in corner if d.box[0] > 2 and d.box[1] > 2 and max(d.box[2:]) < 75]
    scores = {round(d.score, 4) for d in everything}
    assert all(round(d.score, 4) in scores for d in inner)


def test_files_arrays_and_the_command_line_agree(model_folder, picture, tmp_path, caplog):
    detector = Detector.from_pretrained(model_folder, device="cpu")
    scores = sorted(d.score for d in detector(picture, threshold=0.0, tile="auto"))
    threshold = float(np.mean(scores[-6:-4]))
    found = detector(picture, threshold, tile="auto")
    pixels = np.asarray(Image.open(picture))
    small = Image.fromarray(pixels[:80, :90])
    together = detector([pixels, picture.read_bytes(), small], threshold, tile="auto")
    assert_same_detections(found, together[0], score=1e-5, box=0.01)
    assert_same_detections(found, together[1], score=1e-5, box=0.01)
    assert_same_detections(detector(small, threshold), together[2], score=1e-5, box=0.01)
    small.save(tmp_path / "small.png")
    arguments = ["predict", "--model", str(model_folder), "--images", str(picture), str(tmp_path / "small.png")]
    arguments += ["--output", str(tmp_path / "out"), "--threshold", str(threshold), "--threads", "1"]
    with caplog.at_level("WARNING"):
        assert main([*arguments, "--tile", "auto"]) == 0
    assert "1 of 2 images are cut into tiles of 64 pixels that overlap by 20 %: 15 tiles" in caplog.text
    rows = [json.loads(line) for line in (tmp_path / "out/predictions.jsonl").read_text().splitlines()]
    assert [row["width"] for row in rows] == [220, 90]
    assert [d["score"] for d in rows[0]["detections"]] == [round(d.score, 4) for d in found]
    assert len(rows[1]["detections"]) == len(together[2])


@pytest.mark.parametrize("family", FAMILIES)
def test_masks_of_tiles_are_the_pictures(family, tmp_path, picture):
    segmenter = family_of(family).segmenter
    randomise(segmenter(small_config(family, is_thing=[True, True, False]))).save_pretrained(tmp_path / "model")
    processor = ConditionalDetrImageProcessor(size={"shortest_edge": 64, "longest_edge": 128})
    processor.save_pretrained(tmp_path / "model")
    detector = Detector.from_pretrained(tmp_path / "model", device="cpu")
    found = detector(picture, 0.005, tile=128)
    assert found and all(d.mask.shape == (150, 220) for d in found)


def test_a_bad_tile_and_a_damaged_picture_are_one_line(model_folder, picture, tmp_path, capsys):
    arguments = [
        "predict",
        "--model",
        str(model_folder),
        "--output",
        str(tmp_path / "out"),
        "--threads",
        "1",
        "--images",
    ]
    assert main([*arguments, str(picture), "--tile", "large"]) == 2
    assert "--tile is 'large'; it is a number of pixels, or auto" in capsys.readouterr().err
    content = picture.read_bytes()
    (tmp_path / "damaged.png").write_bytes(content[: len(content) // 2])
    damaged = [*arguments, str(tmp_path / "damaged.png"), str(picture), "--tile", "100"]
    assert main(damaged) == 1
    assert "damaged.png: cannot be decoded" in capsys.readouterr().err.splitlines()[-1]
    assert main([*damaged, "--skip_bad_images", "true"]) == 0
    rows = [json.loads(line) for line in (tmp_path / "out/predictions.jsonl").read_text().splitlines()]
    assert "error" in rows[0] and "detections" in rows[1]


def test_eval_scores_what_predict_finds_in_tiles(model_folder, tmp_path, caplog):
    """Of pictures of two sizes, some cut and some not; each picture's results are its own."""
    data = generate_scenes(tmp_path / "data", {"val": 3}, size=(96, 120))
    content = json.loads((data / "annotations/val.json").read_text())
    row = content["images"][1]
    file = data / "images/val" / row["file_name"].split("/")[-1]
    Image.open(file).crop((0, 0, 60, 50)).save(file)
    row["width"], row["height"] = 60, 50
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] != row["id"]]
    (data / "annotations/val.json").write_text(json.dumps(content))
    arguments = ["eval", "--model", str(model_folder), "--data", str(data), "--threads", "1", "--tile", "70"]
    with caplog.at_level("WARNING"):
        assert main([*arguments, "--predictions", str(tmp_path / "found.json")]) == 0
    assert "2 of 3 images are cut into tiles of 70 pixels" in caplog.text
    found = json.loads((tmp_path / "found.json").read_text())
    detector = Detector.from_pretrained(model_folder, device="cpu")
    for image in content["images"]:
        file = data / "images/val" / image["file_name"].split("/")[-1]
        scores = sorted(r["score"] for r in found if r["image_id"] == image["id"])
        expected = sorted(d.score for d in detector(file, 0.0, tile=70))
        assert scores == pytest.approx(expected, abs=1e-5)
