"""Masks reach training as pycocotools and the PNG files have them, beside their boxes, in little memory."""

import json
from functools import partial

import numpy as np
import pytest
import torch
from coco_files import box, read, write_set
from PIL import Image
from pycocotools import mask as coco_mask
from torch.utils.data import DataLoader
from torchvision.ops import box_convert, masks_to_boxes

from conditional_detr.data.augmentation import Augmentation
from conditional_detr.data.formats.coco import read_coco
from conditional_detr.data.formats.coco_panoptic import read_panoptic
from conditional_detr.data.object_masks import InstanceMasks
from conditional_detr.data.samples import TrainingSet, collate
from conditional_detr.data.splits import find_split
from conditional_detr.data.transforms import training_transform

PLAIN = Augmentation(horizontal_flip=0, crop=0, scales=[30])  # leaves write_set's image of 40 × 30 as it is
ALL_AT_ONCE = dict(horizontal_flip=0.5, vertical_flip=0.5, color_jitter=0.5, scales=[48, 80], max_size=200)
SQUARE = [[5, 5, 15, 5, 15, 15, 5, 15]]

read_masks = partial(read, masks=True)


def training_set(data, settings=PLAIN):
    return TrainingSet(data, training_transform(settings), seed=3)


def instances(folder):
    return read_coco(*find_split(folder, "train", "instance"), masks=True)


def panoptic(folder, split="train", **options):
    return read_panoptic(*find_split(folder, split, "panoptic"), **options)


def test_polygons_and_both_kinds_of_run_lengths_become_pycocotools_masks(tmp_path):
    rng = np.random.default_rng(0)
    annotations, expected = [], []
    for _ in range(40):
        polygons = [(rng.random(2 * rng.integers(3, 9)) * 40 - 4).round(2).tolist() for _ in range(rng.integers(1, 3))]
        merged = coco_mask.merge(coco_mask.frPyObjects(polygons, 30, 40))
        pixels = coco_mask.decode(merged)
        if not pixels.any():
            continue
        edges = np.flatnonzero(np.diff(pixels.ravel(order="F"), prepend=0))
        counts = np.diff(edges, prepend=0, append=pixels.size).tolist()
        for form in (
            polygons,
            {"size": [30, 40], "counts": merged["counts"].decode()},
            {"size": [30, 40], "counts": counts},
        ):
            annotations.append(box([1, 1, 20, 20], segmentation=form))
            expected.append(pixels)
    data = read_masks(write_set(tmp_path, annotations))
    masks = data.masks.decode(0, range(len(expected)))
    assert masks.dtype == torch.bool
    np.testing.assert_array_equal(masks.numpy(), np.stack(expected))
    assert data.masks.run_length_bytes.nbytes < 100 * len(expected)


@pytest.mark.parametrize("source", [instances, panoptic])
@pytest.mark.parametrize(
    "changes",
    [
        dict(crop=0),
        dict(crop=0, vertical_flip=0, horizontal_flip=1),
        dict(crop=0, horizontal_flip=0, vertical_flip=0, scales=[333], max_size=350),
        dict(crop=1, crop_scales=[40, 100], crop_min=24, crop_max=60),
        dict(crop=0.5, crop_scales=[100], crop_min=40, crop_max=80, color_jitter=1),
    ],
)
def test_masks_stay_with_their_boxes_through_every_augmentation(scenes, source, changes):
    """Boxes and masks are transformed apart; of objects that no crop has cut they must agree."""
    data = training_set(source(scenes), Augmentation(**{**ALL_AT_ONCE, **changes}))
    compared = 0
    for key in [(epoch, index) for epoch in range(3) for index in range(6)]:
        image, label, _ = data[key]
        height, width = image.shape[-2:]
        assert label["masks"].shape == (len(label["boxes"]), height, width) and label["masks"].flatten(1).any(1).all()
        boxes = box_convert(label["boxes"], "cxcywh", "xyxy") * torch.tensor([width, height, width, height])
        around = masks_to_boxes(label["masks"]) + torch.tensor([0, 0, 1, 1])
        scale = max(height, width) / 64  # final pixels of one pixel of the file
        if changes["crop"] == 0:
            torch.testing.assert_close(around, boxes, rtol=0, atol=0.5 * scale + 1)
        else:  # a cut box may be wider than what is left in it, never narrower
            slack = 2 * scale + 1
            assert (around[:, :2] >= boxes[:, :2] - slack).all() and (around[:, 2:] <= boxes[:, 2:] + slack).all()
        compared += len(boxes)
    assert compared > 20


