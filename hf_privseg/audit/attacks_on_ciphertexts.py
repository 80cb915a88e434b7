"""What the uploads alone show, and what the server computes of them: a function for each attack."""

from ..attacks.canonical import reconstruct_canonical
from ..attacks.learned_alignment import BUDGET, NUM_KEYS, refine_orthogonal
from ..attacks.orthogonal import reconstruct_orthogonal
from ..attacks.permutation import recover_permutation
from ..attacks.thumbnail import reconstruct_thumbnail
from ..attacks.tools.priors import ImagePrior
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


def canonical_correlations(trial: Trial) -> Outcome:
    """Any invertible key, from canonical correlations of neighbouring blocks."""
    seen = trial.encrypted.ciphertexts[: trial.num_images]
    return Outcome(estimates=trial.decoded(reconstruct_canonical(seen, trial.prior), seen, len(seen)))


def canonical_correlations_of_z(trial: Trial) -> Outcome:
    """What the server computes, z = b E, which is the same under every family; E itself stays unknown to it."""
    seen = trial.scene.embedded[: trial.num_images]
    return Outcome(estimates=trial.decoded(reconstruct_canonical(seen, trial.prior), seen, len(seen)))


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
