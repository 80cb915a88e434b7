"""The encrypted patch embeddings of a service's tenants, by the fingerprint of their keys.

A service has many tenants and one network: what a tenant adds is the patch embedding's weight under its key. An
`EmbeddingFolder` keeps them on disk, where they survive a restart and where other processes see every change at once;
`TemporaryEmbeddings` keeps those of a public demonstration's visitors in memory and forgets them after a while.
"""

import os
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from ..setr.files import write_whole
from ..setr.public_facts import KeyFacts
from .embedding_file import embedding_from_bytes, embedding_to_bytes

MEMORY_BYTES = 2**28  # of weights that an EmbeddingFolder keeps in memory: some 80 of ViT-L's

_SUFFIX = ".safetensors"


class UnknownEmbeddingError(LookupError):
    """No patch embedding is registered under the fingerprint."""


class DamagedEmbeddingError(RuntimeError):
    """The file of a registered patch embedding has been changed or cut short; it has to be registered again."""


@dataclass(frozen=True)
class RegisteredEmbedding:
    """The weight of a patch embedding, encrypted with the key that the facts tell of.

    Args:
        weight: (hidden_size, channels, patch_size, patch_size) float32.
        facts: about the key.
    """

    weight: torch.Tensor
    facts: KeyFacts


class EmbeddingStore(Protocol):
    """What a service needs of a store; all methods may be called from several threads."""

    def put(self, embedding: RegisteredEmbedding) -> bool:
        """Register or replace an embedding; returns whether the fingerprint is new."""

    def get(self, fingerprint: str) -> RegisteredEmbedding:
        """The embedding of a fingerprint; raises UnknownEmbeddingError or DamagedEmbeddingError."""

    def remove(self, fingerprint: str) -> bool:
        """Revoke an embedding; returns whether there was one."""

    def __len__(self) -> int: ...


