"""Which attacks an audit tries on each family, and what each attacker is given.

What the attacker has goes from nothing (baselines) to ciphertexts, to the encrypted model beside them, to one image in
plain, to images of the attacker's choice, to public weights; see `findings.ATTACKERS`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

import numpy as np
from tqdm.auto import tqdm

from ..attacks.brute_force import seed_of_fingerprint
from ..attacks.canonical import reconstruct_canonical
from ..attacks.chosen_plaintext import probe_matrix, probe_permutation
from ..attacks.known_plaintext import fit_rotation, match_traces, regress
from ..attacks.learned_alignment import BUDGET, NUM_KEYS, refine_orthogonal
from ..attacks.learned_inversion import Budget, LearnedInverter, train_inverter
from ..attacks.model_only import orientations, recover_from_model
from ..attacks.orthogonal import reconstruct_orthogonal
from ..attacks.permutation import recover_permutation
from ..attacks.public_base import (
    invert_drifted_embedding,
    invert_embedding,
    recover_permutation_from_weight,
    relative_drift,
)
from ..attacks.thumbnail import reconstruct_thumbnail
from ..attacks.tools.blocks import as_rows, to_grid
from ..attacks.tools.metrics import grey, key_recovery, thumbnail
from ..attacks.tools.priors import ImagePrior
from ..attacks.tools.statistics import block_statistics
from .scene import Outcome, Scene, Trial
from .target import Target

PERMUTATIONS = ("permutation", "signed_permutation")

NUM_SEEDS = 100_000
INVERSION = Budget()  # of a network; that of the learned alignment is its own
MAX_REHEARSED = 16  # ciphertexts; each own key takes as many images of the attacker's

# What is tried on the uploads alone; `matrix` is near enough to a rotation for the attack on rotations.
CIPHERTEXT_ATTACKS = {
    "permutation": ("matching",),
    "signed_permutation": ("matching",),
    "orthogonal": ("alignment",),
    "matrix": ("alignment", "canonical correlations"),
    "embedding": ("canonical correlations",),
}


class Decoder(Protocol):
    """What attacks return: a map from a ciphertext's grid to an estimate of the plain one."""

    def decode(self, grid: np.ndarray) -> np.ndarray:
        """(down, across, M) -> (down, across, L)."""


def all_trials(scene: Scene, secret_keys: Mapping[str, Any], *, learned: bool = False) -> list[Trial]:
    """A scene and {family: fresh key} -> every trial, baselines first; `learned` adds networks, which take minutes."""
    trials = list(_baselines(scene))
    for secret_key in secret_keys.values():
        target = Target(scene, secret_key)
        trials += [*_ciphertext_trials(scene, target), *_key_trials(scene, target), *_plaintext_trials(scene, target)]
        trials += _rehearsed_trials(scene, target) if learned else []
    trials += _server_trials(scene)
    if scene.public_base is not None:
        trials += public_base_trials(scene, scene.public_base, "public base", learned=learned)
    return trials


def _baselines(scene: Scene) -> Iterator[Trial]:
    """Grey and the block means: what any figure stands beside."""
    for name, make in (
        ("constant grey", lambda image: grey(image)),
        ("block means", lambda image: thumbnail(image, scene.patch_size)),
    ):

        def run(make: Callable[[np.ndarray], np.ndarray] = make) -> Outcome:
            chosen = range(min(scene.num_scored, len(scene.images)))
            return Outcome(estimates={n: to_grid(make(scene.images[n]), scene.patch_size) for n in chosen})

        yield Trial(attack=name, attacker="baseline", family="any", num_images=0, run=run)


def _ciphertext_trials(scene: Scene, target: Target) -> Iterator[Trial]:
    """What the uploads alone give away, by the family's best attack; for each prior and number of ciphertexts."""
    length = len(scene.embedding)

    def raw() -> Outcome:
        grids = target.ciphertexts[: scene.num_scored]
        padded = [np.pad(grid, ((0, 0), (0, 0), (0, length - grid.shape[-1]))) for grid in grids]
        return Outcome(estimates={n: np.clip(grid, -1, 1) for n, grid in enumerate(padded)})

    def first_component() -> Outcome:
        decoder = reconstruct_thumbnail(target.ciphertexts[:1], scene.priors[-1])
        return Outcome(estimates=_decoded(scene, decoder, target.ciphertexts, 1))

    yield Trial(attack="ciphertext as it is", attacker="baseline", family=target.family, num_images=1, run=raw)
    yield Trial(
        attack="first component",
        attacker="ciphertexts",
        family=target.family,
        num_images=1,
        prior=scene.priors[-1].name,
        run=first_component,
    )
    for attack in CIPHERTEXT_ATTACKS[target.family]:
        for prior in scene.priors:
            for count in scene.counts:
                yield _ciphertext_trial(scene, target, attack, prior, count)


