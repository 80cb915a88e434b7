"""The block ciphers of the conventional method (Kiya et al., J. Imaging 2022, Table 2): SHF, NP and FFX.

An image is cut into blocks of block_size x block_size pixels, and every block is encrypted with the same key. A block
is flattened (row, column, channel) to L = channels * block_size**2 values in [0, 1]. The key decides on:

    cipher      values of a block                                          drawn from the key
    ShfCipher   moved: x'[i] = x[order[i]]                                 an order of L
    NpCipher    turned: x'[i] = 1 - x[i] under a mask                      a mask of L
    FfxCipher   replaced: x'[i] = table[255 x[i]] / max(table) under a     a mask of L,
                mask, and 255 x[i] / max(table) elsewhere                  a table 0..255 -> 0..999

The definitions are those of the published code. The convolutions of a usual network do not run on the grid of the
blocks, so that a key cannot be folded into them afterwards. The network is trained on encrypted images instead, and
keeps their key for good.

A `SecretKey` of any family will do: its family enters the labels of the streams alone. The purposes are
"shf-order", "np-mask", "ffx-mask" (all with the block length L) and "ffx-table" (with 1000).

All three protect visually and none is encryption in the cryptographic sense: SHF keeps the histogram of every block,
NP and FFX keep its edges, and all blocks share the key.
"""

from abc import ABC, abstractmethod
from typing import ClassVar, NoReturn

import numpy as np
import torch

from ..setr.errors import InvalidImageError, KeyMismatchError
from ..setr.keys import SecretKey, as_key

_LEVELS = 256  # of an 8-bit pixel
_CODES = 1000  # three decimal digits


