"""Pictures over HTTP: what comes back is what `Detector` finds, and what is no picture is refused in one line."""

import asyncio
import base64
import importlib
import io
import json
import random
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from same_detections import assert_same_detections
from served_models import NAMES, held, picture, served
from starlette.testclient import TestClient

from conditional_detr import Detector
from conditional_detr.serve.app import make_app
from conditional_detr.serve.limits import Limits

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def client(detector):
    with TestClient(make_app(detector, "demo")) as client:
        yield client


def form(*pictures):
    return [("files", (f"{i}.jpg", data)) for i, data in enumerate(pictures)]


def figures(client):
    """Name and labels -> value, of /metrics."""
    families = text_string_to_metric_families(client.get("/metrics").text)
    return {(s.name, *sorted(s.labels.values())): s.value for family in families for s in family.samples}


def assert_refused(answer, status, *parts):
    assert answer.status_code == status, answer.text
    message = answer.json()["detail"]
    assert "\n" not in message and all(part in message for part in parts), message


def test_results_are_the_detectors_in_the_order_sent_whatever_shares_a_batch(client, detector):
    pictures = [
        picture(90, 60, "PNG", 1),
        picture(60, 90, "JPEG", 2),
        picture(90, 60, "WEBP", 3),
        picture(64, 64, "BMP", 4),
    ]
    before = figures(client)
    answer = client.post("/v1/detect?threshold=0.3", files=form(*pictures))
    assert answer.status_code == 200
    results = answer.json()["results"]
    assert [(r["width"], r["height"]) for r in results] == [(90, 60), (60, 90), (90, 60), (64, 64)]
    for result, expected in zip(results, detector.detect(pictures, 0.3), strict=True):
        assert_same_detections(result["detections"], expected, score=1e-4, box=0.01)
        assert all(set(found) == {"label", "score", "box", "class_id"} for found in result["detections"])
    assert sum(len(result["detections"]) for result in results) > 4
    after = figures(client)
    grown = {key: after[key] - before.get(key, 0) for key in after}
    assert grown["cdetr_batch_pictures_count",] == 3 and grown["cdetr_batch_pictures_sum",] == 4


def test_json_with_base64_gives_what_a_form_gives(client):
    data = picture()
    text = base64.b64encode(data).decode()
    wrapped = base64.encodebytes(data).decode()
    expected = client.post("/v1/detect", files=form(data, data, data)).json()
    assert (
        client.post("/v1/detect", json={"files": [text, wrapped, f"data:image/jpeg;base64,{text}"]}).json() == expected
    )


def test_a_rotated_photograph_is_answered_as_it_is_seen(client, detector):
    exif = Image.Exif()
    exif[274] = 6
    file = io.BytesIO()
    Image.open(io.BytesIO(picture(90, 60))).save(file, "JPEG", exif=exif)
    (result,) = client.post("/v1/detect?threshold=0.1", files=form(file.getvalue())).json()["results"]
    assert (result["width"], result["height"]) == (60, 90)
    assert_same_detections(result["detections"], detector(file.getvalue(), 0.1), score=1e-4, box=0.01)


def test_masks_are_run_lengths_of_the_picture(mask_model_folder):
    detector = Detector.from_pretrained(mask_model_folder, device="cpu")
    with TestClient(make_app(detector, "masks")) as client:
        (result,) = client.post("/v1/detect?threshold=0.3", files=form(picture())).json()["results"]
    expected = detector(picture(), 0.3)
    assert expected and [found["mask"] for found in result["detections"]] == [d.run_lengths for d in expected]
    assert expected[0].run_lengths["size"] == [60, 90]


def test_attention_of_a_detection_is_the_detectors(client, detector):
    expected = detector.explain(picture(), 0.1)[1]
    answer = client.post("/v1/explain?threshold=0.1&detection=1", files=form(picture()))
    assert answer.json()["label"] == expected.detection.label
    assert np.allclose(answer.json()["attention"], expected.attention().mean(0), atol=1e-5)
    assert_refused(client.post("/v1/explain?threshold=1", files=form(picture())), 422, "there are 0 above 1")
    assert_refused(client.post("/v1/explain", files=form(picture(), picture())), 400, "one picture")
    assert_refused(client.post("/v1/explain", files=form(picture()[:700])), 422, "cannot be decoded")


