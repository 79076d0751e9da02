"""Fixtures that all tests share."""

import pytest
import torch
from golden_cases import SHARED, golden, golden_weights

from conditional_detr.models.detection import DETECTORS


@pytest.fixture(autouse=True)
def _same_numbers_every_time():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def golden_model(tmp_path_factory):
    """(family) -> the detector with golden weights, opened from a `.pth` file as a user would."""

    def load(family):
        _, facts = golden(f"{family}_r18")
        path = tmp_path_factory.mktemp("golden") / f"{family}.pth"
        torch.save({"model": golden_weights(facts["parameters"])}, path)
        return DETECTORS[family].from_pretrained(path)

    return load


@pytest.fixture
def bccd():
    folder = SHARED / "data" / "bccd"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here")
    return folder
