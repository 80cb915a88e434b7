"""How a ciphertext is rounded before it is sent, where a client gives exactness up for small uploads.

Either way of rounding is a function of the ciphertext alone, so that it shows a server nothing new; nor does it hide
anything.
"""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from .ciphers import CIPHERS
from .client_embedding import step_for
from .eight_bit_blocks import EightBitBlocks
from .encryption_key import EncryptionKey
from .stored_pixels import rounded, with_zeros


@dataclass(frozen=True)
class Rounding:
    """What becomes of float pixels.

    Args:
        step: they become multiples of it.
        bits: 8 for `EightBitBlocks`; None of both leaves them as they are.
    """

    step: float | None = None
    bits: int | None = None

    @classmethod
    def of(cls, key: EncryptionKey, *, bits: int | None = None, bits_per_block: float | None = None) -> Self:
        """What a caller asks for -> the rounding.

        Args:
            key: of the client. The families with 8-bit pixels have 8 bits already, and lose nothing.
            bits: of a number, 8.
            bits_per_block: about how many bits a block may take.

        Raises:
            ValueError: other bits, both, or bits of a block that the key is not fitted for.
        """
        if bits is not None and (type(bits) is not int or bits != 8):
            raise ValueError(f"expected 8 bits, or none for the usual form, got {bits!r:.80}")
        if bits is not None and bits_per_block is not None:
            raise ValueError(
                f"expected bits or bits_per_block, got both ({bits} and {bits_per_block:g}); leave one out"
            )
        return cls(step_for(key, bits_per_block), None if CIPHERS[key.family].acts_on_uint8 else bits)

    def of_pixels(self, pixels: np.ndarray, patch_size: int) -> dict[str, Any]:
        """(channels, height, width) encrypted pixels -> pixels, step and blocks of an `EncryptedImage`."""
        if self.step is not None:
            found, step = rounded(pixels, self.step)
            return {"pixels": found, "step": step}
        if self.bits is not None:
            blocks = EightBitBlocks.of(pixels, patch_size)
            return {"pixels": with_zeros(blocks.restored(), patch_size, len(pixels), pixels.size), "blocks": blocks}
        return {"pixels": pixels}
