"""A request's body to the bytes of its pictures, within bounds. No address is fetched and no path is read: what a request
says is taken for pictures alone."""

from __future__ import annotations

import base64
import binascii
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from ..messages import one_line, shown
from .limits import Limits
from .refusal import Refusal


class Base64Pictures(BaseModel):
    """A body of JSON. files: the bytes of picture files in base64; the head of a data: URL before them is passed over."""

    model_config = ConfigDict(extra="forbid")
    files: list[str]


@dataclass
class Held:
    """What one request holds."""

    bytes: int = 0


class Intake:
    """The bodies of all requests that have not been answered: how many bytes they hold together."""

    def __init__(self, limits: Limits) -> None:
        self.limits, self.held = limits, 0

    async def pictures(self, request: Request, held: Held) -> list[bytes]:
        """The picture files of a request, in its order.

        Args:
            held: the body's bytes are added, for `release` once the request is answered, however that ends.

        Raises:
            Refusal: the body is too large, of another type, damaged, or without pictures; or the server holds too much.
        """
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind not in ("multipart/form-data", "application/json"):
            raise Refusal(415, "send multipart/form-data with the field files, or application/json")
        length = request.headers.get("content-length", "")
        if length.isdigit() and int(length) > self.limits.body:
            raise self._too_large()
        stream = self._bounded(request, held)
        if kind == "application/json":
            pictures = _from_json(b"".join([chunk async for chunk in stream]), self.limits.waiting)
        else:
            pictures = await _from_form(request, stream, self.limits)
        if not pictures:
            raise Refusal(400, "there are no pictures: the field files is missing or empty")
        if len(pictures) > self.limits.waiting:
            raise Refusal(
                413, f"{len(pictures)} pictures are too many for a request; send {self.limits.waiting} at most"
            )
        return pictures

    def release(self, held: Held) -> None:
        self.held -= held.bytes

    async def _bounded(self, request: Request, held: Held) -> AsyncGenerator[bytes, None]:
        async for chunk in request.stream():
            held.bytes += len(chunk)
            self.held += len(chunk)
            if held.bytes > self.limits.body:
                raise self._too_large()
            if self.held > self.limits.in_flight:
                raise Refusal(503, "the server holds as many bytes of requests as it may; try again", retry_after=1)
            yield chunk

    def _too_large(self) -> Refusal:
        return Refusal(413, f"the body is too large; {self.limits.body} bytes are taken")


def _from_json(body: bytes, most: int) -> list[bytes]:
    # Text of a few bytes an entry could become a hundred times as much in memory: entries are counted before it is parsed.
    if sum(body.count(sign) for sign in (b",", b"[", b"{")) > 2 * most + 16:
        raise Refusal(413, f"the JSON has more entries than {most} pictures in base64 have")
    try:
        texts = Base64Pictures.model_validate_json(body).files
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        reason = f"{place}: {first['msg']}" if place else one_line(first["msg"])
        raise Refusal(400, f'the body is no JSON of the form {{"files": ["base64", …]}}: {reason}') from None
    return [_decoded(i, text) for i, text in enumerate(texts)]


def _decoded(place: int, text: str) -> bytes:
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise Refusal(
            400, f"files.{place} is {shown(text[:100])}, which is not base64; addresses and paths are not read"
        ) from None


async def _from_form(request: Request, stream: AsyncGenerator[bytes, None], limits: Limits) -> list[bytes]:
    # One file more than is taken, so that their number is what is said.
    parser = MultiPartParser(request.headers, stream, max_files=limits.waiting + 1, max_fields=16)
    parser.spool_max_size = limits.body  # bodies are bounded: none goes to the disk
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise Refusal(400, f"the multipart body is damaged: {one_line(error.message)}") from None
    except (KeyError, ValueError, AssertionError) as error:  # of the parser, where the header has no boundary
        raise Refusal(400, f"the multipart body is damaged: {one_line(error)}") from None
    try:
        others = sorted({key for key in form if key != "files"})
        if others:
            raise Refusal(400, f"there is no field {shown(others[0])}; pictures are in the field files, repeated")
        files = form.getlist("files")
        if not all(isinstance(file, UploadFile) for file in files):
            raise Refusal(400, "the field files holds text; it must be files, each with a filename")
        return [await file.read() for file in files if isinstance(file, UploadFile)]
    finally:
        await form.close()
