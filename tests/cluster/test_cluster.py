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
        "predict", "--cluster", "local", "--model", model, "--images", pictures, "--output", output, "--threshold", 0, *more
    )


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
