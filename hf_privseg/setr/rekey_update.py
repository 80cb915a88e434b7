"""Change the key of an encrypted model on a server that holds neither key (paper section 3.3).

The owner has both keys and computes the map U = E_enc_new E_enc_old^-1. The server applies it:

    E_hat_new = U E_hat_old         and images follow as b_hat_new = b_hat_old U^-1

Between permutation families U is a signed permutation, and the result equals, bit for bit, the model encrypted with
the new key. Otherwise U is a dense matrix that is applied in float64.

What the server learns. U alone determines neither key: for every old key there is a matrix of a new key that gives the
same U. But U translates every image of the old key into one of the new key, and back. The images of both keys are then
as exposed as if they had one key: they all serve an attack that needs many images, one known plain image under either
key counts for both, and whoever learns what one key does learns what the other does.

Most of this does not depend on the update. A server that goes on using the model computes the same embeddings z = b E
from an image under any key, which links the images already. It can also compute U from the two encrypted models, in
the permutation families always, and in every family where hidden_size >= L.

When an update does not help. A server that has the old key, through a leak or an attack, has E = E_enc_old^-1
E_hat_old, and E opens the images of every key. Neither an update nor `rekey_model` helps then: a new patch embedding
must be trained in private. A new key does help where the old key has leaked to somebody who has neither the encrypted
model nor the update: that person cannot open later images. An update is therefore no key, but it is confidential
between owner and server and is stored with mode 0600: with one of the keys it opens what the other one encrypts.
"""

import hashlib
import json
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from .arrays import to_array
from .block_cipher import from_blocks, to_blocks
from .ciphers import CIPHERS, cipher_for
from .encrypted_image import EncryptedImage
from .errors import HeaderError
from .keys import SecretKey, as_key
from .private_file import PrivateFile
from .public_facts import EMBEDDING_FAMILY, KeyFacts, check_image_fits
from .rounding import Rounding
from .tensor_files import arrays_from_bytes, arrays_to_bytes, header_from_bytes

if TYPE_CHECKING:
    import torch

_FORMAT = 1
_ENTRY = "privseg_rekey_update"
_HEADER = ("format", "old", "new", "patch_size", "num_channels", "sha256")


