"""Data sets in the formats that people have are recognised, read as others read them, and faults are said with file and
line."""

import json

import numpy as np
import pytest
from coco_files import box, write_set
from format_files import picture, voc_set, voc_xml, yolo_set
from golden_cases import shared

from conditional_detr.data.splits import find_data, read_all, read_split

# --- YOLO


def test_yolo_boxes_polygons_and_empty_files(tmp_path):
    labels = {
        "a": "0 0.5 0.5 0.5 0.2\n1 0.25 0.5 0.5 1\n",
        "b": "",
        "c": None,
        "d": "1 0.1 0.1 0.5 0.1 0.5 0.6 0.1 0.6\n",
    }
    data = read_split(yolo_set(tmp_path, labels), "train")
    assert data.summary()[0].endswith("data.yaml (YOLO): 4 images, 3 objects of 2 classes")
    np.testing.assert_allclose(data.boxes, [[10, 12, 30, 18], [0, 0, 20, 30], [4, 3, 20, 18]], atol=1e-5)
    assert data.classes.tolist() == [0, 1, 1] and data.category_ids == [0, 1]
    assert np.diff(data.first).tolist() == [2, 0, 0, 1]


def test_yolo_polygons_are_masks(tmp_path):
    square = "0 0.25 0.2 0.75 0.2 0.75 0.8 0.25 0.8\n"
    data = read_split(yolo_set(tmp_path, {"a": square + "1 0.5 0.5 0.1 0.1\n"}), "train", "instance")
    assert len(data.boxes) == 1 and len(data.maskless) == 1, "a box without outline has no mask"
    mask = data.masks.decode(0, [0])[0]
    assert mask.sum() == 20 * 18 and mask[6:24, 10:30].all()
    assert data.to_coco()["annotations"][0]["segmentation"]["size"] == [30, 40]


@pytest.mark.parametrize("layout", ["roboflow", "lists", "txt", "path", "dataset_without_paths", "beside"])
def test_yolo_layouts_people_have(tmp_path, layout):
    names = "names: {0: cat, 1: dog}\n"
    if layout == "roboflow":  # whose paths lead out of the folder
        places, text = (
            {"train": "train/images", "val": "valid/images"},
            "train: ../train/images\nval: ../valid/images\n",
        )
    elif layout == "lists":
        places, text = {"train": "one/images", "val": "two/images"}, "train: [one/images]\nval:\n- two/images\n"
    elif layout == "txt":
        places, text = {"train": "images", "val": "images"}, "train: train.txt\nval: val.txt\n"
        (tmp_path / "train.txt").write_text("./images/train.jpg\n")
        (tmp_path / "val.txt").write_text("images/val.jpg\n\n")
    elif layout == "path":
        places, text = (
            {"train": "deep/images/train", "val": "deep/images/val"},
            "path: deep\ntrain: images/train\nval: images/val\n",
        )
    elif layout == "dataset_without_paths":
        places, text = {"train": "images/train", "val": "images/val"}, ""
    else:
        places, text = {"train": "train", "val": "val"}, "train: train\nval: val\n"
    for number, (split, place) in enumerate(places.items()):
        picture(tmp_path / place / f"{split}.jpg")
        labels = tmp_path / place.replace("images", "labels") / f"{split}.txt"
        labels.parent.mkdir(parents=True, exist_ok=True)
        labels.write_text(f"{number} 0.5 0.5 0.5 0.5\n")
    (tmp_path / "data.yaml").write_text(names + text)
    for number, split in enumerate(places):
        data = read_split(tmp_path, split)
        assert data.classes.tolist() == [number] and data.image_path(0).is_file()


