"""What a server counts of itself, as Prometheus reads it."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """One registry a server, so that several can be in one process."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter("cdetr_requests", "Requests answered.", ["path", "status"], registry=registry)
        self.seconds = Histogram(
            "cdetr_request_seconds",
            "From a request's head to its answer.",
            ["path"],
            buckets=SECONDS,
            registry=registry,
        )
        self.batches = Histogram(
            "cdetr_batch_pictures", "Pictures that were computed at once.", buckets=(1, 2, 4, 8), registry=registry
        )
        self.busy = Counter("cdetr_model_seconds", "Time decoding and computing.", registry=registry)
        self.refused = Counter("cdetr_refused_pictures", "Pictures that could not be used.", registry=registry)

    def batch(self, count: int, seconds: float) -> None:
        self.batches.observe(count)
        self.busy.inc(seconds)

    def request(self, path: str, status: int, seconds: float) -> None:
        self.requests.labels(path, str(status)).inc()
        self.seconds.labels(path).observe(seconds)

    def watch(self, waiting: Callable[[], float], held: Callable[[], float]) -> None:
        """Read these when the figures are asked for: pictures that wait, and bytes of requests."""
        Gauge("cdetr_waiting_pictures", "Pictures that wait for the model.", registry=self.registry).set_function(
            waiting
        )
        Gauge("cdetr_held_bytes", "Bodies of requests not yet answered.", registry=self.registry).set_function(held)

    def text(self) -> bytes:
        return generate_latest(self.registry)
