"""Boxes of another form and pictures of other sizes are said before training, and good data passes."""

import numpy as np
import pytest
from coco_files import write_set
from PIL import Image

from conditional_detr.data.splits import find_split, read_split_files

FORMS = {
    "x0, y0, x1, y1": lambda x, y, w, h: [x, y, x + w, y + h],
    "their centre": lambda x, y, w, h: [x + w / 2, y + h / 2, w, h],
    "y, x, height": lambda x, y, w, h: [y, x, h, w],
    "fractions": lambda x, y, w, h: [x / 40, y / 30, w / 40, h / 30],
}


def data(folder, change, count=60, size=(40, 30)):
    rng = np.random.default_rng(0)
    annotations = []
    for number in range(count):
        x, y = rng.uniform(0, 30), rng.uniform(0, 20)
        w, h = rng.uniform(2, 40 - x), rng.uniform(2, 30 - y)
        bbox = [float(value) for value in change(x, y, w, h)]
        annotations.append({"id": number, "image_id": 7, "category_id": 3, "bbox": bbox})
    images = [{"id": 7, "file_name": "a.png", "width": size[0], "height": size[1]}]
    write_set(folder, annotations, images)
    return folder / "annotations/train.json", folder / "images/train"


@pytest.mark.parametrize("form", FORMS)
def test_boxes_of_another_form_stop_with_that_form(tmp_path, form):
    with pytest.raises(ValueError, match=rf"train\.json: the boxes seem to be .*{form}"):
        read_split_files(*data(tmp_path, FORMS[form]), "detection", False)


def test_right_boxes_pass_and_wholly_wrong_ones_are_warned_of(tmp_path):
    right = read_split_files(*data(tmp_path / "a", lambda *box: box), "detection", False)
    assert right.warnings == []
    wrong = read_split_files(*data(tmp_path / "b", lambda x, y, w, h: [x, y - 10, w + 15, h]), "detection", False)
    assert "boxes reach outside their image" in "\n".join(wrong.summary())


def test_pictures_of_another_size_are_remarked_and_of_another_shape_stop(tmp_path):
    files = data(tmp_path, lambda *box: box)
    Image.new("RGB", (80, 60)).save(files[1] / "a.png")
    said = read_split_files(*files, "detection", False).warnings
    assert len(said) == 1 and "width × height 80 × 60, the file says 40 × 30" in said[0]
    Image.new("RGB", (30, 40)).save(files[1] / "a.png")
    with pytest.raises(ValueError, match="width and height the other way round"):
        read_split_files(*files, "detection", False)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 40)).save(files[1] / "a.png", exif=exif)
    assert read_split_files(*files, "detection", False).warnings == []


def test_a_set_without_annotations_says_that_there_will_be_no_ap(tmp_path):
    assert "no AP" in "\n".join(read_split_files(*data(tmp_path, FORMS, count=0), "detection", False).summary())


def test_real_and_generated_data_pass(bccd, scenes):
    for folder, split in ((bccd, "train"), (bccd, "val"), (scenes, "train"), (scenes, "val")):
        assert read_split_files(*find_split(folder, split), "detection", False).warnings == []
