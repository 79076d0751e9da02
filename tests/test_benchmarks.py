"""The benchmarks run, and write what they measured. What it is, is not tested: clocks are for those who read them."""

import importlib
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def benchmark(monkeypatch, tmp_path):
    """(name) -> run it in small, and give what it wrote, by file name."""
    monkeypatch.syspath_prepend(str(ROOT))

    def run(name, *more):
        importlib.import_module(f"benchmarks.{name}").main(
            ["--quick", "--threads", "1", "--output", str(tmp_path), *more]
        )
        for kind in ("md", "png"):
            assert {f.stem for f in tmp_path.glob("*.json")} == {f.stem for f in tmp_path.glob(f"*.{kind}")}
        return {file.stem: json.loads(file.read_text()) for file in tmp_path.glob("*.json")}

    return run


@pytest.mark.parametrize(
    ("name", "tables"),
    [
        pytest.param("inference", {"one_image", "many_images"}, marks=pytest.mark.numeric),
        ("training", {"training_step", "training_step_with_padding"}),
        ("losses", {"losses"}),
        ("masks", {"masks", "mask_losses"}),
        ("loading", {"loading"}),
        ("evaluation", {"coco_ap", "start"}),
        ("annotations", {"annotations"}),
        pytest.param("start", {"processes"}, marks=pytest.mark.slow),
        pytest.param("engines", {"engines"}, marks=pytest.mark.slow),
        ("groups", {"groups_of_queries_in_float32", "groups_of_queries_in_bfloat16"}),
    ],
)
def test_a_benchmark_writes_each_contenders_times_and_the_machine(benchmark, name, tables):
    written = benchmark(name)
    assert set(written) == tables
    for table in written.values():
        assert all(row["median_seconds"] > 0 for row in table["rows"])
        assert table["facts"]["float32_gflops"] > 0
        assert float(table["facts"].get("largest_score_difference", 0)) < 1e-4
        assert table["facts"]["command"].startswith(f"python -m benchmarks.{name} --quick")


@pytest.mark.slow
def test_a_served_model_answers_every_caller_and_refuses_what_is_hostile(benchmark):
    pytest.importorskip("fastapi")
    written = benchmark("serving")
    callers, hostile = written["serving_under_load"]["rows"]
    assert callers["answered"] == callers["requests"] == 24 and callers["wrong"] == 0
    assert hostile["not 4xx"] == [] and sum(hostile["statuses"].values()) == hostile["requests"] == 40


def test_both_libraries_lose_the_same_in_what_is_timed(benchmark):
    facts = benchmark("losses")["losses"]["facts"]
    assert facts["loss_ours"] == pytest.approx(facts["loss_transformers"], abs=2e-3)


def test_the_peak_memory_of_one_contender_is_printed_alone(benchmark, capsys, tmp_path):
    title = "Losses: with their backward pass, 6 layers, batch 2, 20 queries, 3 targets, 91 classes"
    assert benchmark("losses", "--peak_of", f"{title}/ours") == {}
    assert 0.1 < float(capsys.readouterr().out) < 8


def test_the_original_is_asked_for_where_it_is_not(benchmark, tmp_path):
    with pytest.raises(SystemExit, match=r"no models/conditional_detr\.py there"):
        benchmark("loading", "--original", str(tmp_path))


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
@pytest.mark.slow
def test_damaged_files_and_broken_runs_end_in_one_line_and_the_same_weights(monkeypatch, tmp_path):
    """A few of each kind; `python -m benchmarks.faults` does more."""
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.setattr(sys, "argv", ["faults", "--count", "3", "--output", str(tmp_path / "counts.json")])
    importlib.import_module("benchmarks.faults").main()
    counts = json.loads((tmp_path / "counts.json").read_text())
    kinds = {"signals", "workers", "disk", "checkpoints", "json", "pictures", "models"}
    assert kinds <= set(counts)
    fine = {
        "SIGTERM sent", "SIGINT sent", "SIGKILL sent", "complete all the same", "ended before the signal", "slow to end",
        "killed", "too late", "explained", "not needed any more", "said", "continued", "refused in a line", "accepted",
    }  # fmt: skip
    for kind in kinds:
        assert not set(counts[kind]) - fine, (kind, counts[kind])


@pytest.mark.skipif(sys.platform != "linux", reason="spawns processes over gloo")
@pytest.mark.slow
def test_growth_is_written_beside_theory(benchmark):
    rows = benchmark("scaling")["scaling"]["rows"]
    assert all({"growth", "theory", "why"} <= set(row) for row in rows)


@pytest.mark.slow
def test_a_cluster_of_this_machine_loses_and_doubles_nothing(benchmark):
    pytest.importorskip("ray.data")
    written = benchmark("cluster")
    assert all(row["same_rows"] for row in written["cluster_rates"]["rows"])
    whole, killed, *_ = written["cluster_memory"]["rows"]
    for row in (whole, killed):
        assert (row["missing"], row["double"], row["same rows"]) == (0, 0, True)
