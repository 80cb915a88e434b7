"""Keys and images from weights near the model's: a public checkpoint that it was trained from, or a leaked copy.

E is the model's patch embedding (L, D), E_hat = E_enc E the encrypted one, and E0 the public one;
r = ||E - E0|| / ||E|| is the drift. The attacker has E_hat, because the provider holds it.

- `recover_permutation_from_weight`: row i of E_hat is row l(i) of E up to a sign. If the drift is Gaussian, the most
  likely order is the assignment of the rows of E0 with the largest sum of products (Hungarian method: Kuhn 1955). The
  attack needs no image, and the drift may be larger than the weights themselves.
- `invert_embedding`, any family: the server computes z = b_hat E_hat = b E, which does not depend on the key. Under an
  image prior with mean m and covariance C, and with z - m E0 = (b - m) E0 + noise, the best linear estimate is the
  Wiener filter

      b = m + (z - m E0) (E0^T C E0 + s I)^-1 E0^T C,      s = r^2 ||E0||^2 / (L D) * E|b|^2

  (Wiener, "Extrapolation, Interpolation, and Smoothing of Stationary Time Series", 1949). Where D < L, L - D
  directions of a block are lost, but natural images have little in them, and the prior says so. E's singular values
  decide as well how much of a block survives, because a small drift already covers the small ones.
- `invert_drifted_embedding`, any family, for a drift of some 5 % or more and a prior of similar scenes: many z show
  E^T C E, so that only a rotation of the drifted embedding is unknown, in coordinates in which the blocks are white.
  The attack takes the rotation that leads nearest to E0.
- `align_base`, orthogonal keys: E_hat^T E_hat = E^T E whatever the key, so that only a rotation of E is unknown. E0 is
  replaced by the nearest matrix with that product (Schoenemann 1966).

Cost: a few solutions of D equations, about a second for L = 768.

Measured on CamVid frames, embedded checkpoint (L = 768, D = 384), prior of train frames, mean PSNR in dB:

    drift                                   0      1 %    3 %    10 %   30 %   50 %   100 %
    960 x 720, as its processor makes them  61.0
    480 x 352, invert_embedding             37.9   34.0   32.5   24.5   13.6   11.5   10.6
    480 x 352, invert_drifted_embedding            31.5   31.1   29.3   24.1   20.4   18.5     z of 16 frames

At 480 x 352 the best 384 directions of all would give 48.6 dB. A permutation key is found exactly at a drift of 200 %.
"""

import numpy as np
from scipy.optimize import linear_sum_assignment

from .known_plaintext import RecoveredPermutation
from .tools.blocks import LinearDecoder
from .tools.statistics import BlockStatistics

ROUNDING = 1e-12  # relative to the variance of z: what float32 adds


def embedding_matrix(weight: np.ndarray) -> np.ndarray:
    """(D, channels, p, p), the weight of the convolution -> (L, D) float64, the paper's E (section 3.2.1)."""
    weight = np.asarray(weight, dtype=np.float64)
    return weight.reshape(len(weight), -1).T


def recover_permutation_from_weight(
    encrypted: np.ndarray, base: np.ndarray, *, signed: bool = True
) -> RecoveredPermutation:
    """E_hat and E0, (L, D) each -> the key of a permutation family.

    Args:
        encrypted: the embedding of the encrypted model.
        base: the embedding of the public model.
        signed: whether a position may be negated; False where the family is known to be `permutation`.

    Raises:
        ValueError: the shapes differ.
    """
    _check_same_shape(encrypted, base)
    products = np.asarray(encrypted, np.float64) @ np.asarray(base, np.float64).T
    likeness = np.abs(products) if signed else products
    order = linear_sum_assignment(likeness, maximize=True)[1]
    place = np.arange(len(order))
    signs = np.where(products[place, order] < 0, -1.0, 1.0) if signed else np.ones(len(order))
    slack = 1e-9 * np.abs(likeness).max()
    ambiguous = (np.abs(likeness - likeness[place, order][:, None]) <= slack).sum(axis=1) > 1
    return RecoveredPermutation(order.astype(np.int64), signs, ambiguous)


def invert_embedding(base: np.ndarray, prior: BlockStatistics, *, drift: float = 0.0) -> LinearDecoder:
    """E0 (L, D) and an image prior -> decoder of what the server computes, z = b E without the bias, of length D.

    Args:
        base: the embedding of the public model.
        prior: moments of blocks of the attacker's images, prepared as the client prepares its own. It matters most
            that they are resized in the same way.
        drift: the attacker's guess of r; a wrong one costs little. 0 means E0 = E.

    Raises:
        ValueError: the prior is of another block length.
    """
    base = np.asarray(base, np.float64)
    _check_lengths(base, prior)
    power = np.trace(prior.covariance) + prior.mean @ prior.mean
    noise = drift**2 * np.sum(base**2) / base.size * power
    seen = base.T @ prior.covariance @ base
    noise += ROUNDING * np.trace(seen) / len(seen)
    matrix = np.linalg.solve(seen + noise * np.eye(len(seen)), base.T @ prior.covariance)
    return LinearDecoder(matrix, prior.mean - prior.mean @ base @ matrix)


