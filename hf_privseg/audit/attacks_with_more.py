"""Attacks on the key with more than uploads: its fingerprint, the encrypted model, a known or a chosen image."""

from ..attacks.brute_force import seed_of_fingerprint
from ..attacks.chosen_plaintext import probe_matrix, probe_permutation
from ..attacks.known_plaintext import RecoveredPermutation, fit_rotation, match_traces, regress
from ..attacks.model_only import orientations, recover_from_model
from ..attacks.tools.blocks import as_rows
from ..attacks.tools.priors import ImagePrior
from ..setr import keys
from .scene import Scene
from .trial import NO_PRIOR, Outcome, Trial

NUM_SEEDS = 100_000


def small_seeds(trial: Trial) -> Outcome:
    """Whether the fingerprint of the key in use is that of a small integer seed; the report must not name the seed."""
    facts = trial.scene.key_in_use
    found = facts is not None and seed_of_fingerprint(facts.fingerprint, range(NUM_SEEDS), facts.family) is not None
    note = (
        f"the key in use comes from a seed below {NUM_SEEDS:,}: replace it by one of SecretKey.generate"
        if found
        else f"the key in use comes from no seed below {NUM_SEEDS:,}"
    )
    return Outcome(metrics={"exact": float(found)}, note=note)


def if_a_key_is_in_use(scene: Scene) -> list[tuple[ImagePrior, int]]:
    """One trial where the fingerprint of a `SecretKey` is known."""
    return [(NO_PRIOR, 0)] if scene.key_in_use is not None and scene.key_in_use.family in keys.FAMILIES else []


def smooth_filters(trial: Trial) -> Outcome:
    """A permutation key from the encrypted weights alone, up to a symmetry of the square."""
    scene, target = trial.scene, trial.encrypted
    estimate = recover_from_model(target.embedding.T, patch_size=scene.patch_size, num_channels=scene.num_channels)
    turned = orientations(estimate, patch_size=scene.patch_size)  # a look at one ciphertext tells which it is
    compared = [target.recovered(each.order) for each in turned]
    return Outcome(metrics=max(compared, key=lambda found: found["within_one"]), note="the best orientation of 8")


def one_known_image(trial: Trial) -> Outcome:
    """One image in plain beside its ciphertext; it decodes the others."""
    scene, target = trial.scene, trial.encrypted
    plain, encrypted = scene.grids[0], target.ciphertexts[0]
    if target.is_permutation:
        return permutation_outcome(trial, match_traces(plain, encrypted, signed=target.is_signed), first=1)
    decoder = regress(plain, encrypted, scene.best_prior.statistics)
    if target.family == "orthogonal" and len(as_rows([plain])) >= len(scene.embedding):
        decoder = fit_rotation(plain, encrypted)
    return Outcome(estimates=trial.decoded(decoder, target.ciphertexts, scene.num_scored, first=1))


def if_other_images_are_left(scene: Scene) -> list[tuple[ImagePrior, int]]:
    """One trial where there is a victim beside the known image; the prior fills in what that image does not show."""
    return [(scene.best_prior, 1)] if len(scene.images) > 1 else []


def one_chosen_image(trial: Trial) -> Outcome:
    """One image of the attacker's choice and its ciphertext; it decodes any other."""
    target, length = trial.encrypted, len(trial.scene.embedding)
    if target.is_permutation:
        return permutation_outcome(trial, probe_permutation(target.encrypt, length))
    decoder = probe_matrix(target.encrypt, length)
    return Outcome(estimates=trial.decoded(decoder, target.ciphertexts, trial.scene.num_scored))


def permutation_outcome(trial: Trial, key: RecoveredPermutation, *, first: int = 0) -> Outcome:
    """A recovered key -> what it decodes of the victims from `first` on, and how much of it is right."""
    target = trial.encrypted
    return Outcome(
        estimates=trial.decoded(key, target.ciphertexts, trial.scene.num_scored, first=first),
        metrics=target.recovered(key.order, key.signs),
    )
