"""Requests that no honest caller sends: damaged, misleading, or made to fill a server's memory or time."""

from __future__ import annotations

import base64
import io
import random
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from .http_client import as_json, multipart, post

BODY_LIMIT = 32 * 2**20
ZEROS, TEXT = (zlib.compress(bytes(size), 6) for size in (20_000_000, 80_000_000))


def picture(kind: str, side: int = 200, seed: int = 0) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def png(width: int, height: int, rows: bytes, *more: tuple[bytes, bytes]) -> bytes:
    """A PNG file that says it is so large. rows: of its pixels, compressed; more: chunks after them."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)), (b"IDAT", rows), *more, (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


def file_kinds() -> dict[str, Callable[[random.Random], bytes]]:
    """Files that are no good pictures, by what is wrong with them."""
    good = {kind: picture(kind) for kind in ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP")}
    return {
        "cut short": lambda r: (data := good[r.choice(["JPEG", "PNG", "GIF", "BMP"])])[: r.randrange(len(data) // 2)],
        "noise": lambda r: r.randbytes(r.randrange(1, 5000)),
        "empty": lambda r: b"",
        "a head and noise": lambda r: good["PNG"][:60] + r.randbytes(2000),
        "a picture of ten thousand megapixels": lambda r: png(100_000, 100_000, ZEROS),
        "a bomb of pixels": lambda r: png(r.randrange(20_000, 30_000), 5000, ZEROS),
        "a JPEG of four thousand megapixels": lambda r: good["JPEG"].replace(
            b"\x00\x11\x08\x00\xc8\x00\xc8", b"\x00\x11\x08\xff\xdc\xff\xdc"
        ),
        "a bomb of text": lambda r: png(9, 9, b"", (b"zTXt", b"a\0\0" + TEXT)),
        "a bomb of pixels with EXIF after it": lambda r: png(60_000, 900, ZEROS, (b"eXIf", b"MM\0*\0\0\0\x08")),
        "a program": lambda r: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n{} loop\n",
        "a document": lambda r: b"%PDF-1.7\n" + r.randbytes(200),
        "a page": lambda r: b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>",
    }


def request_kinds() -> dict[str, Callable[[random.Random], bytes]]:
    """Requests that are wrong, by what is wrong with them."""
    good = picture("JPEG")
    kinds: dict[str, Callable[[random.Random], bytes]] = {
        name: (lambda r, make=make: post(multipart([make(r)]))) for name, make in file_kinds().items()
    }
    several = list(file_kinds().values())
    form = "multipart/form-data; boundary=cut-here"

    def field(name: str, value: str) -> bytes:
        return (
            f'--cut-here\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n--cut-here--\r\n'.encode()
        )

    def base64_of(r: random.Random) -> Any:
        return base64.b64encode(r.choice(several)(r)).decode()

    kinds |= {
        "several, all bad": lambda r: post(multipart([r.choice(several)(r) for _ in range(5)])),
        "bad ones in base64": lambda r: as_json({"files": [base64_of(r)]}),
        "no files": lambda r: post(multipart([])),
        "a path": lambda r: post(field("files", r.choice(["/etc/passwd", "file:///etc/passwd", "../../model"]))),
        "another field": lambda r: post(multipart([good]).replace(b'name="files"', b'name="image"')),
        "too many files": lambda r: post(multipart([b""] * 3000)),
        "too many fields": lambda r: post(field("files", "x")[:-15] * 3000),
        "no boundary": lambda r: post(multipart([good]), "multipart/form-data"),
        "another boundary": lambda r: post(multipart([good]), "multipart/form-data; boundary=other"),
        "a form without an end": lambda r: post(multipart([good])[: -r.randrange(20, 2000)]),
        "a head without an end": lambda r: post(b"--cut-here\r\n" + b"a" * 100_000),
        "noise as a form": lambda r: post(r.randbytes(3000), form),
        "noise as JSON": lambda r: post(r.randbytes(3000), "application/json"),
        "JSON of other forms": lambda r: as_json(r.choice([None, 1, [], {}, {"files": {}}, {"files": [1]}, {"files": [None]}, {"file": []}])),
        "JSON that is deep": lambda r: post(b'{"files":' + b"[" * 200_000, "application/json"),
        "JSON of many entries": lambda r: post(b'{"files":[' + b"[]," * 3_000_000, "application/json"),
        "a number of many digits": lambda r: post(b'{"files":' + b"9" * 1_000_000 + b"}", "application/json"),
        "an address": lambda r: as_json({"files": [r.choice(["http://127.0.0.1/", "file:///etc/passwd", "ftp://a/b"])]}),
        "a path in JSON": lambda r: as_json({"files": ["/etc/passwd"]}),
        "another type": lambda r: post(good, r.choice(["text/plain", "image/jpeg", "application/xml", ""])),
        "a body that is too large": lambda r: post(b"", length=r.choice([BODY_LIMIT + 1, 10**12])),
        "a form that is too large": lambda r: post(multipart([bytes(BODY_LIMIT)])),
        "a threshold that is none": lambda r: post(multipart([good]), query=f"?threshold={r.choice(['2', 'nan', '-1', 'x', ''])}"),
        "no HTTP": lambda r: r.randbytes(200) + b"\r\n\r\n",
    }  # fmt: skip
    return kinds