class BlockwiseCipher(ABC):
    """An invertible map on the blocks of an image with values in [0, 1].

    Attributes:
        name: its name in tables.
        moves_blocks: whether it moves whole blocks, so that answers have to be put back.
        block_size: height and width of a block in pixels.
        num_channels: channels of the image.
        block_length: L = num_channels * block_size**2.
        fingerprint: that of the key.
    """

    name: ClassVar[str]
    moves_blocks: ClassVar[bool] = False

    def __init__(self, secret_key: SecretKey | bytes, *, block_size: int, num_channels: int = 3) -> None:
        """Key of any family, and the geometry of the blocks -> cipher.

        Raises:
            InvalidKeyError: `secret_key` is no key.
            ValueError: the geometry is not made of ints >= 1.
        """
        key = as_key(secret_key)
        for field, value in (("block_size", block_size), ("num_channels", num_channels)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{field} is an int >= 1, got {value!r}")
        self.block_size, self.num_channels = block_size, num_channels
        self.block_length = num_channels * block_size**2
        self.fingerprint = key.fingerprint
        self._derive(key)

    def encrypt(self, pixels: torch.Tensor) -> torch.Tensor:
        """(..., channels, height, width) float32 or float64 in [0, 1] -> same shape, dtype, device and range.

        Args:
            pixels: height and width are multiples of the block size.

        Raises:
            InvalidImageError: size, channels, dtype or range do not fit.
        """
        self._check(pixels)
        return self._from_rows(self._encrypt_rows(self._to_rows(pixels)), pixels)

    def decrypt(self, pixels: torch.Tensor) -> torch.Tensor:
        """The inverse of `encrypt`: a ciphertext in [0, 1] -> same shape, dtype, device and range.

        Raises:
            InvalidImageError: size, channels, dtype or range do not fit.
            KeyMismatchError: the values are none that this key gives (`FfxCipher`, the one that can tell).
        """
        self._check(pixels)
        return self._from_rows(self._decrypt_rows(self._to_rows(pixels)), pixels)

    def encrypt_centred(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """`encrypt` for what networks take: (..., channels, height, width) in [-1, 1] -> the same.

        The ciphertext x' in [0, 1] is normalised with mean = std = 0.5, as every plain image is: 2 x' - 1.

        Raises:
            InvalidImageError: size, channels, dtype or range do not fit.
        """
        return self.encrypt((pixel_values + 1) / 2) * 2 - 1

    def move(self, maps: torch.Tensor) -> torch.Tensor:
        """(..., height, width), such as labels -> the same as the blocks of the ciphertext lie; here as they are."""
        return maps

    def put_back(self, maps: torch.Tensor) -> torch.Tensor:
        """The inverse of `move`, for what a network says of a ciphertext."""
        return maps

    @abstractmethod
    def _derive(self, key: SecretKey) -> None:
        """Derive and keep the numbers that the two maps need."""

    @abstractmethod
    def _encrypt_rows(self, rows: torch.Tensor) -> torch.Tensor:
        """(n, L) in [0, 1] -> (n, L)."""

    @abstractmethod
    def _decrypt_rows(self, rows: torch.Tensor) -> torch.Tensor:
        """(n, L) in [0, 1] -> (n, L)."""

    def _to_rows(self, pixels: torch.Tensor) -> torch.Tensor:
        """(..., channels, height, width) -> (blocks, L), each block flattened (row, column, channel)."""
        size = self.block_size
        height, width = pixels.shape[-2:]
        blocks = pixels.reshape(-1, self.num_channels, height // size, size, width // size, size)
        return blocks.permute(0, 2, 4, 3, 5, 1).reshape(-1, self.block_length)

    def _from_rows(self, rows: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
        """The inverse of `_to_rows`, in the shape of `pixels`."""
        size = self.block_size
        height, width = pixels.shape[-2:]
        blocks = rows.reshape(-1, height // size, width // size, size, size, self.num_channels)
        return blocks.permute(0, 5, 1, 3, 2, 4).reshape(pixels.shape)

    def _check(self, pixels: torch.Tensor) -> None:
        if not isinstance(pixels, torch.Tensor) or pixels.dtype not in (torch.float32, torch.float64):
            came = pixels.dtype if isinstance(pixels, torch.Tensor) else type(pixels).__name__
            raise InvalidImageError(f"expected a float32 or float64 tensor of pixels in [0, 1], got {came}")
        if pixels.ndim < 3 or pixels.shape[-3] != self.num_channels:
            raise InvalidImageError(
                f"expected pixels of shape (..., {self.num_channels}, height, width), got {tuple(pixels.shape)}"
            )
        height, width = pixels.shape[-2:]
        if height % self.block_size or width % self.block_size or not height * width:
            raise InvalidImageError(
                f"height x width must be multiples of the block size {self.block_size}, got {height} x {width}; "
                "resize the plain image, never a ciphertext"
            )
        low, high = (value.item() for value in pixels.aminmax()) if pixels.numel() else (0.0, 1.0)
        if not (low >= 0 and high <= 1):
            raise InvalidImageError(
                f"expected pixels in [0, 1], got values from {low:.4g} to {high:.4g}; for pixels in [-1, 1] there is "
                "encrypt_centred"
            )

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(block_size={self.block_size}, num_channels={self.num_channels}, "
            f"fingerprint={self.fingerprint!r})"
        )

    def __getstate__(self) -> NoReturn:
        """Refuse pickle, copy and deepcopy: a cipher holds its key in another form."""
        raise TypeError(
            "a cipher is neither pickled nor copied, since it holds the secret; pass the path of a key file and make "
            "the cipher where it is used"
        )


class ShfCipher(BlockwiseCipher):
    """SHF, pixel shuffling: the L values of every block, colours included, are permuted. Bit-exact both ways."""

    name: ClassVar[str] = "SHF"

    def _derive(self, key: SecretKey) -> None:
        self._order = torch.from_numpy(key.permutation(self.block_length, "shf-order").copy())
        self._inverse_order = self._order.argsort()

    def _encrypt_rows(self, rows: torch.Tensor) -> torch.Tensor:
        return rows[:, self._order.to(rows.device)]

    def _decrypt_rows(self, rows: torch.Tensor) -> torch.Tensor:
        return rows[:, self._inverse_order.to(rows.device)]


class NpCipher(BlockwiseCipher):
    """NP, the negative / positive transformation: about half of the values x of a block become 1 - x.

    Its own inverse, up to rounding (6e-8 in float32; none at 8 bits).
    """

    name: ClassVar[str] = "NP"

    def _derive(self, key: SecretKey) -> None:
        self._mask = _mask(key, self.block_length, "np-mask")

    def _encrypt_rows(self, rows: torch.Tensor) -> torch.Tensor:
        return torch.where(self._mask.to(rows.device), 1 - rows, rows)

    _decrypt_rows = _encrypt_rows


class FfxCipher(BlockwiseCipher):
    """FFX, format-preserving encryption of pixel values, in the published form.

    Published code encrypts each of 0..255 once with a password-keyed Feistel cipher over three decimal digits and
    keeps the results, 256 different ones of 0..999, in a table. Here the table is the first 256 entries of a keyed
    random order of 0..999. A Feistel cipher is meant to be such a random permutation, so the two tables have the same
    distribution. About half of the values of a block are replaced by their entry, and all of the image, replaced or
    not, is divided by the table's maximum: what is not replaced gets darker, to at most 255 / max(table).

    Exact at 8 bits: pixels are rounded to their level 0..255, and as the table is injective, `decrypt` gives exactly
    that level divided by 255.
    """

    name: ClassVar[str] = "FFX"

    def _derive(self, key: SecretKey) -> None:
        self._mask = _mask(key, self.block_length, "ffx-mask")
        self._table = torch.from_numpy(key.permutation(_CODES, "ffx-table")[:_LEVELS].copy())
        self._maximum = int(self._table.max())
        self._level_of_code = torch.full((_CODES,), -1)
        self._level_of_code[self._table] = torch.arange(_LEVELS)

    def _encrypt_rows(self, rows: torch.Tensor) -> torch.Tensor:
        levels = (rows * (_LEVELS - 1)).round().long()
        codes = torch.where(self._mask.to(rows.device), self._table.to(rows.device)[levels], levels)
        return codes.to(rows.dtype) / self._maximum

    def _decrypt_rows(self, rows: torch.Tensor) -> torch.Tensor:
        codes = (rows * self._maximum).round().long()
        levels = torch.where(self._mask.to(rows.device), self._level_of_code.to(rows.device)[codes], codes)
        if ((levels < 0) | (levels >= _LEVELS)).any():
            raise KeyMismatchError(
                f"the image holds values that the key of fingerprint {self.fingerprint} never gives; take the "
                "key that encrypted it, and the ciphertext as it was, neither resized nor compressed"
            )
        return levels.to(rows.dtype) / (_LEVELS - 1)


BLOCKWISE_CIPHERS: dict[str, type[BlockwiseCipher]] = {
    cipher.name.lower(): cipher for cipher in (ShfCipher, NpCipher, FfxCipher)
}


def _mask(key: SecretKey, length: int, purpose: str) -> torch.Tensor:
    """(length,) bool, each entry True with probability 1/2."""
    return torch.from_numpy(np.less(key.signs(length, purpose), 0))
