"""Fixtures that all tests share."""

import os

import pytest
import torch
from golden_cases import NOT_HERE, golden, golden_weights, shared

from conditional_detr.models.family import family_of

# One thread unless it is said otherwise: the models here are too small for more, and machines are shared.
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1").split(",")[0]))


def pytest_terminal_summary(terminalreporter):
    """Say what was not checked for want of `../shared`."""
    skipped = [r for r in terminalreporter.stats.get("skipped", []) if NOT_HERE in str(r.longrepr)]
    if skipped:
        terminalreporter.write_line(
            f"{len(skipped)} tests were skipped because ../shared (golden files, data) is not beside this checkout: "
            "nothing was compared with the original implementations' outputs",
            yellow=True,
        )


@pytest.fixture(autouse=True)
def _same_numbers_every_time():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def golden_pth(tmp_path_factory):
    """(family) -> a `.pth` file of the original's golden weights."""

    def write(family):
        _, facts = golden(f"{family}_r18")
        path = tmp_path_factory.mktemp("golden") / f"{family}.pth"
        torch.save({"model": golden_weights(facts["parameters"])}, path)
        return path

    return write


@pytest.fixture(scope="session")
def golden_model(golden_pth):
    """(family) -> the detector with golden weights in float64, opened from a `.pth` file as a user would."""
    return lambda family: family_of(family).detector.from_pretrained(golden_pth(family), dtype=torch.float64)


@pytest.fixture
def bccd():
    return shared("data/bccd")


@pytest.fixture(scope="session")
def scenes(tmp_path_factory):
    """A small generated data set: 24 training and 10 validation images of 64 × 64 pixels, three classes."""
    from conditional_detr.data.scenes import generate_scenes

    return generate_scenes(tmp_path_factory.mktemp("data") / "scenes", {"train": 24, "val": 10}, size=64, max_objects=4)
