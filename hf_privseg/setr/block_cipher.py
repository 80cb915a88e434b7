"""What a cipher is: one linear map on the blocks of an image, and its counterpart on the embedding's weight.

A block is the L = channels * patch_size**2 pixels of one patch, flattened (channel, row, column) as the weight of the
patch embedding is. The maps are chosen by the families, in `ciphers`.

The maps are computed by NumPy, for tensors on the CPU too, so that a client without torch encrypts to the same bits.
Tensors on another device, and those that gradients flow through, stay with torch.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, TypeVar

import numpy as np

from .arrays import is_tensor, like, to_array
from .encryption_key import EncryptionKey, as_encryption_key
from .errors import InvalidImageError, KeyMismatchError
from .patch_grid import check_on_grid

if TYPE_CHECKING:
    import torch

Pixels = TypeVar("Pixels", np.ndarray, "torch.Tensor")


class BlockCipher(ABC):
    """One linear map on the blocks of an image, and its counterpart on the embedding's weight.

    Attributes:
        family: the name that keys carry.
        summary: what it does to a block, in a few words for whoever chooses a family.
        acts_on_uint8: whether `encrypt` takes 8-bit pixels as well, with a result bit-equal to the float form's.
        ends_in_zeros: whether ciphertext blocks end in zeros, which files leave out.
        patch_size: height and width of a block in pixels.
        num_channels: channels of the image.
        block_length: L = num_channels * patch_size**2.
        fingerprint: that of the key; None for a matrix that the user supplied.
    """

    family: ClassVar[str]
    summary: ClassVar[str] = "a family of your own"
    acts_on_uint8: ClassVar[bool]
    ends_in_zeros: ClassVar[bool] = False
    patch_size: int
    num_channels: int
    block_length: int
    fingerprint: str | None

    def __init__(self, secret_key: EncryptionKey | bytes, *, patch_size: int, num_channels: int = 3) -> None:
        """Key of this family and the geometry of the patch embedding -> cipher.

        Raises:
            InvalidKeyError: `secret_key` is no key.
            KeyMismatchError: the key is bound to another family.
        """
        key = as_encryption_key(secret_key)
        if key.family != self.family:
            raise KeyMismatchError(
                f"{type(self).__name__} needs a key of family {self.family!r}, got one of family {key.family!r}; "
                "cipher_for(secret_key, ...) chooses the class that fits the key"
            )
        self._set_geometry(patch_size, num_channels)
        self.fingerprint = key.fingerprint
        self._derive(key)

    def encrypt(self, pixels: Pixels) -> Pixels:
        """(..., channels, height, width) float in [-1, 1], or uint8 where it acts on that -> same shape and dtype.

        Args:
            pixels: an array, or a tensor on any device; height and width are multiples of the patch size. Half
                precision is computed in float32 and rounded once.

        Raises:
            InvalidImageError: size, channels or dtype do not fit.
        """
        return self._on_pixels(pixels, self._encrypt_array, self._encrypt_blocks)

    def decrypt(self, pixels: Pixels) -> Pixels:
        """The inverse of `encrypt`: (..., channels, height, width) ciphertext -> same shape and dtype.

        Raises:
            InvalidImageError: as `encrypt`.
            EncryptionStateError: the key is a client embedding, which has no inverse on pixels.
        """
        return self._on_pixels(pixels, self._decrypt_array, self._decrypt_blocks)

    def encrypt_weight(self, weight: "torch.Tensor") -> "torch.Tensor":
        """(hidden_size, channels, patch_size, patch_size) float -> same shape, dtype and device (eq. 3).

        Raises:
            ValueError: the weight's shape is not that of the geometry, or it is no float tensor.
            KeyMismatchError: the key is a client embedding, and was made from another weight.
        """
        return self._on_rows(weight, self.encrypt_rows)

    def decrypt_weight(self, weight: "torch.Tensor") -> "torch.Tensor":
        """The inverse of `encrypt_weight`: same shape, dtype and device."""
        return self._on_rows(weight, self.decrypt_rows)

    @abstractmethod
    def _derive(self, key: Any) -> None:
        """Keep what the maps need."""

    @abstractmethod
    def _encrypt_blocks(self, rows: Any) -> Any:
        """(n, L) array or tensor -> the same kind and dtype: b E_enc^-1."""

    @abstractmethod
    def _decrypt_blocks(self, rows: Any) -> Any:
        """(n, L) array or tensor -> the same kind and dtype: b_hat E_enc."""

    @abstractmethod
    def encrypt_rows(self, rows: np.ndarray) -> np.ndarray:
        """(hidden_size, L) -> the same shape: W E_enc^T."""

    @abstractmethod
    def decrypt_rows(self, rows: np.ndarray) -> np.ndarray:
        """(hidden_size, L) -> the same shape: W_hat E_enc^-T."""

    def _set_geometry(self, patch_size: int, num_channels: int) -> None:
        for name, value in (("patch_size", patch_size), ("num_channels", num_channels)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} is an int >= 1, got {value!r}")
        self.patch_size = patch_size
        self.num_channels = num_channels
        self.block_length = num_channels * patch_size**2

    def _on_pixels(
        self, pixels: Pixels, on_array: Callable[[np.ndarray], np.ndarray], on_rows: Callable[[Any], Any]
    ) -> Pixels:
        """Check the pixels, then act on them as an array where they can be one, else on their rows with torch."""
        self._check_pixels(pixels)
        if isinstance(pixels, np.ndarray):
            return on_array(pixels)
        if pixels.device.type != "cpu" or pixels.requires_grad:
            return self._in_blocks(pixels, on_rows)
        import torch

        return torch.from_numpy(on_array(to_array(pixels))).to(pixels.dtype)

    def _encrypt_array(self, pixels: np.ndarray) -> np.ndarray:
        """(..., channels, height, width) -> the same, as `_encrypt_blocks` says; a family may have a faster way."""
        return self._in_blocks(pixels, self._encrypt_blocks)

    def _decrypt_array(self, pixels: np.ndarray) -> np.ndarray:
        return self._in_blocks(pixels, self._decrypt_blocks)

    def _in_blocks(self, pixels: Pixels, act: Callable[[Any], Any]) -> Pixels:
        """Cut the pixels into rows of one block each, act on the rows, put the blocks back in place."""
        blocks = to_blocks(pixels, self.patch_size)
        acted = act(blocks.reshape(-1, self.block_length))
        return from_blocks(acted.reshape(blocks.shape), self.patch_size).reshape(pixels.shape)

    def _on_rows(self, weight: "torch.Tensor", act: Callable[[np.ndarray], np.ndarray]) -> "torch.Tensor":
        import torch

        expected = (self.num_channels, self.patch_size, self.patch_size)
        if weight.ndim != 4 or weight.shape[1:] != expected or not weight.is_floating_point():
            raise ValueError(
                f"expected a float weight of shape (hidden_size, {', '.join(map(str, expected))}), "
                f"got {weight.dtype} of shape {tuple(weight.shape)}; make the cipher with the model's own "
                "patch_size and num_channels"
            )
        acted = act(to_array(weight).reshape(len(weight), self.block_length))
        return torch.from_numpy(acted).reshape(weight.shape).to(weight)

    def _check_pixels(self, pixels: Any) -> None:
        if not isinstance(pixels, np.ndarray) and not is_tensor(pixels):
            raise InvalidImageError(f"expected an array or a tensor of pixels, got {type(pixels).__name__}")
        if pixels.ndim < 3 or pixels.shape[-3] != self.num_channels:
            raise InvalidImageError(
                f"expected pixels of shape (..., {self.num_channels}, height, width), got {tuple(pixels.shape)}"
            )
        check_on_grid(
            tuple(pixels.shape[-2:]),
            self.patch_size,
            what="height x width",
            advice="resize or pad the plain image, never a ciphertext",
            error=InvalidImageError,
        )
        dtype = str(pixels.dtype).removeprefix("torch.")
        if "float" not in dtype and not (self.acts_on_uint8 and dtype == "uint8"):
            expected = "float pixels in [-1, 1]" + (" or uint8" if self.acts_on_uint8 else " (uint8 / 127.5 - 1)")
            raise InvalidImageError(f"the {self.family} cipher takes {expected}, got {pixels.dtype}")

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(patch_size={self.patch_size}, num_channels={self.num_channels}, "
            f"fingerprint={self.fingerprint!r})"
        )

    def __getstate__(self) -> NoReturn:
        """Refuse pickle, copy and deepcopy: a cipher holds its key in another form."""
        raise TypeError(
            "a cipher is neither pickled nor copied, for it holds the secret; pass the path of a key file, "
            "read it with SecretKey.from_file where it is used and call cipher_for there"
        )


class DenseCipher(BlockCipher):
    """A dense E_enc, held with its inverse in float64; pixels meet it cast to their own precision."""

    acts_on_uint8: ClassVar[bool] = False

    def _set_matrix(self, matrix: np.ndarray, inverse: np.ndarray) -> None:
        self._matrix, self._inverse = matrix, inverse
        self._casts: dict[tuple[bool, str, str], Any] = {}

    def _encrypt_blocks(self, rows: Any) -> Any:
        return self._multiply(rows, inverse=True)

    def _decrypt_blocks(self, rows: Any) -> Any:
        return self._multiply(rows, inverse=False)

    def encrypt_rows(self, rows: np.ndarray) -> np.ndarray:
        """(hidden_size, L) -> the same shape, float64: W E_enc^T."""
        return rows.astype(np.float64) @ self._matrix.T

    def decrypt_rows(self, rows: np.ndarray) -> np.ndarray:
        """(hidden_size, L) -> the same shape, float64: W_hat E_enc^-T."""
        return rows.astype(np.float64) @ self._inverse.T

    def _multiply(self, rows: Any, inverse: bool) -> Any:
        matrix = self._inverse if inverse else self._matrix
        place = (inverse, str(getattr(rows, "device", "")), str(rows.dtype))
        if not is_tensor(rows):
            dtype = np.promote_types(rows.dtype, np.float32)
            if place not in self._casts:
                self._casts[place] = matrix.astype(dtype)
            return (rows.astype(dtype, copy=False) @ self._casts[place]).astype(rows.dtype, copy=False)
        import torch

        wide = torch.promote_types(rows.dtype, torch.float32)
        if place not in self._casts:
            self._casts[place] = like(matrix, rows).to(wide)
        with torch.autocast(rows.device.type, enabled=False):  # rounding to bf16 here would not cancel
            return (rows.to(wide) @ self._casts[place]).to(rows.dtype)


def to_blocks(pixels: Pixels, patch_size: int) -> Pixels:
    """(..., channels, height, width) -> (batch, height / patch_size, width / patch_size, L), a block in each row."""
    channels, height, width = pixels.shape[-3:]
    down, across = height // patch_size, width // patch_size
    batch = math.prod(pixels.shape[:-3])
    parts = pixels.reshape(batch, channels, down, patch_size, across, patch_size)
    return _permuted(parts, (0, 2, 4, 1, 3, 5)).reshape(batch, down, across, channels * patch_size**2)


def from_blocks(blocks: Pixels, patch_size: int) -> Pixels:
    """(batch, rows, columns, L) -> (batch, channels, rows * patch_size, columns * patch_size), undoing `to_blocks`."""
    batch, down, across, length = blocks.shape
    channels = length // patch_size**2
    parts = blocks.reshape(batch, down, across, channels, patch_size, patch_size)
    return _permuted(parts, (0, 3, 1, 4, 2, 5)).reshape(batch, channels, down * patch_size, across * patch_size)


def _permuted(values: Any, axes: tuple[int, ...]) -> Any:
    return values.permute(axes) if is_tensor(values) else values.transpose(axes)
