"""The server as a process: its socket, and how it ends."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import warnings
from collections.abc import Callable

import uvicorn
from fastapi import FastAPI
from PIL import Image

from .limits import Limits

MOST_CONNECTIONS = 1024


def bound_socket(host: str, port: int) -> socket.socket:
    """A socket at this address; nobody is heard before `run`.

    Raises:
        OSError: the port is in use or not allowed, or there is no such host here; one line.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise OSError(f"--host {host}: {error.strerror or error}") from None
    made = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":  # a server that was stopped a moment ago keeps no port
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
        made.listen(2048)
    except OSError as error:
        made.close()
        raise OSError(
            f"port {port} of {host} cannot be taken: {error.strerror or error}; choose another with --port, or --port 0 "
            "for any that is free"
        ) from None
    return made


class HttpServer(uvicorn.Server):
    """Says when it hears, and loses nothing that has arrived when it stops.

    Args:
        ready: called when requests are heard.
    """

    def __init__(self, app: FastAPI, limits: Limits, ready: Callable[[], None]) -> None:
        config = uvicorn.Config(
            app, log_config=None, log_level="error", access_log=False, ws="none", lifespan="on", server_header=False,
            limit_concurrency=MOST_CONNECTIONS, timeout_graceful_shutdown=round(2 * limits.seconds) + 5,
        )  # fmt: skip
        super().__init__(config)
        self.ready = ready

    def serve_on(self, listener: socket.socket) -> None:
        """Serve until a signal asks to stop; then answer what was accepted. A second Ctrl-C leaves the rest, and sets
        `force_exit`."""
        # What callers send wrong is answered, not logged: it would be theirs to fill the log.
        logging.getLogger("python_multipart").setLevel(logging.ERROR)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit is `Limits.pixels`
                self.run([listener])
        except KeyboardInterrupt:  # the signal again, once it has been obeyed
            if not self.started:
                raise

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        await asyncio.sleep(0.2)  # what has arrived in sockets becomes requests, which are waited for
        await super().shutdown(sockets)