def test_yolo_is_read_as_supervision_reads_it(tmp_path):
    from supervision import DetectionDataset

    rng = np.random.default_rng(0)
    labels = {}
    for k in range(12):
        centres, sides = rng.uniform(0.3, 0.7, (k, 2)), rng.uniform(0.05, 0.5, (k, 2))
        labels[f"{k:02d}"] = "".join(
            f"{k % 2} {c[0]} {c[1]} {s[0]} {s[1]}\n" for c, s in zip(centres, sides, strict=True)
        )
    root = yolo_set(tmp_path, labels)
    theirs = DetectionDataset.from_yolo(str(root / "images/train"), str(root / "labels/train"), str(root / "data.yaml"))
    ours = read_split(root, "train")
    for i in range(len(ours)):
        expected = theirs.annotations[str(ours.image_path(i))]
        np.testing.assert_allclose(ours.boxes[ours.first[i] : ours.first[i + 1]], expected.xyxy, atol=1e-3)
        assert ours.classes[ours.first[i] : ours.first[i + 1]].tolist() == expected.class_id.tolist()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0 .5 .5 .1 .1\n7 .5 .5 .1 .1\n", r"a\.txt:2: class 7 is not in .*data\.yaml, which has 0…1"),
        ("cat .5 .5 .1 .1\n", r"a\.txt:1: 'cat .* is not a row of numbers"),
        ("0 20 15 10 10\n", r"a\.txt:1: has 20; expected fractions of the image's sides"),
        ("0 nan .5 .1 .1\n", r"a\.txt:1: has nan; expected fractions"),
        ("0 .5 .5 .1 .1 .9\n", r"a\.txt:1: has 6 numbers; .*score"),
        ("0 .5 .5\n", r"a\.txt:1: has 3 numbers"),
        ("0.5 .5 .5 .1 .1\n", r"a\.txt:1: class 0\.5 is not in"),
    ],
)
def test_a_wrong_label_is_said_with_its_line(tmp_path, text, said):
    with pytest.raises(ValueError, match=said):
        read_split(yolo_set(tmp_path, {"a": text}), "train")


@pytest.mark.parametrize(
    ("yaml", "said"),
    [
        ("train: images/train\n", "'names' is missing"),
        ("names: [a, a]\n", "two classes are called 'a'"),
        ("names: {0: a, 2: b}\n", "class numbers 0, 2; expected 0…1"),
        ("names: [a, b]\nnc: 3\n", "nc is 3, and names has 2"),
        ("names: [a, b]\ntrain: nowhere\n", "train is nowhere, which is neither"),
        ("names: [a\n", "is not YAML"),
    ],
)
def test_a_wrong_data_yaml_is_said(tmp_path, yaml, said):
    yolo_set(tmp_path, {"a": "0 .5 .5 .1 .1\n"})
    (tmp_path / "data.yaml").write_text(yaml)
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        read_split(tmp_path, "train")


def test_images_without_any_label_file_are_a_fault(tmp_path):
    root = yolo_set(tmp_path, {"a": None, "b": None})
    with pytest.raises(
        FileNotFoundError, match=r"none of its 2 images has a label file .*looked for a\.txt in .*labels"
    ):
        read_split(root, "train")


def test_a_missing_picture_is_said_or_skipped(tmp_path):
    root = yolo_set(tmp_path, {"a": "0 .5 .5 .1 .1\n", "b": "0 .5 .5 .1 .1\n"}, train="train.txt")
    (root / "train.txt").write_text("images/train/a.jpg\nimages/train/gone.jpg\n")
    with pytest.raises(FileNotFoundError, match=r"gone\.jpg is not there.*--skip_bad_images"):
        read_split(root, "train")
    data = read_split(root, "train", skip_bad=True)
    assert len(data) == 1 and data.missing_images == 1


def test_boxes_outside_are_cut_or_counted(tmp_path):
    data = read_split(yolo_set(tmp_path, {"a": "0 0 0 1 1\n0 1.5 1.5 .5 .5\n" + "0 .5 .5 .5 .5\n" * 40}), "train")
    assert data.boxes[0].tolist() == [0, 0, 20, 15] and data.clipped == 1
    assert data.dropped == [str(tmp_path / "labels/train/a.txt") + ":2"]


def test_a_million_boxes_in_one_image_are_refused_with_the_line(tmp_path):
    with pytest.raises(ValueError, match=r"a\.txt:100001: more than 100,000 objects in one image, images/train/a\.jpg"):
        read_split(yolo_set(tmp_path, {"a": "0 .5 .5 .1 .1\n" * 1_000_000}), "train")


def test_polygons_that_cross_themselves_are_named(tmp_path):
    bow = "0 0.1 0.1 0.9 0.9 0.9 0.1 0.1 0.9\n"
    data = read_split(yolo_set(tmp_path, {"a": "0 .2 .2 .8 .2 .8 .8\n" + bow}), "train", "instance")
    assert any("outlines of 1 of" in line and "a.txt:2" in line for line in data.warnings)


# --- Pascal VOC


