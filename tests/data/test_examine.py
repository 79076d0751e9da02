"""`cdetr data check`: each fault that people's data has is found, alone, with its count and an example by name; clean data has
none."""

import json
import re
import shutil

import numpy as np
import pytest
from format_files import voc_set, yolo_set
from PIL import Image

from conditional_detr.cli import main
from conditional_detr.data.examine.examination import examine
from conditional_detr.data.examine.findings import KINDS, SEVERITIES
from conditional_detr.data.examine.objects import Seen
from conditional_detr.evaluate.data_page import data_page

WIDTH, HEIGHT = 64, 48
SEEN = Seen(image_size=48, max_size=80, stride=8, num_queries=12)
CATEGORIES = [{"id": 3, "name": "cat"}, {"id": 9, "name": "dog"}]


def noise(seed, width=WIDTH, height=HEIGHT):
    """A picture that looks like no other."""
    coarse = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def content_of(split, count):
    """Each image has two cats and two dogs that touch no edge."""
    images, annotations = [], []
    for i in range(count):
        images.append({"id": i + 1, "file_name": f"{split}{i}.png", "width": WIDTH, "height": HEIGHT})
        for k in range(4):
            box = [2.5 + 15 * k, 4 + 2 * k + i, 10 + k, 12 + 3 * k]
            number = len(annotations) + 1
            annotations.append({"id": number, "image_id": i + 1, "category_id": (3, 9)[k % 2], "bbox": box})
    return {"images": images, "annotations": annotations, "categories": CATEGORIES}


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clean") / "data"
    (folder / "annotations").mkdir(parents=True)
    for split, count in (("train", 6), ("val", 5)):
        content = content_of(split, count)
        (folder / "images" / split).mkdir(parents=True)
        for i, image in enumerate(content["images"]):
            noise(100 * (split == "val") + i).save(folder / "images" / split / image["file_name"])
        (folder / "annotations" / f"{split}.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def data(clean, tmp_path):
    return shutil.copytree(clean, tmp_path / "data")


def change(folder, edit, split="train"):
    file = folder / "annotations" / f"{split}.json"
    content = json.loads(file.read_text())
    edit(content)
    file.write_text(json.dumps(content))


def found(folder, **options):
    return {finding.name: finding for finding in examine(folder, seen=SEEN, workers=0, **options).findings}


def each_box(form):
    def edit(content):
        for annotation in content["annotations"]:
            annotation["bbox"] = form(*annotation["bbox"])

    return edit


def first(**fields):
    """The first annotation gets other fields; None takes one away."""

    def edit(content):
        annotation = content["annotations"][0]
        annotation.update(fields)
        for name in [name for name, value in fields.items() if value is None]:
            del annotation[name]

    return edit


def first_image(**fields):
    return lambda content: content["images"][0].update(fields)


def append(name, /, **fields):
    """The first entry of a list once more, with other fields."""
    return lambda content: content[name].append({**content[name][0], **fields})


def swap_sizes(content):
    for image in content["images"]:
        image["width"], image["height"] = HEIGHT, WIDTH
    content["annotations"] = [{**a, "bbox": [2, 3, 20, 20]} for a in content["annotations"] if a["id"] % 4 == 1]
    content["annotations"] += [
        {**a, "id": a["id"] + 1000, "category_id": 9, "bbox": [25, 3, 15, 20]} for a in content["annotations"]
    ] * 2
    for number, annotation in enumerate(content["annotations"]):
        annotation = content["annotations"][number] = dict(annotation)
        annotation.update(id=number + 1, bbox=[annotation["bbox"][0], 3 + 9 * (number % 3), *annotation["bbox"][2:]])


def crowded(content):
    content["annotations"] += [
        {"id": 500 + i, "image_id": 1, "category_id": 3, "bbox": [1 + 4 * i, 1, 12, 9 + i]} for i in range(12)
    ]


ENTRIES = {
    "strings_for_numbers": [
        (first(bbox=["2.5", "4", "10", "12"]), "train0.png", r"annotations\[0\] \(id 1\): bbox is \['2.5'"),
        (first(image_id="1"), "train0.png", "image_id is '1'"),
        (first(category_id="3"), "", "category_id is '3'"),
        (first_image(width="64"), "train0.png", r"images\[0\] \(id 1\): width is '64'"),
        (first(iscrowd="0"), "train0.png", "iscrowd is '0'"),
        (first(area="120.5"), "train0.png", "area is '120.5'"),
    ],
    "missing_ids": [(first(category_id=None), "train0.png", "category_id is missing"), (first(image_id=None), "", "image_id is missing")],
    "unknown_ids": [(first(image_id=77), "", "image_id is 77"), (first(category_id=4), "train0.png", "category_id is 4")],
    "repeated_image_ids": [(append("images", file_name="train1.png"), "train1.png", "train0.png has the id 1, too")],
    "repeated_file_names": [(append("images", id=70), "train0.png", "listed before")],
    "repeated_category_ids": [(append("categories", name="cow"), "", "'cow' has the id")],
    "repeated_annotation_ids": [(first(id=2), "train0.png", "id is 2")],
    "broken_boxes": [
        (first(bbox=[1, 2, float("nan"), 3]), "train0.png", "nan"),
        (first(bbox=[1, 2, 3]), "train0.png", "bbox is"),
        (first(bbox=None), "train0.png", "bbox is missing"),
    ],
    "broken_entries": [
        (first(iscrowd=3), "train0.png", "iscrowd is 3"),
        (first(area=float("inf")), "train0.png", "area is inf"),
        (first_image(height=0), "train0.png", "height is 0"),
        (append("images", file_name=None, id=70), "", "file_name is None"),
        (lambda content: content["annotations"].append(5), "", "is 5; expected an object"),
    ],
    "empty_boxes": [(first(bbox=[5, 5, 0, 4]), "train0.png", r"bbox is \[5, 5, 0, 4\] in an image of 64 × 48")],
    "boxes_outside": [(first(bbox=[50, 30, 20, 10]), "train0.png", r"\[50, 30, 20, 10\]")],
    "repeated_boxes": [(append("annotations", id=99), "train0.png", "cat at 2.5, 4, 10 × 12 pixels, and cat at")],
    "contradicting_boxes": [(append("annotations", id=99, category_id=9), "train0.png", "cat at .*, and dog at")],
    "small_objects": [(first(bbox=[3, 3, 6, 7]), "train0.png", "cat at 3, 3, 6 × 7 pixels")],
    "extreme_boxes": [(first(bbox=[3, 40, 50, 2]), "train0.png", "50 × 2 pixels")],
    "whole_image_boxes": [(first(bbox=[0, 0, 64, 48]), "train0.png", "64 × 48")],
    "crowd_regions": [(first(iscrowd=1), "train0.png", "cat at")],
    "crowded_images": [(crowded, "train0.png", "16 objects")],
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "edit", "file_name", "words"),
    [(name, *case) for name, cases in ENTRIES.items() for case in cases],
)
def test_a_fault_of_one_entry_is_found_alone(data, name, edit, file_name, words):
    change(data, edit)
    findings = found(data)
    with_it = {"images_without_objects"} if name == "repeated_file_names" else set()
    assert set(findings) == {name} | with_it and findings[name].count == 1 and findings[name].split == "train"
    example = findings[name].examples[0]
    assert example.file_name == file_name and re.search(words, example.words), example


