"""A request that is not taken: one line that says why, and its HTTP status."""

from __future__ import annotations


class Refusal(Exception):
    """Args: status: 4xx where the request is wrong, 503 where the server is full. retry_after: in so many seconds."""

    def __init__(self, status: int, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status, self.retry_after = status, retry_after
