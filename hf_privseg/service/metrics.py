"""What a service counts, for Prometheus: nothing that tells one image, key or client from another."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

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
        self.queue_depth = Gauge(
            "privseg_queue_depth", "Images that wait.", multiprocess_mode="livesum", registry=registry
        )
        self._tenants = Gauge(
            "privseg_tenants", "Registered patch embeddings.", multiprocess_mode="livemax", registry=registry
        )

    def text(self, *, tenants: Callable[[], int]) -> bytes:
        """All of them in Prometheus' text form; those of all worker processes where there are several."""
        self._tenants.set(tenants())
        registry = self._registry
        folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
        if folder is not None:
            _forget_dead_processes(Path(folder))
            registry = CollectorRegistry()
            MultiProcessCollector(registry)
        return generate_latest(registry)


def _forget_dead_processes(folder: Path) -> None:
    """What a worker that was killed had in its queue counts no longer."""
    for pid in {int(path.stem.rpartition("_")[2]) for path in folder.glob("gauge_live*_*.db")}:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            with suppress(FileNotFoundError):  # another worker was faster
                mark_process_dead(pid, str(folder))
