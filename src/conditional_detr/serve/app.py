"""The server's addresses: detection, health, figures, and the page."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from pydantic import BaseModel, Field
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .. import __version__
from ..messages import one_line
from ..predict.detector import Detector
from ..results.image_results import MOST_DETECTIONS
from .batching import Batcher, Found
from .body import Base64Pictures, Held, Intake
from .limits import Limits
from .metrics import Metrics
from .page import CONTENT_SECURITY_POLICY, page
from .pictures import Picture, check_picture, reason_of
from .refusal import Refusal

CHECKERS = 2  # threads that look at headers


class Box(BaseModel):
    """One object found."""

    label: str
    class_id: int
    score: float = Field(ge=0, le=1)
    box: list[float] = Field(description="x0, y0, x1, y1 in pixels of the picture as it is seen (EXIF applied)")
    mask: dict[str, Any] | None = Field(
        None, description="of a segmentation model: COCO run lengths, {size: [height, width], counts}"
    )


class PictureResult(BaseModel):
    """One picture: its detections, best first; or, beside good ones, what is wrong with it."""

    width: int | None = None
    height: int | None = None
    detections: list[Box] | None = None
    error: str | None = None


class Results(BaseModel):
    """In the order sent."""

    results: list[PictureResult]


class Attention(Box):
    """One object found, and where the model looked for it."""

    attention: list[list[float]] = Field(
        description="of the last decoder layer, mean of its heads: rows of cells that lie over the whole picture, evenly; sums to 1"
    )


class Detail(BaseModel):
    """Why a request was not taken."""

    detail: str


class Server:
    """What the addresses share: the model's thread, the limits, the figures."""

    def __init__(self, detector: Detector, name: str, limits: Limits, token: str) -> None:
        self.detector, self.name, self.limits, self.token = detector, name, limits, token
        self.metrics, self.intake = Metrics(), Intake(limits)
        self.batcher = Batcher(detector, limits.waiting, self.metrics)
        self.checkers = ThreadPoolExecutor(CHECKERS, "check")
        self.metrics.watch(lambda: self.batcher.waiting, lambda: self.intake.held)

    def close(self) -> None:
        """Answer what was taken, and end the threads."""
        self.batcher.close()
        self.checkers.shutdown()

    def check_token(self, request: Request) -> None:
        given = request.headers.get("authorization", "").removeprefix("Bearer ").strip()
        if self.token and not hmac.compare_digest(given.encode("latin-1"), self.token.encode()):
            raise Refusal(401, "give the token of this server: Authorization: Bearer TOKEN")

    async def detect(self, request: Request, threshold: float) -> list[dict[str, Any]]:
        """The results of a request's pictures, in its order.

        Raises:
            Refusal: the request, or every picture of it, cannot be used; or the server is full.
            ClientDisconnect: nobody waits for the answer.
        """
        async with self._checked(request) as checked:
            good = [picture for picture in checked if isinstance(picture, Picture)]
            found = iter(await self._answer(request, self.batcher.submit(good, threshold)) if good else [])
            return self._results([next(found) if isinstance(one, Picture) else one for one in checked])

    async def explain(self, request: Request, threshold: float, number: int) -> dict[str, Any]:
        """Where the last decoder layer looked for one detection of a picture.

        Raises:
            Refusal, ClientDisconnect: see `detect`.
        """
        async with self._checked(request) as checked:
            if len(checked) != 1:
                raise Refusal(400, f"one picture is explained at a time, not {len(checked)}")
            if isinstance(checked[0], Refusal):
                raise checked[0]
            call = partial(_explained, self.detector, checked[0], threshold, number)
            return await self._answer(request, self.batcher.submit_call(call))

    @asynccontextmanager
    async def _checked(self, request: Request) -> AsyncIterator[list[Picture | Refusal]]:
        """The pictures of a request, whose bytes count until the block ends."""
        held = Held()
        try:
            try:
                files = await asyncio.wait_for(self.intake.pictures(request, held), self.limits.seconds)
            except asyncio.TimeoutError:
                raise Refusal(408, f"the request did not arrive within {self.limits.seconds:g} s") from None
            yield await asyncio.get_running_loop().run_in_executor(self.checkers, self._check, files)
        finally:
            self.intake.release(held)

    def _check(self, files: Sequence[bytes]) -> list[Picture | Refusal]:
        checked: list[Picture | Refusal] = []
        for data in files:
            try:
                checked.append(check_picture(data, self.detector, self.limits.pixels))
            except Refusal as refusal:
                checked.append(refusal)
        return checked

    async def _answer(self, request: Request, waiting: Future[Any]) -> Any:
        """What the model's thread finds; given up where the time is over, or the caller has gone."""
        answer = asyncio.wrap_future(waiting)
        gone = asyncio.ensure_future(_disconnected(request))
        try:
            await asyncio.wait((answer, gone), timeout=self.limits.seconds, return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                return answer.result()
            if gone.done():
                raise ClientDisconnect
            raise Refusal(503, f"there was no answer within {self.limits.seconds:g} s; try again", retry_after=10)
        finally:
            answer.cancel()
            gone.cancel()

    def _results(self, found: Sequence[Found | str | Refusal]) -> list[dict[str, Any]]:
        bad = [one for one in found if not isinstance(one, Found)]
        self.metrics.refused.inc(len(bad))
        if len(bad) == len(found):
            first = bad[0]
            message = str(first) if len(bad) == 1 else f"none of {len(bad)} pictures can be used; the first: {first}"
            raise Refusal(first.status if isinstance(first, Refusal) else 422, message)
        return [
            {"width": one.size[1], "height": one.size[0], "detections": [d.to_dict() for d in one.detections]}
            if isinstance(one, Found)
            else {"error": str(one)}
            for one in found
        ]


def _explained(detector: Detector, picture: Picture, threshold: float, number: int) -> dict[str, Any]:
    """One explanation as plain values: the attention of all heads together, their mean."""
    try:
        found = detector.explain(picture.data, threshold, number + 1)
    except (OSError, ValueError) as error:  # or an exported model, which does not tell where it looked
        raise Refusal(422, reason_of(error)) from None
    if len(found) <= number:
        raise Refusal(422, f"detection is {number}; there are {len(found)} above {threshold:g}")
    attention = found[number].attention().mean(axis=0)
    return {**found[number].detection.to_dict(), "attention": attention.astype(float).round(7).tolist()}


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["files"],
                "properties": {"files": {"type": "array", "items": {"type": "string", "format": "binary"}}},
            }
        },
        "application/json": {"schema": Base64Pictures.model_json_schema()},
    },
}
REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"model": Detail, "description": "the body is damaged, or of another form"},
    401: {"model": Detail, "description": "the token is missing or wrong"},
    408: {"model": Detail, "description": "the request took too long to arrive"},
    413: {"model": Detail, "description": "too many bytes, pictures or pixels"},
    415: {"model": Detail, "description": "neither multipart nor JSON, or pictures of a format that is not taken"},
    422: {"model": Detail, "description": "no picture can be decoded, or the threshold is not in 0…1"},
    503: {"model": Detail, "description": "the server is full; Retry-After says when to try again"},
}