@dataclass(frozen=True, eq=False, repr=False)
class RekeyUpdate(PrivateFile):
    """The map U from an old key to a new one, with the public facts about both; `between` makes it.

    `model.apply_rekey_update(update)` applies it to a model, `apply_to_image` to an image of the old key. By
    custom its file is called NAME.rekey.

    Args:
        old, new: the public facts about the two keys.
        patch_size, num_channels: of the patch embedding; L = num_channels * patch_size**2.
        tensors: arrays {"order": (L,) int64, "signs": (L,) int8} between permutation families, with
            W_hat_new[:, i] = signs[i] W_hat_old[:, order[i]] for the weight W_hat of shape (hidden_size, L); else
            {"matrix": (L, L) float64}, U^T, with W_hat_new = W_hat_old U^T.

    Raises:
        ValueError: a number or a tensor of the wrong form, or the facts of a client embedding.
    """

    _privseg_kind: ClassVar[str] = "rekey update"
    _loss: ClassVar[str] = "a model that awaits the update in it would lose it"
    _max_file_bytes: ClassVar[int] = 2**28  # a dense map of 5792 x 5792 numbers

    old: KeyFacts
    new: KeyFacts
    patch_size: int
    num_channels: int
    tensors: dict[str, np.ndarray]

    def __post_init__(self) -> None:
        if EMBEDDING_FAMILY in (self.old.family, self.new.family):
            raise ValueError(
                f"a rekey update leads from one SecretKey to another, got families {self.old.family!r} and "
                f"{self.new.family!r}; a client embedding belongs to the plain model, from which a new one is made"
            )
        for name in ("patch_size", "num_channels"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ValueError(f"{name} of a rekey update is an int >= 1, got {value!r:.80}")
        _check_tensors(self.tensors, self.num_channels * self.patch_size**2, _is_exact(self.old, self.new))

    @classmethod
    def between(
        cls, old_key: SecretKey | bytes, new_key: SecretKey | bytes, *, patch_size: int, num_channels: int = 3
    ) -> "RekeyUpdate":
        """Two keys of any families and the geometry of the patch embedding -> the update from old to new.

        Raises:
            InvalidKeyError: one of them is no key, or it is a client embedding; no update leads to or from one.
            ValueError: the two keys are the same.
        """
        old, new = as_key(old_key), as_key(new_key)
        if old == new:
            raise ValueError(
                f"expected two keys, got twice the one of fingerprint {old.fingerprint} (family {old.family}); "
                "SecretKey.generate() makes a new one"
            )
        old_cipher, new_cipher = (
            cipher_for(key, patch_size=patch_size, num_channels=num_channels) for key in (old, new)
        )
        length = old_cipher.block_length
        matrix = new_cipher.encrypt_rows(old_cipher.decrypt_rows(np.eye(length)))
        tensors = {"matrix": matrix}
        if _is_exact(old.facts, new.facts):
            tensors = {"order": np.abs(matrix).argmax(axis=0), "signs": matrix.sum(axis=0).astype(np.int8)}
        return cls(old.facts, new.facts, patch_size, num_channels, tensors)

    def apply_to_weight(self, weight: "torch.Tensor") -> "torch.Tensor":
        """(hidden_size, channels, patch_size, patch_size) float under the old key -> the same under the new one.

        Raises:
            ValueError: a weight of another shape.
        """
        expected = (self.num_channels, self.patch_size, self.patch_size)
        if weight.ndim != 4 or tuple(weight.shape[1:]) != expected:
            raise ValueError(
                f"the update is for a weight of shape (hidden_size, {', '.join(map(str, expected))}), got "
                f"{tuple(weight.shape)}; make it with the patch_size and num_channels of the model"
            )
        import torch

        rows = to_array(weight).reshape(len(weight), -1)
        if "matrix" in self.tensors:
            acted = rows.astype(np.float64) @ self.tensors["matrix"]
        else:
            acted = rows[:, self.tensors["order"]] * self.tensors["signs"]
        return torch.from_numpy(acted).reshape(weight.shape).to(weight)

    def apply_to_image(self, image: EncryptedImage) -> EncryptedImage:
        """An encrypted image of the old key -> the same image under the new one; neither key is needed.

        Exact from one permutation family to another. From a float family to a permutation family the 8-bit levels are
        rounded, which undoes what the image's file has rounded; otherwise it is exact up to rounding. An image in
        the 8-bit form stays in it, and is rounded a second time.

        Raises:
            KeyMismatchError: the image is of another key.
            CiphertextError: it has other blocks or channels than the update.
        """
        check_image_fits(image, self.old, self.patch_size, self.num_channels, model="the rekey update's old key")
        blocks = to_blocks(image.pixels, self.patch_size)
        rows = blocks.reshape(-1, blocks.shape[-1])
        if "matrix" not in self.tensors:
            is_negative = self.tensors["signs"] < 0
            acted = rows[:, self.tensors["order"]] ^ (is_negative * np.uint8(255))
        else:
            centred = rows if rows.dtype.kind == "f" else (rows / np.float32(127.5) - 1).astype(np.float32)
            acted = centred @ self._inverse
            if CIPHERS[self.new.family].acts_on_uint8:
                acted = ((acted + 1) * np.float32(127.5)).round().clip(0, 255).astype(np.uint8)
        pixels = np.ascontiguousarray(from_blocks(acted.reshape(blocks.shape), self.patch_size)[0])
        rounding = Rounding(bits=image.bits if image.blocks is not None and pixels.dtype.kind == "f" else None)
        return replace(
            image,
            **({"blocks": None} | rounding.of_pixels(pixels, self.patch_size)),
            family=self.new.family,
            fingerprint=self.new.fingerprint,
            version=self.new.version,
        )

    @cached_property
    def _inverse(self) -> np.ndarray:
        """(L, L) float32 U^-1: rows of blocks times it are those under the new key."""
        return np.linalg.inv(self.tensors["matrix"]).T.astype(np.float32)

    def to_bytes(self) -> bytes:
        """The content of the file: safetensors with the facts in its metadata. It is confidential: never log it."""
        facts = {"old": self.old.to_dict(), "new": self.new.to_dict()}
        header = {"format": _FORMAT, **facts, "patch_size": self.patch_size, "num_channels": self.num_channels}
        header["sha256"] = _digest(self.tensors)
        return arrays_to_bytes(self.tensors, {_ENTRY: json.dumps(header)})

    @classmethod
    def from_bytes(cls, data: bytes) -> "RekeyUpdate":
        """What `to_bytes` returned -> the update.

        Raises:
            ValueError: anything else: another format, wrong entries or types, changed numbers.
        """
        try:
            header, tensors = header_from_bytes(data).json_entry(_ENTRY), arrays_from_bytes(data)
        except HeaderError as error:
            raise ValueError("expected a file that RekeyUpdate.to_file wrote, got something else") from error
        if not isinstance(header, dict) or set(header) != set(_HEADER) or header["format"] != _FORMAT:
            raise ValueError(
                f"expected a rekey update of format {_FORMAT} with the entries {sorted(_HEADER)}, got "
                f"{sorted(header) if isinstance(header, dict) else header!r:.80}; a later version may have written it"
            )
        old, new = (_facts_of(header, name) for name in ("old", "new"))
        update = cls(old, new, header["patch_size"], header["num_channels"], tensors)
        if header["sha256"] != _digest(update.tensors):
            raise ValueError(
                "the numbers of the rekey update are not those that were written (their SHA-256 differs): transfer "
                "the file again; the model was not changed"
            )
        return update

    def _file_content(self) -> bytes:
        return self.to_bytes()

    @classmethod
    def _from_file_content(cls, content: bytes) -> "RekeyUpdate":
        return cls.from_bytes(content)

    def __repr__(self) -> str:
        old, new = (f"{facts.family} {facts.fingerprint}" for facts in (self.old, self.new))
        return f"RekeyUpdate({old} -> {new}, patch_size={self.patch_size}, num_channels={self.num_channels})"


def _is_exact(old: KeyFacts, new: KeyFacts) -> bool:
    """Whether both keys only reorder and negate."""
    return all(CIPHERS[facts.family].acts_on_uint8 for facts in (old, new))


def _facts_of(header: dict[str, object], name: str) -> KeyFacts:
    try:
        return KeyFacts.from_dict(header[name])
    except ValueError as error:
        raise ValueError(f"{name} of a rekey update: {error}") from None


def _check_tensors(tensors: dict[str, np.ndarray], length: int, exact: bool) -> None:
    """Refuse tensors that are no signed permutation of L, or no finite (L, L) matrix: they would ruin the model."""
    expected: dict[str, tuple[str, tuple[int, ...]]] = {"matrix": ("float64", (length, length))}
    if exact:
        expected = {"order": ("int64", (length,)), "signs": ("int8", (length,))}
    found = {name: (str(array.dtype), array.shape) for name, array in tensors.items()}
    if found != expected:
        raise ValueError(f"expected a rekey update with {expected}, got {found}")
    if exact and not np.array_equal(np.sort(tensors["order"]), np.arange(length)):
        raise ValueError(f"the order of a rekey update holds each of 0 .. {length - 1} once, but this one does not")
    if exact and (np.abs(tensors["signs"]) != 1).any():
        raise ValueError("the signs of a rekey update are +1 and -1, but some of these are not")
    if not exact and not np.isfinite(tensors["matrix"]).all():
        raise ValueError("the matrix of a rekey update is finite, but this one has infinite numbers or NaN")


def _digest(tensors: dict[str, np.ndarray]) -> str:
    """The hexadecimal SHA-256 over the names and the little-endian numbers of all tensors."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name])
        digest.update(name.encode() + array.astype(array.dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()
