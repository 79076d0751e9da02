"""Spawned workers share a data set's memory, and load what the main process loads."""

import json
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
import torch
from coco_files import box, write_set
from torch.utils.data import DataLoader

from conditional_detr.data.augmentation import Augmentation
from conditional_detr.data.formats.coco import read_coco
from conditional_detr.data.samples import TrainingSet, collate
from conditional_detr.data.splits import find_split
from conditional_detr.data.transforms import training_transform

SETTINGS = Augmentation(horizontal_flip=0.5, scales=[32], max_size=64, crop=0.0)


@pytest.fixture
def many(tmp_path):
    """2,000 images (of one file) with 10,000 masks."""
    folder = write_set(tmp_path, [])
    images = [{"id": f"picture {i}", "file_name": "a.png", "width": 40, "height": 30} for i in range(2000)]
    shape = {"segmentation": [[2, 2, 12, 2, 12, 9]], "area": 70.0}
    annotations = [box([2, 2, 10, 7], image=f"picture {i % 2000}", **shape) for i in range(10_000)]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 3, "name": "cat"}]}
    (folder / "annotations/train.json").write_text(json.dumps(content))
    return read_coco(*find_split(folder, "train"), masks=True)


def test_the_size_of_a_pickled_data_set_does_not_grow_with_its_images(many):
    before = many.fingerprint()
    assert len(ForkingPickler.dumps(TrainingSet(many, training_transform(SETTINGS), seed=3))) < 8000
    assert many.fingerprint() == before and isinstance(many.boxes, np.ndarray)


def test_spawned_workers_load_the_same(many):
    data = TrainingSet(many, training_transform(SETTINGS), seed=3)
    keys = [[(0, 5), (0, 1999)], [(1, 700)]]
    loader = DataLoader(data, batch_sampler=keys, collate_fn=collate, num_workers=2, multiprocessing_context="spawn")
    for batch, own in zip(loader, keys, strict=True):
        here = collate([data[key] for key in own])
        assert torch.equal(batch.images, here.images)
        for theirs, ours in zip(batch.labels, here.labels, strict=True):
            assert theirs["image_id"] == ours["image_id"]
            assert all(torch.equal(theirs[name], ours[name]) for name in ("boxes", "class_labels", "masks"))
