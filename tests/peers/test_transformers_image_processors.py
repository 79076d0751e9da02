"""transformers' own tests of image processors, of its installed version, with this package's classes in place of its.

`pip download` fetches the source distribution, which has the tests that all image processors share; nothing of them is kept
here. What a family's own file adds to them is a dozen lines, below. Of a checkout of transformers, `TRANSFORMERS_CHECKOUT`,
the families' own files are run as well.

    python -m pytest -m slow tests/peers/test_transformers_image_processors.py -s
"""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

transformers = pytest.importorskip("transformers")
pytest.importorskip("parameterized")

CATS = Path(__file__).parents[3] / "shared" / "data" / "coco_cats" / "000000039769.png"
FAMILIES = ("conditional_detr", "detr")

# What transformers passes and this package does not, each with its reason.
DIFFERENT = {
    "test_pil_can_run_without_torchvision": "processors here compute with torchvision, which the package needs anyway",
    # Of the families' own files:
    "test_batched_coco_detection_annotations": "boxes are relative to their image, not to the canvas (trap 7)",
    "test_batched_coco_panoptic_annotations": "the same; and the PNG has other proportions than its second image",
}

FAMILY_FILE = """
import unittest
from types import SimpleNamespace

import torch

from ...test_image_processing_common import (
    AnnotationFormatTestMixin,
    ImageProcessingTester,
    ImageProcessingTestMixin,
    PostProcessSemanticSegmentationTestMixin,
)


class Tester(ImageProcessingTester):
    def __init__(self, parent, **options):
        size = {"shortest_edge": 18, "longest_edge": 1333}
        half = [0.5, 0.5, 0.5]
        defaults = dict(size=size, image_mean=half, image_std=half, do_pad=True, do_resize=True, num_labels=5)
        super().__init__(parent, **{**defaults, **options})

    def prepare_post_process_semantic_segmentation_inputs(self):
        classes = self.num_labels + (".detr." in __name__)
        logits, masks = torch.randn(self.batch_size, 6, classes), torch.randn(self.batch_size, 6, 12, 16)
        expected = {"num_labels": self.num_labels, "height": 12, "width": 16}
        return {"outputs": SimpleNamespace(logits=logits, pred_masks=masks)}, expected


class SharedTests(
    PostProcessSemanticSegmentationTestMixin, AnnotationFormatTestMixin, ImageProcessingTestMixin, unittest.TestCase
):
    image_processor_tester_class = Tester
"""

# The names that a test imports: from transformers, but where this package has them.
IMPORTS = {
    "from transformers import AutoImageProcessor, BatchFeature\n": (
        "from conditional_detr.transformers import AutoImageProcessor\nfrom transformers import BatchFeature\n"
    ),
    "    get_image_processor_class_from_name,\n": "",
    "from transformers.processing_utils import ImagesKwargs\n": (
        "from transformers.processing_utils import ImagesKwargs\n"
        "import functools, conditional_detr.transformers\n"
        "get_image_processor_class_from_name = functools.partial(getattr, conditional_detr.transformers)\n"
    ),
}


def fetched_tests(folder: Path) -> Path:
    """The folder `tests` of transformers' source, of the installed version."""
    checkout = os.environ.get("TRANSFORMERS_CHECKOUT")
    if checkout:
        shutil.copytree(Path(checkout) / "tests", folder / "tests")
        return folder / "tests"
    wanted = f"transformers=={transformers.__version__}"
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-binary",
        ":all:",
        "--no-deps",
        wanted,
        "--dest",
        str(folder),
    ]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip(f"the source of {wanted} cannot be fetched")
    (archive,) = folder.glob("transformers-*.tar.gz")
    with tarfile.open(archive) as members:
        tests = [member for member in members if "/tests/" in member.name]
        members.extractall(folder, tests, filter="data")
    (tests_folder,) = folder.glob("transformers-*/tests")
    return tests_folder