def make_app(detector: Detector, name: str, limits: Limits | None = None, token: str = "") -> FastAPI:
    """The server as an ASGI application. Its threads end with its lifespan.

    Args:
        name: of the model, for people.
        token: what callers must give as `Authorization: Bearer …`; empty asks for none.
    """
    server = Server(detector, name, limits or Limits(), token)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.get_running_loop().run_in_executor(None, server.close)

    app = FastAPI(
        title="conditional-detr", version=__version__, description=f"Detects objects with {name}.",
        docs_url=None, redoc_url=None, lifespan=lifespan,
    )  # fmt: skip
    app.add_middleware(_Counted, metrics=server.metrics)
    _add_errors(app)
    _add_addresses(app, server)
    return app


def _add_addresses(app: FastAPI, server: Server) -> None:
    guarded = [Depends(_token_check(server))]
    model = server.detector.model

    @app.post(
        "/v1/detect", response_model=Results, response_model_exclude_none=True, responses=REFUSALS,
        openapi_extra={"requestBody": BODY}, dependencies=guarded,
    )  # fmt: skip
    async def detect(request: Request, threshold: Annotated[float, Query(ge=0, le=1)] = 0.5) -> Response:
        """What is in pictures: one result a picture, in the order sent."""
        return JSONResponse({"results": await server.detect(request, threshold)})

    @app.post(
        "/v1/explain", response_model=Attention, response_model_exclude_none=True, responses=REFUSALS,
        openapi_extra={"requestBody": BODY}, dependencies=guarded,
    )  # fmt: skip
    async def explain(
        request: Request,
        threshold: Annotated[float, Query(ge=0, le=1)] = 0.5,
        detection: Annotated[int, Query(ge=0, lt=MOST_DETECTIONS, description="which, the best being 0")] = 0,
    ) -> Response:
        """Where the model looked for one detection of a picture."""
        return JSONResponse(await server.explain(request, threshold, detection))

    @app.get("/v1/model", dependencies=guarded)
    async def about() -> dict[str, Any]:
        """Which model answers, and the names of its classes."""
        return {
            "name": server.name,
            "family": model.config.model_type,
            "backbone": model.config.backbone,
            "task": model.task,
            "classes": server.detector.names,
        }

    @app.get("/health", responses={503: {"model": Detail}})
    async def health() -> dict[str, Any]:
        """Whether the model's thread is at work."""
        if not server.batcher.alive:
            raise Refusal(503, "the model's thread has ended")
        return {"status": "ok", "waiting": server.batcher.waiting, "version": __version__}

    @app.get("/metrics", dependencies=guarded, response_class=Response)
    async def metrics() -> Response:
        """Figures for Prometheus."""
        return Response(server.metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/", include_in_schema=False)
    async def show_page() -> HTMLResponse:
        headers = {"Content-Security-Policy": CONTENT_SECURITY_POLICY, "Referrer-Policy": "no-referrer"}
        return HTMLResponse(page(), headers=headers)


def _token_check(server: Server) -> Any:
    async def check(request: Request) -> None:
        server.check_token(request)

    return check


def _add_errors(app: FastAPI) -> None:
    """Every error is {"detail": one line}."""

    @app.exception_handler(Refusal)
    async def refused(request: Request, error: Refusal) -> JSONResponse:
        headers = {"WWW-Authenticate": "Bearer"} if error.status == 401 else {}
        if error.retry_after is not None:
            headers["Retry-After"] = str(error.retry_after)
        return JSONResponse({"detail": str(error)}, error.status, headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        return JSONResponse({"detail": f"{first['loc'][-1]}: {one_line(first['msg'])}"}, 422)

    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=400)  # nobody reads it


class _Counted:
    """Counts requests and their time; and tells browsers not to guess types."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-content-type-options", b"nosniff")]
            await send(message)

        try:
            await self.app(scope, receive, counted)
        finally:
            route = scope.get("route")
            self.metrics.request(getattr(route, "path", "other"), status, time.perf_counter() - started)
