"""One attack on one scene: where it is tried, what it is given, how its result is scored."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from ..attacks.tools.blocks import to_image
from ..attacks.tools.priors import ImagePrior
from ..attacks.tools.statistics import BlockStatistics
from .findings import ANY_FAMILY, Finding, as_picture
from .scene import Scene
from .target import Target

_EMPTY = np.zeros((0, 0))
NO_PRIOR = ImagePrior("", BlockStatistics(np.zeros(0), _EMPTY, _EMPTY, _EMPTY), 0)


class Decoder(Protocol):
    """What attacks return: a map from a ciphertext's grid to an estimate of the plain one."""

    def decode(self, grid: np.ndarray) -> np.ndarray:
        """(down, across, M) -> (down, across, L)."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The result of an attack.

    Attributes:
        estimates: {index of a victim: (down, across, L) plain pixels}; empty where it reconstructs no image.
        metrics: of the key, beside those of the images.
        note: what a reader must know beside the figures.
    """

    estimates: dict[int, np.ndarray] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Attack:
    """An attack that an audit tries: one entry of `attack_table.ATTACKS`.

    Attributes:
        name: what reports call it.
        attacker: what the attacker has, a key of `findings.ATTACKERS`.
        families: the key families that it is tried on; `(ANY_FAMILY,)` where the result depends on no family.
        run: carries it out.
        inputs: a scene -> the prior and the number of images of each trial; empty where the scene lacks what the
            attack needs. The functions below are the usual choices.
        trains: whether it trains a network, which takes minutes.
    """

    name: str
    attacker: str
    families: Sequence[str]
    run: Callable[["Trial"], Outcome]
    inputs: Callable[[Scene], Iterable[tuple[ImagePrior, int]]]
    trains: bool = False


@dataclass(frozen=True, kw_only=True)
class Trial:
    """An attack with its inputs, not yet run.

    Attributes:
        attack: the entry of the table.
        scene: what is attacked.
        target: the family that is attacked; None for attacks on `ANY_FAMILY`.
        prior: what the attacker knows of images, `NO_PRIOR` for nothing.
        num_images: how many ciphertexts the attacker uses.
    """

    attack: Attack
    scene: Scene
    target: Target | None
    prior: ImagePrior
    num_images: int

    @property
    def family(self) -> str:
        """The family that is attacked, or "any"."""
        return ANY_FAMILY if self.target is None else self.target.family

    @property
    def name(self) -> str:
        """Family, attack and prior, for the records of a benchmark."""
        return f"{self.family}: {self.attack.name}: {self.prior.name or 'no'} prior"

    @property
    def encrypted(self) -> Target:
        """The target.

        Raises:
            ValueError: the attack is on no family.
        """
        if self.target is None:
            raise ValueError(
                f"expected a family to try {self.attack.name!r} on, got none; name it in the attack table"
            )
        return self.target

    def decoded(
        self, decoder: Decoder, seen: Sequence[np.ndarray], count: int, *, first: int = 0
    ) -> dict[int, np.ndarray]:
        """What is seen of the victims -> estimates of the scored ones among the `count` victims from `first` on."""
        last = min(first + min(count, self.scene.num_scored), len(seen))
        return {n: decoder.decode(seen[n]) for n in range(first, last)}

    def find(self) -> Finding:
        """Run the attack and score what it reconstructs."""
        started = time.monotonic()
        outcome = self.attack.run(self)
        scores = self.scene.score(outcome.estimates) if outcome.estimates else {}
        seconds = time.monotonic() - started
        first = min(outcome.estimates, default=None)
        picture = None if first is None else as_picture(to_image(outcome.estimates[first], self.scene.patch_size))
        return Finding(
            attack=self.attack.name,
            attacker=self.attack.attacker,
            family=self.family,
            num_images=self.num_images,
            prior=self.prior.name,
            metrics=scores | outcome.metrics,
            seconds=seconds,
            note=outcome.note,
            picture=picture,
        )


def no_image(scene: Scene) -> list[tuple[ImagePrior, int]]:
    """One trial, without any ciphertext."""
    return [(NO_PRIOR, 0)]


def one_image(scene: Scene) -> list[tuple[ImagePrior, int]]:
    """One trial, with one ciphertext and no prior."""
    return [(NO_PRIOR, 1)]


def one_image_and_the_best_prior(scene: Scene) -> list[tuple[ImagePrior, int]]:
    """One trial, with one ciphertext."""
    return [(scene.best_prior, 1)]


def each_prior_and_count(scene: Scene) -> list[tuple[ImagePrior, int]]:
    """A trial for each prior and each number of ciphertexts."""
    return [(prior, count) for prior in scene.priors for count in scene.counts]
