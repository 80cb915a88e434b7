"""What a service tells of its model, checked: it comes from somebody who is not trusted."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..setr.errors import EncryptionStateError, ServiceError
from ..setr.public_facts import KeyFacts

API_VERSION = 1
SETTINGS = (
    "patch_size", "num_channels", "do_resize", "size", "resize_factor", "resample", "do_pad", "pad_value",
    "do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std",
)  # fmt: skip

_MAX_LABELS = 256  # what an 8-bit map holds


@dataclass(frozen=True)
class ServiceInfo:
    """The public facts of a service's model, as its route /v1/model tells them.

    Args:
        key_facts: about the key that the model is encrypted with.
        patch_size: side of a patch, and so of the cipher's blocks, in pixels.
        num_channels: of the images that it takes.
        labels: the name of each class.
        palette: (num_labels, 3) uint8, a colour for each class.
        max_pixels: how large an encrypted image may be.
        max_upload_bytes: how large its file may be.
        preprocessor: settings of the model's image processor.
    """

    key_facts: KeyFacts
    patch_size: int
    num_channels: int
    labels: tuple[str, ...]
    palette: np.ndarray
    max_pixels: int
    max_upload_bytes: int
    preprocessor: Mapping[str, Any]

    @classmethod
    def from_json(cls, answer: object, url: str) -> "ServiceInfo":
        """The answer of /v1/model, from anyone -> the facts, their types checked.

        Raises:
            EncryptionStateError: the service runs a plain model.
            ServiceError: another version of the interface, or facts that are missing or make no sense.
        """
        told = answer if isinstance(answer, dict) else {}
        version = told.get("version")
        if version != API_VERSION:
            raise ServiceError(
                f"expected version {API_VERSION} of the service's interface at {url}, got {version!r:.40}; "
                "update hf-privseg, or check the address"
            )
        if told.get("encryption", "") is None:
            raise EncryptionStateError(
                f"the service at {url} runs a plain, public model, which is a demonstration for browsers and protects "
                "nothing; this client needs a service whose model is encrypted (privseg serve ENCRYPTED_MODEL)"
            )
        try:
            labels = tuple(str(told["labels"][str(index)]) for index in range(len(told["labels"])))
            facts = cls(
                key_facts=KeyFacts.from_dict(told["encryption"]),
                patch_size=told["patch_size"],
                num_channels=told["num_channels"],
                labels=tuple("".join(c for c in name if c.isprintable())[:80] for name in labels),
                palette=np.array(told["palette"], np.uint8).reshape(-1, 3)[: len(labels)],
                max_pixels=told["max_pixels"],
                max_upload_bytes=told["max_upload_bytes"],
                preprocessor={k: v for k, v in dict(told["preprocessor"]).items() if k in SETTINGS},
            )
        except (LookupError, TypeError, ValueError, OverflowError) as error:
            raise ServiceError(
                f"the service at {url} describes its model in an unknown form ({type(error).__name__}: {error!s:.200})"
                "; update hf-privseg, or check the address"
            ) from error
        whole = (facts.patch_size, facts.max_pixels, facts.max_upload_bytes, facts.num_channels)
        if any(type(number) is not int or number < 1 for number in whole) or not 0 < len(labels) <= _MAX_LABELS:
            raise ServiceError(f"the service at {url} describes its model with sizes {whole!r:.80} that make no sense")
        if len(facts.palette) != len(labels):
            raise ServiceError(
                f"expected {len(labels)} colours from {url}, as it has labels, got {len(facts.palette)}"
            )
        return facts
