"""What a service counts, for Prometheus: nothing that tells one image, key or client from another."""

import os
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """The counters of one service."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self.requests = Counter("privseg_requests", "Requests.", ["route", "status"], registry=registry)
        self.seconds = Histogram(
            "privseg_request_seconds", "Time of a request.", ["route"], buckets=_SECONDS, registry=registry
        )
        self.batch_size = Histogram(
            "privseg_batch_size", "Images that shared a forward.", buckets=(1, 2, 4, 8, 16, 32), registry=registry
        )
        self.received_bytes = Counter("privseg_received_bytes", "Bytes of request bodies.", registry=registry)
        self.sent_bytes = Counter("privseg_sent_bytes", "Bytes of answers.", registry=registry)
        self._queue_depth = Gauge(
            "privseg_queue_depth", "Images that wait.", multiprocess_mode="livesum", registry=registry
        )
        self._tenants = Gauge(
            "privseg_tenants", "Registered patch embeddings.", multiprocess_mode="livemax", registry=registry
        )

    def text(self, *, queue_depth: Callable[[], int], tenants: Callable[[], int]) -> bytes:
        """All of them in Prometheus' text form; those of all worker processes where there are several."""
        self._queue_depth.set(queue_depth())
        self._tenants.set(tenants())
        registry = self._registry
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)
        return generate_latest(registry)