def test_a_bad_picture_beside_good_ones_is_said_in_its_place(client):
    answer = client.post("/v1/detect", files=form(picture(), b"no picture", picture()[:700], picture()))
    first, second, third, fourth = answer.json()["results"]
    assert answer.status_code == 200 and first == fourth and "detections" in first
    assert second == {"error": "not an image of a known format"} and "cannot be decoded" in third["error"]
    both_bad = client.post("/v1/detect", files=form(b"no picture", picture()[:700]))
    assert_refused(both_bad, 422, "none of 2 pictures can be used; the first: not an image")


@pytest.mark.parametrize("threshold", ["nan", "-0.1", "1.5", "high", ""])
def test_a_threshold_that_is_none_is_refused(client, threshold):
    assert_refused(client.post(f"/v1/detect?threshold={threshold}", files=form(picture())), 422, "threshold")


def test_what_would_fill_memory_is_refused_before_it_is_decoded(detector):
    limits = Limits(body=20_000, pixels=10_000, waiting=3)
    with TestClient(make_app(detector, "demo", limits)) as client:
        large = client.post("/v1/detect", files=form(picture(200, 51)))
        assert_refused(large, 413, "200×51", "10000 are taken")
        assert_refused(client.post("/v1/detect", files=form(b"x" * 30_000)), 413, "too large", "20000")
        chunks = (b"x" * 5000 for _ in range(1000))
        headers = {"Content-Type": "application/json"}
        assert_refused(client.post("/v1/detect", content=chunks, headers=headers), 413, "too large")
        assert_refused(client.post("/v1/detect", files=form(*[picture()] * 4)), 413, "4 pictures are too many")
        assert figures(client)["cdetr_held_bytes",] == 0


def test_no_path_is_read_and_no_address_is_fetched(client, tmp_path):
    (tmp_path / "abc").write_bytes(picture())
    for text in (str(tmp_path / "abc"), "file:///etc/passwd", "http://127.0.0.1:1/a.jpg"):
        answer = client.post("/v1/detect", json={"files": [text]})
        assert 400 <= answer.status_code < 500 and "results" not in answer.json()
        assert_refused(client.post("/v1/detect", data={"files": text}, files={"files": ("a", b"")}), 400, "holds text")


def test_a_full_server_asks_to_come_again_and_answers_what_it_took(detector):
    with TestClient(make_app(detector, "demo", Limits(waiting=2))) as client, ThreadPoolExecutor(3) as pool:
        with held(detector) as begun:
            first = pool.submit(client.post, "/v1/detect", files=form(picture()))
            assert begun.wait(60)
            second = pool.submit(client.post, "/v1/detect", files=form(picture(), picture()))
            while figures(client)["cdetr_waiting_pictures",] < 2:
                pass
            refused = client.post("/v1/detect", files=form(picture()))
            assert_refused(refused, 503, "2 pictures wait already")
            assert int(refused.headers["Retry-After"]) >= 1
        assert first.result().status_code == second.result().status_code == 200


def test_an_answer_that_takes_too_long_is_given_up_and_not_computed_later(detector):
    with TestClient(make_app(detector, "demo", Limits(seconds=0.3))) as client, ThreadPoolExecutor(1) as pool:
        before = figures(client)["cdetr_batch_pictures_sum",]
        with held(detector) as begun:
            first = pool.submit(client.post, "/v1/detect", files=form(picture()))
            assert begun.wait(60)
            assert_refused(client.post("/v1/detect", files=form(picture())), 503, "no answer within 0.3 s")
            assert_refused(first.result(), 503, "no answer")
        assert client.post("/v1/detect", files=form(picture())).status_code == 200
        assert figures(client)["cdetr_batch_pictures_sum",] - before == 2  # the first, which had begun, and the last


