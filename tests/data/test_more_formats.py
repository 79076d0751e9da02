"""CVAT, LabelMe, Open Images and one COCO file of all images are read as others read them; other tools' formats are named."""

import json

import numpy as np
import pytest
from format_files import picture

from conditional_detr.data.splits import find_data, read_split

# --- CVAT

META = "<meta><task><labels><label><name>dog</name></label><label><name>cat</name></label></labels></task></meta>\n"
SQUARE = '<polygon label="cat" points="5,5;15,5;15,20;5,20"/>\n'


def cvat(root, images, meta=META):
    """`images`: inner XML by attributes of the image beside its size."""
    root.mkdir(parents=True, exist_ok=True)
    rows = "".join(
        f'<image id="{i}" {head} width="40" height="30">\n{body}</image>\n' for i, (head, body) in enumerate(images)
    )
    (root / "annotations.xml").write_text(f"<annotations>\n{meta}{rows}</annotations>\n")
    return root


def test_cvat_boxes_polygons_and_masks(tmp_path):
    picture(tmp_path / "images/a.png")
    mask = (
        '<mask label="dog" rle="1,2,1,2" left="10" top="8" width="3" height="2"/>\n<points label="cat" points="1,2"/>\n'
    )
    box = '<box label="dog" xtl="1.5" ytl="2" xbr="10" ybr="12.25"/>\n'
    root = cvat(tmp_path, [('name="a.png"', box + SQUARE + mask)])
    data = read_split(root, "train", shares="1,0")
    assert data.category_names == ["dog", "cat"], "in the order of the labels"
    assert data.boxes.tolist() == [[1.5, 2, 10, 12.25], [5, 5, 15, 20], [10, 8, 13, 10]]
    assert any("1 shapes <points>" in line for line in data.warnings)
    masks = read_split(root, "train", "instance", shares="1,0").masks
    assert masks.decode(0, [0])[0].sum() == 150
    assert np.argwhere(masks.decode(0, [1])[0].numpy()).tolist() == [[8, 11], [8, 12], [9, 11], [9, 12]]


def test_cvat_is_read_as_hotcoco_reads_it(tmp_path):
    from hotcoco import COCO

    rng = np.random.default_rng(1)
    images = []
    for k in range(8):
        picture(tmp_path / f"{k}.png")
        corners = rng.uniform(0, 14, (k, 4)).round(2) + [0, 0, 15, 15]
        rows = "".join(f'<box label="cat" xtl="{a}" ytl="{b}" xbr="{c}" ybr="{d}"/>\n' for a, b, c, d in corners)
        images.append((f'name="{k}.png"', rows + SQUARE))
    root = cvat(tmp_path, images)
    theirs = COCO.from_cvat(str(root / "annotations.xml")).dataset["annotations"]
    ours = read_split(root, "train", shares="1,0").to_coco()["annotations"]
    assert [a["category_id"] for a in ours] == [a["category_id"] for a in theirs]
    np.testing.assert_allclose([a["bbox"] for a in ours], [a["bbox"] for a in theirs], atol=1e-5)


def test_cvats_subsets_are_splits(tmp_path):
    for name in ("a", "b"):
        picture(tmp_path / f"images/{name}.png")
    root = cvat(tmp_path, [('name="a.png" subset="Train"', SQUARE), ('name="b.png" subset="Validation"', SQUARE)])
    assert [read_split(root, split).file_names for split in ("train", "val")] == [["a.png"], ["b.png"]]


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ('<box label="cat" xtl="a" ytl="2" xbr="3" ybr="4"/>', r"xml:4: xtl of <box> is 'a'"),
        ('<box xtl="1" ytl="2" xbr="3" ybr="4"/>', r"xml:4: <box> has no label"),
        ('<polygon label="cat" points="1,2;3"/>', r"xml:4: points of <polygon> is '1,2;3'"),
        ('<mask label="cat" rle="1,2" left="1" top="1" width="9" height="9"/>', r"xml:4: <mask> of 9 × 9"),
        ('<mask label="cat" left="1" top="1" width="9" height="9"/>', r"xml:4: <mask> needs"),
        ('<mask label="cat" rle="-1,10" left="1" top="1" width="3" height="3"/>', r"xml:4: <mask>"),
        ("<box", r"xml:5: is not XML"),
    ],
)
def test_a_wrong_shape_is_said_with_its_line(tmp_path, shape, said):
    picture(tmp_path / "a.png")
    with pytest.raises(ValueError, match=said):
        read_split(cvat(tmp_path, [('name="a.png"', shape + "\n")]), "train")


