"""Keys that come from small integer seeds or from passphrases, found by trying them.

Every encrypted model and image names its key's fingerprint, so a guess can be checked offline. Where the fingerprint
has been stripped, a guess can be checked on a ciphertext, because only the right key decrypts it to smooth blocks.

Assumptions: the key comes from `SecretKey.from_seed`, or from `SecretKey.from_passphrase` with the public salt and a
passphrase in the list that is tried. Nothing here helps against `SecretKey.generate` (2**256 keys).

Cost of a guess on one core: tens of microseconds for a seed against a fingerprint; one scrypt of 128 MiB for a
passphrase, which takes some tenths of a second on purpose; the derivation of a key for a seed against a ciphertext,
which takes milliseconds for the permutation families and tenths of a second for a 768 x 768 rotation.
"""

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np
import torch

from ..setr.ciphers import cipher_for
from ..setr.keys import SecretKey
from .tools.blocks import LinearDecoder, to_image

Guess = TypeVar("Guess")


@dataclass(frozen=True)
class GuessedKey(Generic[Guess]):
    """A key that was found by guessing.

    Attributes:
        guess: the seed or passphrase that gives the key; not shown.
        secret_key: the key.
        num_tried: guesses up to and including the right one.
    """

    guess: Guess = field(repr=False)
    secret_key: SecretKey
    num_tried: int

    def decoder(self, *, patch_size: int, num_channels: int = 3) -> LinearDecoder:
        """The geometry of the blocks -> what undoes the cipher on any grid (down, across, L) of it."""
        length = num_channels * patch_size**2
        units = np.eye(length).reshape(1, length, length)
        return LinearDecoder(_decrypted(units, self.secret_key, patch_size), np.zeros(length))


def seed_of_fingerprint(fingerprint: str, seeds: Iterable[int], family: str) -> GuessedKey[int] | None:
    """The public 16 hexadecimal characters, seeds to try, a key family -> the seed and its key, or None."""
    for count, seed in enumerate(seeds, start=1):
        key = _from_seed(seed, family)
        if key.fingerprint == fingerprint:
            return GuessedKey(seed, key, count)
    return None


def passphrase_of_fingerprint(
    fingerprint: str, passphrases: Iterable[str], family: str, *, salt: bytes
) -> GuessedKey[str] | None:
    """The public fingerprint and salt, passphrases to try, a family -> the passphrase and its key, or None."""
    for count, passphrase in enumerate(passphrases, start=1):
        key = SecretKey.from_passphrase(passphrase, family=family, salt=salt)
        if key.fingerprint == fingerprint:
            return GuessedKey(passphrase, key, count)
    return None


def seed_of_ciphertext(
    ciphertext: np.ndarray, seeds: Sequence[int], family: str, *, patch_size: int, num_blocks: int = 64
) -> GuessedKey[int] | None:
    """A ciphertext grid (down, across, L) without a fingerprint, seeds to try -> the seed and its key, or None.

    Each guess decrypts up to `num_blocks` blocks, spread over the image. The result is the guess whose pixels differ
    least from their neighbours, if this roughness is less than half of the median over all guesses. The median means
    something with two seeds or more; with fewer the result is None.
    """
    rows = ciphertext.reshape(-1, ciphertext.shape[-1])
    chosen = rows[np.linspace(0, len(rows) - 1, min(num_blocks, len(rows))).astype(int)][None]
    roughness = [_roughness(_decrypted(chosen, _from_seed(seed, family), patch_size)[None], patch_size)
                 for seed in seeds]  # fmt: skip
    if len(roughness) < 2 or min(roughness) >= np.median(roughness) / 2:
        return None
    best = int(np.argmin(roughness))
    return GuessedKey(seeds[best], _from_seed(seeds[best], family), len(roughness))


def _from_seed(seed: int, family: str) -> SecretKey:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # it says that seeds protect nothing, which this attack shows
        return SecretKey.from_seed(seed, family=family)


def _decrypted(grid: np.ndarray, secret_key: SecretKey, patch_size: int) -> np.ndarray:
    """(1, n, L) ciphertext -> (n, L) plain under that key."""
    num_channels = grid.shape[-1] // patch_size**2
    cipher = cipher_for(secret_key, patch_size=patch_size, num_channels=num_channels)
    image = cipher.decrypt(torch.from_numpy(np.ascontiguousarray(to_image(grid, patch_size)))).numpy()
    cut = image.reshape(num_channels, patch_size, -1, patch_size)
    return cut.transpose(2, 0, 1, 3).reshape(grid.shape[1], -1)


def _roughness(grid: np.ndarray, patch_size: int) -> float:
    """Mean square difference of adjacent pixels inside the blocks, in units of the pixels' variance."""
    pixels = grid.reshape(-1, grid.shape[-1] // patch_size**2, patch_size, patch_size)
    steps = (np.diff(pixels, axis=2) ** 2).mean() + (np.diff(pixels, axis=3) ** 2).mean()
    return float(steps / (2 * pixels.var() + 1e-12))