def test_masks_show_the_same_pixels_as_the_image_after_every_augmentation(tmp_path):
    """The object is what is bright, so the transformed image itself says where the mask must be."""
    folder = write_set(tmp_path, [box([8, 6, 20, 14], segmentation=[[8, 6, 28, 6, 28, 20, 8, 20]])])
    pixels = np.zeros((30, 40, 3), np.uint8)
    pixels[6:20, 8:28] = 255
    Image.fromarray(pixels).save(folder / "images/train/a.png")
    settings = Augmentation(
        **{**ALL_AT_ONCE, "color_jitter": 0.0}, crop=0.5, crop_scales=[50, 60], crop_min=30, crop_max=60
    )
    data = training_set(read_masks(folder), settings)
    for epoch in range(40):
        image, label, _ = data[epoch, 0]
        bright = (image[0] > 127).float()
        mask = label["masks"].any(0).float()
        assert (bright - mask).abs().sum() <= 0.08 * bright.sum() + 8


def test_a_crop_drops_objects_whose_mask_is_out_of_sight_with_their_boxes(tmp_path):
    """An L's box reaches into the crop, its pixels do not."""
    ell = [[0, 0, 4, 0, 4, 26, 40, 26, 40, 30, 0, 30]]
    folder = write_set(
        tmp_path,
        [
            box([0, 0, 40, 30], segmentation=ell),
            box([12, 8, 10, 10], category=9, segmentation=[[12, 8, 22, 8, 22, 18, 12, 18]]),
        ],
    )
    settings = Augmentation(horizontal_flip=0, crop=1, crop_scales=[30], crop_min=12, crop_max=12, scales=[30])
    labels = [training_set(read_masks(folder), settings)[epoch, 0][1] for epoch in range(30)]
    assert {len(label["boxes"]) for label in labels} >= {0, 1}
    for label in labels:
        assert len(label["masks"]) == len(label["boxes"]) == len(label["class_labels"])
        assert label["masks"].flatten(1).any(1).all()


def test_an_image_without_objects_has_no_masks_of_its_size(tmp_path):
    images = [{"id": i, "file_name": f"{i}.png", "width": 40, "height": 30} for i in (7, 8)]
    data = read_masks(write_set(tmp_path, [box([5, 5, 10, 10], segmentation=SQUARE)], images))
    assert training_set(data)[0, 1][1]["masks"].shape == (0, 30, 40)


@pytest.mark.parametrize("first", [True, False])
def test_trap_6_a_crowd_is_left_out_of_masks_boxes_and_classes_alike(tmp_path, first):
    crowd = box([0, 0, 40, 30], iscrowd=1, segmentation={"size": [30, 40], "counts": [0, 1200]})
    one = box([5, 5, 10, 10], category=9, segmentation=SQUARE)
    data = read_masks(write_set(tmp_path, [crowd, one] if first else [one, crowd]))
    _, label, _ = training_set(data)[0, 0]
    assert label["class_labels"].tolist() == [1] and len(label["boxes"]) == 1
    np.testing.assert_array_equal(label["masks"][0].numpy(), coco_mask.decode(coco_mask.frPyObjects(SQUARE, 30, 40)[0]))
    truth = data.to_coco()["annotations"]
    assert [a["iscrowd"] for a in truth] == ([1, 0] if first else [0, 1])  # evaluation keeps it


def test_trap_6_a_panoptic_crowd_is_left_out_of_masks_boxes_and_classes_alike(tmp_path):
    data = panoptic(write_panoptic(tmp_path, crowd=True))
    _, label, _ = training_set(data)[0, 0]
    assert label["class_labels"].tolist() == [0] and label["masks"].sum() == 40 * 30 - 100 and len(label["boxes"]) == 1
    assert [a["iscrowd"] for a in data.to_coco()["annotations"]] == [1]


def test_an_image_of_another_size_than_the_annotations_say_scales_its_masks(tmp_path):
    images = [{"id": 7, "file_name": "a.png", "width": 80, "height": 60}]
    folder = write_set(tmp_path, [box([20, 10, 20, 20], segmentation=[[20, 10, 40, 10, 40, 30, 20, 30]])], images)
    _, label, mismatched = training_set(read_masks(folder))[0, 0]
    assert mismatched and label["masks"].shape == (1, 30, 40)
    assert masks_to_boxes(label["masks"]).tolist() == [[10, 5, 19, 14]]


