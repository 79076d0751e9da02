"""A client that costs little, so that what is timed is the server: prepared bytes over connections that are kept."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import NamedTuple


class Answer(NamedTuple):
    status: int  # 0: none came
    body: bytes


def multipart(files: Sequence[bytes], boundary: str = "cut-here") -> bytes:
    """A body with pictures in the field `files`."""
    parts = [
        b'--%b\r\nContent-Disposition: form-data; name="files"; filename="%d.jpg"\r\n\r\n%b\r\n'
        % (boundary.encode(), i, data)
        for i, data in enumerate(files)
    ]
    return b"".join(parts) + b"--%b--\r\n" % boundary.encode()


def post(
    body: bytes, kind: str = "multipart/form-data; boundary=cut-here", query: str = "", length: int | None = None
) -> bytes:
    """The bytes of a request to `/v1/detect`. length: what the head says of the body, where that is not the truth."""
    head = f"POST /v1/detect{query} HTTP/1.1\r\nHost: here\r\nContent-Type: {kind}\r\n"
    return f"{head}Content-Length: {len(body) if length is None else length}\r\n\r\n".encode() + body


def as_json(value: object) -> bytes:
    return post(json.dumps(value).encode(), "application/json")


async def send_all(port: int, requests: Sequence[bytes], connections: int, seconds: float = 600) -> list[Answer]:
    """Send requests over so many connections at once; their answers, in order."""
    answers = [Answer(0, b"")] * len(requests)
    coming = iter(range(len(requests)))

    async def caller() -> None:
        connection = None
        for index in coming:
            connection = connection or await asyncio.open_connection("127.0.0.1", port)
            answers[index], kept = await asyncio.wait_for(_send(connection, requests[index]), seconds)
            if not kept:
                connection[1].close()
                connection = None
        if connection is not None:
            connection[1].close()

    await asyncio.gather(*(caller() for _ in range(min(connections, len(requests)))))
    return answers


async def _send(connection: tuple[asyncio.StreamReader, asyncio.StreamWriter], request: bytes) -> tuple[Answer, bool]:
    """The answer, and whether the connection can be used again."""
    reader, writer = connection
    sending = asyncio.ensure_future(_write(writer, request))
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        length = int(head.partition("content-length:")[2].partition("\r\n")[0])
        body = await reader.readexactly(length)
        kept = sending.done() and "connection: close" not in head and int(head.split()[1]) < 400
        return Answer(int(head.split()[1]), body), kept
    except (asyncio.IncompleteReadError, ConnectionError):
        return Answer(0, b""), False
    finally:
        sending.cancel()


async def _write(writer: asyncio.StreamWriter, request: bytes) -> None:
    try:
        writer.write(request)
        await writer.drain()
    except ConnectionError:  # an answer may have come before all was sent
        pass
