"""transformers' own tests of models and image processors, of its installed version, with this package's classes in place
of its: by changed imports alone.

    python -m pytest -m slow tests/peers -s

`pip download` fetches transformers' source distribution, which has the tests that all models and all image processors
share; nothing of them is kept here. What a family adds to them stands in `models_of_transformers.py` and
`image_processors_of_transformers.py`; from a checkout of transformers, `TRANSFORMERS_CHECKOUT=FOLDER`, the families' own
files are run instead. What transformers passes and this package does not is printed, with its reason.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

transformers = pytest.importorskip("transformers", minversion="5")
pytest.importorskip("parameterized")
import conditional_detr.transformers as ours  # noqa: E402

HERE = Path(__file__).parent
CATS = Path(__file__).parents[3] / "shared" / "data" / "coco_cats" / "000000039769.png"
FAMILIES = ("conditional_detr", "detr")
TEMPLATES = {"modeling": "models_of_transformers.py", "image_processing": "image_processors_of_transformers.py"}

# What transformers passes and this package does not, by how the test's name begins. A test that is not here fails the run.
REASONS = {
    # Insides of transformers:
    "test_can_load_from_already_mapped_keys": "skips: about transformers' own table of older names; here checkpoints/names.py is",
    "test_reverse_loading_mapping": "skips: the same",
    "test_capture_outputs_decorator": "skips: about how transformers' models collect hidden states",
    "test_pil_can_run_without_torchvision": "processors here compute with torchvision, which the package needs anyway",
    # Different on purpose, docs/coming-from.md:
    "test_batched_coco_detection_annotations": "boxes are relative to their image, not to the canvas (trap 7)",
    "test_batched_coco_panoptic_annotations": "the same; and the PNG has other proportions than its second image",
}

# What the shared tests import and the released source leaves out: empty, so that what needs it is not run.
LEFT_OUT = {
    "exporters/test_export.py": "class ExportTesterMixin:\n    pass\n",
    "generation/test_utils.py": "class GenerationTesterMixin:\n    pass\n",
    "distributed_testing_utils.py": "def __getattr__(name):\n    return lambda *arguments, **options: None\n",
    "utils/test_configuration_utils.py": "config_common_kwargs = {'output_hidden_states': True, 'chunk_size_feed_forward': 5}\n",
}

# Imports that are no `from transformers import`: the class of a name comes from this package.
FROM_NAME = "    get_image_processor_class_from_name,\n"
OWN_FROM_NAME = (
    "import functools, conditional_detr.transformers\n"
    "get_image_processor_class_from_name = functools.partial(getattr, conditional_detr.transformers)\n"
)


@pytest.fixture(scope="module")
def tests(tmp_path_factory):
    """The folder `tests` of transformers' source, with what the shared tests need beside them."""
    folder = tmp_path_factory.mktemp("source")
    checkout = os.environ.get("TRANSFORMERS_CHECKOUT")
    if checkout:
        shutil.copytree(Path(checkout) / "tests", folder / "tests")
        found = folder / "tests"
    else:
        found = fetched(folder)
    complete(found)
    return found


def fetched(folder):
    """`tests` of the source distribution of the installed version; skips where it cannot be fetched."""
    wanted = f"transformers=={transformers.__version__}"
    options = ["--no-binary", ":all:", "--no-deps", "--no-build-isolation", "--dest", str(folder)]
    command = [sys.executable, "-m", "pip", "download", *options, wanted]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip(f"the source of {wanted} cannot be fetched")
    (archive,) = folder.glob("transformers-*.tar.gz")
    with tarfile.open(archive) as members:
        members.extractall(folder, [m for m in members if "/tests/" in m.name], filter="data")
    (tests,) = folder.glob("transformers-*/tests")
    return tests