def test_panoptic_masks_are_the_colours_of_the_png(scenes):
    data = panoptic(scenes)
    content = json.loads((scenes / "annotations/panoptic_train.json").read_text())
    assert data.category_ids == sorted(c["id"] for c in content["categories"])
    assert data.is_thing == [bool(c["isthing"]) for c in sorted(content["categories"], key=lambda c: c["id"])]
    same = training_set(data, Augmentation(horizontal_flip=0, crop=0, scales=[64]))
    for index, entry in enumerate(content["annotations"]):
        colours = np.asarray(Image.open(scenes / "panoptic/train" / entry["file_name"])).astype(int) @ [1, 256, 65536]
        expected = np.stack([colours == segment["id"] for segment in entry["segments_info"]])
        own = range(data.first[index], data.first[index + 1])
        assert data.masks.segment_ids[own].tolist() == [segment["id"] for segment in entry["segments_info"]]
        np.testing.assert_array_equal(data.masks.decode(index, own).numpy(), expected)
        _, label, _ = same[0, index]
        np.testing.assert_array_equal(label["masks"].numpy(), expected)
        assert [data.category_ids[c] for c in label["class_labels"]] == [
            s["category_id"] for s in entry["segments_info"]
        ]


def test_more_than_255_segments_keep_their_numbers(tmp_path):
    ids = np.arange(1, 1201).reshape(30, 40)
    data = panoptic(write_panoptic(tmp_path, ids=ids))
    _, label, _ = training_set(data)[0, 0]
    assert label["masks"].shape == (1200, 30, 40)
    np.testing.assert_array_equal(label["masks"].flatten(1).int().argmax(1), np.arange(1200))
    assert (label["masks"].flatten(1).sum(1) == 1).all()


def test_panoptic_truth_for_mask_ap_is_the_things_of_the_instance_file(scenes):
    things = panoptic(scenes).to_coco()
    objects = instances(scenes).to_coco()
    assert {c["id"] for c in things["categories"]} == {c["id"] for c in objects["categories"]}
    assert len(things["annotations"]) == len(objects["annotations"]) > 0
    for ours, theirs in zip(things["annotations"], objects["annotations"], strict=True):
        for key in ("image_id", "category_id", "bbox", "area", "iscrowd", "segmentation"):
            assert ours[key] == theirs[key], key
    assert panoptic(scenes).to_panoptic() == json.loads((scenes / "annotations/panoptic_train.json").read_text())
    json.dumps(things)


def test_boxes_missing_in_a_panoptic_file_are_measured(scenes, tmp_path):
    content = json.loads((scenes / "annotations/panoptic_val.json").read_text())
    for entry in content["annotations"]:
        for segment in entry["segments_info"]:
            del segment["bbox"]
    (tmp_path / "panoptic_val.json").write_text(json.dumps(content))
    measured = read_panoptic(tmp_path / "panoptic_val.json", scenes / "images/val", scenes / "panoptic/val")
    np.testing.assert_array_equal(measured.boxes, panoptic(scenes, "val").boxes)


@pytest.mark.parametrize("pngs", ["annotations/panoptic_val2017", "panoptic_val2017"])
def test_cocos_own_panoptic_layout_is_found(tmp_path, scenes, pngs):
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/panoptic_val2017.json").write_bytes(
        (scenes / "annotations/panoptic_val.json").read_bytes()
    )
    (tmp_path / "val2017").symlink_to(scenes / "images/val")
    (tmp_path / pngs).symlink_to(scenes / "panoptic/val")
    assert len(panoptic(tmp_path, "val")) == 10
    with pytest.raises(
        FileNotFoundError, match=r"no panoptic 'train' split: neither annotations/panoptic_train2017\.json"
    ):
        find_split(tmp_path, "train", "panoptic")


@pytest.mark.parametrize("source", [instances, panoptic])
def test_worker_processes_give_what_one_process_gives(scenes, source):
    data = training_set(source(scenes), Augmentation(**ALL_AT_ONCE, crop=0))
    keys = [[(0, 0), (0, 1)], [(0, 2), (0, 3)]]
    alone = [collate([data[key] for key in batch]) for batch in keys]
    together = list(DataLoader(data, batch_sampler=keys, num_workers=2, collate_fn=collate))
    for ours, theirs in zip(alone, together, strict=True):
        for a, b in zip(ours.labels, theirs.labels, strict=True):
            assert torch.equal(a["masks"], b["masks"]) and torch.equal(a["boxes"], b["boxes"])


