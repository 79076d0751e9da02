"""Samples and batches: right, and a function of seed, epoch and index alone."""

import itertools
import json

import numpy as np
import pytest
import torch
from coco_files import box, read, write_set
from PIL import Image

from conditional_detr.data.augmentation import Augmentation
from conditional_detr.data.formats.coco import read_coco
from conditional_detr.data.sampler import TrainingBatches
from conditional_detr.data.samples import TrainingSet, collate
from conditional_detr.data.splits import find_split
from conditional_detr.data.transforms import augment, training_transform
from conditional_detr.images.header import image_size
from conditional_detr.images.read import read_image
from conditional_detr.images.sizes import output_size
from conditional_detr.predict.batches import batches_by_shape

PLAIN = Augmentation(horizontal_flip=0, crop=0, scales=[64])


def training_set(folder, settings=PLAIN):
    return TrainingSet(read_coco(*find_split(folder, "train")), training_transform(settings), seed=3)


def test_a_sample_depends_on_seed_epoch_and_index_alone(scenes):
    first, again = (
        training_set(scenes, Augmentation(scales=[48, 64])),
        training_set(scenes, Augmentation(scales=[48, 64])),
    )
    state = torch.get_rng_state()
    expected = [first[epoch, index] for epoch in (0, 1) for index in range(6)]
    assert torch.equal(torch.get_rng_state(), state)  # and the process's own generator is left alone
    torch.rand(7)
    for (epoch, index), (image, label, _) in zip([(e, i) for e in (0, 1) for i in range(6)], expected, strict=True):
        same = again[epoch, index]
        assert torch.equal(same[0], image) and torch.equal(same[1]["boxes"], label["boxes"])
    shapes = {tuple(image.shape) for image, _, _ in expected}
    assert len(shapes) > 1  # it is random all the same


@pytest.mark.parametrize("crop", [0.0, 1.0])
def test_boxes_follow_the_image(crop):
    """A bright rectangle stays where its box says, through flips, crops and resizing."""
    image = torch.zeros(3, 90, 120, dtype=torch.uint8)
    image[:, 30:60, 40:90] = 255
    boxes = torch.tensor([[40.0, 30, 90, 60]])
    settings = Augmentation(
        horizontal_flip=0.5, vertical_flip=0.5, crop=crop, crop_scales=[100], crop_min=60, crop_max=90, scales=[80, 96]
    )
    for seed in range(20):
        out, moved, kept = augment(training_transform(settings), image, boxes, seed)
        assert out.dtype == torch.uint8
        ys, xs = torch.where(out[0] > 127)
        if not kept.any():
            assert len(ys) < 200
            continue
        seen = torch.tensor([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]).float()
        torch.testing.assert_close(moved[0], seen, rtol=0, atol=1.5)


def test_training_sizes_follow_the_one_rule():
    settings = Augmentation(horizontal_flip=0, crop=0, scales=[33], max_size=50)
    for height, width in ((40, 90), (90, 40), (50, 50), (31, 64)):
        out, _, _ = augment(
            training_transform(settings), torch.zeros(3, height, width, dtype=torch.uint8), torch.zeros(0, 4), 0
        )
        assert tuple(out.shape[-2:]) == output_size(height, width, 33, 50)


def test_each_augmentation_can_be_switched_off():
    image = torch.randint(0, 255, (3, 64, 64), dtype=torch.uint8)
    for seed in range(5):
        out, _, _ = augment(training_transform(PLAIN), image, torch.zeros(0, 4), seed)
        assert torch.equal(out, image)
    assert PLAIN.describe() == "short side 64, long side at most 1333"


def test_crowds_are_left_out_of_training(tmp_path):
    write_set(tmp_path, [box([1, 1, 5, 5]), box([0, 0, 30, 20], iscrowd=1)])
    _, label, _ = training_set(tmp_path)[0, 0]
    assert len(label["class_labels"]) == len(label["boxes"]) == 1