def test_voc_counts_pixels_from_one_and_leaves_difficult_objects_unscored(tmp_path):
    data = read_split(voc_set(tmp_path), "train", shares="")
    assert data.boxes.tolist() == [[0, 0, 10, 12], [4, 5, 40, 30]]
    assert data.crowds.tolist() == [False, True] and data.clipped == 0
    assert data.category_names == ["cat", "dog"] and data.file_names == ["train/a.jpg", "train/b.jpg"]
    assert data.summary()[0].endswith("(Pascal VOC): 2 images, 1 objects of 2 classes")


@pytest.mark.parametrize("layout", ["split", "split/annotations", "annotations/split", "devkit", "devkits"])
def test_voc_layouts_people_have(tmp_path, layout):
    for number, split in enumerate(("train", "val")):
        xmls, images = {
            "split": (f"{split}", f"{split}"),
            "split/annotations": (f"{split}/annotations", f"{split}/images"),
            "annotations/split": (f"annotations/{split}", f"images/{split}"),
            "devkit": ("Annotations", "JPEGImages"),
            "devkits": (f"VOCdevkit/VOC20{number}/Annotations", f"VOCdevkit/VOC20{number}/JPEGImages"),
        }[layout]
        picture(tmp_path / images / f"{split}.jpg")
        voc_xml(tmp_path / xmls / f"{split}.xml", [("dog" if number else "cat", (1, 1, 20, 20), False)])
        if layout.startswith("devkit"):
            lists = (tmp_path / xmls).parent / "ImageSets/Main"
            lists.mkdir(parents=True, exist_ok=True)
            (lists / f"{split}.txt").write_text(f"{split}\n")
            (lists / f"cat_{split}.txt").write_text(f"{split} -1\n")
    for number, split in enumerate(("train", "val")):
        data = read_split(tmp_path, split)
        assert data.category_names == ["cat", "dog"], "the classes are those of all splits"
        assert data.classes.tolist() == [number] and data.image_path(0).name == f"{split}.jpg"


def test_voc_is_read_as_torchvision_and_hotcoco_read_it(tmp_path):
    from hotcoco import COCO
    from torchvision.datasets import VOCDetection

    root = shared("data/cards")
    ours = read_split(root, "train", shares="")
    theirs = COCO.from_voc(str(root / "train")).dataset
    names = {category["id"]: category["name"] for category in theirs["categories"]}
    rows = {image["file_name"]: [] for image in theirs["images"]}
    file_names = {image["id"]: image["file_name"] for image in theirs["images"]}
    for annotation in theirs["annotations"]:
        rows[file_names[annotation["image_id"]]].append((names[annotation["category_id"]], annotation["bbox"]))
    truth = ours.to_coco()
    own_names = {category["id"]: category["name"] for category in truth["categories"]}
    own = {image["id"]: [] for image in truth["images"]}
    for annotation in truth["annotations"]:
        own[annotation["image_id"]].append((own_names[annotation["category_id"]], annotation["bbox"]))
    assert {image["file_name"].removeprefix("train/"): own[image["id"]] for image in truth["images"]} == rows

    devkit = tmp_path / "VOCdevkit/VOC2012"
    (devkit / "ImageSets/Main").mkdir(parents=True)
    (devkit / "JPEGImages").symlink_to(root / "test")
    (devkit / "Annotations").symlink_to(root / "test")
    stems = sorted(path.stem for path in (root / "test").glob("*.xml"))
    for split in ("train", "val"):
        (devkit / f"ImageSets/Main/{split}.txt").write_text("\n".join(stems))
    reference, ours = VOCDetection(str(tmp_path), "2012", "train"), read_split(tmp_path, "train")
    assert len(reference) == len(ours)
    for i, (image, target) in enumerate(reference):
        assert tuple(ours.sizes[i]) == (image.height, image.width)
        corners = [
            [float(row["bndbox"][side]) for side in ("xmin", "ymin", "xmax", "ymax")]
            for row in target["annotation"]["object"]
        ]
        boxes = ours.boxes[ours.first[i] : ours.first[i + 1]]
        assert (boxes + [1, 1, 0, 0]).tolist() == corners


@pytest.mark.parametrize("size", [(0, 0), (30, 40), (7, 9)])
def test_a_wrong_size_in_the_xml_is_read_from_the_picture(tmp_path, size):
    picture(tmp_path / "train/a.jpg")
    voc_xml(tmp_path / "train/a.xml", [("cat", (3, 4, 39, 28), False)], size=size)
    data = read_split(tmp_path, "train", shares="")
    assert data.sizes.tolist() == [[30, 40]] and data.boxes.tolist() == [[2, 3, 39, 28]]


