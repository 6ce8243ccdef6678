"""The gateway's metrics, in Prometheus' format."""

import contextlib
import time
from collections.abc import Collection, Iterable, Iterator
from typing import Any

from storyreason.serving.engines import EnginePool

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60, 120)


class TrackedRequest:
    """One request. `status` is None until its response starts."""

    __slots__ = ("_metrics", "_route", "_started", "_streams", "status")

    def __init__(self, metrics: "Metrics", route: str) -> None:
        self._metrics = metrics
        self._route = route
        self._started = time.monotonic()
        self._streams = False
        self.status: int | None = None

    def response_started(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        self.status = status
        self._streams = any(
            name.lower() == b"content-type" and value.startswith(b"text/event-stream") for name, value in headers
        )

    def body_sent(self, part: bytes) -> None:
        if self._streams and part and not part.startswith(b":"):  # a comment is not a token
            self._streams = False
            self._metrics.first_token.labels(self._route).observe(time.monotonic() - self._started)


class Metrics:
    """Counters of this gateway, and gauges that are read from the engines on each request."""

    def __init__(self, engines: EnginePool, paths: Collection[str]) -> None:
        """`paths` get labels of their own; all others share one, since clients could make up any number of them."""
        import prometheus_client as prometheus

        self._paths = frozenset(paths)
        self._engines = engines
        self._registry = prometheus.CollectorRegistry()
        self.requests = prometheus.Counter(
            "storyreason_requests", "Requests by route and status; 499: the client disconnected before a response.",
            ("route", "status"), registry=self._registry,
        )  # fmt: skip
        self.in_flight = prometheus.Gauge(
            "storyreason_requests_in_flight", "Requests in flight.", ("route",), registry=self._registry
        )
        self.first_token = prometheus.Histogram(
            "storyreason_first_token_seconds", "From a request to the first event of its stream.",
            ("route",), buckets=_SECONDS, registry=self._registry,
        )  # fmt: skip
        self._registry.register(self)

    @contextlib.contextmanager
    def visit(self, path: str) -> Iterator[TrackedRequest]:
        """Count a request, in flight and when it is done."""
        route = path if path in self._paths else "other"
        visit = TrackedRequest(self, route)
        in_flight = self.in_flight.labels(route)
        in_flight.inc()
        try:
            yield visit
        except Exception:
            visit.status = visit.status or 500
            raise
        finally:
            in_flight.dec()
            self.requests.labels(route, str(visit.status or 499)).inc()

    def collect(self) -> Iterator[Any]:
        """For the registry: metrics read from the engines."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily

        engines = self._engines
        yield GaugeMetricFamily(
            "storyreason_engine_up", "Whether an engine is serving.", value=float(engines.healthy())
        )
        yield GaugeMetricFamily(
            "storyreason_engine_requests", "Requests at the serving engine.", value=float(engines.requests)
        )
        yield CounterMetricFamily(
            "storyreason_engine_restarts", "Engines that died and were restarted.", value=float(engines.restarts)
        )
        yield CounterMetricFamily("storyreason_swaps", "Models that replaced another.", value=float(engines.swaps))
        if (served := engines.served) is not None:
            labels = {"version": served.version, "run_id": served.run_id or "", "since": served.since}
            yield InfoMetricFamily("storyreason_served", "The served model.", value=labels)

    def text(self) -> bytes:
        import prometheus_client as prometheus

        written: bytes = prometheus.generate_latest(self._registry)
        return written