WHOLE = {
    "normalised_boxes": each_box(lambda x, y, w, h: [x / 64, y / 48, w / 64, h / 48]),
    "corner_boxes": each_box(lambda x, y, w, h: [x, y, x + w, y + h]),
    "exchanged_boxes": each_box(lambda x, y, w, h: [y, x, h, w]),
    "centre_boxes": lambda content: [
        a.update(bbox=[45 - i % 4, 36 - i % 3, 30 + i % 7, 22 + i % 2]) for i, a in enumerate(content["annotations"])
    ],
}


@pytest.mark.parametrize("name", WHOLE)
def test_boxes_of_another_form_are_said_with_what_to_do(data, name):
    change(data, WHOLE[name])
    finding = found(data)[name]
    assert finding.severity == "stops" and finding.count == finding.of == 24
    assert finding.examples[0].file_name == "train0.png" and finding.cure


def test_a_few_normalised_boxes_among_right_ones_are_found(data):
    change(data, first(bbox=[0.1, 0.2, 0.3, 0.5]))
    findings = found(data)
    assert set(findings) == {"normalised_boxes"} and findings["normalised_boxes"].severity == "harms"


def test_sizes_that_are_not_the_pictures_are_found(data):
    change(data, swap_sizes)
    findings = found(data)
    assert findings["exchanged_sizes"].count == 6 and findings["exchanged_sizes"].severity == "stops"
    assert "64 × 48 pixels, the annotations say 48 × 64" in findings["exchanged_sizes"].examples[0].words


def test_one_other_size_is_found(data):
    change(data, first_image(width=68))
    assert set(found(data)) == {"other_sizes"}


def picture(data, number=0, split="train"):
    return data / "images" / split / f"{split}{number}.png"


