"""COCO data sets of one or two pictures, as wrong as a test wants them."""

import json

from PIL import Image

from conditional_detr.data.formats.coco import read_coco
from conditional_detr.data.splits import find_split


def write_set(folder, annotations, images=None, categories=None, split="train"):
    """One image of 40 × 30 pixels (or the given entries) with these annotations."""
    images = images or [{"id": 7, "file_name": "a.png", "width": 40, "height": 30}]
    categories = categories or [{"id": 3, "name": "cat"}, {"id": 9, "name": "dog"}]
    (folder / "images" / split).mkdir(parents=True, exist_ok=True)
    (folder / "annotations").mkdir(exist_ok=True)
    for image in images:
        Image.new("RGB", (40, 30)).save(folder / "images" / split / image["file_name"])
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations" / f"{split}.json").write_text(json.dumps(content))
    return folder


def box(values, category=3, image=7, **more):
    return {"id": 1, "image_id": image, "category_id": category, "bbox": values, "iscrowd": 0, **more}


def read(folder, split="train", **options):
    return read_coco(*find_split(folder, split), **options)
