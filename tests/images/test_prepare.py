"""What a picture becomes: the same from a file, from a tensor, in training's batches and from the image processor."""

import numpy as np
import pytest
import torch
from PIL import Image

from conditional_detr import ConditionalDetrImageProcessor
from conditional_detr.images.prepare import Preprocessing, to_canvas
from conditional_detr.images.read import read_image

SIZES = [(60, 80), (90, 50), (64, 64)]


@pytest.fixture
def files(tmp_path):
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{i}.png" for i in range(len(SIZES))]
    for path, size in zip(paths, SIZES, strict=True):
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
    return paths


@pytest.mark.parametrize(
    "options",
    [{}, {"do_resize": False}, {"do_normalize": False}, {"do_rescale": False}, {"size": (40, 56), "resample": 3}],
    ids=str,
)
def test_a_batch_prepared_step_by_step_is_the_image_processors(options, files):
    processor = ConditionalDetrImageProcessor(**{"size": {"shortest_edge": 48, "longest_edge": 64}, **options})
    preprocessing = processor.preprocessing
    images = [preprocessing.read(file) for file in files]
    for file, image in zip(files, images, strict=True):
        decoded = read_image(file)
        assert torch.equal(preprocessing.resize(decoded), image)
        assert tuple(image.shape[1:]) == preprocessing.size_of(*decoded.shape[1:])
    canvas, pixel_mask = to_canvas(images)
    assert canvas.dtype == torch.uint8
    expected = processor(files, return_tensors="pt")
    real = torch.ones_like(expected.pixel_mask).bool() if pixel_mask is None else pixel_mask
    assert torch.equal(real.long(), expected.pixel_mask)
    assert torch.equal(preprocessing.normalize(canvas) * real[:, None], expected.pixel_values)


def test_a_canvas_without_padding_has_no_mask():
    images = [torch.full((3, 4, 5), value, dtype=torch.uint8) for value in (1, 2)]
    canvas, pixel_mask = to_canvas(images)
    assert pixel_mask is None and torch.equal(canvas, torch.stack(images))
    canvas, pixel_mask = to_canvas(images, (4, 5))
    assert pixel_mask is None
    canvas, pixel_mask = to_canvas(images, (6, 8))
    assert canvas.shape == (2, 3, 6, 8) and pixel_mask[:, :4, :5].all() and pixel_mask.sum() == 2 * 4 * 5


def test_preprocessing_cannot_be_changed_under_those_who_use_it():
    with pytest.raises(AttributeError):
        Preprocessing().size = None