# --- LabelMe


def labelme(path, shapes, **more):
    picture(path.with_suffix(".jpg"))
    rows = [
        {"label": label, "points": points, "shape_type": kind, "group_id": None, **rest}
        for label, points, kind, *rests in shapes
        for rest in (rests or [{}])
    ]
    content = {"version": "5.2", "flags": {}, "shapes": rows, "imagePath": path.stem + ".jpg", "imageData": None}
    path.write_text(json.dumps({**content, "imageHeight": 30, "imageWidth": 40, **more}))


def test_labelme_rectangles_polygons_circles_and_groups(tmp_path):
    shapes = [
        ("cat", [[20, 25], [10, 5]], "rectangle"),
        ("dog", [[1, 1], [9, 1], [9, 8]], "polygon"),
        ("cat", [[20, 15], [25, 15]], "circle"),
        ("dog", [[0, 0], [4, 0], [4, 4], [0, 4]], "polygon", {"group_id": 1}),
        ("dog", [[30, 20], [36, 20], [36, 26], [30, 26]], "polygon", {"group_id": 1}),
        ("dog", [[3, 3]], "point"),
    ]
    labelme(tmp_path / "a.json", shapes)
    data = read_split(tmp_path, "train", shares="1,0")
    assert data.format == "LabelMe" and data.category_names == ["cat", "dog"]
    np.testing.assert_allclose(data.boxes, [[10, 5, 20, 25], [1, 1, 9, 8], [15, 10, 25, 20], [0, 0, 36, 26]], atol=1e-5)
    assert any("1 shapes of the kind 'point'" in line for line in data.warnings)
    masks = read_split(tmp_path, "train", "instance", shares="1,0").masks.decode(0, range(4)).flatten(1).sum(1)
    assert masks[0] == 200 and masks[3] == 16 + 36 and abs(int(masks[2]) - 78) < 4


def test_labelmes_own_example_as_its_converter_reads_it(tmp_path):
    """A mask from a polygon is what pycocotools makes of it."""
    from pycocotools import mask as coco_mask

    points = np.random.default_rng(3).uniform(1, 29, (7, 2)).round(3).tolist()
    labelme(tmp_path / "a.json", [("cat", points, "polygon")])
    theirs = coco_mask.merge(coco_mask.frPyObjects([[v for p in points for v in p]], 30, 40))
    ours = read_split(tmp_path, "train", "instance", shares="1,0").to_coco()["annotations"][0]["segmentation"]
    assert ours["counts"].encode() == theirs["counts"]


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        (("cat", [[1, "a"]], "polygon"), r"a\.json: shapes\[0\]: points is"),
        (("", [[1, 2], [3, 4]], "rectangle"), r"a\.json: shapes\[0\]: has no label"),
        (("cat", [[1, 2]], "rectangle"), r"a\.json: shapes\[0\]: a rectangle of 1 points"),
    ],
)
def test_a_wrong_labelme_shape_is_said(tmp_path, shape, said):
    labelme(tmp_path / "a.json", [shape])
    with pytest.raises(ValueError, match=said):
        read_split(tmp_path, "train")


# --- Open Images

HEAD = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside\n"


