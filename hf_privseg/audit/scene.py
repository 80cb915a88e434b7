"""What attacks are tried on: plain images, the embedding, what the attacker knows; and how a trial is scored."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..attacks.tools.blocks import to_grid, to_image
from ..attacks.tools.metrics import image_metrics
from ..attacks.tools.priors import ImagePrior
from .findings import Finding, as_picture

Segment = Callable[[np.ndarray], np.ndarray]  # (3, height, width) pixels in [-1, 1] -> (h, w) labels


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Attributes:
    images: the victims, (3, height, width) float64 in [-1, 1], as the plain model would see them.
    patch_size: height and width of a block.
    embedding: E, (L, hidden_size) float64, the plain patch embedding.
    priors: what the attacker knows of photographs, the best last.
    counts: from how many ciphertexts the attacks are tried, rising.
    num_scored: how many reconstructions of a trial are scored.
    segment: the plain model, for the share of labels that a reconstruction keeps; None leaves that out.
    public_base: E0, (L, hidden_size) float64, the patch embedding of public weights near the model; None for none.
    progress: shows a bar on stderr while a trial trains a network.
    """

    images: Sequence[np.ndarray]
    patch_size: int
    embedding: np.ndarray
    priors: Sequence[ImagePrior]
    counts: Sequence[int]
    num_scored: int = 2
    segment: Segment | None = None
    public_base: np.ndarray | None = None
    progress: bool = False
    grids: Sequence[np.ndarray] = field(init=False, repr=False)
    labels: dict[int, np.ndarray] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "grids", [to_grid(image, self.patch_size) for image in self.images])

    @property
    def embedded(self) -> list[np.ndarray]:
        """z, (down, across, hidden_size) an image: what the server computes of each block, whatever the family."""
        return [grid @ self.embedding for grid in self.grids]

    def score(self, estimates: dict[int, np.ndarray]) -> dict[str, float]:
        """{index of a victim: its estimated grid} -> means of PSNR, SSIM, hp and, if there is a model, agreement."""
        rows = []
        for index, grid in estimates.items():
            truth, estimate = self.images[index], to_image(grid, self.patch_size)
            row = image_metrics(estimate, truth)
            if self.segment is not None:
                if index not in self.labels:
                    self.labels[index] = self.segment(truth)
                row["agreement"] = float(np.mean(self.segment(estimate) == self.labels[index]))
            rows.append(row)
        return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What an attack arrived at.

    Attributes:
        estimates: {index of a victim: (down, across, L) plain pixels}; empty where it reconstructs no image.
        metrics: of the key, beside those of the images.
        note: what a reader must know beside the figures.
    """

    estimates: dict[int, np.ndarray] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One attack on one family, not yet run; the fields are those of `Finding`."""

    attack: str
    attacker: str
    family: str
    num_images: int
    run: Callable[[], Outcome]
    prior: str = ""

    def find(self, scene: Scene) -> Finding:
        """Runs the attack and scores what it reconstructs."""
        started = time.monotonic()
        outcome = self.run()
        seconds = time.monotonic() - started
        scores = scene.score(outcome.estimates) if outcome.estimates else {}
        first = min(outcome.estimates, default=None)
        picture = None if first is None else as_picture(to_image(outcome.estimates[first], scene.patch_size))
        return Finding(
            attack=self.attack,
            attacker=self.attacker,
            family=self.family,
            num_images=self.num_images,
            prior=self.prior,
            metrics=scores | outcome.metrics,
            seconds=seconds,
            note=outcome.note,
            picture=picture,
        )
