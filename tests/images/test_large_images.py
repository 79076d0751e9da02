"""Large images: resized as they are converted, a band at a time, to what a resize of the whole gives."""

import struct
import tracemalloc
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from conditional_detr.images import read, rgb
from conditional_detr.images.header import image_size
from conditional_detr.images.pixels import resize
from conditional_detr.images.read import read_image, read_resized
from conditional_detr.images.sizes import output_size


def wanted(height, width):
    return output_size(height, width, 64, 128)


def noise(mode, height, width):
    rng = np.random.default_rng(height * width)
    if mode == "I;16":
        return Image.fromarray(rng.integers(0, 65536, (height, width)).astype(np.uint16))
    if mode == "I":
        return Image.fromarray(rng.integers(0, 60000, (height, width)).astype(np.int32))
    if mode == "F":
        return Image.fromarray(rng.random((height, width)).astype(np.float32))
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).convert(mode)


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "RGBA", "CMYK", "I;16", "I", "F"])
def test_bands_give_what_the_whole_image_gives(mode, tmp_path, monkeypatch):
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = tmp_path / "image.tif"
        noise(mode, 90 + 7 * orientation, 150).save(path, exif=exif)
        for resample in (Image.Resampling.BILINEAR, Image.Resampling.NEAREST):
            monkeypatch.setattr(read, "LARGE", 2**24)
            image = read_image(path)
            whole = read_resized(path, wanted, resample)
            assert torch.equal(whole, resize(image, wanted(*image.shape[1:]), resample))
            monkeypatch.setattr(read, "LARGE", 0)
            monkeypatch.setattr(read, "BAND", 3000)
            monkeypatch.setattr(rgb, "BAND", 3000)
            bands = read_resized(path, wanted, resample)
            # Where torchvision resizes in floats, each of the two directions is rounded.
            assert (bands.int() - whole.int()).abs().max() <= 1


def test_the_size_that_was_expected_decides_about_exif_as_for_ordinary_images(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    noise("RGB", 20, 30).save(tmp_path / "turned.jpg", exif=exif)
    for expected, size in (((30, 20), (30, 20)), ((20, 30), (20, 30)), ((7, 9), (30, 20)), (None, (30, 20))):
        seen = read_resized(tmp_path / "turned.jpg", lambda *size: size, expected=expected)
        assert seen.shape[1:] == size


@pytest.mark.parametrize("mode", ["RGB", "I;16"])
def test_of_a_large_image_little_is_held_beside_what_pillow_holds(mode, tmp_path):
    Image.new(mode, (5000, 3500)).save(tmp_path / "large.png")
    with Image.open(tmp_path / "large.png"):  # plugins are loaded
        pass
    tracemalloc.start()
    try:
        read_resized(tmp_path / "large.png", wanted)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 5000 * 3500  # bytes; the image itself takes two or three a pixel


def test_sixteen_bits_become_eight_as_exact_arithmetic_says():
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    expected = np.round(values.astype(np.float64) / 257).astype(np.uint8)
    assert np.array_equal(read_image(Image.fromarray(values))[0].numpy(), expected)
    assert np.array_equal(read.as_rgb_tensor(values)[0].numpy(), expected)


def test_the_size_of_a_png_is_read_from_its_header(tmp_path):
    """Not by decoding it, as Pillow would to look for EXIF after the pixels: the pixels here are missing."""
    noise("RGB", 20, 30).save(tmp_path / "whole.png")
    content = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(content[: content.index(b"IDAT") + 10])
    assert image_size(tmp_path / "cut.png") == (20, 30)


def test_exif_after_the_pixels_of_a_png_counts(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    noise("RGB", 20, 30).save(tmp_path / "late.png")
    content, block = (tmp_path / "late.png").read_bytes(), exif.tobytes()[6:]
    chunk = struct.pack(">I", len(block)) + b"eXIf" + block + struct.pack(">I", zlib.crc32(b"eXIf" + block))
    end = content.index(b"IEND") - 4
    (tmp_path / "late.png").write_bytes(content[:end] + chunk + content[end:])
    assert image_size(tmp_path / "late.png") == (30, 20) == tuple(read_image(tmp_path / "late.png").shape[1:])
