"""What the server counts: how many, how long, which kinds of errors; nothing of what anybody has sent."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """The counters of one server, in a registry of their own.

    Attributes:
        requests: by route and status.
        errors: by kind.
        seconds: from a request's first line to the end of its answer, by route.
        dropped: pictures of cameras that came while one was at work.
    """

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = CollectorRegistry()
        own, time = self._registry, "Seconds to the end of the answer."
        self.requests = Counter("actionfusion_requests", "Requests answered.", ("route", "status"), registry=own)
        self.errors = Counter("actionfusion_errors", "Errors answered, by kind.", ("kind",), registry=own)
        self.seconds = Histogram(
            "actionfusion_request_seconds",
            time,
            ("route",),
            buckets=_SECONDS,
            registry=own,
        )
        self.dropped = Counter("actionfusion_pictures_dropped", "Pictures left out to stay in time.", registry=own)

    def gauge(self, name: str, meaning: str, read: Callable[[], float]) -> None:
        """Add a number that is read when it is asked for."""
        Gauge(f"actionfusion_{name}", meaning, registry=self._registry).set_function(read)

    def text(self) -> bytes:
        """Write all in Prometheus' text format."""
        return generate_latest(self._registry)
