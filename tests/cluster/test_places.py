"""Buckets, as pyarrow opens them."""

import http.server
import threading

import pytest

from conditional_detr.cluster.listing import pictures_of
from conditional_detr.cluster.parts import Output
from conditional_detr.cluster.places import Place
from conditional_detr.cluster.read import _Files


class Refusing(http.server.BaseHTTPRequestHandler):
    """S3, to someone without rights."""

    def refuse(self):
        body = b'<?xml version="1.0"?><Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>'
        self.send_response(403)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = do_PUT = do_POST = refuse

    def log_message(self, *_):
        pass


@pytest.fixture
def closed_bucket(monkeypatch):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
        "AWS_ACCESS_KEY_ID": "someone",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    yield f"s3://closed-{server.server_port}"
    server.shutdown()


def test_a_bucket_without_rights_is_one_line(closed_bucket, tmp_path):
    with pytest.raises(OSError, match=rf"^{closed_bucket}/pictures: .*ACCESS_DENIED[^\n]*$"):
        next(pictures_of([f"{closed_bucket}/pictures"]))
    with pytest.raises(OSError, match=rf"^{closed_bucket}/out: .*ACCESS_DENIED[^\n]*$"):
        Output(Place.of(f"{closed_bucket}/out"), {}, 8, "jsonl").begin(lambda: iter([]))
    with pytest.raises(OSError, match="ACCESS_DENIED"):  # which becomes a row with an error
        _Files([f"{closed_bucket}/a.jpg"]).file(0)


def test_an_address_of_no_known_kind_is_one_line():
    with pytest.raises(OSError, match=r"^foo://bucket/x: .*foo"):
        Place.of("foo://bucket/x").kind()