def test_a_token_is_asked_for_where_one_is_set(detector):
    with TestClient(make_app(detector, "demo", token="sécret")) as client:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "secret".encode("latin-1")}):
            answer = client.post("/v1/detect", files=form(picture()), headers=headers)
            assert_refused(answer, 401, "token")
            assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert client.get("/metrics").status_code == client.get("/v1/model").status_code == 401
        assert client.get("/health").status_code == client.get("/").status_code == 200
        good = {"Authorization": "Bearer sécret".encode()}
        assert client.post("/v1/detect", files=form(picture()), headers=good).status_code == 200


def test_the_interface_is_described(client):
    described = client.get("/openapi.json").json()
    detect = described["paths"]["/v1/detect"]["post"]
    assert set(detect["requestBody"]["content"]) == {"multipart/form-data", "application/json"}
    assert detect["parameters"][0]["name"] == "threshold" and {"200", "413", "503"} <= set(detect["responses"])
    assert client.get("/v1/model").json()["classes"] == NAMES
    assert client.get("/health").json()["status"] == "ok"


def test_hostile_requests_get_4xx_each_and_the_next_good_one_an_answer(detector, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    hostile = importlib.import_module("benchmarks.hostile_bodies")
    http = importlib.import_module("benchmarks.http_client")
    kinds, chooser = hostile.request_kinds(), random.Random(0)
    with served(make_app(detector, "demo")) as (port, _):
        requests = [make(chooser) for make in kinds.values()]
        answers = asyncio.run(http.send_all(port, [*requests, http.post(http.multipart([picture()]))], 4))
    statuses = dict(zip(kinds, (answer.status for answer in answers), strict=False))
    assert {name: status for name, status in statuses.items() if not 400 <= status < 500} == {}
    assert answers[-1].status == 200 and len(json.loads(answers[-1].body)["results"]) == 1


def test_many_callers_at_once_get_their_own_answers(detector, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    http = importlib.import_module("benchmarks.http_client")
    pictures = [picture(60 + 2 * i, 60, "PNG", i) for i in range(10)]
    expected = detector.detect(pictures, 0.1)
    with served(make_app(detector, "demo")) as (port, _):
        requests = [http.post(http.multipart([pictures[i % 10]]), query="?threshold=0.1") for i in range(60)]
        answers = asyncio.run(http.send_all(port, requests, 60))
    for i, answer in enumerate(answers):
        assert answer.status == 200
        (result,) = json.loads(answer.body)["results"]
        assert result["width"] == 60 + 2 * (i % 10)
        assert_same_detections(result["detections"], expected[i % 10], score=1e-4, box=0.02)


def test_asked_to_stop_it_answers_what_it_has_accepted(detector, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    http = importlib.import_module("benchmarks.http_client")
    body = http.multipart([picture()] * 3)
    requests = [http.post(body)] * 8
    with served(make_app(detector, "demo")) as (port, stop), ThreadPoolExecutor(1) as pool:
        with held(detector) as begun:
            answers = pool.submit(asyncio.run, http.send_all(port, requests, 8))
            assert begun.wait(60)
            while (
                f"cdetr_held_bytes {float(8 * len(body))}"
                not in urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
            ):
                pass
            stop()
            with pytest.raises(OSError):  # nobody new is let in
                while True:
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
        assert [(answer.status, answer.body.count(b"width")) for answer in answers.result()] == [(200, 3)] * 8


def test_the_models_failure_is_said_and_the_next_request_is_answered(detector, caplog):
    def fail(*_):
        raise RuntimeError("cpu ran out of memory")

    app = make_app(detector, "demo")
    with TestClient(app, raise_server_exceptions=False) as client:
        handle = detector.model.register_forward_pre_hook(fail)
        assert_refused(client.post("/v1/detect", files=form(picture())), 500, "the model failed")
        handle.remove()
        assert client.post("/v1/detect", files=form(picture())).status_code == 200
    assert "the model failed on 1 pictures" in caplog.text
