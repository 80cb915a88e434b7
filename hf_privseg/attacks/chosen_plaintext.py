"""Keys from ciphertexts of images that the attacker chooses: two blocks give a permutation, one image gives any key.

Anyone who can hold an image before the camera, or call the client, has such an oracle. The images below consist of the
pixel values 0 to 255, so that any client takes them.

- `probe_permutation`: the pixels of the probe are the numbers of their positions, in base 256, so each position of the
  ciphertext says where it came from. An attack on a permutation-only cipher needs ceil(log(L) / log(256)) chosen
  plaintexts at least (Jolfaei, Wu, Muthukkumarasamy, "On the security of permutation-only image encryption schemes",
  IEEE Transactions on Information Forensics and Security 11(2), 2016). Here that is two blocks for L = 768, which give
  the signs as well. The cost is negligible.
- `probe_matrix`: the probe has L blocks, each of one white pixel on black; for L = 768 that is one image of 512 x 384.
  The blocks are linearly independent, so the ciphertexts are the key in another basis. Cost: one solution of L
  equations, O(L^3).
"""

from collections.abc import Callable

import numpy as np

from .known_plaintext import RecoveredPermutation
from .tools.blocks import LinearDecoder

Oracle = Callable[[np.ndarray], np.ndarray]  # (down, across, L) plain in [-1, 1] -> (down, across, L) ciphertext

_LEVELS = 256


def counting_blocks(block_length: int) -> np.ndarray:
    """L -> (1, n, L) float64 in [-1, 1]: block k holds digit k, in base 256, of the number of each position.

    The last digit stays below 128, so that a negated position shows: 2 blocks up to L = 32,768.
    """
    digits, rest = [], np.arange(block_length)
    while True:
        digits.append(rest % _LEVELS)
        rest = rest // _LEVELS
        if not rest.any():
            break
    if digits[-1].max() >= _LEVELS // 2:
        digits.append(np.zeros(block_length, dtype=np.int64))
    return np.stack(digits)[None] / 127.5 - 1


def probe_permutation(encrypt: Oracle, block_length: int) -> RecoveredPermutation:
    """An oracle and L -> the key of a permutation family.

    Args:
        encrypt: encrypts a grid of blocks under the key that is sought. It is called once.
        block_length: L.

    Raises:
        ValueError: the ciphertext is no permutation of the probe: the key is of another family.
    """
    seen = np.rint((encrypt(counting_blocks(block_length))[0] + 1) * 127.5).astype(np.int64)
    negated = seen[-1] >= _LEVELS // 2
    digits = np.where(negated, _LEVELS - 1 - seen, seen)
    order = (digits * _LEVELS ** np.arange(len(digits))[:, None]).sum(axis=0)
    if not np.array_equal(np.sort(order), np.arange(block_length)):
        raise ValueError(
            f"expected the {block_length} positions of the probe in some order, got "
            f"{len(np.intersect1d(order, np.arange(block_length)))} of them; the key is of no permutation family: use "
            "probe_matrix"
        )
    return RecoveredPermutation(order, np.where(negated, -1.0, 1.0), np.zeros(block_length, dtype=bool))


def point_blocks(block_length: int, num_across: int | None = None) -> np.ndarray:
    """L -> (down, across, L) float64 of -1 and 1: block i is black but for its pixel i; L blocks in all.

    Args:
        block_length: L.
        num_across: blocks in a row, a divisor of L; by default the one nearest to the square root of 4 L / 3, which
            makes an image of 4 : 3.

    Raises:
        ValueError: `num_across` does not divide L.
    """
    if num_across is None:
        divisors = [n for n in range(1, block_length + 1) if block_length % n == 0]
        num_across = min(divisors, key=lambda n: abs(n - (4 * block_length / 3) ** 0.5))
    if num_across < 1 or block_length % num_across:
        raise ValueError(f"expected a number of blocks that divides {block_length}, got {num_across}")
    return (2 * np.eye(block_length) - 1).reshape(-1, num_across, block_length)


def probe_matrix(encrypt: Oracle, block_length: int) -> LinearDecoder:
    """An oracle and L -> decoder of any linear key; exact up to the oracle's rounding.

    Args:
        encrypt: encrypts a grid of blocks under the key that is sought. It is called once, with `point_blocks`.
        block_length: L, other than 2.
    """
    probe = point_blocks(block_length)
    seen = encrypt(probe).reshape(block_length, -1)
    matrix = np.linalg.lstsq(seen, probe.reshape(block_length, -1), rcond=None)[0]
    return LinearDecoder(matrix, np.zeros(block_length))