def invert_drifted_embedding(
    base: np.ndarray, prior: BlockStatistics, seen: BlockStatistics, *, drift: float
) -> LinearDecoder:
    """E0 (L, D), an image prior and moments of z, without the bias -> decoder of z, of length D.

    With F = C^1/2 E, so that F^T F = cov(z) and cov(z, b) = F^T C^1/2: F is taken as the matrix with that product
    which is nearest to C^1/2 E0.

    Args:
        base: the embedding of the public model.
        prior: as for `invert_embedding`; the more it resembles the victims, the better.
        seen: moments of what the server computed for many images, `block_statistics` of grids (down, across, D).
        drift: the attacker's guess of r; a wrong one costs little.

    Raises:
        ValueError: the prior or the moments are of another length.
    """
    base = np.asarray(base, np.float64)
    _check_lengths(base, prior)
    if len(seen.mean) != base.shape[1]:
        raise ValueError(f"expected moments of z of length {base.shape[1]}, got {len(seen.mean)}")
    root = _square_root(prior.covariance)
    seen_root = _square_root(seen.covariance)
    left, _, right = np.linalg.svd(root @ base @ seen_root, full_matrices=False)
    mixed = left @ right @ seen_root  # F
    noise = drift**2 * np.sum(base**2) / base.size * np.trace(prior.covariance)
    noise += ROUNDING * np.trace(seen.covariance) / len(seen_root)
    matrix = np.linalg.solve(seen.covariance + noise * np.eye(len(seen_root)), mixed.T @ root)
    ridge = ROUNDING**0.5 * np.sqrt(np.trace(prior.covariance)) * np.eye(len(root))
    mean = prior.mean @ np.linalg.solve(root + ridge, mixed)  # m E; not the mean of z: the images seen may be darker
    return LinearDecoder(matrix, prior.mean - mean @ matrix)


def invert_ciphertexts(
    encrypted: np.ndarray, base: np.ndarray, prior: BlockStatistics, *, drift: float = 0.0
) -> LinearDecoder:
    """E_hat and E0, (L, D) each, and an image prior -> decoder of ciphertexts, whatever the family and key.

    Args:
        encrypted: the embedding of the encrypted model.
        base: the embedding of the public model.
        prior: as for `invert_embedding`.
        drift: as for `invert_embedding`.

    Raises:
        ValueError: the hidden sizes differ, or the prior is of another block length.
    """
    encrypted = np.asarray(encrypted, np.float64)
    if encrypted.shape[1] != np.shape(base)[1]:
        raise ValueError(f"expected embeddings of one hidden size, got {encrypted.shape[1]} and {np.shape(base)[1]}")
    of_embedding = invert_embedding(base, prior, drift=drift)
    return LinearDecoder(encrypted @ of_embedding.matrix, of_embedding.offset)


def align_base(encrypted: np.ndarray, base: np.ndarray) -> np.ndarray:
    """E_hat of an orthogonal key and E0, (L, D) each -> (L, D): E0 corrected by what E_hat shows of E.

    Raises:
        ValueError: the shapes differ.
    """
    _check_same_shape(encrypted, base)
    left, values, right = np.linalg.svd(np.asarray(encrypted, np.float64), full_matrices=False)
    root = (right.T * values) @ right  # (E^T E)^1/2
    left, _, right = np.linalg.svd(np.asarray(base, np.float64) @ root, full_matrices=False)
    return left @ right @ root


def relative_drift(embedding: np.ndarray, base: np.ndarray) -> float:
    """E and E0, (L, D) each -> r = ||E - E0|| / ||E||."""
    return float(np.linalg.norm(embedding - base) / np.linalg.norm(embedding))


def _square_root(covariance: np.ndarray) -> np.ndarray:
    """Symmetric, without negative eigenvalues but for rounding -> symmetric root."""
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray((vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T)


def _check_lengths(base: np.ndarray, prior: BlockStatistics) -> None:
    if len(prior.mean) != len(base):
        raise ValueError(
            f"expected a prior of blocks of length {len(base)}, as the embedding has it, got {len(prior.mean)}"
        )


def _check_same_shape(encrypted: np.ndarray, base: np.ndarray) -> None:
    if np.shape(encrypted) != np.shape(base):
        raise ValueError(
            f"expected two embeddings (L, D) of one shape, got {np.shape(encrypted)} and {np.shape(base)}"
        )
