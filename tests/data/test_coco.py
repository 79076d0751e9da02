"""COCO data sets are found, read, checked and counted."""

import numpy as np
import pytest
from coco_files import box, read, write_set

from conditional_detr.data.dataset import check_same_categories, classes_by_name
from conditional_detr.data.splits import find_split


def layouts(folder):
    yield folder / "a", "annotations/instances_train2017.json", "images/train2017"
    yield folder / "b", "annotations/instances_train2017.json", "train2017"
    yield folder / "c", "annotations/train.json", "images/train"
    yield folder / "d", "train/_annotations.coco.json", "train"


def test_the_layouts_people_have_are_found(tmp_path):
    for root, annotations, images in layouts(tmp_path):
        (root / images).mkdir(parents=True)
        (root / annotations).parent.mkdir(exist_ok=True)
        (root / annotations).write_text("{}")
        assert find_split(root, "train") == (root / annotations, root / images)


def test_roboflows_valid_is_val(tmp_path):
    (tmp_path / "valid").mkdir()
    (tmp_path / "valid/_annotations.coco.json").write_text("{}")
    assert find_split(tmp_path, "val")[1] == tmp_path / "valid"


def test_missing_and_empty_folders_are_told_apart(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        find_split(tmp_path / "nothing", "train")
    with pytest.raises(FileNotFoundError, match="is empty"):
        find_split(tmp_path, "train")
    (tmp_path / "x").touch()
    with pytest.raises(FileNotFoundError, match=r"no 'train' split: neither annotations/instances_train2017\.json"):
        find_split(tmp_path, "train")


def test_category_ids_with_holes_become_classes_and_back(tmp_path):
    data = read(write_set(tmp_path, [box([1, 2, 10, 10], 9), box([5, 5, 4, 4], 3)]))
    assert data.category_ids == [3, 9] and data.category_names == ["cat", "dog"]
    assert data.classes.tolist() == [1, 0]
    np.testing.assert_allclose(data.boxes, [[1, 2, 11, 12], [5, 5, 9, 9]])


def test_what_is_odd_about_the_data_is_counted(tmp_path):
    annotations = [
        box([-5, 0, 20, 20]),  # reaches outside
        box([10, 10, 0, 5]),  # no width
        box([100, 100, 5, 5]),  # wholly outside
        box([0, 0, 30, 20], iscrowd=1),
        box([1, 1, 5, 5]),
    ]
    images = [
        {"id": 7, "file_name": "a.png", "width": 40, "height": 30},
        {"id": 8, "file_name": "b.png", "width": 40, "height": 30},
    ]
    data = read(write_set(tmp_path, annotations, images))
    assert data.clipped == 1 and len(data.dropped) == 2 and data.crowds.sum() == 1
    assert data.objects_per_image().tolist() == [2, 0]
    text = "\n".join(data.summary(num_queries=1))
    for fact in ("2 images, 2 objects of 2 classes", "1 images without objects", "1 crowd", "1 boxes reached outside",
                 "2 boxes without area", "1 images have more objects than the model has queries (1)"):  # fmt: skip
        assert fact in text


@pytest.mark.parametrize(
    ("annotations", "message"),
    [
        ([box([1, 1, 5, 5], image=99)], "image_id is 99, which is not in 'images'"),
        ([box([1, 1, 5, 5], category=4)], "category_id is 4, which is not in 'categories'"),
        ([box([1, float("nan"), 5, 5])], "four finite numbers"),
        ([box([1, 1, float("inf"), 5])], "four finite numbers"),
        ([box([1, 1, 5])], "four finite numbers"),
        ([box([1, 1, 0, 0])], "not one of 1 boxes has an area"),
        (
            [{"id": 1, "image_id": 7, "category_id": 3}],
            r"annotations\[0\] \(id 1\): bbox is missing; expected four finite numbers",
        ),
    ],
)
def test_wrong_annotations_are_named(tmp_path, annotations, message):
    with pytest.raises(ValueError, match=message) as error:
        read(write_set(tmp_path, annotations))
    assert "train.json" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [("not json {", "is not JSON"), ("[1, 2]", "is not COCO JSON"), ('{"images": []}', "is not COCO JSON"),
     ('{"images": [], "annotations": [], "categories": []}', "lists no images")],
)  # fmt: skip
def test_files_that_are_not_coco_are_named(tmp_path, text, message):
    write_set(tmp_path, [box([1, 1, 5, 5])])
    (tmp_path / "annotations/train.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        read(tmp_path)


def test_two_categories_of_one_id_or_name_are_refused(tmp_path):
    for categories in (
        [{"id": 3, "name": "cat"}, {"id": 3, "name": "dog"}],
        [{"id": 3, "name": "a"}, {"id": 4, "name": "a"}],
    ):
        with pytest.raises(ValueError, match="two categories"):
            read(write_set(tmp_path, [], categories=categories))


def test_missing_images_stop_unless_they_are_skipped(tmp_path):
    images = [{"id": i, "file_name": f"{i}.png", "width": 40, "height": 30} for i in (7, 8)]
    write_set(tmp_path, [box([1, 1, 5, 5]), box([1, 1, 5, 5], image=8)], images)
    (tmp_path / "images/train/8.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 2 images are not in .*first: 8\.png.*skip_bad_images"):
        read(tmp_path)
    data = read(tmp_path, skip_missing_images=True)
    assert len(data) == 1 and data.missing_images == 1 and [i["id"] for i in data.to_coco()["images"]] == [7]


def test_val_must_have_trains_categories(tmp_path):
    train = read(write_set(tmp_path, [box([1, 1, 5, 5])]))
    other = [{"id": 3, "name": "cat"}, {"id": 9, "name": "wolf"}]
    val = read(write_set(tmp_path, [box([1, 1, 5, 5])], categories=other, split="val"), "val")
    with pytest.raises(ValueError, match="different categories: 9 '(dog|wolf)', 9 '(dog|wolf)'"):
        check_same_categories(train, val)


def test_classes_map_by_name_or_not_at_all():
    assert classes_by_name(["dog", "cat"], ["N/A", "cat", "dog"]) == [2, 1]
    with pytest.raises(ValueError, match="no class called 'wolf'"):
        classes_by_name(["wolf"], ["cat", "dog"])


def test_real_annotations_are_read(bccd):
    data = read(bccd, "train")
    assert data.category_names == ["RBC", "WBC", "Platelets"] and len(data) == 205
    assert len(data.boxes) + len(data.dropped) == 2805
