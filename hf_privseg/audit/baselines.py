"""Figures to compare attacks with: what is known without looking at a ciphertext, or at the ciphertext alone."""

from collections.abc import Callable

import numpy as np

from ..attacks.answer_only import train_map_decoder
from ..attacks.learned_inversion import Budget, LearnedInverter
from ..attacks.tools.blocks import to_grid
from ..attacks.tools.metrics import grey, thumbnail
from ..attacks.tools.priors import ImagePrior
from .scene import Scene
from .training_bar import gained, training_bar
from .trial import Outcome, Trial

MAX_PAIRS = 32  # images and their segmentation maps, of the attacker's own
MAP_BUDGET = Budget(crop_in_blocks=8)


def constant_grey(trial: Trial) -> Outcome:
    """Baseline: one grey, of which nothing is known."""
    return _made_from_the_original(trial, grey)


def block_means(trial: Trial) -> Outcome:
    """Baseline: each block replaced by its mean colour, which every family leaks nearly as it is."""
    return _made_from_the_original(trial, lambda image: thumbnail(image, trial.scene.patch_size))


def segmentation_map(trial: Trial) -> Outcome:
    """Baseline: what the answer alone tells, which the provider computes under any encryption."""
    return _from_the_answer(trial, None)


def learned_segmentation_map(trial: Trial) -> Outcome:
    """A network behind `segmentation_map`."""
    return _from_the_answer(trial, MAP_BUDGET)


def if_answers_can_be_compared(scene: Scene) -> list[tuple[ImagePrior, int]]:
    """One trial where there is a model that segments, and the attacker has images."""
    return [(scene.best_prior, 1)] if scene.segment is not None and scene.best_prior.grids else []


def if_answers_can_be_learned(scene: Scene) -> list[tuple[ImagePrior, int]]:
    """The same where there are images enough, of the size of the network's crops."""
    own, least = own_images(scene.best_prior), MAP_BUDGET.crop_in_blocks
    is_enough = len(own) >= 2 and all(min(grid.shape[:2]) >= least for grid in own)
    return if_answers_can_be_compared(scene) if is_enough else []


def ciphertext_as_it_is(trial: Trial) -> Outcome:
    """Baseline: the ciphertext looked at as an image; a shorter ciphertext is filled up with grey."""
    scene, length = trial.scene, len(trial.scene.embedding)
    grids = trial.encrypted.ciphertexts[: scene.num_scored]
    padded = [np.pad(grid, ((0, 0), (0, 0), (0, length - grid.shape[-1]))) for grid in grids]
    return Outcome(estimates={n: np.clip(grid, -1, 1) for n, grid in enumerate(padded)})


def _made_from_the_original(trial: Trial, make: Callable[[np.ndarray], np.ndarray]) -> Outcome:
    images = trial.scene.images[: trial.scene.num_scored]
    return Outcome(estimates={n: to_grid(make(image), trial.scene.patch_size) for n, image in enumerate(images)})


def own_images(prior: ImagePrior) -> list[np.ndarray]:
    """The attacker's images, (down, across, L) each, as many as are used with their segmentation maps."""
    return list(prior.grids[:: prior.grids_per_image][:MAX_PAIRS])


def own_images_and_maps(scene: Scene, prior: ImagePrior) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The attacker's images and their segmentation maps, which the model draws in place of another one or a hand."""
    own = own_images(prior)
    return own, [scene.labels_of_own(grid) for grid in own]


def _from_the_answer(trial: Trial, budget: Budget | None) -> Outcome:
    scene = trial.scene
    own, maps = own_images_and_maps(scene, trial.prior)
    answers = [scene.labels_of_victim(n) for n in range(min(scene.num_scored, len(scene.images)))]
    num_labels = 1 + max(int(each.max()) for each in (*maps, *answers))
    with training_bar(0 if budget is None else budget.steps, shown=scene.progress and budget is not None) as progress:
        decoder = train_map_decoder(own, maps, num_labels, budget=budget, progress=progress)
    sizes = [grid.shape[:2] for grid in scene.grids]
    estimates = {n: decoder.decode(answer, *sizes[n]) for n, answer in enumerate(answers)}
    inverter = decoder.inverter
    note = gained(inverter, "regression") if isinstance(inverter, LearnedInverter) else ""
    return Outcome(estimates=estimates, note=note)
