"""The cells of Table 2: a cipher with its block size, and the encryption of each condition."""

import re
from dataclasses import dataclass

from ..baselines.ciphers import BLOCKWISE_CIPHERS
from ..inference.windows import Encrypt
from ..setr.keys import DEFAULT_FAMILY
from .plain_models import seeded_key

CONDITIONS = ("correct K", "No-Enc", "random K'")
CELLS = ("plain", *(f"{cipher}-{size}" for size in (4, 16) for cipher in BLOCKWISE_CIPHERS))


@dataclass(frozen=True)
class Cell:
    """A network of the table by name: plain, or a cipher and its block size as in shf-4.

    Raises:
        ValueError: the name is neither.
    """

    name: str

    def __post_init__(self) -> None:
        known = "|".join(BLOCKWISE_CIPHERS)
        if not re.fullmatch(rf"plain|({known})-[1-9]\d*", self.name):
            raise ValueError(
                f"expected a cell: plain, or one of {known} with a block size as in shf-4, got {self.name!r}"
            )

    @property
    def block_size(self) -> int:
        """Side of a block in pixels; 1 for plain."""
        return 1 if self.name == "plain" else int(self.name.partition("-")[2])

    @property
    def conditions(self) -> tuple[str, ...]:
        """The conditions that the network is tested under; it is trained under the first of them."""
        return ("baseline",) if self.name == "plain" else CONDITIONS

    def encryption(self, condition: str, seed: int) -> Encrypt | None:
        """The function that encrypts the images of a condition, pixels in [-1, 1] -> the same; None for plain images.

        The keys are those of the seeds 2 seed (K) and 2 seed + 1 (K'), the same for every cell.
        """
        if condition in ("baseline", "No-Enc"):
            return None
        key = seeded_key(2 * seed + (condition == "random K'"), DEFAULT_FAMILY)
        cipher = BLOCKWISE_CIPHERS[self.name.partition("-")[0]]
        return cipher(key, block_size=self.block_size).encrypt_centred
