"""Sessions, limits and segmentation: what a service does for clients that keep their keys and their images.

The model is either encrypted, and then takes images that were encrypted with its key, or plain and public. In that
case each client brings an encrypted patch embedding of its own, made from the public one, for a session of limited
length: the method on show, with a public embedding and hence without its protection.

No key ever comes here. Nothing that was sent is kept, but for the embedding of a session until it ends.
"""

import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..inference.pictures import palette_for
from ..inference.segmentation import segment_image
from ..setr.encrypted_image import EncryptedImage
from ..setr.errors import CiphertextError
from ..setr.image_processing_setr import SetrImageProcessor
from ..setr.keys import FAMILIES, FORMAT_VERSION
from ..setr.modeling_setr import SetrForSemanticSegmentation
from ..setr.public_facts import check_image_fits
from .embedding_file import embedding_from_bytes, embedding_to_bytes
from .model_view import with_projection_weight

_MAX_SCORES = 2**28  # float32 numbers in one image's resized logits: 1 GiB


@dataclass(frozen=True)
class Limits:
    """What one client may ask for, and all of them together.

    Args:
        max_pixels: of an encrypted image, height times width.
        max_original_pixels: of the image's own size, which the segmentation map has.
        max_sessions: embeddings that are kept; the one that was used longest ago makes room for the next.
        session_seconds: after which a session ends, used or not.

    Raises:
        ValueError: a limit below 1.
    """

    max_pixels: int = 2**21
    max_original_pixels: int = 2**24
    max_sessions: int = 64
    session_seconds: int = 1800

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise ValueError(f"{name} is at least 1, got {value}")

    @property
    def max_upload_bytes(self) -> int:
        """Size of the largest file that can be of use: three 16-bit channels and their header."""
        return 6 * self.max_pixels + 2**16


@dataclass
class _Session:
    model: SetrForSemanticSegmentation
    ends_at: float


