"""Habits of users' code (`tests/habits`), with the classes here, and with -m slow with transformers' own.

    python tests/drop_in/test_habits.py conditional_detr.transformers

prints how many of each group pass, as a table; any module's classes can be named, `transformers` too.
"""

import sys
import tempfile
import traceback
from collections import Counter
from pathlib import Path

import pytest

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
from habits.world import GROUPS, World, habits, save_checkpoint

pytest.importorskip("transformers")
HABITS = [pytest.param(habit, id=f"{group}-{habit.__name__}") for group, habit in habits()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("habits") / "model"
    save_checkpoint(folder)
    return folder


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("habit", HABITS)
def test_habits_of_users_work_here(habit, folder, tmp_path):
    World("conditional_detr.transformers", folder, tmp_path).call(habit)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("habit", HABITS)
def test_they_are_habits_that_transformers_has(habit, folder, tmp_path):
    World("transformers", folder, tmp_path).call(habit)


def main(module):
    """Print a table of how many habits of each group pass, and why others do not."""
    passed, all_of_them = Counter(), Counter()
    with tempfile.TemporaryDirectory() as root:
        save_checkpoint(Path(root) / "model")
        for group, habit in habits():
            all_of_them[group] += 1
            tmp = Path(root) / f"{group}-{habit.__name__}"
            tmp.mkdir()
            try:
                World(module, Path(root) / "model", tmp).call(habit)
                passed[group] += 1
            except pytest.skip.Exception:
                all_of_them[group] -= 1
            except Exception as error:
                where = [f.line for f in traceback.extract_tb(error.__traceback__) if "habits" in f.filename][-1]
                print(f"{group}-{habit.__name__}: {where}: {type(error).__name__} {str(error).strip()[:150]!r}")
    print(f"| habits of | {module} | of |\n|---|---|---|")
    for group in GROUPS:
        print(f"| {group} | {passed[group]} | {all_of_them[group]} |")
    print(f"| all | {passed.total()} | {all_of_them.total()} |")


if __name__ == "__main__":
    main(sys.argv[1])
