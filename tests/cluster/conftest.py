"""A saved model whose classes are those of generated scenes."""

import pytest
from small_models import randomise, small_model

from conditional_detr import ConditionalDetrImageProcessor

pytest.importorskip("ray.data")


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cluster") / "model"
    randomise(small_model(id2label={0: "circle", 1: "square", 2: "triangle"})).save_pretrained(folder)
    ConditionalDetrImageProcessor(size={"shortest_edge": 48, "longest_edge": 64}).save_pretrained(folder)
    return folder