def test_full_size_masks_are_decoded_a_few_at_a_time():
    """The documented peak: never more pixels at full size than 4 million, or one mask."""
    height, width = 1500, 2000  # one fits, two do not
    run_lengths = [coco_mask.encode(np.asfortranarray(np.eye(height, width, k, dtype=np.uint8))) for k in range(5)]
    counts = [r["counts"] for r in run_lengths]
    masks = InstanceMasks(
        sizes=np.array([[height, width]]),
        run_length_bytes=np.frombuffer(b"".join(counts), np.uint8),
        first=np.cumsum([0, *map(len, counts)]),
    )
    seen = []

    def change(full):
        seen.append(tuple(full.shape))
        return full[:, :3, :3]

    small = masks.decode(0, range(5), (3, 3), change)
    assert seen == [(1, height, width)] * 5
    assert [m.int().tolist() for m in small[:2]] == [
        [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
        [[0, 1, 0], [0, 0, 1], [0, 0, 0]],
    ]


def test_objects_without_a_mask_are_left_out_and_counted(tmp_path):
    good = box([5, 5, 10, 10], segmentation=SQUARE)
    line = [5, 5, 15, 5]
    annotations = [
        good,
        {**box([1, 1, 5, 5]), "id": 2},
        {**box([1, 1, 5, 5], segmentation=[]), "id": 3},
        {**box([1, 1, 5, 5], segmentation={"size": [30, 40], "counts": [1200]}), "id": 4},
        {**box([1, 1, 5, 5], segmentation=[line]), "id": 5},
        {**box([1, 1, 5, 5], segmentation=[line, *SQUARE]), "id": 6},
    ]
    data = read_masks(write_set(tmp_path, annotations))
    text = "\n".join(data.summary())
    assert "4 objects without a mask were left out (annotations 2, 3, 4, 5)" in text
    assert "2 objects lost polygons of fewer than 3 points (annotations 5, 6)" in text
    assert data.masks.decode(0, [0, 1]).flatten(1).sum(1).tolist() == [100, 100]
    assert [a["id"] for a in data.to_coco()["annotations"]] == [1, 6]
    assert len(read(tmp_path).boxes) == 6 and read(tmp_path).masks is None  # detection takes them all


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ([[1, 1, 9, 1, 9, 9, 1]], "lists of at least 3 points"),
        ([1, 1, 9, 1, 9, 9], "lists of at least 3 points"),
        ([[1, 1, 9, 1, 9, "x"]], "lists of numbers"),
        ([[1, 1, 9, 1, 9, float("nan")]], "finite numbers"),
        ({"size": [40, 30], "counts": [1200]}, r"needs 'counts' and the size \[30, 40\] of its image, got the size \[40, 30\]"),
        ({"size": [30, 40], "counts": [0, 7]}, r"add up to 7, not to 30 x 40 = 1200"),
        ({"size": [30, 40], "counts": "oooo0"}, "cannot be read"),
        ({"size": [30, 40], "counts": [0, -1, 1201]}, "cannot be read"),
        ({"size": [30, 40]}, "needs 'counts'"),
        ("nonsense", "list of polygons or run lengths"),
    ],
)  # fmt: skip
def test_segmentations_that_mean_nothing_are_named(tmp_path, segmentation, message):
    folder = write_set(tmp_path, [{**box([1, 1, 9, 9], segmentation=segmentation), "id": 17}])
    with pytest.raises(ValueError, match=message) as error:
        read_masks(folder)
    assert "train.json: annotations[0] (id 17): segmentation: " in str(error.value) and "\n" not in str(error.value)


def test_data_without_any_segmentation_cannot_train_masks(tmp_path):
    folder = write_set(tmp_path, [box([1, 1, 9, 9]), box([2, 2, 9, 9], segmentation=[])])
    with pytest.raises(
        ValueError, match=r"train\.json: not one of 2 annotations has a mask: .*train a detector on this"
    ):
        read_masks(folder)


def write_panoptic(folder, ids=None, segments=None, crowd=False, png_size=None):
    """One image of 40 × 30: class 3 "cat" (stuff) everywhere but for 10 × 10 pixels of 9 "dog" (a thing)."""
    if ids is None:
        ids = np.full((30, 40), 70_000)
        ids[5:15, 5:15] = 500
    ids = np.asarray(ids)
    if segments is None:
        segments = [
            {"id": int(i), "category_id": 9 if i == 500 else 3, "iscrowd": int(crowd and i == 500)}
            for i in np.unique(ids)
        ]
        for segment in segments:
            ys, xs = np.where(ids == segment["id"])
            segment["bbox"] = [int(xs.min()), int(ys.min()), int(np.ptp(xs)) + 1, int(np.ptp(ys)) + 1]
            segment["area"] = len(xs)
    categories = [{"id": 3, "name": "cat", "isthing": 0}, {"id": 9, "name": "dog", "isthing": 1}]
    entries = [{"image_id": 7, "file_name": "a.png", "segments_info": segments}]
    write_set(folder, entries, categories=categories, split="train")
    (folder / "annotations/train.json").rename(folder / "annotations/panoptic_train.json")
    (folder / "panoptic/train").mkdir(parents=True)
    colours = np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)
    Image.fromarray(colours[: (png_size or ids.shape)[0]]).save(folder / "panoptic/train/a.png")
    return folder


