"""Images from ciphertexts of one orthogonal key alone, aligned and then corrected by a network.

The errors of the alignment in `orthogonal.py` recur, so an attacker can rehearse it:

- Half of the attacker's images are the prior, and the other half play victims. Groups of as many images as there are
  ciphertexts are encrypted under keys of the attacker's own and aligned with the prior.
- From the components of a block and of its neighbours, a network learns what the linear estimate of the pixels misses
  (`learned_inversion.train_inverter`). Images and keys are held out to tell whether it does. A network learns a small
  number of keys by heart, so its errors have to be measured under other keys.
- The network is put behind the alignment of the ciphertexts, whose key it has never met.

Assumptions: those of `orthogonal.py`, and dozens of images of similar scenes. Cost: an alignment for each key, which
takes 1 to 2 s for 16 images of 480 x 352 on one core, and some minutes of training.

Source: networks behind a classical reconstruction, trained on its results for known images, are common in imaging
(Jin et al., "Deep convolutional neural network for inverse problems in imaging", 2017).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import ortho_group

from .learned_inversion import Budget, LearnedInverter, Observe, train_inverter
from .orthogonal import NUM_COMPONENTS, WHITENING, reconstruct_orthogonal
from .tools.blocks import LinearDecoder
from .tools.components import principal_components
from .tools.priors import ImagePrior
from .tools.statistics import block_statistics

BUDGET = Budget(steps=400, learning_rate=5e-4)
NUM_KEYS = 120
_HELD_OUT = 10  # one key in so many

Progress = Callable[[int], None]


@dataclass(frozen=True)
class RefinedAlignment:
    """The decoder of one key's ciphertexts: an alignment with a network behind it.

    Attributes:
        aligned: the alignment alone.
        inverter: the network behind it, with what it and the alignment alone reach on images and keys held out.
    """

    aligned: LinearDecoder
    inverter: LearnedInverter

    def decode(self, grid: np.ndarray) -> np.ndarray:
        """(down, across, L) ciphertext -> (down, across, L), estimated pixels in [-1, 1]."""
        return self.inverter.decode(self.aligned.estimate(grid))


def refine_orthogonal(
    ciphertexts: Sequence[np.ndarray],
    prior: ImagePrior,
    *,
    num_keys: int = NUM_KEYS,
    budget: Budget = BUDGET,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress | None = None,
) -> RefinedAlignment:
    """Encrypted grids (down, across, L), all of one key, and an image prior -> decoder.

    Args:
        ciphertexts: as for `reconstruct_orthogonal`.
        prior: of at least twice as many of the attacker's images as there are ciphertexts; none of them a victim.
        num_keys: own keys to rehearse under, a tenth of them held out.
        budget: of the network's training.
        seed: of keys, groups, crops and weights.
        device: where the network is trained.
        progress: called with the number of steps done, of num_keys + budget.steps: keys rehearsed, then updates.

    Raises:
        ValueError: the prior has too few images, or images or blocks of the wrong size.
    """
    aligned = reconstruct_orthogonal(ciphertexts, prior)
    known, own = _halves(prior)
    if len(own) < len(ciphertexts):
        raise ValueError(
            f"expected a prior of {2 * len(ciphertexts)} images or more, half of which play the {len(ciphertexts)} "
            f"ciphertexts, got one of {len(prior.grids) // prior.grids_per_image}"
        )
    rng = np.random.default_rng(seed)
    decoders = []
    for done in range(num_keys):
        group = rng.choice(len(own), len(ciphertexts), replace=False)
        decoders.append(_rehearse([own[n] for n in group], known, rng))
        if progress is not None:
            progress(done + 1)
    num_held_out = -(-num_keys // _HELD_OUT)
    statistics = known.statistics
    components = principal_components(statistics.mean, statistics.covariance, NUM_COMPONENTS, whitening=WHITENING)
    inverter = train_inverter(
        [own[n] for n in rng.permutation(len(own))],
        _observe(decoders[num_held_out:]),
        LinearDecoder(components.estimator, components.mean),
        features=lambda grid: components.of_grids([grid])[0],
        observe_held_out=_observe(decoders[:num_held_out]),
        budget=budget,
        seed=seed,
        device=device,
        progress=None if progress is None else lambda step, found: progress(num_keys + step),
    )
    return RefinedAlignment(aligned, inverter)


def _halves(prior: ImagePrior) -> tuple[ImagePrior, list[np.ndarray]]:
    """A prior -> one of every other image, and the images between, (down, across, L) each."""
    step = prior.grids_per_image
    images = [prior.grids[first : first + step] for first in range(0, len(prior.grids), step)]
    known = [grid for image in images[::2] for grid in image]
    halved = ImagePrior(prior.name, block_statistics(known), prior.num_channels, known, step)
    return halved, [image[0] for image in images[1::2]]


def _rehearse(plain: Sequence[np.ndarray], prior: ImagePrior, rng: np.random.Generator) -> LinearDecoder:
    """Images that play victims, encrypted under a random rotation and attacked -> plain blocks to their estimates."""
    rotation = ortho_group.rvs(plain[0].shape[-1], random_state=rng)
    found = reconstruct_orthogonal([grid @ rotation for grid in plain], prior)
    return LinearDecoder(rotation @ found.matrix, found.offset)


def _observe(decoders: Sequence[LinearDecoder]) -> Observe:
    """A plain grid -> its estimate under one of the keys."""
    return lambda grid, rng: decoders[int(rng.integers(len(decoders)))].estimate(grid)