def test_open_images_boxes_names_and_groups(tmp_path):
    for split in ("train", "validation"):
        picture(tmp_path / split / "0a.jpg")
        rows = "0a,x,/m/1,1,0.25,0.75,0.1,0.5,0,0,0,0,0\n0a,x,/m/2,1,0,1,0,1,0,0,1,0,0\n"
        (tmp_path / f"{split}-annotations-bbox.csv").write_text(HEAD + rows)
    (tmp_path / "class-descriptions-boxable.csv").write_text("/m/1,Beer\n/m/2,Apple\n")
    data = read_split(tmp_path, "val")
    assert data.category_names == ["Apple", "Beer"] and data.classes.tolist() == [1, 0]
    np.testing.assert_allclose(data.boxes, [[10, 3, 30, 15], [0, 0, 40, 30]], atol=1e-5)
    assert data.crowds.tolist() == [False, True]


@pytest.mark.parametrize(
    ("row", "said"), [("0.1,0.5,q,0.5", r"csv:2: invalid YMin: q"), ("10,20,5,9", "expected fractions")]
)
def test_a_wrong_row_of_open_images_is_said(tmp_path, row, said):
    picture(tmp_path / "a.jpg")
    (tmp_path / "boxes.csv").write_text(f"ImageID,LabelName,XMin,XMax,YMin,YMax\na,cat,{row}\n")
    with pytest.raises(ValueError, match=said):
        read_split(tmp_path, "train")


# --- one COCO file, and what is not read


@pytest.mark.parametrize("place", ["result.json", "annotations/instances_default.json", "_annotations.coco.json"])
def test_one_coco_file_of_all_images(tmp_path, scenes, place):
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).write_bytes((scenes / "annotations/train.json").read_bytes())
    (tmp_path / "images").symlink_to(scenes / "images/train")
    assert [len(read_split(tmp_path, split)) for split in ("train", "val", "test")] == [19, 3, 2]
    assert len(read_split(tmp_path / place, "val")) == 3, "the file itself"


def test_several_coco_files_without_names_of_splits_are_told(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.json").write_text('{"images": [], "categories": [], "annotations": []}')
    with pytest.raises(ValueError, match=r"holds 2 COCO files, a\.json, b\.json"):
        read_split(tmp_path, "train")


FOREIGN = {
    "Label Studio": ("export.json", '[{"id": 1, "annotations": [{"result": [{"from_name": "label"}]}], "data": {}}]'),
    "VIA": ("via.json", '{"_via_settings": {}, "_via_img_metadata": {}}'),
    "Supervisely": (
        "ds/ann/a.jpg.json",
        '{"description": "", "tags": [], "size": {"height": 3, "width": 4}, "objects": []}',
    ),
    "Datumaro": ("annotations/train.json", '{"info": {}, "categories": {"label": {"labels": []}}, "items": []}'),
    "TFRecord": ("train.tfrecord", "x"),
    "KITTI": (
        "label_2/000000.txt",
        "Car 0.00 0 -1.57 614.24 181.78 727.31 284.77 1.57 1.73 4.15 1.00 1.75 13.22 -1.62\n",
    ),
    "DOTA": ("labelTxt/P0.txt", "imagesource:GoogleEarth\ngsd:0.1\n1.0 2.0 3.0 2.0 3.0 9.0 1.0 9.0 plane 0\n"),
    "YOLO without data.yaml": ("labels/a.txt", "0 0.5 0.5 0.1 0.1\n"),
    "createML": ("a.json", '[{"image": "a.jpg", "annotations": [{"label": "x", "coordinates": {"x": 1}}]}]'),
    "pictures without annotations": ("images/a.jpg", "x"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_other_tools_formats_are_named(tmp_path, kind):
    name, text = FOREIGN[kind]
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text(text)
    with pytest.raises((FileNotFoundError, ValueError), match=f"this looks like {kind}: "):
        read_split(tmp_path, "train")


def test_what_is_recognised_does_not_hang_on_other_files(tmp_path, scenes):
    """Files of settings, notebooks and lists beside a data set are no second format."""
    root = tmp_path / "set"
    (root).mkdir()
    for name in ("annotations", "images"):
        (root / name).symlink_to(scenes / name)
    (root / "config.yaml").write_text("epochs: 3\n")
    (root / "notes.json").write_text('{"a": 1}')
    (root / "table.csv").write_text("a,b\n1,2\n")
    (root / "README.dataset.txt").write_text("This is from Roboflow\n")
    assert find_data(root)[0].name == "COCO"