def test_boxes_of_a_picture_made_smaller_count_in_the_size_of_the_xml(tmp_path):
    picture(tmp_path / "train/a.jpg")
    voc_xml(tmp_path / "train/a.xml", [("cat", (30, 40, 390, 280), False)], size=(400, 300))
    assert read_split(tmp_path, "train", shares="").sizes.tolist() == [[300, 400]]


def test_a_renamed_xml_still_has_its_picture(tmp_path):
    picture(tmp_path / "train/b.png")
    voc_xml(tmp_path / "train/a.xml", [("cat", (3, 4, 39, 28), False)], filename="C:\\photos\\b.jpg")
    assert read_split(tmp_path, "train", shares="").file_names == ["train/b.png"]


BOMB = '<?xml version="1.0"?>\n<!DOCTYPE a [<!ENTITY x "lol"><!ENTITY y "&x;&x;&x;">]>\n<annotation><filename>&y;</filename></annotation>'
LEAK = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/hostname">]>\n<annotation><filename>&x;</filename></annotation>'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("this is no XML", r"a\.xml:1: is not XML"),
        ("<annotation>\n<object>\n", r"a\.xml:3: is not XML: no element found"),
        ("", r"a\.xml:1: is not XML"),
        (BOMB, r"a\.xml:2: declares the entity 'x'"),
        (LEAK, r"a\.xml:1: declares the entity 'x'"),
        ("<annotation>\n<object><name>cat</name></object></annotation>", r"a\.xml:2: <object> has no <bndbox>"),
        ("<annotation>\n<object><bndbox/></object></annotation>", r"a\.xml:2: <object> has no <name>"),
        (
            "<annotation><object><name>c</name>\n<bndbox><xmin>1</xmin></bndbox></object></annotation>",
            r"a\.xml:2: <bndbox> has no ymin",
        ),
        (
            "<annotation><object><name>c</name>\n<bndbox><xmin>a</xmin></bndbox></object></annotation>",
            r"a\.xml:2: xmin of <bndbox> is 'a'",
        ),
        (
            "<annotation><object><name>c</name>\n<bndbox><xmin>9</xmin><ymin>1</ymin><xmax>3</xmax><ymax>4</ymax></bndbox>"
            "</object></annotation>",
            r"a\.xml:2: .*ends before it begins",
        ),
        ("<annotation>" + "<a>" * 1000 + "</a>" * 1000 + "</annotation>", r"a\.xml:1: elements stand in each other"),
    ],
)
def test_xml_that_is_none_is_said_with_its_line(tmp_path, text, said):
    voc_set(tmp_path)
    (tmp_path / "train/a.xml").write_text(text)
    with pytest.raises(ValueError, match=said):
        read_split(tmp_path, "train")