def test_exif_rotation_applies_where_it_gives_the_size_of_the_annotations(tmp_path):
    picture = Image.fromarray(np.zeros((20, 30, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(tmp_path / "turned.jpg", exif=exif)
    assert image_size(tmp_path / "turned.jpg") == (30, 20)
    assert read_image(tmp_path / "turned.jpg", expected=(30, 20)).shape == (3, 30, 20)
    assert read_image(tmp_path / "turned.jpg", expected=(20, 30)).shape == (3, 20, 30)


def test_an_image_of_another_size_scales_its_boxes_and_is_counted(tmp_path):
    write_set(tmp_path, [box([10, 15, 20, 15])], [{"id": 7, "file_name": "a.png", "width": 80, "height": 60}])
    sample = training_set(tmp_path)[0, 0]
    torch.testing.assert_close(sample[1]["boxes"], torch.tensor([[0.25, 0.375, 0.25, 0.25]]))
    assert collate([sample]).mismatched_sizes == 1


def test_what_is_wrong_with_an_image_comes_instead_of_it(tmp_path):
    images = [{"id": i, "file_name": f"{i}.png", "width": 40, "height": 30} for i in (7, 8)]
    write_set(tmp_path, [box([1, 1, 5, 5])], images)
    broken = tmp_path / "images/train/8.png"
    broken.write_bytes(broken.read_bytes()[:60])
    samples = training_set(tmp_path)
    assert "8.png" in samples[0, 1] and "\n" not in samples[0, 1]
    batch = collate([samples[0, 0], samples[0, 1]])
    assert len(batch.images) == 1 and len(batch.bad_images) == 1
    alone = collate([samples[0, 1]])  # nothing else in the batch: a black image without objects stands in
    assert len(alone.labels) == 1 and len(alone.labels[0]["boxes"]) == 0


def test_only_batches_of_different_shapes_are_padded():
    label = {"class_labels": torch.zeros(0), "boxes": torch.zeros(0, 4)}
    small, large = torch.ones(3, 4, 6, dtype=torch.uint8), torch.ones(3, 8, 5, dtype=torch.uint8)
    assert collate([(small, label, False)] * 2).pixel_mask is None
    batch = collate([(small, label, False), (large, label, False)])
    assert batch.images.shape == (2, 3, 8, 6) and batch.pixel_mask.sum((1, 2)).tolist() == [24, 40]


def batches(n=50, **options):
    values = dict(batch_size=8, parts=1, own_parts=range(1), epochs=3, seed=1) | options
    return TrainingBatches(n, **values)


def drawn_size(epoch, index):
    return tuple(np.random.default_rng([epoch, index]).integers(30, 90, 2))


def test_training_resumes_with_the_batches_it_would_have_had():
    for options in ({}, {"drawn_size": drawn_size}):
        whole = list(batches(**options))
        assert len(whole) == 18 == len(batches(**options))
        for step in (1, 6, 7, 17):
            assert list(batches(start_step=step, **options)) == whole[step:]


def test_processes_and_micro_batches_split_the_same_steps():
    for options in ({}, {"drawn_size": drawn_size}):
        whole = list(batches(**options))
        parts = [list(batches(parts=4, own_parts=range(2 * rank, 2 * rank + 2), **options)) for rank in range(2)]
        for step, batch in enumerate(whole):
            split = [key for part in parts for micro in part[2 * step : 2 * step + 2] for key in micro]
            assert split == batch


@pytest.mark.parametrize("grouped", [False, True])
def test_an_epoch_uses_every_image_at_most_once_and_epochs_differ(grouped):
    chosen = batches(48, drawn_size=drawn_size if grouped else None)
    epochs = [np.concatenate(list(chosen.steps(epoch))) for epoch in range(2)]
    for order in epochs:
        assert sorted(order) == list(range(48))
    assert not np.array_equal(*epochs)


def test_grouping_by_shape_spares_padding():
    def padded(grouped):
        sampler = batches(400, epochs=1, drawn_size=drawn_size if grouped else None)
        shapes = [np.array([drawn_size(*key) for key in batch]) for batch in sampler]
        return sum(len(s) * s.max(0).prod() - s.prod(1).sum() for s in shapes)

    assert padded(True) < padded(False) / 2


def test_the_size_of_a_sample_is_known_before_it_is_read(bccd):
    settings = Augmentation(scales=[96, 112], crop_scales=[120], crop_min=60, crop_max=100, color_jitter=0.2)
    data = training_set(bccd, settings)
    for key in itertools.product(range(2), range(8)):
        assert data.drawn_size(*key) == tuple(data[key][0].shape[-2:])


def test_a_set_smaller_than_a_batch_is_repeated():
    (batch,) = list(batches(3, epochs=1))
    assert len(batch) == 8 and {index for _, index in batch} == {0, 1, 2}


def test_evaluation_batches_hold_one_shape_and_every_image_once():
    shapes = np.random.default_rng(0).integers(1, 4, (100, 2))
    split = batches_by_shape(shapes, 8)
    assert sorted(i for batch in split for i in batch) == list(range(100))
    assert all(len(batch) <= 8 and len({tuple(shapes[i]) for i in batch}) == 1 for batch in split)


def test_bccd_samples_are_in_bounds(bccd):
    data = training_set(bccd, Augmentation(scales=[96], crop_scales=[120], crop_min=60, crop_max=100))
    for index in range(8):
        image, label, mismatched = data[0, index]
        assert min(image.shape[-2:]) == 96 and not mismatched
        assert (label["boxes"] > 0).all() and (label["boxes"] <= 1).all()


def test_read_rejects_the_split_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="no 'val' split"):
        read(write_set(tmp_path, [box([1, 1, 5, 5])]), "val")


def test_large_photographs_are_decoded_small_enough_and_boxes_stay_in_place(tmp_path):
    """Also where EXIF turns the photograph: what is read is 1/4 of 1600 × 1200, and no image counts as of a wrong size."""
    picture = Image.effect_noise((100, 75), 90).convert("RGB").resize((1600, 1200), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(tmp_path / "plain.jpg", quality=95)
    picture.save(tmp_path / "turned.jpg", quality=95, exif=exif)
    images = [
        {"id": 1, "file_name": "plain.jpg", "height": 1200, "width": 1600},
        {"id": 2, "file_name": "turned.jpg", "height": 1600, "width": 1200},
    ]
    annotations = [
        {"id": i, "image_id": i, "category_id": 1, "bbox": [400, 300, 200, 600], "area": 120000, "iscrowd": 0}
        for i in (1, 2)
    ]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}
    (tmp_path / "train.json").write_text(json.dumps(content))
    coco = read_coco(tmp_path / "train.json", tmp_path)
    settings = Augmentation(horizontal_flip=0, crop=0, scales=[240, 300], max_size=1000)
    transform = training_transform(settings)
    whole, scaled = TrainingSet(coco, transform, 0), TrainingSet(coco, transform, 0, settings.least_side)
    assert settings.least_side == 300
    for index in range(2):
        read = read_image(coco.image_path(index), least_side=300, expected=tuple(coco.sizes[index]))
        assert read.shape[-2:] == tuple(coco.sizes[index] // 4)
        (a, label_a, odd_a), (b, label_b, odd_b) = whole[0, index], scaled[0, index]
        assert a.shape == b.shape and not odd_a and not odd_b
        assert (a.float() - b.float()).abs().mean() < 2  # grey levels
        torch.testing.assert_close(label_a["boxes"], label_b["boxes"], rtol=0, atol=1e-5)
