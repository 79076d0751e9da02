"""The one rule for output sizes, against transformers'."""

import subprocess
import sys
from typing import Any

import pytest
from transformers.image_processing_utils import get_size_dict
from transformers.image_transforms import get_size_with_aspect_ratio
from transformers.image_utils import SizeDict, get_image_size_for_max_height_width

from conditional_detr.images.sizes import (
    output_size,
    output_size_within,
    pad_size_dict,
    size_after_resize,
    size_dict,
)

IMAGE_SIZES = [(height, width) for height in range(1, 701, 3) for width in range(1, 701, 3)]
IMAGE_SIZES += [(height, width) for height in (427, 640, 1333, 4032) for width in range(1, 4100)]


@pytest.mark.parametrize(
    ("shortest_edge", "longest_edge"), [(800, 1333), (480, 800), (64, 96), (33, 33), (512, None), (1, 5)]
)
def test_sizes_are_those_of_transformers(shortest_edge: int, longest_edge: int | None) -> None:
    for height, width in IMAGE_SIZES:
        expected = get_size_with_aspect_ratio((height, width), shortest_edge, longest_edge)
        # transformers gives needle-thin images a side of 0 pixels and then fails to resize them.
        expected = max(1, expected[0]), max(1, expected[1])
        assert output_size(height, width, shortest_edge, longest_edge) == expected, (height, width)


@pytest.mark.parametrize(("max_height", "max_width"), [(800, 1333), (100, 40), (64, 64)])
def test_sizes_within_a_limit_are_those_of_transformers(max_height: int, max_width: int) -> None:
    for height, width in IMAGE_SIZES:
        expected = get_image_size_for_max_height_width((height, width), max_height, max_width)
        expected = max(1, expected[0]), max(1, expected[1])
        assert output_size_within(height, width, max_height, max_width) == expected, (height, width)


def test_no_image_is_resized_past_the_limit_of_the_long_side() -> None:
    sizes = {size: output_size(*size, 800, 1333) for size in IMAGE_SIZES}
    assert max(max(resized) for size, resized in sizes.items() if resized != size) == 1333


def test_a_needle_thin_image_keeps_a_pixel() -> None:
    assert output_size(1, 5000, 800, 1333) == (1, 1333)
    assert output_size(5000, 1, 800, 1333) == (1333, 1)


def test_every_form_of_size_means_what_it_means_in_transformers() -> None:
    as_attributes: Any = SizeDict
    assert size_dict() == {"shortest_edge": 800, "longest_edge": 1333}
    assert size_dict(480) == get_size_dict(480, max_size=1333, default_to_square=False)
    assert size_dict(480, max_size=640) == get_size_dict(480, max_size=640, default_to_square=False)
    assert size_dict((300, 400)) == get_size_dict((300, 400), default_to_square=False) == {"height": 300, "width": 400}
    for form in ({"shortest_edge": 5, "longest_edge": 9}, {"height": 5, "width": 6}, {"max_height": 5, "max_width": 6}):
        assert size_dict(form) == size_dict(as_attributes(**form)) == form
    assert pad_size_dict(7) == pad_size_dict((7, 7)) == {"height": 7, "width": 7}


def test_a_resize_follows_the_form_of_its_size() -> None:
    assert size_after_resize(480, 640, {"shortest_edge": 800, "longest_edge": 1333}) == (800, 1066)
    assert size_after_resize(480, 640, {"shortest_edge": 240}) == (240, 320)
    assert size_after_resize(480, 640, {"max_height": 240, "max_width": 1000}) == (240, 320)
    assert size_after_resize(480, 640, {"height": 7, "width": 5}) == (7, 5)


@pytest.mark.parametrize(
    "size", [{"width": 5}, {"longest_edge": 5}, "800", 0, True, {"height": 5.5, "width": 5}, (1, 2, 3)]
)
def test_a_size_that_means_nothing_is_named(size: Any) -> None:
    with pytest.raises(ValueError, match=r"size|shortest_edge|height") as error:
        size_dict(size)
    assert "\n" not in str(error.value)


def test_sizes_are_known_without_loading_torch() -> None:
    program = "import sys, conditional_detr.images.sizes; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
