"""Images of every kind become RGB."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.io import decode_image

from conditional_detr.images.arrays import image_list
from conditional_detr.images.read import as_rgb_tensor, read_image


def photo(height: int = 24, width: int = 32) -> Image.Image:
    """Smooth colours, so that JPEG loses little."""
    y, x = np.mgrid[0:height, 0:width]
    channels = [x * 255 // (width - 1), y * 255 // (height - 1), (x + y) * 255 // (height + width - 2)]
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))


def rgb(image: Image.Image) -> np.ndarray:
    """What PIL itself gives, channels first."""
    return np.array(image.convert("RGB")).transpose(2, 0, 1)


def in_mode(mode: str) -> Image.Image:
    if mode == "LA":
        return Image.merge("LA", [photo().convert("L"), photo().getchannel(0)])
    if mode == "RGBA":
        return Image.merge("RGBA", [*photo().split(), photo().getchannel(0)])
    if mode == "PA":
        return in_mode("P").convert("PA")
    return photo().convert(mode, palette=Image.Palette.ADAPTIVE) if mode == "P" else photo().convert(mode)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV"])
def test_a_pil_image_of_any_mode_becomes_the_rgb_that_pil_gives(mode: str) -> None:
    image = in_mode(mode)
    pixels = read_image(image)
    assert pixels.dtype == torch.uint8
    assert pixels.shape == (3, 24, 32)
    np.testing.assert_array_equal(pixels.numpy(), rgb(image))
    np.testing.assert_array_equal(as_rgb_tensor(image).numpy(), rgb(image))


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [
        ("1", "png"),
        ("L", "png"),
        ("LA", "png"),
        ("P", "png"),
        ("P", "gif"),
        ("RGB", "png"),
        ("RGBA", "png"),
        ("RGB", "bmp"),
        ("RGB", "webp"),
        ("CMYK", "tiff"),
        ("CMYK", "jpg"),
        ("L", "jpg"),
        ("RGB", "jpg"),
    ],
)
def test_a_file_of_any_mode_becomes_the_rgb_that_pil_gives(mode: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"image.{suffix}"
    in_mode(mode).save(path)
    for source in (path, str(path)):
        np.testing.assert_array_equal(read_image(source).numpy(), rgb(Image.open(path)))


def test_transparency_of_a_palette_is_dropped_without_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "palette.png"
    in_mode("P").save(path, transparency=bytes(range(256)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels = read_image(path)
    np.testing.assert_array_equal(pixels.numpy(), rgb(in_mode("P")))


def test_premultiplied_alpha_is_undone() -> None:
    opaque = Image.merge("RGBA", [*photo().split(), Image.new("L", (32, 24), 255)])
    np.testing.assert_array_equal(read_image(opaque.convert("RGBa")).numpy(), rgb(photo()))


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_a_16_bit_grey_file_is_scaled_and_not_clipped(suffix: str, tmp_path: Path) -> None:
    values = np.linspace(0, 65535, 24 * 32).astype(np.uint16).reshape(24, 32)
    path = tmp_path / f"deep.{suffix}"
    Image.fromarray(values).save(path)
    assert Image.open(path).mode.startswith("I")
    expected = np.round(values / 257).astype(np.uint8)
    for channel in read_image(path).numpy():
        np.testing.assert_array_equal(channel, expected)
    np.testing.assert_array_equal(as_rgb_tensor(values)[0].numpy(), expected)


def test_an_image_of_mode_i_or_f_is_scaled_by_the_range_of_its_values() -> None:
    grey = np.array(photo().convert("L"))
    sixteen_bit = Image.fromarray(grey.astype(np.int32) * 257)
    assert sixteen_bit.mode == "I"
    for image in (
        sixteen_bit,
        photo().convert("L").convert("I"),
        photo().convert("L").convert("F"),
        Image.fromarray(grey.astype(np.float32) / 255),
        Image.fromarray(grey.astype(np.float32) * 257),
    ):
        np.testing.assert_array_equal(read_image(image)[1].numpy(), grey)


def test_a_float_image_with_nan_and_infinity_is_read() -> None:
    values = np.array([[0.0, np.nan], [1.0, 0.5]], dtype=np.float32)
    assert read_image(Image.fromarray(values))[0].tolist() == [[0, 0], [255, 128]]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_file_is_turned_upright_as_its_exif_says(orientation: int, mode: str, tmp_path: Path) -> None:
    path = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = orientation
    photo().convert(mode).save(path, exif=exif, quality=95)
    expected = decode_image(str(path), mode="RGB", apply_exif_orientation=True)
    difference = read_image(path).int() - expected.int()
    assert difference.abs().max() <= 1  # torchvision's own JPEG decoder may round otherwise
    np.testing.assert_array_equal(read_image(path, exif=False).numpy(), rgb(Image.open(path)))
    # A PIL image is the caller's: it is taken as it is, as transformers takes it.
    np.testing.assert_array_equal(read_image(Image.open(path)).numpy(), rgb(Image.open(path)))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_does_not_cost_the_image(tmp_path: Path) -> None:
    path = tmp_path / "odd.jpg"
    photo().save(path, exif=b"Exif\x00\x00II*\x00\xff\xff\xff\x7fgarbage")
    assert read_image(path).shape == (3, 24, 32)


def test_files_that_are_no_images_are_named_in_one_line(tmp_path: Path) -> None:
    good = tmp_path / "good.jpg"
    photo(200, 300).save(good)
    cases = {"missing.jpg": None, "empty.jpg": b"", "text.jpg": b"not an image", "cut.jpg": good.read_bytes()[:1500]}
    photo(200, 300).save(tmp_path / "good.png")
    cases["cut.png"] = (tmp_path / "good.png").read_bytes()[:400]
    cases["header.png"] = (tmp_path / "good.png").read_bytes()[:20]
    for name, content in cases.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(OSError, match=name) as error:
            read_image(tmp_path / name)
        assert "\n" not in str(error.value)
    with pytest.raises(OSError, match="a folder"):
        read_image(tmp_path)


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_arrays_and_tensors_of_any_layout_become_channels_first(kind) -> None:
    pixels = np.array(photo())
    planes = np.ascontiguousarray(pixels.transpose(2, 0, 1))
    alpha = np.concatenate([pixels, pixels[..., :1]], axis=-1)
    for array in (pixels, planes, alpha):
        assert torch.equal(as_rgb_tensor(kind(array)), torch.from_numpy(planes))
    grey = pixels[..., 0].copy()
    for array in (grey, grey[None], grey[..., None]):
        assert torch.equal(as_rgb_tensor(kind(array)), torch.from_numpy(grey).expand(3, -1, -1))


def test_the_layout_can_be_told_where_the_shape_leaves_it_open() -> None:
    square = torch.arange(27, dtype=torch.uint8).reshape(3, 3, 3)
    assert torch.equal(as_rgb_tensor(square), square)
    assert torch.equal(as_rgb_tensor(square, "channels_last"), square.permute(2, 0, 1))


def test_floats_keep_their_values_and_other_numbers_become_8_bit() -> None:
    values = torch.rand(3, 5, 6)
    assert torch.equal(as_rgb_tensor(values), values)
    assert as_rgb_tensor(values.double()).dtype == torch.float32
    counts = torch.randint(0, 256, (3, 5, 6))
    assert torch.equal(as_rgb_tensor(counts), counts.to(torch.uint8))
    assert as_rgb_tensor(values > 0.5).unique().tolist() == [0, 255]


def test_arrays_that_torch_cannot_share_are_read_without_a_warning() -> None:
    array = np.array(photo())
    flipped, frozen = array[:, ::-1], np.asarray(photo())
    frozen.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(as_rgb_tensor(flipped), as_rgb_tensor(frozen).flip(2))


def test_what_is_no_image_is_named() -> None:
    with pytest.raises(TypeError, match="got dict"):
        as_rgb_tensor({})
    for shape in [(5,), (2, 5, 6), (1, 3, 5, 6), (3, 0, 5)]:
        with pytest.raises(ValueError, match=r"shape \("):
            as_rgb_tensor(torch.zeros(shape))
    with pytest.raises(ValueError, match="input_data_format"):
        as_rgb_tensor(torch.zeros(3, 4, 4), "sideways")


def test_images_come_alone_in_lists_and_in_batches() -> None:
    batch = torch.zeros(4, 3, 5, 6)
    assert [len(image_list(images)) for images in (photo(), "a.jpg", [photo(), "a.jpg"], batch, [batch, batch])] == [
        *(1, 1, 2, 4, 8)
    ]
