"""What the uploads alone show, and what the server computes of them: a function for each attack."""

from collections.abc import Sequence

import numpy as np

from ..attacks.canonical import reconstruct_canonical
from ..attacks.learned_alignment import BUDGET, NUM_KEYS, refine_orthogonal
from ..attacks.orthogonal import reconstruct_orthogonal, reconstruct_projected
from ..attacks.permutation import recover_permutation
from ..attacks.thumbnail import reconstruct_thumbnail
from ..attacks.tools.classes import known_classes
from ..attacks.tools.priors import ImagePrior
from .baselines import if_answers_can_be_compared, own_images_and_maps
from .scene import Scene
from .training_bar import gained, training_bar
from .trial import Outcome, Trial

MAX_REHEARSED = 16  # ciphertexts; each key of the attacker's own takes as many images


def first_component(trial: Trial) -> Outcome:
    """The thumbnail, from the first principal component of one ciphertext."""
    seen = trial.encrypted.ciphertexts
    return Outcome(estimates=trial.decoded(reconstruct_thumbnail(seen[:1], trial.prior), seen, 1))


def matching(trial: Trial) -> Outcome:
    """The order and signs of a permutation key, from moments of the ciphertexts."""
    target = trial.encrypted
    seen = target.ciphertexts[: trial.num_images]
    key = recover_permutation(seen, trial.prior, signed=target.is_signed)
    return Outcome(
        estimates=trial.decoded(key, target.ciphertexts, trial.num_images),
        metrics=target.recovered(key.order, key.signs),
    )


def alignment(trial: Trial) -> Outcome:
    """A rotation, aligned by principal components."""
    seen = trial.encrypted.ciphertexts[: trial.num_images]
    return Outcome(estimates=trial.decoded(reconstruct_orthogonal(seen, trial.prior), seen, len(seen)))


def alignment_by_classes(trial: Trial) -> Outcome:
    """As `alignment`, with the segmentation maps, which the provider computes."""
    return _by_classes(trial, trial.encrypted.ciphertexts)


def canonical_correlations(trial: Trial) -> Outcome:
    """Any invertible key, from canonical correlations of neighbouring blocks."""
    seen = trial.encrypted.ciphertexts[: trial.num_images]
    return Outcome(estimates=trial.decoded(reconstruct_canonical(seen, trial.prior), seen, len(seen)))


def canonical_correlations_of_z(trial: Trial) -> Outcome:
    """What the server computes, z = b E, which is the same under every family; E itself stays unknown to it."""
    seen = trial.scene.embedded[: trial.num_images]
    return Outcome(estimates=trial.decoded(reconstruct_canonical(seen, trial.prior), seen, len(seen)))


def alignment_of_z(trial: Trial) -> Outcome:
    """What the server computes, aligned as if E were a rotation; a random matrix is nearly one."""
    seen = trial.scene.embedded[: trial.num_images]
    return Outcome(estimates=trial.decoded(reconstruct_projected(seen, trial.prior), seen, len(seen)))


def alignment_of_z_by_classes(trial: Trial) -> Outcome:
    """As `alignment_of_z`, with the segmentation maps."""
    return _by_classes(trial, trial.scene.embedded)


def learned_alignment(trial: Trial) -> Outcome:
    """The alignment with a network behind it, trained on keys and images of the attacker's own."""
    seen = trial.encrypted.ciphertexts[: trial.num_images]
    with training_bar(NUM_KEYS + BUDGET.steps, shown=trial.scene.progress) as progress:
        found = refine_orthogonal(seen, trial.prior, num_keys=NUM_KEYS, budget=BUDGET, progress=progress)
    return Outcome(estimates=trial.decoded(found, seen, len(seen)), note=gained(found.inverter, "alignment alone"))


def as_many_as_can_be_rehearsed(scene: Scene) -> list[tuple[ImagePrior, int]]:
    """The largest number of ciphertexts for which half of the attacker's images can play victims."""
    prior = scene.best_prior
    most = min(MAX_REHEARSED, len(prior.grids) // prior.grids_per_image // 2)
    counts = [count for count in scene.counts if count <= most]
    return [(prior, max(counts))] if counts else []


def largest_counts_where_answers_are_known(scene: Scene) -> list[tuple[ImagePrior, int]]:
    """A trial for the two largest numbers of ciphertexts where there are segmentation maps, and own images."""
    return [(prior, count) for prior, _ in if_answers_can_be_compared(scene) for count in scene.counts[-2:]]


def _by_classes(trial: Trial, grids: Sequence[np.ndarray]) -> Outcome:
    scene, seen = trial.scene, grids[: trial.num_images]
    own, maps = own_images_and_maps(scene, trial.prior)
    classes = known_classes(
        [scene.labels_of_victim(n) for n in range(len(seen))], [grid.shape[:2] for grid in seen], own, maps
    )
    decoder = reconstruct_projected(seen, trial.prior, classes=classes)
    return Outcome(estimates=trial.decoded(decoder, seen, len(seen)))
