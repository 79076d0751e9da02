"""Models that are served."""

import pytest
import torch

pytest.importorskip("fastapi")

from served_models import save
from small_models import small_config, small_model

from conditional_detr import ConditionalDetrForSegmentation, Detector


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    torch.manual_seed(0)
    return save(small_model(), tmp_path_factory.mktemp("served") / "model")


@pytest.fixture(scope="session")
def mask_model_folder(tmp_path_factory):
    torch.manual_seed(0)
    model = ConditionalDetrForSegmentation(small_config(is_thing=[True, True, False]))
    return save(model, tmp_path_factory.mktemp("served") / "masks")


@pytest.fixture(scope="module")
def detector(model_folder):
    return Detector.from_pretrained(model_folder, device="cpu")
