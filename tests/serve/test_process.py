"""`cdetr serve` as a process: one line for what is wrong, and no accepted request lost when it is asked to stop."""

import asyncio
import importlib
import json
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from served_models import picture

from conditional_detr.cli import main

ROOT = Path(__file__).parents[2]


def refused(capsys, *arguments):
    code, streams = main(["serve", *arguments]), capsys.readouterr()
    assert streams.err.count("\n") == 1 and streams.err.startswith("cdetr: "), streams.err
    return code, streams.err


def test_a_port_in_use_is_said_in_one_line_before_the_model_is_loaded(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, line = refused(capsys, "--model", "no/such/model", "--port", str(port))
    assert code == 1 and f"port {port} of 127.0.0.1 cannot be taken" in line and "--port 0" in line


@pytest.mark.parametrize(
    ("option", "value", "code", "part"),
    [
        ("--port", "70000", 2, "--port is 70000; it is a number from 0"),
        ("--queue", "0", 2, "--queue is 0; it must be positive"),
        ("--max_megapixels", "-1", 2, "it must be positive"),
        ("--host", "no.such.host.invalid", 1, "--host no.such.host.invalid"),
        ("--precision", "fp8", 2, "--precision is 'fp8'"),
    ],
)
def test_wrong_options_are_said_in_one_line(option, value, code, part, capsys, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    found, line = refused(capsys, "--model", "no/such/model", "--port", "0", option, value)
    assert found == code and part in line


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGTERM")
def test_asked_to_stop_it_answers_what_it_has_accepted_and_ends_well(model_folder, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    http = importlib.import_module("benchmarks.http_client")
    command = [sys.executable, "-m", "conditional_detr", "serve", "--model", str(model_folder), "--port", "0"]
    process = subprocess.Popen([*command, "--threads", "1"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        port = next(int(found[1]) for line in process.stdout if (found := re.search(r"listening on \S+:(\d+)", line)))
        bodies = [http.post(http.multipart([picture()] * 20)) for _ in range(10)]
        answers = []
        senders = threading.Thread(target=lambda: answers.extend(asyncio.run(http.send_all(port, bodies, 10))))
        senders.start()
        with socket.create_connection(("127.0.0.1", port)) as other:  # the server has taken what came before this
            other.sendall(b"GET /health HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
            health = b"".join(iter(lambda: other.recv(4096), b""))
        process.send_signal(signal.SIGTERM)
        senders.join()
        output, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert json.loads(health.partition(b"\r\n\r\n")[2])["status"] == "ok"
    assert [answer.status for answer in answers] == [200] * 10
    assert all(len(json.loads(answer.body)["results"]) == 20 for answer in answers)
    assert process.returncode == 0 and errors == "" and "every request that was accepted" in output