class TemporaryEmbeddings:
    """A store in memory, bounded in number and time.

    Args:
        max_count: of embeddings; the one that was used longest ago makes room for the next.
        seconds: after which an embedding is forgotten, used or not.
        clock: seconds, never going back; tests put theirs here.
    """

    def __init__(self, max_count: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_count, self._seconds, self._clock = max_count, seconds, clock
        self._entries: OrderedDict[str, tuple[RegisteredEmbedding, float]] = OrderedDict()
        self._lock = threading.Lock()

    def put(self, embedding: RegisteredEmbedding) -> bool:
        """Register or replace an embedding -> whether the fingerprint is new."""
        fingerprint = embedding.facts.fingerprint
        with self._lock:
            self._forget_expired()
            is_new = self._entries.pop(fingerprint, None) is None
            while len(self._entries) >= self._max_count:
                self._entries.popitem(last=False)
            self._entries[fingerprint] = (embedding, self._clock() + self._seconds)
        return is_new

    def get(self, fingerprint: str) -> RegisteredEmbedding:
        """The embedding of a fingerprint.

        Raises:
            UnknownEmbeddingError: there is none, or none any more.
        """
        with self._lock:
            self._forget_expired()
            if fingerprint not in self._entries:
                raise UnknownEmbeddingError(fingerprint)
            self._entries.move_to_end(fingerprint)
            return self._entries[fingerprint][0]

    def remove(self, fingerprint: str) -> bool:
        """Forget an embedding now -> whether there was one."""
        with self._lock:
            return self._entries.pop(fingerprint, None) is not None

    def __len__(self) -> int:
        with self._lock:
            self._forget_expired()
            return len(self._entries)

    def _forget_expired(self) -> None:
        now = self._clock()
        for name in [name for name, (_, ends_at) in self._entries.items() if ends_at <= now]:
            del self._entries[name]


class EmbeddingFolder:
    """A store in a folder: FINGERPRINT.safetensors each, written whole, loaded when it is first used.

    Every `get` looks at the file's date and size, so that what another process registers, replaces or revokes counts
    from the next request on.

    Args:
        folder: is created, for its owner alone, if it does not exist.
        memory_bytes: of weights that stay in memory; those used longest ago leave it, and are read again when needed.
    """

    def __init__(self, folder: Path, *, memory_bytes: int = MEMORY_BYTES) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder, self._memory_bytes = folder, memory_bytes
        self._loaded: OrderedDict[str, tuple[RegisteredEmbedding, tuple[int, int, int]]] = OrderedDict()
        self._lock = threading.Lock()

    def put(self, embedding: RegisteredEmbedding) -> bool:
        """Register or replace an embedding -> whether the fingerprint is new. It has reached the disk on return."""
        path = self._path(embedding.facts.fingerprint)
        is_new = not path.exists()
        write_whole(path, embedding_to_bytes(embedding.weight, embedding.facts), overwrite=True)
        with self._lock:
            self._loaded.pop(embedding.facts.fingerprint, None)
        return is_new

    def get(self, fingerprint: str) -> RegisteredEmbedding:
        """The embedding of a fingerprint, from memory or disk.

        Raises:
            UnknownEmbeddingError: none is registered.
            DamagedEmbeddingError: its file does not hold what was registered.
        """
        path = self._path(fingerprint)
        try:
            stamp = _stamp(path)
            with self._lock:
                found = self._loaded.get(fingerprint)
                if found is not None and found[1] == stamp:
                    self._loaded.move_to_end(fingerprint)
                    return found[0]
            embedding = _read(path, fingerprint)
        except FileNotFoundError:
            with self._lock:
                self._loaded.pop(fingerprint, None)
            raise UnknownEmbeddingError(fingerprint) from None
        with self._lock:
            self._loaded[fingerprint] = (embedding, stamp)
            self._loaded.move_to_end(fingerprint)
            while self.loaded_bytes > self._memory_bytes and len(self._loaded) > 1:
                self._loaded.popitem(last=False)
        return embedding

    def remove(self, fingerprint: str) -> bool:
        """Revoke an embedding -> whether there was one."""
        with self._lock:
            self._loaded.pop(fingerprint, None)
        try:
            self._path(fingerprint).unlink()
        except FileNotFoundError:
            return False
        return True

    def __len__(self) -> int:
        return len(self.fingerprints())

    def fingerprints(self) -> list[str]:
        """The fingerprints of all registered embeddings, sorted; nothing is loaded."""
        names = (name.removesuffix(_SUFFIX) for name in os.listdir(self._folder) if name.endswith(_SUFFIX))
        return sorted(name for name in names if re.fullmatch("[0-9a-f]{16}", name))

    @property
    def loaded_bytes(self) -> int:
        """Bytes of the weights that are in memory now."""
        return sum(embedding.weight.nbytes for embedding, _ in self._loaded.values())

    def _path(self, fingerprint: str) -> Path:
        if not re.fullmatch("[0-9a-f]{16}", fingerprint):  # nothing else becomes a part of a path
            raise UnknownEmbeddingError(fingerprint)
        return self._folder / f"{fingerprint}{_SUFFIX}"


def _stamp(path: Path) -> tuple[int, int, int]:
    """What changes with a file that is replaced: its date, size and number."""
    found = path.stat()
    return found.st_mtime_ns, found.st_size, found.st_ino


def _read(path: Path, fingerprint: str) -> RegisteredEmbedding:
    """The file of a fingerprint -> its embedding, checked against the digest that was written with it."""
    try:
        weight, facts = embedding_from_bytes(path.read_bytes())
        if facts.fingerprint != fingerprint:
            raise ValueError(f"it is the one of {facts.fingerprint}")
    except ValueError as error:
        raise DamagedEmbeddingError(
            f"the stored patch embedding {fingerprint} is damaged ({error}); register it again"
        ) from error
    return RegisteredEmbedding(weight, facts)