def complete(tests: Path) -> None:
    """What the shared tests need beside them: a file a family, the picture and annotations, and no network."""
    fixtures = tests / "fixtures" / "tests_samples" / "COCO"
    (fixtures / "coco_panoptic").mkdir(parents=True, exist_ok=True)
    if not (fixtures / "coco_annotations.txt").is_file():
        picture = Image.open(CATS) if CATS.is_file() else Image.new("RGB", (640, 480), "grey")
        picture.save(fixtures / "000000039769.png")
        box = {"category_id": 17, "bbox": [18, 54, 301, 415], "area": 53306, "iscrowd": 0}
        (fixtures / "coco_annotations.txt").write_text(json.dumps([box]))
        ids = np.zeros((480, 640, 3), np.uint8)
        ids[54:469, 18:319, 0] = 7
        Image.fromarray(ids).save(fixtures / "coco_panoptic" / "000000039769.png")
        (fixtures / "coco_panoptic_annotations.txt").write_text(json.dumps([{**box, "id": 7}]))
    (tests.parent / "utils").mkdir(exist_ok=True)
    if not (tests.parent / "utils" / "fetch_hub_objects_for_ci.py").is_file():
        picture = fixtures / "000000039769.png"
        (tests.parent / "utils" / "fetch_hub_objects_for_ci.py").write_text(
            f"def url_to_local_path(url):\n    return {str(picture)!r}\n"
        )
    for family in FAMILIES:
        (tests / "models" / family).mkdir(parents=True, exist_ok=True)
        for package in (tests, tests / "models", tests / "models" / family):
            (package / "__init__.py").touch()
        (tests / "models" / family / "test_shared.py").write_text(FAMILY_FILE)


def change_imports(tests: Path) -> None:
    """Put this package's names in place of transformers', by the import lines alone."""
    shared = tests / "test_image_processing_common.py"
    text = shared.read_text()
    for line, ours in IMPORTS.items():
        assert line in text, line
        text = text.replace(line, ours, 1)
    shared.write_text(text)
    for family in FAMILIES:
        for file in (tests / "models" / family).glob("test_image_processing_*.py"):
            text = file.read_text()
            for name in ("ConditionalDetrImageProcessor", "DetrImageProcessor"):
                for older in ("", "Fast", "Pil"):
                    text = text.replace(
                        f"from transformers import {name}{older}\n",
                        f"from conditional_detr.transformers import {name}{older}\n",
                    )
            file.write_text(text)


def outcomes(tests: Path) -> dict[str, str]:
    """Of each test "passed", "skipped" or the first line of what failed."""
    report = tests.parent / "report.xml"
    files = [str(path) for family in FAMILIES for path in (tests / "models" / family).glob("test_*.py")]
    files = [file for file in files if "model" not in Path(file).name]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", *files]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "RUN_SLOW": "1"}
    subprocess.run(command, cwd=tests.parent, env=environment, capture_output=True, check=False)
    found = {}
    for case in ET.parse(report).iter("testcase"):
        failure = next((part for part in case if part.tag in ("failure", "error", "skipped")), None)
        name = f"{case.get('classname', '').split('.', 2)[-1]}::{case.get('name')}"
        found[name] = (
            "passed" if failure is None else failure.tag + ": " + (failure.get("message") or "").split("\n")[0]
        )
    return found


@pytest.mark.slow
def test_what_transformers_passes_of_its_tests_of_image_processors_passes_here(tmp_path: Path) -> None:
    tests = fetched_tests(tmp_path)
    complete(tests)
    theirs = outcomes(tests)
    change_imports(tests)
    ours = outcomes(tests)
    passed = [name for name, outcome in theirs.items() if outcome == "passed"]
    failed = {name: ours.get(name, "not run") for name in passed if ours.get(name) != "passed"}
    print(
        f"\n{len(passed)} of {len(theirs)} pass in transformers {transformers.__version__}, {len(failed)} of them not here"
    )
    for name, outcome in failed.items():
        print(f"  {name}: {outcome}")
    assert len(passed) > 30
    assert {name for name in failed if name.split("::")[1] not in DIFFERENT} == set()
