"""Attacks with public weights near the model's, E0: on the key, or on z = b E, which no key hides."""

import numpy as np

from ..attacks.learned_inversion import Budget, LearnedInverter, train_inverter
from ..attacks.public_base import (
    invert_drifted_embedding,
    invert_embedding,
    recover_permutation_from_weight,
)
from ..attacks.tools.priors import ImagePrior
from ..attacks.tools.statistics import block_statistics
from .attacks_with_more import permutation_outcome
from .scene import Scene
from .training_bar import gained, training_bar
from .trial import NO_PRIOR, Decoder, Outcome, Trial

BUDGET = Budget()  # of the network's training


def row_matching(trial: Trial) -> Outcome:
    """A permutation key, from the rows of the encrypted and of the public weights."""
    target = trial.encrypted
    key = recover_permutation_from_weight(target.embedding, trial.scene.base, signed=target.is_signed)
    return permutation_outcome(trial, key)


def if_a_base_is_public(scene: Scene) -> list[tuple[ImagePrior, int]]:
    """One trial where there are public weights."""
    return [] if scene.public_base is None else [(NO_PRIOR, 0)]


def wiener_inversion(trial: Trial) -> Outcome:
    """z inverted with the public weights, under the prior. The drift is taken as known; guessing it costs little."""
    scene = trial.scene
    return _of_z(trial, invert_embedding(scene.base, trial.prior.statistics, drift=scene.drift))


def each_prior(scene: Scene) -> list[tuple[ImagePrior, int]]:
    """A trial for each prior where there are public weights."""
    return [] if scene.public_base is None else [(prior, 1) for prior in scene.priors]


def calibrated_inversion(trial: Trial) -> Outcome:
    """As `wiener_inversion`, with the drift corrected by the moments of many z."""
    scene = trial.scene
    moments = block_statistics(scene.embedded)
    return _of_z(trial, invert_drifted_embedding(scene.base, trial.prior.statistics, moments, drift=scene.drift))


def if_the_base_has_drifted(scene: Scene) -> list[tuple[ImagePrior, int]]:
    """One trial with all ciphertexts where the public weights are not the model's own."""
    return [(scene.best_prior, len(scene.images))] if scene.public_base is not None and scene.drift else []


def learned_inversion(trial: Trial) -> Outcome:
    """A network behind `wiener_inversion`, trained on the attacker's own images."""
    inverter = _train_inverter(trial.scene, trial.prior)
    estimates = trial.decoded(inverter, trial.scene.embedded, trial.scene.num_scored)
    return Outcome(estimates=estimates, note=gained(inverter, "linear one"))


def if_the_prior_has_images(scene: Scene) -> list[tuple[ImagePrior, int]]:
    """One trial where there are public weights, and images to train with."""
    return [(scene.best_prior, 1)] if scene.public_base is not None and scene.best_prior.grids else []


def _of_z(trial: Trial, decoder: Decoder) -> Outcome:
    return Outcome(estimates=trial.decoded(decoder, trial.scene.embedded, trial.scene.num_scored))


def _train_inverter(scene: Scene, prior: ImagePrior) -> LearnedInverter:
    """A scene and the attacker's images -> a network that has met other drifts of the same size."""
    base, drift = scene.base, scene.drift
    linear = invert_embedding(base, prior.statistics, drift=drift)
    spread = drift * np.linalg.norm(base) / base.size**0.5

    def observe(grid: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return grid @ (base + spread * rng.standard_normal(base.shape) if drift else base)

    with training_bar(BUDGET.steps, shown=scene.progress) as progress:
        return train_inverter(prior.grids, observe, linear, budget=BUDGET, progress=progress)
