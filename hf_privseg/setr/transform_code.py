"""The transform code of a client embedding: the basis in which its numbers may be rounded to few bits.

The client sends y = b A for each block. In the basis y T, an error of one size costs the task the same in every
direction, and the directions are uncorrelated, so that one uniform quantiser is right for all of them:

    C = E[y^T y]    second moments of y over the blocks of calibration images
    F = E[g^T g]    Fisher information of the task: g is the gradient of the log likelihood by y
    T = W U         W = F^(1/2), and the columns of U are the eigenvectors of W C W, largest first

It is the Karhunen-Loeve transform of W-weighted y. A quantiser of one step for all directions is reverse water-filling
at high rates; directions whose spread is far below the step become zeros by themselves.
"""

from dataclasses import dataclass

import numpy as np

_REGULARISATION = 1e-2  # of F, relative to its mean eigenvalue: no direction is free


@dataclass(frozen=True, eq=False, repr=False)
class TransformCode:
    """A basis for the numbers of a block, and what the steps of the quantiser cost. It is a part of a secret file.

    Args:
        transform: T, (r, r) float64, of full rank.
        steps: (n,) float64, increasing: steps that were tried on the calibration images.
        bits: (n,) float64, falling: the bits of a block that each took there.

    Raises:
        ValueError: another shape, dtype or order; the message shows no number of the transform.
    """

    transform: np.ndarray
    steps: np.ndarray
    bits: np.ndarray

    def __post_init__(self) -> None:
        transform, steps, bits = self.transform, self.steps, self.bits
        if any(array.dtype != np.float64 or not np.isfinite(array).all() for array in (transform, steps, bits)):
            raise ValueError("the arrays of a transform code are finite float64")
        if transform.ndim != 2 or len(set(transform.shape)) != 1 or not transform.size:
            raise ValueError(f"the transform of a transform code is square, got {transform.shape}")
        if steps.ndim != 1 or steps.shape != bits.shape or len(steps) < 2:
            raise ValueError(
                f"a transform code has two or more steps and as many bits, got {steps.shape}, {bits.shape}"
            )
        if steps[0] <= 0 or (np.diff(steps) <= 0).any() or bits[-1] <= 0 or (np.diff(bits) >= 0).any():
            raise ValueError("the steps of a transform code are positive and increase, while its bits fall")
        if np.linalg.matrix_rank(transform) < len(transform):
            raise ValueError("the transform of a transform code has full rank, got less")

    def step_for(self, bits_per_block: float) -> float:
        """Bits that a block may take, on images like those of the calibration -> the quantiser's step.

        Raises:
            ValueError: more or fewer bits than the calibration tried.
        """
        least, most = self.bits[-1], self.bits[0]
        if not least <= bits_per_block <= most:
            raise ValueError(
                f"expected bits_per_block from {least:.3g} to {most:.3g}, which this client embedding was fitted for, "
                f"got {bits_per_block:g}"
            )
        return float(np.exp(np.interp(bits_per_block, self.bits[::-1], np.log(self.steps)[::-1])))


def task_transform(moments: np.ndarray, information: np.ndarray) -> np.ndarray:
    """C and F, (r, r) each -> T (r, r), scaled so that y T is as large as y in the mean."""
    f, q = np.linalg.eigh(information)
    f = np.maximum(f, 0) + _REGULARISATION * f.mean()
    weight = (q * np.sqrt(f)) @ q.T
    _, u = np.linalg.eigh(weight @ moments @ weight)
    transform = weight @ u[:, ::-1]
    return transform * np.sqrt(np.trace(moments) / np.trace(transform.T @ moments @ transform))