class SegmentationService:
    """Segments encrypted images with one shared model; safe to call from several threads at a time.

    Args:
        model: in evaluation mode; plain (public) or encrypted. It is never changed.
        processor: the model's.
        limits: what clients may ask for.
        clock: seconds, never going back; tests put theirs here.
    """

    def __init__(
        self,
        model: SetrForSemanticSegmentation,
        processor: SetrImageProcessor,
        *,
        limits: Limits | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.model = model
        self.processor = processor
        self.limits = limits or Limits()
        self._clock = clock
        self._sessions: OrderedDict[str, _Session] = OrderedDict()
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None

    @property
    def is_public(self) -> bool:
        """Whether the model is plain, so that clients bring encrypted embeddings."""
        return self.model.config.encryption is None

    def model_info(self) -> dict[str, Any]:
        """What a client has to know to prepare an image; JSON."""
        config = self.model.config
        return {
            "version": FORMAT_VERSION,
            "encryption": config.encryption,
            "patch_size": config.patch_size,
            "num_channels": config.num_channels,
            "hidden_size": config.hidden_size,
            "labels": {str(index): name for index, name in (config.id2label or {}).items()},
            "palette": palette_for(config).tolist(),
            "max_pixels": self.limits.max_pixels,
            "max_original_pixels": self._max_original_pixels,
            "max_upload_bytes": self.limits.max_upload_bytes,
            "preprocessor": self.processor.to_dict(),
            "families": list(FAMILIES),
        }

    def public_embedding(self) -> bytes:
        """safetensors of "weight" (hidden_size, channels, patch_size, patch_size) float32, the plain projection.

        Raises:
            ValueError: the model is encrypted, and its plain embedding is not here.
        """
        self._require_public("its plain patch embedding is not here")
        weight = self.model.setr.embeddings.patch_embeddings.projection.weight
        return embedding_to_bytes(weight)

    def register_embedding(self, data: bytes) -> dict[str, Any]:
        """safetensors of one encrypted projection weight -> {"session": token, "expires_in_seconds": int}.

        Args:
            data: one float32 tensor (hidden_size, channels, patch_size, patch_size), of any name; the metadata has
                family, version and fingerprint of the key as text. The service takes them on trust.

        Raises:
            ValueError: the model is encrypted, or the file holds something else.
        """
        self._require_public("clients bring none of their own; pass an empty session to segment")
        weight, facts = embedding_from_bytes(data)
        view = with_projection_weight(self.model, weight, facts)
        token = secrets.token_urlsafe(16)
        with self._lock:
            self._forget_ended()
            while len(self._sessions) >= self.limits.max_sessions:
                self._sessions.popitem(last=False)
            self._sessions[token] = _Session(view, self._clock() + self.limits.session_seconds)
            self._arm_timer()
        return {"session": token, "expires_in_seconds": self.limits.session_seconds}

    def end_session(self, session: str) -> None:
        """Forget the embedding of a session now; nothing happens where there is none."""
        with self._lock:
            self._sessions.pop(session, None)

    def segment(self, data: bytes, session: str = "") -> np.ndarray:
        """A container file as `EncryptedImage.to_bytes` writes it -> (height, width) uint8 labels at the image's size.

        Args:
            data: the file's content.
            session: from `register_embedding`; empty where the model is encrypted.

        Raises:
            CiphertextError: no encrypted image, a damaged one or one too large.
            KeyMismatchError: encrypted with another key than the model, or the embedding of the session.
            ValueError: an unknown session, or a missing or superfluous one.
        """
        image, model = self.opened(data, session)
        found = segment_image(model, self.processor, image, max_pixels=self._max_original_pixels)
        return found.astype(np.uint8)

    def opened(self, data: bytes, session: str) -> tuple[EncryptedImage, SetrForSemanticSegmentation]:
        """A container file and a session -> the image and the model that takes it, checked as `segment` says."""
        model = self._model_of(session)
        image = EncryptedImage.from_bytes(data, max_pixels=self.limits.max_pixels)
        height, width = image.pixels.shape[-2:]
        for what, (rows, columns), limit in (
            ("an encrypted image", (height, width), self.limits.max_pixels),
            ("an image's original size", image.original_size, self._max_original_pixels),
        ):
            if rows * columns > limit:
                raise CiphertextError(
                    f"{what} has at most {limit} pixels here, got {rows} x {columns}; reduce the image, then encrypt"
                )
        theirs = "the model of this service" if not session else "the embedding registered for this session"
        config = model.config
        check_image_fits(image, config.key_facts, config.patch_size, config.num_channels, model=theirs)
        return image, model

    @property
    def _max_original_pixels(self) -> int:
        return min(self.limits.max_original_pixels, _MAX_SCORES // max(self.model.config.num_labels or 1, 1))

    def _model_of(self, session: str) -> SetrForSemanticSegmentation:
        if not self.is_public:
            if session:
                raise ValueError("expected no session, for the model of this service is encrypted itself, got one")
            return self.model
        if not session:
            raise ValueError(
                "expected a session, for the model of this service is plain, got none; register an encrypted patch "
                "embedding first (register_embedding)"
            )
        with self._lock:
            self._forget_ended()
            if session not in self._sessions:
                raise ValueError(
                    "the session is unknown or over; register the encrypted patch embedding again (register_embedding)"
                )
            self._sessions.move_to_end(session)
            return self._sessions[session].model

    def _require_public(self, reason: str) -> None:
        facts = self.model.config.key_facts
        if facts is not None:
            raise ValueError(f"the model of this service is encrypted ({facts}): {reason}")

    def _forget_ended(self) -> None:
        now = self._clock()
        for token in [token for token, session in self._sessions.items() if session.ends_at <= now]:
            del self._sessions[token]

    def _arm_timer(self) -> None:
        """Have sessions forgotten when they end, even if nobody calls any more; one timer at a time."""
        if self._timer is None and self._sessions:
            wait = min(session.ends_at for session in self._sessions.values()) - self._clock()
            self._timer = threading.Timer(max(wait, 0) + 0.1, self._on_timer)
            self._timer.daemon = True
            self._timer.start()

    def _on_timer(self) -> None:
        with self._lock:
            self._timer = None
            self._forget_ended()
            self._arm_timer()
