"""Figures for Prometheus, in a registry of our own."""

from collections.abc import Iterator
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from imprint.serve.generation.job import Backend

SECONDS: Final = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
TOKEN_SECONDS: Final = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 5)
GAUGES: Final = (
    ("waiting", "Jobs in the queue"),
    ("running", "Answers that are being written"),
    ("slots", "Most answers at a time"),
    ("kv_tokens", "Tokens reserved in the cache of keys and values"),
    ("max_kv_tokens", "Most of them"),
    ("wait_seconds", "95th percentile of the seconds that answers waited in the last ten minutes"),
    ("full_share", "Share of the last ten minutes for which an answer waited because the cache had no room for it"),
    ("servers", "Servers behind this one that answer"),
    ("stalled_seconds", "Seconds since the worker's last sign of life, where there is work"),
)
FIELDS: Final = {"wait_seconds": "wait_p95_seconds"}
"""Figures whose field of `Statistics` has another name."""
COUNTERS: Final = (
    ("prompt_tokens", "Tokens of all prompts"),
    ("new_tokens", "Tokens of all answers"),
    ("cancelled", "Answers that were cancelled"),
    ("failed", "Answers that ended by an error"),
    ("restarts", "How often the decoder was made anew"),
)


class Metrics:
    """Counters of the routes, and the statistics of the backend at the moment of asking."""

    def __init__(self, backend: Backend) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("imprint_requests", "Requests", ["method", "route", "status"], registry=self.registry)
        self.request_seconds = Histogram(
            "imprint_request_seconds", "Seconds of a request", ["route"], buckets=SECONDS, registry=self.registry
        )
        self.first_token_seconds = Histogram(
            "imprint_first_token_seconds", "Seconds to the first text", buckets=SECONDS, registry=self.registry
        )
        self.token_seconds = Histogram(
            "imprint_token_seconds",
            "Seconds of a later token, mean of an answer",
            buckets=TOKEN_SECONDS,
            registry=self.registry,
        )
        self.write_seconds = Histogram(
            "imprint_write_seconds", "Seconds of a transaction that writes to the database", buckets=SECONDS, registry=self.registry
        )
        self.disconnects = Counter("imprint_disconnects", "Clients that left before their answer was whole", registry=self.registry)
        self.login_failures = Counter("imprint_login_failures", "Logins that were refused", registry=self.registry)
        self.registry.register(_BackendCollector(backend))

    def text(self) -> bytes:
        """All figures in Prometheus' text format."""
        return generate_latest(self.registry)


class _BackendCollector(Collector):
    """Asks the backend each time."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    def collect(self) -> Iterator[Metric]:
        """One family for each figure."""
        now = self.backend.statistics()
        for name, help_text in GAUGES:
            yield GaugeMetricFamily(f"imprint_engine_{name}", help_text, value=getattr(now, FIELDS.get(name, name)))
        for name, help_text in COUNTERS:
            yield CounterMetricFamily(f"imprint_engine_{name}", help_text, value=getattr(now, name))
        yield GaugeMetricFamily("imprint_engine_ready", "1 where answers are given", value=float(self.backend.ready()))
