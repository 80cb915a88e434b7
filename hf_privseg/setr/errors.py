"""The errors of this package: each one is also a builtin error, and none ever carries key material.

ValueError
├── InvalidKeyError       a value that is no key: malformed, of the wrong length, of an unknown family
├── KeyMismatchError      a sound key, but not the one (or not of the family) that this model or image was made with
├── InvalidImageError     pixels that cannot be encrypted: size, channels, dtype, range
├── HeaderError           a safetensors or JSON header that is damaged, or out of the bounds that strangers' files have
├── CiphertextError       an encrypted image that is damaged, resampled, recompressed or not one at all
└── ConversionError       a checkpoint from elsewhere that cannot become a SETR, or not safely
RuntimeError
├── EncryptionStateError  a sound request at the wrong moment: encrypting twice, decrypting what is plain
└── ServiceError          a segmentation service answers otherwise than it should
    ├── ServiceUnavailableError  it could not be reached, was busy or too slow, also when asked again
    ├── RequestRefusedError      it refuses the request, with a reason of its own
    └── PartialFailureError      some images of a batch have no segmentation map

With `trust_remote_code` a module may exist twice in one process, and then a class of one copy does not catch an error
of the other. Catching the builtin (`ValueError`, `RuntimeError`) always works.
"""

from collections.abc import Mapping, Sequence

import numpy as np


class InvalidKeyError(ValueError):
    """The value is not a secret key; the message says which part is wrong and never repeats the value."""


class KeyMismatchError(ValueError):
    """The secret key is sound, but the model, image or cipher at hand belongs to another key or family."""


class InvalidImageError(ValueError):
    """The pixels cannot be encrypted or decrypted: their size, channels, dtype or range do not fit."""


class CiphertextError(ValueError):
    """The encrypted image is damaged: changed, resized or recompressed after encryption, or never encrypted."""


class HeaderError(ValueError):
    """The header of a file is damaged or out of bounds; readers of our own files raise their own error instead."""


class ConversionError(ValueError):
    """The checkpoint from elsewhere cannot be converted: unsafe, damaged, incomplete, or of a kind that SETR lacks."""


class EncryptionStateError(RuntimeError):
    """The model is in the wrong state for the request; the message names the state and the way out."""


class ServiceError(RuntimeError):
    """A segmentation service fails, or answers otherwise than it should."""


class ServiceUnavailableError(ServiceError):
    """The service could not be reached, was busy or took too long, at every attempt; trying again later may help."""

    retry_after = 0.0  # seconds that the service asks to wait


class RequestRefusedError(ServiceError):
    """The service refuses the request; the message repeats its reason. Asking again changes nothing."""


class PartialFailureError(ServiceError):
    """Some images of a batch have no segmentation map; the message lists them, and the error keeps the finished maps.

    Args:
        message: the text for people.
        segmentation_maps: the maps as the call would have returned them, None where an image failed.
        failures: position in the batch -> the error of that image.
    """

    def __init__(
        self,
        message: str,
        segmentation_maps: Sequence[np.ndarray | None] = (),
        failures: Mapping[int, Exception] | None = None,
    ):
        super().__init__(message)
        self.segmentation_maps = list(segmentation_maps)
        self.failures = dict(failures or {})
