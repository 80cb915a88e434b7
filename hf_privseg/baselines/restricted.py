"""Block and pixel scrambling by restricted random permutation matrices (Horio, Nishikawa and Kiya, arXiv:2408.08529).

A key draws two permutation matrices: one moves the blocks of an image, and one, the same for every block, moves the L
values of a block. Restricted means that a part of each matrix is the identity: so many blocks, and so many values,
keep their places. That share is the knob: with none the network has everything to learn, with all there is no
encryption. The same cipher with a fresh key for every image is for training and testing without a shared key (Aso,
Shiota and Kiya, arXiv:2408.05737, and, for segmentation, Hirose, Imaizumi and Kiya, arXiv:2604.16523).

Which places are kept is drawn from the key, too. What moves may come back to its place by chance.

The purposes of the streams are "rrp-block-places" and "rrp-pixel-places" (with the number N of blocks, and with L),
"rrp-block-order" and "rrp-pixel-order" (with how many of them move).
"""

from typing import ClassVar

import numpy as np
import torch

from ..setr.errors import InvalidImageError
from ..setr.keys import SecretKey
from .ciphers import BlockwiseCipher


class RestrictedCipher(BlockwiseCipher):
    """RRP: blocks change places, and so do the values of every block, but for a share of each. Bit-exact both ways.

    Attributes:
        num_blocks: N, blocks of an image.
        fixed_blocks: the share of the blocks that keep their places, 0 to 1.
        fixed_pixels: the share of a block's values that do.
    """

    name: ClassVar[str] = "RRP"
    moves_blocks: ClassVar[bool] = True

    def __init__(
        self,
        secret_key: SecretKey | bytes,
        *,
        block_size: int,
        num_blocks: int,
        fixed_blocks: float,
        fixed_pixels: float,
        num_channels: int = 3,
    ) -> None:
        """Key of any family, the geometry, and the two shares -> cipher.

        Raises:
            InvalidKeyError: `secret_key` is no key.
            ValueError: the geometry is not made of ints >= 1, or a share is not in 0 .. 1.
        """
        if isinstance(num_blocks, bool) or not isinstance(num_blocks, int) or num_blocks < 1:
            raise ValueError(f"num_blocks is an int >= 1, got {num_blocks!r}")
        for field, share in (("fixed_blocks", fixed_blocks), ("fixed_pixels", fixed_pixels)):
            if not 0 <= share <= 1:
                raise ValueError(f"{field} is a share in 0 .. 1, got {share!r}")
        self.num_blocks, self.fixed_blocks, self.fixed_pixels = num_blocks, fixed_blocks, fixed_pixels
        super().__init__(secret_key, block_size=block_size, num_channels=num_channels)

    def move(self, maps: torch.Tensor) -> torch.Tensor:
        """(..., height, width), such as labels -> the same with its blocks in the places of the ciphertext's.

        Raises:
            InvalidImageError: the size has other blocks.
        """
        return self._reordered(maps, self._block_order)

    def put_back(self, maps: torch.Tensor) -> torch.Tensor:
        """The inverse of `move`: what a network says of a ciphertext -> what it says of the image.

        Raises:
            InvalidImageError: the size has other blocks.
        """
        return self._reordered(maps, self._block_order.argsort())

    def encrypt(self, pixels: torch.Tensor) -> torch.Tensor:
        """(..., channels, height, width) float32 or float64 in [0, 1] -> same shape, dtype, device and range.

        Raises:
            InvalidImageError: size, channels, dtype or range do not fit.
        """
        return self.move(super().encrypt(pixels))

    def decrypt(self, pixels: torch.Tensor) -> torch.Tensor:
        """The inverse of `encrypt`. Raises: as it."""
        self._check(pixels)
        return super().decrypt(self.put_back(pixels))

    def _derive(self, key: SecretKey) -> None:
        self._block_order = restricted_order(key, self.num_blocks, self.fixed_blocks, "rrp-block")
        self._pixel_order = restricted_order(key, self.block_length, self.fixed_pixels, "rrp-pixel")

    def _encrypt_rows(self, rows: torch.Tensor) -> torch.Tensor:
        return rows[:, self._pixel_order.to(rows.device)]

    def _decrypt_rows(self, rows: torch.Tensor) -> torch.Tensor:
        return rows[:, self._pixel_order.argsort().to(rows.device)]

    def _reordered(self, maps: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
        size, (height, width) = self.block_size, maps.shape[-2:]
        down, across = height // size, width // size
        if height % size or width % size or down * across != self.num_blocks:
            raise InvalidImageError(
                f"expected {self.num_blocks} blocks of {size} x {size}, got a size of {height} x {width}; make the "
                "cipher with the num_blocks of the image"
            )
        blocks = maps.reshape(*maps.shape[:-2], down, size, across, size).transpose(-3, -2).flatten(-4, -3)
        blocks = blocks[..., order.to(maps.device), :, :].unflatten(-3, (down, across))
        return blocks.transpose(-3, -2).reshape(maps.shape)


def restricted_order(key: SecretKey, length: int, fixed: float, purpose: str) -> torch.Tensor:
    """(length,) int64 order of a restricted permutation matrix: the nearest integer to fixed * length places are kept.

    Args:
        key: of any family.
        length: rows of the matrix.
        fixed: the share of them that are those of the identity, 0 to 1.
        purpose: of the streams, which are "<purpose>-places" and "<purpose>-order".
    """
    moving = np.sort(key.permutation(length, f"{purpose}-places")[round(fixed * length) :])
    order = np.arange(length)
    if len(moving):
        order[moving] = moving[key.permutation(len(moving), f"{purpose}-order")]
    return torch.from_numpy(order)
