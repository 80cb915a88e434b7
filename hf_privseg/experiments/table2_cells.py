"""The cells of Table 2: a cipher with its block size, and the encryption of each condition."""

import hashlib
import re
from dataclasses import dataclass

import torch

from ..baselines.ciphers import BLOCKWISE_CIPHERS, BlockwiseCipher
from ..baselines.restricted import RestrictedCipher
from ..setr.keys import DEFAULT_FAMILY, SecretKey
from .behind_cipher import CipherOf
from .plain_models import seeded_key

CONDITIONS = ("correct K", "No-Enc", "random K'")
CELLS = ("plain", *(f"{cipher}-{size}" for size in (4, 16) for cipher in BLOCKWISE_CIPHERS))


@dataclass(frozen=True)
class Cell:
    """A network of the table by name.

    plain; a cipher and its block size, as in shf-4; rrp with its block size and the percentage of blocks and of pixels
    that keep their places, as in rrp-16-60; either with a fresh key for every image, as in rrp-16-60-fresh.

    Raises:
        ValueError: the name is none of these.
    """

    name: str

    def __post_init__(self) -> None:
        known = "|".join(BLOCKWISE_CIPHERS)
        size, percentage = r"[1-9]\d*", r"(\d\d?|100)"
        if not re.fullmatch(rf"plain|(({known})-{size}|rrp-{size}-{percentage})(-fresh)?", self.name):
            raise ValueError(
                f"expected a cell: plain, one of {known} with a block size as in shf-4, or rrp with a block size and "
                f"a percentage as in rrp-16-60; and maybe -fresh after it; got {self.name!r}"
            )

    @property
    def cipher(self) -> str:
        """shf, np, ffx, rrp or plain."""
        return self.name.partition("-")[0]

    @property
    def block_size(self) -> int:
        """Side of a block in pixels; 1 for plain."""
        return 1 if self.name == "plain" else int(self.name.split("-")[1])

    @property
    def fixed(self) -> float:
        """The share of blocks and of pixels that rrp leaves in place; 0 for other ciphers, which say themselves."""
        return int(self.name.split("-")[2]) / 100 if self.cipher == "rrp" else 0.0

    @property
    def is_fresh(self) -> bool:
        """Whether every image has a key of its own."""
        return self.name.endswith("-fresh")

    @property
    def is_of_the_paper(self) -> bool:
        """Whether it has a place in the paper's Table 2."""
        return self.cipher in BLOCKWISE_CIPHERS and not self.is_fresh

    @property
    def conditions(self) -> tuple[str, ...]:
        """The conditions that the network is tested under; it is trained under the first of them.

        Where every image has a key of its own, any key is correct.
        """
        if self.name == "plain":
            return ("baseline",)
        return CONDITIONS[:2] if self.is_fresh else CONDITIONS

    def cipher_of(self, condition: str, seed: int) -> CipherOf | None:
        """What encrypts each image of a condition; None for plain images.

        The keys are those of the seeds 2 seed (K) and 2 seed + 1 (K'), the same for every cell. A fresh key is drawn
        from the seed and a hash of the image's pixels, so that a killed run goes on with the same ones.
        """
        if condition in ("baseline", "No-Enc"):
            return None
        if self.is_fresh:
            return lambda image: self._cipher(_key_of(image, seed), image)
        key = seeded_key(2 * seed + (condition == "random K'"), DEFAULT_FAMILY)
        return lambda image: self._cipher(key, image)

    def _cipher(self, key: SecretKey, image: torch.Tensor) -> BlockwiseCipher:
        if self.cipher != "rrp":
            return BLOCKWISE_CIPHERS[self.cipher](key, block_size=self.block_size)
        height, width = image.shape[-2:]
        num_blocks = (height // self.block_size) * (width // self.block_size)
        return RestrictedCipher(
            key,
            block_size=self.block_size,
            num_blocks=num_blocks,
            fixed_blocks=self.fixed,
            fixed_pixels=self.fixed,
        )


def _key_of(image: torch.Tensor, seed: int) -> SecretKey:
    digest = hashlib.sha256(f"{seed}:".encode() + image.detach().cpu().numpy().tobytes()).digest()
    return seeded_key(int.from_bytes(digest, "big"), DEFAULT_FAMILY)
