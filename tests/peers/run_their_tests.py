"""transformers' own tests against this package's classes, changed by their imports alone.

    python tests/peers/run_their_tests.py [--checkout FOLDER]

Fetches the source of the installed transformers with pip, whose `tests/` hold what its tests of models share
(`test_modeling_common.py`); with a checkout of the same version, the tests of each model and image processor too. Each
file is run twice, as it is and with the classes imported from `conditional_detr.transformers`, and what transformers passes
and this package does not is printed, with the reason where it is known. Nothing of transformers' is kept.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tarfile
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import transformers

import conditional_detr.transformers as ours

HERE = Path(__file__).parent
# Of a checkout; those of the image processors stand beside the models'.
THEIR_FILES = [
    f"tests/models/{family}/test_{what}_{family}.py"
    for family in ("conditional_detr", "detr")
    for what in ("modeling", "image_processing")
]
# Tests that fail here for a reason, which is said; anything else that fails is a gap.
REASONS = {
    "test_eager_matches_sdpa_inference": "gives a decoder_attention_mask that is not of the queries, which Conditional DETR ignores "
    "there and which is refused here",
    "test_gradient_checkpointing_enable_disable": "asks for layers of transformers' own class",
    "test_training_gradient_checkpointing": "asks for layers of transformers' own class",
}


def fetch(folder: Path) -> Path:
    """transformers' source at the installed version, unpacked."""
    source = f"transformers=={transformers.__version__}"
    arguments = ["download", "--no-binary", ":all:", "--no-deps", "--no-build-isolation", "--dest", str(folder), source]
    subprocess.run([sys.executable, "-m", "pip", "--quiet", *arguments], check=True)
    (archive,) = folder.glob("transformers-*.tar.gz")
    with tarfile.open(archive) as file:
        file.extractall(folder, filter="data")
    return next(path for path in folder.iterdir() if path.is_dir())


# What the shared tests import and the released source leaves out: empty, so that what needs it is not run.
LEFT_OUT = {
    "exporters/test_export.py": "class ExportTesterMixin:\n    pass\n",
    "generation/test_utils.py": "class GenerationTesterMixin:\n    pass\n",
    "distributed_testing_utils.py": "def __getattr__(name):\n    return lambda *arguments, **options: None\n",
    "utils/test_configuration_utils.py": "config_common_kwargs = {'output_hidden_states': True, 'chunk_size_feed_forward': 5}\n",
}


def complete(tests: Path) -> None:
    """Put the modules that the source leaves out beside the shared tests."""
    (tests / "__init__.py").touch()
    for name, source in LEFT_OUT.items():
        path = tests / name
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            (path.parent / "__init__.py").touch()
            path.write_text(source, encoding="utf-8")


def with_our_imports(source: str) -> str:
    """A test's source, in which the names that this package has come from it."""

    def split(match: re.Match[str]) -> str:
        indent, names = match[1], [name.strip() for name in re.sub(r"#.*", "", match[2]).strip("()\n ").split(",")]
        here = [name for name in names if name in ours.__all__]
        there = [name for name in names if name and name not in ours.__all__]
        lines = [f"{indent}from transformers import {', '.join(there)}\n" if there else ""]
        lines += [f"{indent}from conditional_detr.transformers import {', '.join(here)}\n" if here else ""]
        return "".join(lines)

    return re.sub(r"^([ \t]*)from transformers import (\([^)]*\)|[^(\n]*)\n", split, source, flags=re.MULTILINE)


def outcomes(root: Path, files: list[Path], workers: int) -> dict[str, str]:
    """ "passed", "failed" or "skipped" of each test."""
    report = root / "report.xml"
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"--junitxml={report}"]
    parallel = ["-n", str(workers)] if workers > 1 else []
    subprocess.run([*command, *parallel, *map(str, files)], cwd=root, check=False, stdout=subprocess.DEVNULL)
    found = {}
    for case in ElementTree.parse(report).iter("testcase"):
        kinds = {child.tag for child in case}
        outcome = "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
        found[f"{case.get('classname', '').rpartition('.')[2]}.{case.get('name')}"] = outcome
    return found


def compare(root: Path, checkout: Path | None, workers: int) -> tuple[dict[str, str], dict[str, str]]:
    """Outcomes of transformers' classes and of ours, of the same tests."""
    tests = root / "tests"
    complete(tests)
    sources = {"test_models_of_peers.py": (HERE / "models_of_transformers.py").read_text(encoding="utf-8")}
    results = []
    for change in (str, with_our_imports):
        folder = tests / "peers"
        folder.mkdir(exist_ok=True)
        (folder / "__init__.py").touch()
        files = []
        for name, source in sources.items():
            files.append(folder / name)
            files[-1].write_text(change(source), encoding="utf-8")
        found = outcomes(root, files, workers)
        if checkout is not None:
            for name in THEIR_FILES:
                path = checkout / name
                before = path.read_text(encoding="utf-8")
                try:
                    path.write_text(change(before), encoding="utf-8")
                    found |= {f"{path.stem}:{test}": how for test, how in outcomes(checkout, [path], workers).items()}
                finally:
                    path.write_text(before, encoding="utf-8")
        results.append(found)
    return results[0], results[1]


def report(theirs: dict[str, str], own: dict[str, str]) -> float:
    """Print the counts and what is lacking; the share of what transformers passes that passes here too."""
    passed = [test for test, how in theirs.items() if how == "passed"]
    lacking = [test for test in passed if own.get(test) != "passed"]
    share = 1 - len(lacking) / max(1, len(passed))
    print(
        f"transformers {transformers.__version__} passes {len(passed)} of its tests; here {len(passed) - len(lacking)} of them pass ({share:.1%})"
    )
    for test in lacking:
        name = test.rpartition(".")[2]
        reason = next((why for start, why in REASONS.items() if name.startswith(start)), "no reason known: a gap")
        print(f"  {test}: {own.get(test, 'not run')}; {reason}")
    return share


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--checkout", type=Path, help="a checkout of transformers at the installed version")
    parser.add_argument("--workers", type=int, default=1, help="processes, with pytest-xdist")
    values = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report(*compare(fetch(Path(folder)), values.checkout, values.workers))


if __name__ == "__main__":
    main()