def _ciphertext_trial(scene: Scene, target: Target, attack: str, prior: ImagePrior, count: int) -> Trial:
    seen = target.ciphertexts[:count]

    def matching() -> Outcome:
        key = recover_permutation(seen, prior, signed=target.is_signed)
        return _permutation_outcome(scene, target, key, count)

    def alignment() -> Outcome:
        return Outcome(estimates=_decoded(scene, reconstruct_orthogonal(seen, prior), seen, count))

    def canonical_correlations() -> Outcome:
        return Outcome(estimates=_decoded(scene, reconstruct_canonical(seen, prior), seen, count))

    attacks = {"matching": matching, "alignment": alignment, "canonical correlations": canonical_correlations}
    return Trial(
        attack=attack,
        attacker="ciphertexts",
        family=target.family,
        num_images=count,
        prior=prior.name,
        run=attacks[attack],
    )


def _rehearsed_trials(scene: Scene, target: Target) -> Iterator[Trial]:
    """The alignment and a network behind it, where the attacker has enough images to rehearse with."""
    best = scene.priors[-1]
    counts = [n for n in scene.counts if n <= min(MAX_REHEARSED, len(best.grids) // best.grids_per_image // 2)]
    if target.family != "orthogonal" or not counts:
        return
    seen = target.ciphertexts[: max(counts)]

    def run() -> Outcome:
        with _training(scene, NUM_KEYS + BUDGET.steps) as tell:
            found = refine_orthogonal(seen, best, num_keys=NUM_KEYS, budget=BUDGET, progress=tell)
        estimates = _decoded(scene, found, seen, len(seen))
        return Outcome(estimates=estimates, note=_told(found.inverter, "alignment alone"))

    yield Trial(
        attack="learned alignment",
        attacker="ciphertexts",
        family=target.family,
        num_images=len(seen),
        prior=best.name,
        run=run,
    )


@contextmanager
def _training(scene: Scene, num_steps: int) -> Iterator[Callable[..., None]]:
    """Shows a bar, and hands on what moves it to a number of steps."""
    with tqdm(total=num_steps, desc="training", leave=False, disable=not scene.progress) as bar:
        yield lambda done, *_: bar.update(done - bar.n)


def _told(inverter: LearnedInverter, baseline: str) -> str:
    """Whether a network was worth its training."""
    told = f"on images held out {inverter.learned_psnr:.1f} dB, the {baseline} {inverter.linear_psnr:.1f}"
    return told if inverter.succeeded else f"fails to beat the {baseline}: {told}"


def _key_trials(scene: Scene, target: Target) -> Iterator[Trial]:
    """What the encrypted model alone, or public weights beside it, tell of a permutation key."""
    if target.family not in PERMUTATIONS:
        return

    def from_model_alone() -> Outcome:
        num_channels = len(scene.images[0])
        estimate = recover_from_model(target.embedding.T, patch_size=scene.patch_size, num_channels=num_channels)
        turned = orientations(estimate, patch_size=scene.patch_size)  # a look at one ciphertext tells which it is
        compared = [_compared(scene, target, each.order) for each in turned]
        return Outcome(metrics=max(compared, key=lambda found: found["within_one"]), note="the best orientation of 8")

    def from_public_weights() -> Outcome:
        assert scene.public_base is not None
        key = recover_permutation_from_weight(target.embedding, scene.public_base, signed=target.is_signed)
        return _permutation_outcome(scene, target, key, scene.num_scored)

    yield Trial(attack="smooth filters", attacker="model", family=target.family, num_images=0, run=from_model_alone)
    if scene.public_base is not None:
        yield Trial(
            attack="row matching", attacker="public base", family=target.family, num_images=0, run=from_public_weights
        )


def _plaintext_trials(scene: Scene, target: Target) -> Iterator[Trial]:
    """One known image decodes the others; images of the attacker's choice decode any."""
    is_permutation = target.family in PERMUTATIONS
    length = len(scene.embedding)

    def known() -> Outcome:
        plain, encrypted = scene.grids[0], target.ciphertexts[0]
        if is_permutation:
            key = match_traces(plain, encrypted, signed=target.is_signed)
            return _permutation_outcome(scene, target, key, scene.num_scored, first=1)
        decoder = regress(plain, encrypted, scene.priors[-1].statistics)
        if target.family == "orthogonal" and len(as_rows([plain])) >= length:
            decoder = fit_rotation(plain, encrypted)
        return Outcome(estimates=_decoded(scene, decoder, target.ciphertexts, scene.num_scored, first=1))

    def chosen() -> Outcome:
        if is_permutation:
            key = probe_permutation(target.encrypt, length)
            return _permutation_outcome(scene, target, key, scene.num_scored)
        decoder = probe_matrix(target.encrypt, length)
        return Outcome(estimates=_decoded(scene, decoder, target.ciphertexts, scene.num_scored))

    if len(scene.images) > 1:
        yield Trial(
            attack="one known image", attacker="known plaintext", family=target.family, num_images=1, run=known
        )
    yield Trial(attack="one chosen image", attacker="chosen plaintext", family=target.family, num_images=1, run=chosen)


def _server_trials(scene: Scene) -> Iterator[Trial]:
    """What the server computes, z = b E, is the same under every family; E itself stays unknown to it."""
    for prior in scene.priors:
        for count in scene.counts:

            def run(prior: ImagePrior = prior, count: int = count) -> Outcome:
                decoder = reconstruct_canonical(scene.embedded[:count], prior)
                return Outcome(estimates=_decoded(scene, decoder, scene.embedded, count))

            yield Trial(
                attack="canonical correlations of z",
                attacker="server",
                family="any",
                num_images=count,
                prior=prior.name,
                run=run,
            )


def seed_trial(encryption: Mapping[str, Any]) -> Trial:
    """The public facts of a key in use -> whether its fingerprint is that of a small integer seed."""

    def run() -> Outcome:
        found = seed_of_fingerprint(encryption["fingerprint"], range(NUM_SEEDS), encryption["family"])
        told = f"its key comes from a seed below {NUM_SEEDS:,}: make one with SecretKey.generate"
        return Outcome(metrics={"exact": float(found is not None)}, note=told if found else "no such seed")

    return Trial(
        attack=f"seeds 0 to {NUM_SEEDS - 1:,}",
        attacker="ciphertexts",
        family=encryption["family"],
        num_images=0,
        run=run,
    )


def public_base_trials(scene: Scene, base: np.ndarray, name: str, *, learned: bool) -> Iterator[Trial]:
    """z inverted with weights near the model's, (L, hidden_size), whatever the family.

    Args:
        scene: what is attacked; the drift of `base` from its embedding is taken as known, for a guess costs little.
        base: the public weights.
        name: what the attacks are called after.
        learned: whether to train a network as well.
    """
    drift = relative_drift(scene.embedding, base)
    best = scene.priors[-1]

    def wiener(prior: ImagePrior) -> Outcome:
        return decoded(invert_embedding(base, prior.statistics, drift=drift))

    def calibrated() -> Outcome:
        moments = block_statistics(scene.embedded)
        return decoded(invert_drifted_embedding(base, best.statistics, moments, drift=drift))

    def trained() -> Outcome:
        inverter = _train_inverter(scene, base, best, drift)
        return replace(decoded(inverter), note=_told(inverter, "linear one"))

    def decoded(decoder: Decoder) -> Outcome:
        return Outcome(estimates=_decoded(scene, decoder, scene.embedded, scene.num_scored))

    attacks: list[tuple[str, ImagePrior, int, Callable[[], Outcome]]] = [
        ("Wiener inversion", prior, 1, partial(wiener, prior)) for prior in scene.priors
    ]
    if drift:
        attacks.append(("calibrated inversion", best, len(scene.images), calibrated))
    if learned and best.grids:
        attacks.append(("learned inversion", best, 1, trained))
    for attack, prior, count, run in attacks:
        yield Trial(
            attack=f"{attack}, {name}",
            attacker="public base",
            family="any",
            num_images=count,
            prior=prior.name,
            run=run,
        )


def _train_inverter(scene: Scene, base: np.ndarray, prior: ImagePrior, drift: float) -> LearnedInverter:
    """Public weights and the attacker's images -> a network trained under drifts of the attacker's own."""
    linear = invert_embedding(base, prior.statistics, drift=drift)
    spread = drift * np.linalg.norm(base) / base.size**0.5

    def observe(grid: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return grid @ (base + spread * rng.standard_normal(base.shape) if drift else base)

    with _training(scene, INVERSION.steps) as tell:
        return train_inverter(prior.grids, observe, linear, budget=INVERSION, progress=tell)


def _decoded(
    scene: Scene, decoder: Decoder, seen: Sequence[np.ndarray], count: int, *, first: int = 0
) -> dict[int, np.ndarray]:
    """Estimates of as many of the `count` victims from `first` on as are scored."""
    last = min(first + min(count, scene.num_scored), len(seen))
    return {n: decoder.decode(seen[n]) for n in range(first, last)}


def _permutation_outcome(scene: Scene, target: Target, key: Any, count: int, *, first: int = 0) -> Outcome:
    estimates = _decoded(scene, key, target.ciphertexts, count, first=first)
    metrics = _compared(scene, target, key.order)
    if target.is_signed:
        metrics["signs"] = float(np.mean(key.signs == target.order_and_signs[1]))
    return Outcome(estimates=estimates, metrics=metrics)


def _compared(scene: Scene, target: Target, order: np.ndarray) -> dict[str, float]:
    return key_recovery(order, target.order_and_signs[0], scene.patch_size)