def damage(data):
    picture(data).write_bytes(picture(data).read_bytes()[:600])


def turn(data):
    exif = Image.Exif()
    exif[0x0112] = 6
    noise(0).transpose(Image.Transpose.ROTATE_90).save(picture(data), exif=exif)


def make_thin(data):
    noise(0, 64, 12).save(picture(data))
    change(data, lambda c: (c["images"][0].update(height=12), [a.update(bbox=[2 + 15 * i, 1, 10, 10]) for i, a in enumerate(c["annotations"][:4])]))  # fmt: skip


def copy_to(target, brighter=False):
    def copy(data):
        goal = picture(data, *target)
        if brighter:
            Image.open(picture(data)).point(lambda v: min(255, v + 2)).save(goal)
        else:
            shutil.copyfile(picture(data), goal)

    return copy


def keep_cats(content):
    content["annotations"] = [a for a in content["annotations"] if a["category_id"] == 3]


def fewer_dogs(content):
    for _ in range(3):
        content["annotations"].remove(next(a for a in content["annotations"] if a["category_id"] == 9))


PICTURES = {
    "missing_pictures": (lambda data: picture(data).unlink(), "train0.png", "train"),
    "damaged_pictures": (damage, "train0.png", "train"),
    "turned_pictures": (turn, "train0.png", "train"),
    "extreme_pictures": (make_thin, "train0.png", "train"),
    "same_pictures": (copy_to((3,)), "train3.png", "train"),
    "similar_pictures": (copy_to((3,), brighter=True), "train3.png", "train"),
    "same_pictures_across": (copy_to((2, "val")), "val2.png", ""),
    "similar_pictures_across": (copy_to((2, "val"), brighter=True), "val2.png", ""),
    "images_without_objects": (lambda data: change(data, append("images", id=50, file_name="more.png")), "more.png", "train"),
    "rare_classes": (lambda data: change(data, fewer_dogs), "", "train"),
    "empty_classes": (lambda data: change(data, keep_cats, "val"), "", "val"),
    "repeated_category_names": (lambda data: change(data, lambda c: c["categories"].append({"id": 20, "name": "cat"})), "", "train"),
    "different_categories": (lambda data: change(data, lambda c: c["categories"].append({"id": 20, "name": "cow"})), "", ""),
    "no_objects": (lambda data: change(data, lambda c: c.update(annotations=[])), "", "train"),
    "unreadable_annotations": (lambda data: (data / "annotations/train.json").write_text('{"images": [,'), "", "train"),
}  # fmt: skip


@pytest.mark.parametrize("name", PICTURES)
def test_a_fault_of_pictures_or_classes_is_found(data, name):
    spoil, file_name, split = PICTURES[name]
    noise(77).save(data / "images/train/more.png")
    spoil(data)
    findings = found(data)
    with_it = {"different_categories": {"empty_classes"}, "no_objects": {"unlearned_classes"}}.get(name, set())
    assert set(findings) == {name} | with_it, {n: f.examples for n, f in findings.items()}
    assert findings[name].split == split
    assert findings[name].examples and findings[name].examples[0].file_name == file_name
    if name.endswith("_across"):
        assert findings[name].examples[0].words == "in val, as train0.png in train"


def test_a_class_that_train_lacks_is_found(data):
    change(data, keep_cats)
    findings = found(data)
    assert set(findings) == {"unlearned_classes", "empty_classes"}
    assert [str(example) for example in findings["unlearned_classes"].examples] == ["dog"]


def test_faulty_masks_are_found(data):
    square = [[5, 5, 20, 5, 20, 20, 5, 20]]
    for split in ("train", "val"):
        change(data, lambda c: [a.update(segmentation=square) for a in c["annotations"]], split)
    change(
        data,
        lambda c: (c["annotations"][0].update(segmentation=[]), c["annotations"][1]["segmentation"].append([1, 2])),
    )
    findings = found(data, task="instance")
    assert {name: finding.count for name, finding in findings.items()} == {"maskless_objects": 1, "short_polygons": 1}


def test_a_million_boxes_in_one_image_are_said(data):
    box = {"image_id": 1, "category_id": 3, "bbox": [3, 3, 20, 20]}
    change(data, lambda c: c["annotations"].extend([box] * 100_001))
    findings = found(data)
    assert set(findings) == {"overfull_images", "crowded_images", "repeated_boxes"}
    assert str(findings["overfull_images"].examples[0]) == "train0.png: 100,005 objects"


