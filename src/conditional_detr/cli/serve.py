"""`cdetr serve`: a model behind HTTP, and a page."""

from __future__ import annotations

import ipaddress
import os
import sys
from pathlib import Path
from typing import Any

from ..messages import printable
from .options import (
    add_device,
    add_engine,
    add_image_size,
    add_model,
    add_speed,
    add_threads,
    image_size_of,
    speed_of,
    values_of,
)
from .parser import CommandParser
from .threads import use_threads
from .usage import UsageError

TOKEN_VARIABLE = "CDETR_TOKEN"


def run(arguments: list[str]) -> None:
    values = values_of(_parser(), arguments)
    if not 0 <= values["port"] <= 65535:
        raise UsageError(f"--port is {values['port']}; it is a number from 0 (any that is free) to 65535")
    for name in ("max_body", "max_megapixels", "queue", "timeout"):
        if not values[name] > 0:
            raise UsageError(f"--{name} is {values[name]}; it must be positive")
    _serve(values)


def _parser() -> CommandParser:
    parser = CommandParser(
        "serve",
        "Detect in pictures that are sent over HTTP: POST /v1/detect, /health, /metrics, /openapi.json, and a page at /.",
    )
    add_model(parser)
    parser.add_argument("--host", type=str, default="127.0.0.1", help="address to listen on; 0.0.0.0 for every network")
    parser.add_argument("--port", type=int, default=8000, help="0 takes any that is free, and says which")
    parser.add_argument(
        "--token",
        type=str,
        default="",
        help=f"what callers must send as Authorization: Bearer TOKEN; better in the environment, as {TOKEN_VARIABLE}, "
        "since other users of the machine see options",
    )
    parser.add_argument("--max_body", type=float, default=32, help="most MiB of a request")
    parser.add_argument("--max_megapixels", type=float, default=50, help="of a picture, checked before it is decoded")
    parser.add_argument("--queue", type=int, default=256, help="pictures that wait; more are refused with 503")
    parser.add_argument("--timeout", type=float, default=60, help="seconds for a request to arrive, and for its answer")
    add_device(parser)
    add_speed(parser)
    add_engine(parser)
    add_threads(parser)
    add_image_size(parser)
    return parser


def _serve(values: dict[str, Any]) -> None:
    _check_installed()
    from ..serve.limits import Limits
    from ..serve.run import HttpServer, bound_socket

    listener = bound_socket(values["host"], values["port"])
    with listener:
        use_threads(values["threads"])
        from ..predict.detector import Detector
        from ..serve.app import make_app

        token = values["token"] or os.environ.get(TOKEN_VARIABLE, "")
        speed, size = speed_of(values), image_size_of(values)
        detector = Detector.from_pretrained(values["model"], device=values["device"] or None, **speed, **size)
        limits = Limits(
            body=int(values["max_body"] * 2**20),
            pixels=int(values["max_megapixels"] * 1e6),
            waiting=values["queue"],
            seconds=values["timeout"],
        )
        host, port = listener.getsockname()[:2]
        if not token and not ipaddress.ip_address(host).is_loopback:
            print(
                f"anyone who reaches {host} may send pictures: set {TOKEN_VARIABLE} to ask for a token", file=sys.stderr
            )
        app = make_app(detector, _model_name(values["model"]), limits, token)
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        server = HttpServer(
            app, limits, lambda: print(f"{detector}\nlistening on {address}  (Ctrl-C stops)", flush=True)
        )
        server.serve_on(listener)
    print("stopped at once" if server.force_exit else "stopped; every request that was accepted has been answered")


def _model_name(model: str) -> str:
    """A model's name for strangers: of a path, its end alone."""
    path = Path(model)
    return printable("/".join(path.resolve().parts[-2:])) if path.exists() else model


def _check_installed() -> None:
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import python_multipart  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise RuntimeError(f'{error.name} is not installed: pip install "conditional-detr[serve]"') from None