def test_an_xml_without_its_picture_is_said_or_skipped(tmp_path):
    (voc_set(tmp_path) / "train/a.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"a\.xml: the picture .*a\.jpg is not there"):
        read_split(tmp_path, "train", shares="")
    assert read_split(tmp_path, "train", skip_bad=True, shares="").missing_images == 1


def test_a_list_that_names_what_is_not_there_is_said_with_its_line(tmp_path):
    picture(tmp_path / "JPEGImages/a.jpg")
    voc_xml(tmp_path / "Annotations/a.xml", [("cat", (3, 4, 39, 28), False)])
    (tmp_path / "ImageSets/Main").mkdir(parents=True)
    (tmp_path / "ImageSets/Main/train.txt").write_text("a\ngone\n")
    with pytest.raises(FileNotFoundError, match=r"train\.txt:2: lists gone"):
        read_split(tmp_path, "train")


# --- recognising, and splits that are made


def test_two_formats_at_once_are_told(tmp_path):
    voc_set(tmp_path)
    yolo_set(tmp_path, {"x": "0 .5 .5 .1 .1\n"})
    with pytest.raises(ValueError, match=r"is two formats at once: YOLO \(.*data\.yaml\) and Pascal VOC"):
        read_split(tmp_path, "train")
    assert read_split(tmp_path / "data.yaml", "train").format == "YOLO", "the file says which"


def test_boxes_alone_do_not_serve_masks(tmp_path):
    with pytest.raises(ValueError, match="is Pascal VOC, which has boxes alone: the task 'instance' needs masks"):
        read_split(voc_set(tmp_path), "train", "instance")


def many(root, count=50):
    for k in range(count):
        picture(root / f"{k:03d}.png", colour=(k, 2 * k, 3 * k))
        voc_xml(root / f"{k:03d}.xml", [("cat", (3, 4, 30, 20), False)])
    return root


def test_a_split_is_made_the_same_every_time_wherever_the_folder_lies(tmp_path):
    names = {}
    for folder in ("a", "b"):
        root = many(tmp_path / folder)
        sets = [read_split(root, split) for split in ("train", "val", "test")]
        assert [len(own) for own in sets] == [40, 5, 5]
        names[folder] = [own.file_names for own in sets]
        assert len({name for own in names[folder] for name in own}) == 50
    assert names["a"] == names["b"]
    assert "40 of the 50 images" in sets[0].summary()[1]
    assert len(read_split(root, "val", shares="0.5,0.5")) == 25


def test_identical_pictures_are_never_on_both_sides(tmp_path):
    for k in range(60):  # 20 pictures, each three times
        picture(tmp_path / f"{k:03d}.png", colour=(k % 20, 0, 0))
        voc_xml(tmp_path / f"{k:03d}.xml", [("cat", (3, 4, 30, 20), False)])
    sides = [
        {int(name[:3]) % 20 for name in read_split(tmp_path, split).file_names} for split in ("train", "val", "test")
    ]
    assert all(sides) and not (sides[0] & sides[1] or sides[1] & sides[2] or sides[0] & sides[2])


def test_val_is_held_out_of_train_where_only_test_is_there(tmp_path):
    many(tmp_path / "train", 45)
    many(tmp_path / "test", 10)
    assert [len(read_split(tmp_path, split)) for split in ("train", "val", "test")] == [40, 5, 10]


def test_a_split_of_coco_keeps_its_masks_and_truth(tmp_path, scenes):
    root = tmp_path / "one"
    root.mkdir()
    content = json.loads((scenes / "annotations/train.json").read_text())
    (root / "anything.json").write_text(json.dumps(content))
    (root / "images").symlink_to(scenes / "images/train")
    whole = read_all(root, "instance")[0]
    parts = [read_split(root, split, "instance", shares="0.5,0.25,0.25") for split in ("train", "val", "test")]
    assert sum(len(own) for own in parts) == len(whole) == 24
    masks = {}
    for own in parts:
        truth = own.to_coco()
        assert {image["id"] for image in truth["images"]} == set(own.image_ids)
        assert len(truth["annotations"]) == len(own.boxes)
        for row in truth["annotations"]:
            masks.setdefault(row["image_id"], []).append(row["segmentation"]["counts"])
    expected = {}
    for row in whole.to_coco()["annotations"]:
        expected.setdefault(row["image_id"], []).append(row["segmentation"]["counts"])
    assert masks == expected


@pytest.mark.parametrize("shares", ["0.8", "0.8,0.8", "a,b", "0,1", "0.5,0.4,0.2", "-1,2"])
def test_shares_that_are_none_are_refused(tmp_path, shares):
    with pytest.raises(ValueError, match="split is .*add up to 1"):
        read_split(many(tmp_path, 4), "train", shares=shares)


def test_too_few_different_pictures_are_told(tmp_path):
    for k in range(5):
        picture(tmp_path / f"{k}.png", colour=(1, 2, 3))
        voc_xml(tmp_path / f"{k}.xml", [("cat", (3, 4, 30, 20), False)])
    with pytest.raises(ValueError, match="too few different pictures"):
        read_split(tmp_path, "val")


def test_cards_are_recognised_as_they_lie():
    form, found = find_data(shared("data/cards"))
    assert form.name == "Pascal VOC" and set(found.splits) == {"train", "test"}
    sizes = [len(read_split(shared("data/cards"), split)) for split in ("train", "val", "test")]
    assert sizes == [263, 33, 67]


# --- the same of COCO


def test_a_million_boxes_in_one_image_of_coco_are_refused_by_name(tmp_path):
    write_set(tmp_path, [{**box([1, 1, 5, 5]), "id": k} for k in range(100_001)])
    with pytest.raises(ValueError, match=r"train\.json: the image a\.png has 100,001 objects"):
        read_split(tmp_path, "train")


def test_outlines_of_coco_that_cross_themselves_are_named(tmp_path):
    write_set(tmp_path, [box([1, 1, 20, 20], segmentation=[[1, 1, 20, 20, 20, 1, 1, 20]])])
    assert any("outlines of 1 of" in line for line in read_split(tmp_path, "train", "instance", shares="").warnings)
