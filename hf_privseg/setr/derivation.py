"""From 32 secret bytes to orders, signs and rotations: format version 1, which needs HMAC-SHA256 alone.

Any language can repeat the derivation. With

    label   = "hf-privseg/v1/<family>/<L>/<purpose>"        ASCII; L is the length of a block, in decimal
    prk     = HMAC-SHA256(key = "hf-privseg/v1", message = the 32 bytes)
    block i = HMAC-SHA256(key = prk, message = label || be32(i)),  i = 1, 2, ...

the stream is block 1 || block 2 || ... Its first n bytes equal PBKDF2-HMAC-SHA256(password = prk, salt = label,
iterations = 1, n bytes), which is one native call in Python and in a browser's WebCrypto. PBKDF2 only makes the
pseudo-random stream; nothing relies on it to slow down somebody who guesses. Each family draws:

    family              purpose   drawn with
    permutation         order     shuffled
    signed_permutation  order     shuffled
                        signs     random_signs
    orthogonal          haar      normals, orthogonal_from_normals
    matrix              q1, q2    normals, orthogonal_from_normals, each
    every family        the public fingerprint: the first 8 bytes with label "hf-privseg/v1/<family>/fingerprint"

The ciphers of the conventional method take a key of any of these families; baselines/ciphers.py names their purposes.
"""

import hashlib
import hmac
import itertools
import struct
from collections.abc import Iterator

import numpy as np

NAMESPACE = "hf-privseg/v1"


def pseudorandom_key(secret_bytes: bytes) -> bytes:
    """32 secret bytes -> 32 bytes, the prk that keys every stream."""
    return hmac.digest(NAMESPACE.encode(), secret_bytes, "sha256")


def stream_bytes(prk: bytes, label: str, num_bytes: int) -> bytes:
    """The first `num_bytes` bytes of the stream with this label."""
    return hashlib.pbkdf2_hmac("sha256", prk, label.encode(), 1, num_bytes)


def stream_words(prk: bytes, label: str) -> Iterator[int]:
    """The same stream as big-endian unsigned 32-bit words, without end: rejection may need any number of them."""
    for i in itertools.count(1):
        yield from struct.unpack(">8I", hmac.digest(prk, label.encode() + struct.pack(">I", i), "sha256"))


def shuffled(length: int, uniform_words: Iterator[int]) -> np.ndarray:
    """Uniform unsigned 32-bit words -> (length,) int64, 0..length-1 in random order (Fisher-Yates, downwards).

    Start with a = [0, ..., L-1]. For i = L-1, ..., 1 take the next word w, and while w >= floor(2**32 / (i+1)) * (i+1)
    take the next one instead, since small remainders would be more likely otherwise. Exchange a[i] and a[w mod (i+1)].
    """
    order = list(range(length))
    for i in range(length - 1, 0, -1):
        bound = i + 1
        limit = 2**32 // bound * bound
        j = next(word for word in uniform_words if word < limit) % bound
        order[i], order[j] = order[j], order[i]
    return np.array(order, np.int64)


def random_signs(length: int, uniform_bytes: bytes) -> np.ndarray:
    """Uniform bytes -> (length,) int8 of +1 and -1: bit i makes sign i (1 is -1), each byte's highest bit first."""
    bits = np.unpackbits(np.frombuffer(uniform_bytes, np.uint8), count=length)
    return 1 - 2 * bits.astype(np.int8)


def normals(uniform_bytes: bytes) -> np.ndarray:
    """Uniform bytes, 16 for each pair -> as many float64 standard normals as there are 8-byte words (Box-Muller).

    Each 8 bytes are a big-endian word; k is its upper 53 bits. A pair of words (k1, k2) gives
    r = sqrt(-2 log((k1 + 1) / 2**53)), t = 2 pi k2 / 2**53 and the two numbers r cos t, r sin t, in this order.
    """
    k = (np.frombuffer(uniform_bytes, ">u8") >> np.uint64(11)).astype(np.float64)
    radius = np.sqrt(-2.0 * np.log((k[0::2] + 1.0) * 2.0**-53))
    angle = 2.0 * np.pi * (k[1::2] * 2.0**-53)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).reshape(-1)


def orthogonal_from_normals(size: int, numbers: np.ndarray) -> np.ndarray:
    """size (size + 1) / 2 or more standard normals -> (size, size) float64 Haar matrix Q = H_0 H_1 ... H_{size-1} D.

    The numbers are cut into vectors x_0, x_1, ... of lengths size, size - 1, ..., 1. With s_j the sign of the first
    entry of x_j (+1 for 0) and v_j = x_j with s_j |x_j| added to its first entry, H_j is the identity on the first j
    coordinates and 1 - 2 v_j v_j' / (v_j' v_j) on the others, and D = diag(-s_j): the Q of a QR decomposition of a
    Gaussian matrix whose R has a positive diagonal, from half the numbers.

    Source: G. W. Stewart, SIAM J. Numer. Anal. 17(3), 1980, 403-409.
    """
    vectors = np.zeros((size, size))  # column j is v_j scaled to squared length 2, so that H_j = 1 - v v'
    diagonal = np.empty(size)
    rest = numbers
    for j in range(size):
        x, rest = rest[: size - j], rest[size - j :]
        sign = 1.0 if x[0] >= 0.0 else -1.0
        v = x.copy()
        v[0] += sign * np.sqrt(x @ x)
        vectors[j:, j] = v * np.sqrt(2.0 / (v @ v))
        diagonal[j] = -sign
    q = np.diag(diagonal)
    for j in reversed(range(0, size, 32)):  # from the innermost factors outwards, 32 at a time for speed
        group = vectors[j:, j : j + 32]
        inner = np.triu(group.T @ group, 1) + np.eye(group.shape[1])  # their product is 1 - group inner^-1 group'
        q[j:, j:] -= group @ np.linalg.solve(inner, group.T @ q[j:, j:])
    return q