def test_clean_data_has_no_finding_and_advice(clean):
    result = examine(clean, seen=SEEN, workers=0)
    assert result.findings == [] and not result.stops
    assert result.advice.image_size % 32 == 0 and result.advice.num_queries == 50


def test_two_processes_find_what_one_does(data):
    copy_to((3,))(data)
    damage(data)
    assert examine(data, seen=SEEN, workers=2).to_dict() == examine(data, seen=SEEN, workers=0).to_dict()


def test_other_formats_are_looked_at_and_their_faults_are_named(tmp_path):
    yolo = yolo_set(
        tmp_path / "yolo", {"a": "0 0.5 0.5 0.4 0.4\n0 0.5 0.5 0.4 0.4\n", "b": "1 0.9 0.5 0.4 0.4\n1 0.5 0.5 0.4 0\n"}
    )
    findings = examine(yolo, workers=0).to_dict()["findings"]
    names = {finding["name"]: finding for finding in findings if finding["split"] == "train"}
    assert {"repeated_boxes", "boxes_outside", "empty_boxes"} <= set(names)
    assert "b.txt:2" in names["empty_boxes"]["examples"][0]["words"]
    assert names["repeated_boxes"]["examples"][0]["file_name"].endswith("a.jpg")
    (yolo / "labels/train/b.txt").write_text("5 0.5 0.5 0.4 0.4\n")
    (stop,) = [finding for finding in examine(yolo, workers=0).findings if finding.split == "train"]
    assert stop.name == "unreadable_annotations" and "b.txt:1: class 5" in str(stop.examples[0])
    voc = voc_set(tmp_path / "voc")
    (voc / "train/b.jpg").unlink()
    missing = [finding for finding in examine(voc, workers=0).findings if finding.name == "missing_pictures"]
    assert missing[0].count == 1 and "b.jpg" in str(missing[0].examples[0])


KEYS = {"version", "data", "format", "task", "model", "stops", "splits", "findings", "recommended"}
FINDING_KEYS = {"name", "severity", "split", "count", "of", "what", "detail", "cure", "examples"}


def listing(folder):
    return sorted((str(path), path.stat().st_mtime_ns) for path in folder.rglob("*"))


def test_the_command_writes_json_and_a_page_and_nothing_into_the_data(data, tmp_path, capsys):
    damage(data)
    change(data, first(bbox=[5, 5, 0, 4]))
    before = listing(data)
    arguments = ["data", "check", "--data", str(data), "--workers", "0", "--image_size", "48", "--output_stride", "8"]
    target, page = tmp_path / "out/check.json", tmp_path / "out/check.html"
    assert main([*arguments, "--json", str(target), "--html", str(page)]) == 1
    text = capsys.readouterr().out
    assert "train0.png" in text and "cannot be decoded" in text and "Recommended" in text
    assert listing(data) == before
    values = json.loads(target.read_text())
    assert set(values) == KEYS and values["stops"] and values["model"]["output_stride"] == 8
    assert all(set(finding) == FINDING_KEYS for finding in values["findings"])
    assert values["splits"]["train"]["classes"] == {"cat": 11, "dog": 12}
    html = page.read_text()
    assert html.count("data:image/jpeg;base64,") >= 10 and not re.search(r"(src|href)=[\"']?(https?:)?//", html)
    assert main([*arguments, "--json", "-"]) == 1
    assert json.loads(capsys.readouterr().out) == values
    assert main([*arguments, "--html", str(data / "check.html")]) == 2
    assert "nothing is written" in capsys.readouterr().err and listing(data) == before


def test_clean_data_ends_with_0(clean, capsys):
    arguments = ["--image_size", "48", "--max_size", "80", "--output_stride", "8", "--workers", "0"]
    assert main(["data", "check", "--data", str(clean), *arguments]) == 0
    assert "Nothing is wrong." in capsys.readouterr().out


def test_the_page_escapes_names(data):
    nasty = '<script>alert("x")</script>&'
    change(
        data,
        lambda c: (
            c["images"][0].update(file_name="<b>.png"),
            c["categories"][0].update(name=nasty),
            first(bbox=[5, 5, 0, 4])(c),
        ),
    )
    change(data, lambda c: c["categories"][0].update(name=nasty), "val")
    picture(data).rename(data / "images/train/<b>.png")
    html = data_page(examine(data, seen=SEEN, workers=0))
    assert "<script" not in html and "<b>" not in html
    assert "&lt;script&gt;alert(&quot;x&quot;)" in html and "&lt;b&gt;.png" in html


def test_every_kind_says_how_bad_it_is_and_what_to_do():
    assert all(kind.severity in SEVERITIES and kind.what and kind.cure for kind in KINDS.values())