SEGMENT = {"id": 70_000, "category_id": 3, "bbox": [0, 0, 40, 30], "area": 1200, "iscrowd": 0}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (dict(segments=[SEGMENT]), "a.png: has pixels of segment 500 (the first at x 5, y 5), which the JSON lacks"),
        (
            dict(ids=np.full((30, 40), 70_000), segments=[SEGMENT, {**SEGMENT, "id": 8}]),
            "a.png: has no pixel of segment 8, which the JSON lists",
        ),
    ],
)
def test_a_panoptic_png_that_contradicts_its_json_counts_as_a_bad_image(tmp_path, wrong, message):
    sample = training_set(panoptic(write_panoptic(tmp_path, **wrong)))[0, 0]
    assert isinstance(sample, str) and message in sample and "\n" not in sample
    assert collate([sample]).bad_images == [sample]


def test_a_png_of_another_size_is_said_at_the_start(tmp_path):
    folder = write_panoptic(tmp_path, png_size=(20, 40))
    with pytest.raises(ValueError, match="a.png has 20×40 pixels; image 7 has 30×40"):
        panoptic(folder)


def test_no_segment_is_background_not_a_fault(tmp_path):
    ids = np.zeros((30, 40))
    ids[:, :20] = 500
    data = panoptic(
        write_panoptic(tmp_path, ids=ids.astype(int), segments=[{**SEGMENT, "id": 500, "bbox": [0, 0, 20, 30]}])
    )
    assert training_set(data)[0, 0][1]["masks"].sum() == 600


def test_a_missing_png_stops_unless_it_is_skipped(tmp_path):
    folder = write_panoptic(tmp_path)
    (folder / "panoptic/train/a.png").rename(folder / "panoptic/train/b.png")
    message = r"1 of 1 images have no PNG file in .*panoptic/train \(first: image 7, a\.png\).*skip_bad_images"
    with pytest.raises(FileNotFoundError, match=message):
        panoptic(folder)
    content = json.loads((folder / "annotations/panoptic_train.json").read_text())
    content["images"].append({**content["images"][0], "id": 8})
    content["annotations"].append({**content["annotations"][0], "image_id": 8, "file_name": "b.png"})
    (folder / "annotations/panoptic_train.json").write_text(json.dumps(content))
    data = panoptic(folder, skip_missing_images=True)
    assert data.image_ids == [8] and data.missing_images == 1 and data.masks.decode(0, [0]).sum() == 100
    assert [entry["image_id"] for entry in data.to_panoptic()["annotations"]] == [8]
    (folder / "panoptic/train/b.png").unlink()  # gone since it was read
    assert "b.png: no such file" in training_set(data)[0, 0]


def test_a_missing_png_folder_is_named(tmp_path):
    folder = write_panoptic(tmp_path)
    (folder / "panoptic/train").rename(folder / "elsewhere")
    with pytest.raises(
        FileNotFoundError, match=r"panoptic_train\.json is there, its PNG files are not: none of .*panoptic"
    ):
        panoptic(folder)


@pytest.mark.parametrize(
    ("segments", "message"),
    [
        ([SEGMENT, SEGMENT], r"segments of image 7 .* have the ids 70000, 70000; they must be different numbers"),
        ([{**SEGMENT, "id": 0}], r"\[0\] \(id 0\): id is 0; expected a whole number, 1…16777215"),
        (
            [{**SEGMENT, "category_id": 5}],
            r"segments_info\[0\] \(id 70000\): category_id is 5, which is not in 'categories'",
        ),
        ([{"id": 4, "bbox": [0, 0, 1, 1]}], "category_id is missing; expected"),
    ],
)
def test_wrong_panoptic_segments_are_named(tmp_path, segments, message):
    with pytest.raises(ValueError, match=message) as error:
        panoptic(write_panoptic(tmp_path, segments=segments))
    assert "panoptic_train.json" in str(error.value) and "\n" not in str(error.value)
