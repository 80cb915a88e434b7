"""Runs the service: the application on uvicorn, in one process or several."""

import json
import os
import tempfile
from dataclasses import asdict, dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI

from ..inference.windows import Inference
from ..storage.models import load_model
from .access import ANYONE, VISITOR, Access
from .api import create_app
from .connections import Connection
from .embedding_store import EmbeddingFolder, EmbeddingStore
from .engine import SegmentationService
from .limits import Limits
from .requests import log_to_stderr

_SETTINGS = "PRIVSEG_SERVICE_SETTINGS"  # what a worker process is told; it holds no secret
_GRACE_SECONDS = 30  # that requests under way have after SIGTERM
_START_SECONDS = 300  # that a worker has for its imports and its model; one that ends is replaced at once
_CONNECTIONS = 1000


@dataclass(frozen=True)
class Settings:
    """How a service runs.

    Args:
        model: folder or Hub id of a plain or encrypted SETR, or "default".
        device: of torch; None is the machine's accelerator.
        dtype: of the weights; None is that of the checkpoint.
        host: address to listen at.
        port: port to listen at.
        window: side of sliding windows in pixels, on the patch grid; None is the whole image.
        stride: from one window to the next.
        limits: what clients may ask for.
        embeddings: folder of the tenants' patch embeddings; without it, they are kept in memory for a limited time.
        tokens: file of access tokens; without it, everybody may use the service.
        page: whether the page is shown; needs gradio.
        workers: processes, each with a model and a queue of its own.
        root_path: the path under which a proxy shows the service.
        tls_certificate, tls_key: PEM files; with them the service speaks HTTPS.

    Raises:
        ValueError: settings that do not go together.
    """

    model: str = "default"
    device: str | None = None
    dtype: str | None = None
    host: str = "127.0.0.1"
    port: int = 7860
    window: int | None = None
    stride: int | None = None
    limits: Limits = field(default_factory=Limits)
    embeddings: Path | None = None
    tokens: Path | None = None
    page: bool = True
    workers: int = 1
    root_path: str = ""
    tls_certificate: Path | None = None
    tls_key: Path | None = None

    def __post_init__(self) -> None:
        if self.workers > 1 and self.embeddings is None:
            raise ValueError(
                f"expected a folder of embeddings for {self.workers} workers, which have no memory in common, got none"
            )
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("expected a certificate and its key for HTTPS, got one of the two")


def is_loopback(host: str) -> bool:
    """Whether an address to listen at is one that only this machine reaches."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def build_app(settings: Settings, service: SegmentationService | None = None) -> FastAPI:
    """The application of a service.

    Args:
        settings: how it runs.
        service: the engine; by default, with the model of the settings.

    Raises:
        OSError, ValueError: no such model, or a file of tokens that cannot be read.
    """
    # Without tokens, an address that others reach lets nobody change the tenants' folder.
    is_open = settings.embeddings is not None and not is_loopback(settings.host)
    access = Access(settings.tokens, everybody=VISITOR if is_open else ANYONE)
    if service is None:
        store: EmbeddingStore | None = None
        if settings.embeddings is not None:
            store = EmbeddingFolder(settings.embeddings)
        found = load_model(settings.model, device=settings.device, dtype=settings.dtype)
        windows = Inference(settings.window, settings.stride)
        service = SegmentationService(*found, limits=settings.limits, store=store, inference=windows)
    if not settings.page:
        return create_app(service, access, root_path=settings.root_path)
    from . import page  # gradio, which the interface does without

    app = create_app(service, access, root_path=settings.root_path, routers=[page.router])
    page.add_page(app, settings.model)
    return app


def serve(settings: Settings) -> None:
    """Run a service until SIGINT or SIGTERM; requests under way are answered then, and further ones refused.

    Raises:
        OSError, ValueError: as `build_app`.
    """
    if settings.workers == 1:
        app = build_app(settings)
        log_to_stderr()
        uvicorn.run(app, **_uvicorn_options(settings))
        return
    log_to_stderr()
    os.environ[_SETTINGS] = json.dumps(asdict(settings), default=str)
    with tempfile.TemporaryDirectory(prefix="privseg-metrics-") as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        uvicorn.run(
            "hf_privseg.service.server:worker_app", factory=True, workers=settings.workers,
            **_uvicorn_options(settings),
        )  # fmt: skip


def worker_app() -> FastAPI:
    """The application of one worker process, which has its share of the processor's cores."""
    log_to_stderr()
    values = json.loads(os.environ[_SETTINGS])
    paths = ("embeddings", "tokens", "tls_certificate", "tls_key")
    values |= {name: Path(values[name]) for name in paths if values[name] is not None}
    settings = Settings(**values | {"limits": Limits(**values["limits"])})
    torch.set_num_threads(max(1, torch.get_num_threads() // settings.workers))
    return build_app(settings)


def _uvicorn_options(settings: Settings) -> dict[str, Any]:
    return {
        "host": settings.host,
        "port": settings.port,
        "root_path": settings.root_path,
        "ssl_certfile": settings.tls_certificate,
        "ssl_keyfile": settings.tls_key,
        "access_log": False,
        "log_config": None,  # log_to_stderr has set it up
        "server_header": False,
        "limit_concurrency": _CONNECTIONS,
        "timeout_graceful_shutdown": _GRACE_SECONDS,
        "timeout_worker_healthcheck": _START_SECONDS,
        "http": Connection,
        "ws": "none",
    }
