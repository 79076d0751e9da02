"""What users of `--cluster` rely on, on clusters of Ray's that run here."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import psutil
import pytest
from cluster_pictures import rows_of, write_pictures

from conditional_detr.cli import main
from conditional_detr.cluster import connect
from conditional_detr.cluster.connect import check_cluster

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def cdetr(*arguments):
    """A command, as a process of its own that can be ended as a whole."""
    command = [sys.executable, "-m", "conditional_detr", *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT, start_new_session=True
    )


def finished(process):
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def predict(model, pictures, output, *more):
    return cdetr(
        "predict",
        "--cluster",
        "local",
        "--model",
        model,
        "--images",
        pictures,
        "--output",
        output,
        "--threshold",
        0,
        *more,
    )


@pytest.mark.slow
def test_a_cluster_of_this_machine_gives_what_this_machine_gives(model, tmp_path, capsys):
    pictures = write_pictures(tmp_path / "pictures", 7)
    (pictures / "00003.png").write_bytes(b"no picture")
    code, out, err = finished(predict(model, pictures, tmp_path / "out", "--part_size", 4, "--actors", 1))
    assert code == 0, err
    assert "detections in 6 images: 180" in out and "1 images could not be used; first: " in out
    assert "usage" not in err and "dashboard" not in out + err
    options = ["--threshold", "0", "--draw", "false", "--skip_bad_images", "true", "--device", "cpu"]
    assert not main(["predict", "--model", str(model), "--images", str(pictures), "--output", str(tmp_path), *options])
    assert rows_of(tmp_path / "out") == [
        json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()
    ]


SLOWLY = ("--image_size", 256, "--max_size", 384, "--part_size", 8)  # so that there is a middle


def processes_of(command, title):
    """Ray's processes under a command whose titles have these words."""
    found = []
    for process in psutil.Process(command.pid).children(recursive=True):
        try:
            if title in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def wait_for_parts(command, output, count):
    while len(list(output.glob("part-*"))) < count:
        assert command.poll() is None, command.communicate()
        time.sleep(0.05)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("many") / "pictures", 160)


@pytest.fixture(scope="module")
def expected(model, pictures, tmp_path_factory):
    output = tmp_path_factory.mktemp("whole")
    code, _, err = finished(predict(model, pictures, output, *SLOWLY))
    assert code == 0, err
    rows = rows_of(output)
    assert len({row["file"] for row in rows}) == len(rows) == 160
    return rows


@pytest.mark.slow
def test_a_killed_actor_loses_nothing_and_doubles_nothing(model, pictures, expected, tmp_path):
    command = predict(model, pictures, tmp_path / "out", *SLOWLY)
    wait_for_parts(command, tmp_path / "out", 2)
    processes_of(command, "ray::MapWorker(MapBatches(BatchDetector))")[0].kill()
    assert len(list((tmp_path / "out").glob("part-*"))) < 20, "nothing was left to do"
    code, _, err = finished(command)
    assert code == 0, err
    assert rows_of(tmp_path / "out") == expected


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_what_is_started_again_does_what_is_missing(model, pictures, expected, tmp_path, number):
    output = tmp_path / "out"
    command = predict(model, pictures, output, *SLOWLY)
    wait_for_parts(command, output, 3)
    os.kill(command.pid, number)
    code, _, err = finished(command)
    assert code == (-9 if number == signal.SIGKILL else 128 + number), err
    if number != signal.SIGKILL:
        assert "of 160 images are in" in err and "Traceback" not in err
    before = {path.name: path.stat().st_mtime_ns for path in output.glob("part-*")}
    assert 3 <= len(before) < 20
    code, out, err = finished(predict(model, pictures, output, *SLOWLY))
    assert code == 0 and "images are there already" in out, err
    assert {name: (output / name).stat().st_mtime_ns for name in before} == before
    assert rows_of(output) == expected and not list(output.glob(".*"))


@pytest.mark.slow
def test_eval_gives_the_figures_and_the_predictions_of_one_machine(model, scenes, tmp_path):
    for name, more in (("one", ["--device", "cpu"]), ("many", ["--cluster", "local"])):
        files = ["--predictions", tmp_path / f"{name}.json", "--metrics", tmp_path / f"{name}-metrics.json"]
        code, _, err = finished(cdetr("eval", "--model", model, "--data", scenes, *files, *more))
        assert code == 0, err
    for kind in (".json", "-metrics.json"):
        assert (tmp_path / f"one{kind}").read_bytes() == (tmp_path / f"many{kind}").read_bytes()


def test_an_address_that_says_nothing_ends_in_a_line(monkeypatch):
    assert connect.SECONDS_TO_ANSWER < 20
    monkeypatch.setattr(connect, "SECONDS_TO_ANSWER", 2)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes calls, and never answers
        threading.Thread(target=silent.accept, daemon=True).start()
        port = silent.getsockname()[1]
        with pytest.raises(RuntimeError, match=rf"no cluster of Ray's answers at 127\.0\.0\.1:{port}"):
            check_cluster(f"127.0.0.1:{port}")
    with pytest.raises(RuntimeError, match="run the command on a machine of the cluster"):
        check_cluster("ray://127.0.0.1:10001")


def test_without_ray_the_extra_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["predict", "--model", "m", "--images", "i", "--cluster", "local"]) == 1
    assert capsys.readouterr().err == 'cdetr: --cluster needs ray: pip install "conditional-detr[cluster]"\n'


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--actors", "2"], "--actors is for --cluster"),
        (["--write", "parquet"], "--write parquet is for --cluster"),
        (["--cluster", "local", "--write", "coco"], "--write is jsonl or parquet"),
        (["--cluster", "local", "--part_size", "0"], "--part_size is 0"),
        (["--cluster", "local", "--tile", "auto"], "--tile is for one machine"),
        (["--cluster", "local", "--workers", "2"], "--workers is for one machine"),
        (["--cluster", "local", "--actors", "-1"], "--actors is -1"),
    ],
)
def test_options_that_mean_nothing_together_are_refused(capsys, options, message):
    assert main(["predict", "--model", "m", "--images", "i", *options]) == 2
    assert message in capsys.readouterr().err
