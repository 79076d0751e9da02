"""Fixtures that tests of prediction share."""

import pytest
from small_models import randomise, small_model

from conditional_detr import ConditionalDetrImageProcessor


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    randomise(small_model(id2label={0: "circle", 1: "square", 2: "triangle"})).save_pretrained(folder)
    ConditionalDetrImageProcessor(size={"shortest_edge": 64, "longest_edge": 128}).save_pretrained(folder)
    return folder
