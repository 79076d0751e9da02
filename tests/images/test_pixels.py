"""The steps between decoded images and the model's input."""

import numpy as np
import pytest
import torch
from PIL import Image

from conditional_detr.images.pixels import normalize, pad, resize

pytestmark = pytest.mark.numeric


def smooth_image(height: int, width: int) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("size", [(20, 30), (97, 41), (150, 200)])
@pytest.mark.parametrize("resample", [Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.NEAREST])
def test_resizing_is_within_one_grey_level_of_pil(size: tuple[int, int], resample: int) -> None:
    image = smooth_image(75, 101)
    expected = np.array(image.resize(size[::-1], resample))
    planes = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    for memory in (planes, planes.contiguous()):
        resized = resize(memory, size, resample)
        assert resized.is_contiguous()
        assert np.abs(resized.permute(1, 2, 0).numpy().astype(int) - expected).max() <= 1


def test_a_padded_uint8_batch_normalises_to_what_its_images_normalise_to() -> None:
    images = [
        torch.randint(0, 256, (3, 10, 14), dtype=torch.uint8),
        torch.randint(0, 256, (3, 12, 9), dtype=torch.uint8),
    ]
    canvas, pixel_mask = pad(images)
    expected, _ = pad([normalize(image) for image in images])
    assert canvas.dtype == torch.uint8
    assert torch.equal(normalize(canvas, pixel_mask=pixel_mask), expected)


def test_normalising_is_the_formula_and_leaves_its_input_alone() -> None:
    image = torch.rand(3, 4, 5)
    before = image.clone()
    mean, std = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.5, 0.6, 0.7])
    expected = (image / 4 - mean[:, None, None]) / std[:, None, None]
    torch.testing.assert_close(normalize(image, mean.tolist(), std.tolist(), 0.25), expected)
    assert torch.equal(normalize(image, None, None, None), image)
    assert torch.equal(image, before)


def test_padding_puts_images_top_left_and_says_where_they_are() -> None:
    images = [torch.ones(3, 2, 5), torch.ones(3, 4, 3)]
    canvas, pixel_mask = pad(images)
    assert canvas.shape == (2, 3, 4, 5)
    assert pixel_mask.dtype == torch.bool
    assert torch.equal(canvas[:, 0].bool(), pixel_mask)
    assert pixel_mask[0].sum() == 10 and pixel_mask[0, :2].all()
    assert pixel_mask[1].sum() == 12 and pixel_mask[1, :, :3].all()
    assert pad(images, (6, 7))[0].shape == (2, 3, 6, 7)


def test_an_image_larger_than_the_canvas_is_named() -> None:
    with pytest.raises(ValueError, match="image 1 is 4 x 3, larger than the canvas of 3 x 9"):
        pad([torch.ones(3, 2, 5), torch.ones(3, 4, 3)], (3, 9))
    with pytest.raises(ValueError, match="no images"):
        pad([])
