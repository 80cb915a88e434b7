"""Attacks with public weights near the model's, E0: on the key, or on z = b E, which no key hides."""

from dataclasses import replace

import numpy as np

from ..attacks.learned_inversion import Budget, LearnedInverter, train_inverter
from ..attacks.model_theft import TheftBudget
from ..attacks.public_base import (
    invert_drifted_embedding,
    invert_embedding,
    recover_permutation_from_weight,
)
from ..attacks.stolen_embedding import invert_stolen_embedding
from ..attacks.tools.blocks import to_image
from ..attacks.tools.priors import ImagePrior
from ..attacks.tools.statistics import block_statistics
from .attacks_with_more import permutation_outcome
from .baselines import if_answers_can_be_compared, own_images_and_maps
from .scene import Scene
from .training_bar import gained, training_bar
from .trial import NO_PRIOR, Decoder, Outcome, Trial

BUDGET = Budget()  # of the network's training
THEFT_BUDGET = TheftBudget(steps=150, batch_size=3, learning_rate=2e-4)  # small, because the start is near
CROP_IN_BLOCKS = 16


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


def stolen_embedding(trial: Trial) -> Outcome:
    """z inverted with an embedding that is learned, from the public one on, for the layers behind E."""
    scene = trial.scene
    own, maps = own_images_and_maps(scene, trial.prior)
    images, labels = _crops([to_image(grid, scene.patch_size) for grid in own], maps, scene.patch_size)
    learn = scene.learn_embedding
    assert learn is not None  # or there is no trial
    with training_bar(THEFT_BUDGET.steps, shown=scene.progress) as progress:
        stolen = learn(images, labels, scene.base, THEFT_BUDGET, progress)
    decoder = invert_stolen_embedding(stolen, trial.prior.statistics, block_statistics(scene.embedded))
    losses = np.array_split(stolen.losses, 10)
    note = f"cross entropy of the learned embedding {losses[0].mean():.2f} at first, {losses[-1].mean():.2f} at last"
    return replace(_of_z(trial, decoder), note=note)


def if_layers_can_be_used(scene: Scene) -> list[tuple[ImagePrior, int]]:
    """As `if_the_base_has_drifted`, where the layers behind the embedding are at hand, and the attacker has images."""
    usable = scene.learn_embedding is not None and if_answers_can_be_compared(scene)
    return if_the_base_has_drifted(scene) if usable else []


def _crops(images: list[np.ndarray], maps: list[np.ndarray], patch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Images (channels, height, width) and maps of any size -> a crop of each, all of one size, and its labels."""
    height, width = (
        min(CROP_IN_BLOCKS, *(image.shape[axis] // patch_size for image in images)) * patch_size for axis in (1, 2)
    )
    rng = np.random.default_rng(0)
    crops, labels = [], []
    for image, segmentation_map in zip(images, maps, strict=True):
        top, left = (int(rng.integers(s - side + 1)) for s, side in zip(image.shape[1:], (height, width), strict=True))
        rows = (np.arange(top, top + height) + 0.5) * len(segmentation_map) / image.shape[1]
        columns = (np.arange(left, left + width) + 0.5) * segmentation_map.shape[1] / image.shape[2]
        crops.append(image[:, top : top + height, left : left + width])
        labels.append(segmentation_map[np.ix_(rows.astype(int), columns.astype(int))])
    return np.stack(crops), np.stack(labels).astype(np.int64)


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
