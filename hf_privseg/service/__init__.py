"""A segmentation service for encrypted images: it never has a key and never sees a plain image.

engine.py           segmentation for any number of keys; knows nothing of the web
limits.py           what clients may ask for
embedding_file.py   the file of a patch embedding     embedding_store.py  those of all tenants, by fingerprint
mixed_keys.py       one forward for images of many keys   batching.py     requests of one size share a forward
access.py           bearer tokens and their limits
api.py              the routes under /v1, as a FastAPI application (needs the extra "service")
problems.py, answers.py, requests.py, metrics.py    refusals, answers, what every request passes through, counters
page.py, sample.py, server_view.py, static/         the page (needs the extra "space")
server.py           the application on uvicorn
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .embedding_store import EmbeddingFolder
    from .engine import SegmentationService
    from .limits import Limits

__all__ = ["EmbeddingFolder", "Limits", "SegmentationService"]

# Each name is imported when it is first used: tokens need no torch.
_MODULES = {"EmbeddingFolder": "embedding_store", "Limits": "limits", "SegmentationService": "engine"}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)