def complete(tests):
    """The modules that the source leaves out, a picture with annotations, and what each family adds."""
    for name, source in LEFT_OUT.items():
        path = tests / name
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            (path.parent / "__init__.py").touch()
            path.write_text(source, encoding="utf-8")
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
    of_ci = tests.parent / "utils" / "fetch_hub_objects_for_ci.py"  # which would fetch the picture
    of_ci.parent.mkdir(exist_ok=True)
    if not of_ci.is_file():
        of_ci.write_text(f"def url_to_local_path(url):\n    return {str(fixtures / '000000039769.png')!r}\n")
    for family in FAMILIES:
        folder = tests / "models" / family
        folder.mkdir(parents=True, exist_ok=True)
        for package in (tests, tests / "models", folder):
            (package / "__init__.py").touch()
        for what, template in TEMPLATES.items():
            if not (folder / f"test_{what}_{family}.py").is_file():
                shutil.copy(HERE / template, folder / f"test_{what}_{family}.py")


def with_our_imports(source):
    """A test's source, in which the names that this package has come from it."""

    def split(match):
        indent, names = match[1], [name.strip() for name in re.sub(r"#.*", "", match[2]).strip("()\n ").split(",")]
        here = [name for name in names if name in ours.__all__]
        there = [name for name in names if name and name not in ours.__all__]
        lines = [f"{indent}from transformers import {', '.join(there)}\n" if there else ""]
        lines += [f"{indent}from conditional_detr.transformers import {', '.join(here)}\n" if here else ""]
        return "".join(lines)

    changed = re.sub(r"^([ \t]*)from transformers import (\([^)]*\)|[^(\n]*)\n", split, source, flags=re.MULTILINE)
    if FROM_NAME in changed:
        changed = changed.replace(FROM_NAME, "", 1)
        changed = re.sub(r"^(from transformers.processing_utils import .*\n)", rf"\1{OWN_FROM_NAME}", changed, count=1, flags=re.M)  # fmt: skip
    return changed


def outcomes(tests, files):
    """Of each test "passed", or "failed" or "skipped" with the first line of why."""
    report = tests.parent / "report.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", *map(str, files)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    if "image_processing" in files[0].name:
        environment["RUN_SLOW"] = "1"  # they take seconds
    environment.pop("PYTEST_ADDOPTS", None)
    subprocess.run(command, cwd=tests.parent, env=environment, capture_output=True, check=False)
    found = {}
    for case in ElementTree.parse(report).iter("testcase"):
        part = next((part for part in case if part.tag in ("failure", "error", "skipped")), None)
        outcome = "passed"
        if part is not None:
            kind = "skipped" if part.tag == "skipped" else "failed"
            outcome = f"{kind}: {(part.get('message') or '').splitlines()[0]}"
        name = f"{case.get('classname', '').split('.', 2)[-1]}::{case.get('name')}"
        if not found.get(name, "").startswith("failed"):  # a subtest of it did
            found[name] = outcome
    return found


@pytest.mark.slow
@pytest.mark.parametrize("what", TEMPLATES)
def test_what_transformers_passes_of_its_own_tests_passes_here(what, tests):
    files = [tests / "models" / family / f"test_{what}_{family}.py" for family in FAMILIES]
    theirs = outcomes(tests, files)
    for file in (*files, tests / "test_image_processing_common.py"):
        file.write_text(with_our_imports(file.read_text(encoding="utf-8")), encoding="utf-8")
    here = outcomes(tests, files)
    passed = [name for name, outcome in theirs.items() if outcome == "passed"]
    rest = {name: here.get(name, "not run") for name in passed if here.get(name) != "passed"}
    share = 1 - len(rest) / max(1, len(passed))
    print(f"\ntransformers {transformers.__version__} passes {len(passed)} of its tests of {what}", end="; ")
    print(f"here {len(passed) - len(rest)} of them pass ({share:.1%})")
    reasons = {name: [why for start, why in REASONS.items() if name.split("::")[1].startswith(start)] for name in rest}
    for name, outcome in rest.items():
        print(f"  {name}: {outcome}: {'; '.join(reasons[name]) or 'a gap'}")
    assert len(passed) > 30
    assert [name for name in rest if not reasons[name]] == []
    assert share >= 0.95
