"""Pictures as arrays, without PyTorch, are what they are as tensors."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from conditional_detr.images.arrays import as_rgb_array
from conditional_detr.images.prepare import Preprocessing
from conditional_detr.images.read import as_rgb_tensor


def noise(shape, dtype=np.uint8):
    values = np.random.default_rng(0).integers(0, 256, shape)
    return (values / 255).astype(dtype) if np.dtype(dtype).kind == "f" else values.astype(dtype)


def kinds():
    grey, colour = Image.fromarray(noise((9, 7))), Image.fromarray(noise((9, 7, 3)))
    yield from (grey, grey.convert("1"), grey.convert("I"), grey.convert("F"), grey.convert("LA"), colour)
    yield from (colour.convert(mode) for mode in ("P", "CMYK", "RGBA", "YCbCr"))
    yield Image.fromarray(noise((9, 7), np.uint16) * 200)
    yield from (noise((9, 7)), noise((3, 9, 7)), noise((9, 7, 4)), noise((9, 7, 3))[::-1], noise((9, 7)) > 99)
    yield from (noise((9, 7, 3), kind) for kind in (np.float64, np.uint16, np.int32))
    yield torch.from_numpy(noise((3, 9, 7)))


@pytest.mark.parametrize("number", range(len(list(kinds()))))
def test_images_in_memory_have_the_same_pixels(number):
    image = list(kinds())[number]
    expected, found = as_rgb_tensor(image), as_rgb_array(image)
    assert found.dtype == str(expected.dtype).removeprefix("torch.")
    assert np.array_equal(found, expected.numpy())


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("size", [{"shortest_edge": 40, "longest_edge": 90}, {"shortest_edge": 200}, None])
def test_files_are_turned_resized_and_normalised_alike_but_for_rounding(orientation, size):
    preprocessing = Preprocessing(size)
    clouds = Image.fromarray(noise((12, 16, 3))).resize((160, 120), Image.Resampling.BICUBIC)
    file, exif = io.BytesIO(), Image.Exif()
    exif[274] = orientation
    clouds.save(file, "PNG", exif=exif)
    found, expected = preprocessing.read_array(file.getvalue()), preprocessing.read(file.getvalue())
    assert found.dtype == np.uint8 and found.flags.c_contiguous
    assert np.abs(found.astype(int) - expected.numpy()).max() <= 1
    resized = preprocessing.resize_array(as_rgb_array(clouds)), preprocessing.resize(as_rgb_tensor(clouds))
    assert np.abs(resized[0].astype(int) - resized[1].numpy()).max() <= 1
    normal = preprocessing.normalize_array(found), preprocessing.normalize(torch.from_numpy(found))
    assert np.allclose(normal[0], normal[1].numpy(), rtol=0, atol=1e-6) and normal[0].dtype == np.float32


@pytest.mark.parametrize("wrong", [np.zeros((2, 9, 7, 3)), np.zeros((9, 7, 5)), np.zeros((3, 0, 7)), {"a": 1}, None])
def test_what_is_no_image_is_said_alike(wrong):
    with pytest.raises((TypeError, ValueError)) as ours:
        as_rgb_array(wrong)
    with pytest.raises((TypeError, ValueError)) as theirs:
        as_rgb_tensor(wrong)
    assert str(ours.value) == str(theirs.value) and ours.type is theirs.type
