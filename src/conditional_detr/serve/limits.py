"""What a server takes on at most, so that no caller can fill its memory or its time."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Limits:
    """Bounds of requests; what passes one is refused with 4xx, what comes while the server is full with 503.

    Args:
        body: bytes of a request.
        pixels: of a picture, by its header, before it is decoded.
        waiting: pictures that wait for the model; a request of more is never taken.
        seconds: for a request to arrive, and again for its answer.
    """

    body: int = 32 * 2**20
    pixels: int = 50_000_000
    waiting: int = 256
    seconds: float = 60.0

    def __post_init__(self) -> None:
        for field in fields(self):
            if not (value := getattr(self, field.name)) > 0:
                raise ValueError(f"{field.name} is {value}; it must be positive")

    @property
    def in_flight(self) -> int:
        """Bytes of all requests together that have not been answered."""
        return 16 * self.body
