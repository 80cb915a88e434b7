"""What attacks are tried on: plain images, the patch embedding, and what the attacker knows of images."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from ..attacks.model_theft import StolenEmbedding
from ..attacks.public_base import relative_drift
from ..attacks.tools.blocks import to_grid, to_image
from ..attacks.tools.metrics import image_metrics
from ..attacks.tools.priors import ImagePrior
from ..setr.public_facts import KeyFacts

Segment = Callable[[np.ndarray], np.ndarray]  # (channels, height, width) pixels in [-1, 1] -> (h, w) labels


@dataclass(frozen=True, kw_only=True)
class Scene:
    """The victims, the model's patch embedding, and the attacker's knowledge.

    Attributes:
        images: the victims, (channels, height, width) float64 in [-1, 1], as the plain model would see them.
        patch_size: height and width of a block.
        embedding: E, (L, hidden_size) float64, the plain patch embedding.
        priors: what the attacker knows of images, the best last.
        counts: the numbers of ciphertexts that attacks are tried with, rising.
        num_scored: how many reconstructions of a trial are scored.
        segment: the plain model, for the share of labels that a reconstruction keeps; None leaves that share out.
        learn_embedding: learns a patch embedding for the layers behind the model's own, from images in [-1, 1], their
            labels, a first embedding, a budget and a progress callback; None where the audit has no such layers.
        public_base: E0, (L, hidden_size) float64, the patch embedding of public weights near the model; None for none.
        key_in_use: the public facts about the key of a model in use, whose fingerprint is tried; None for none.
        progress: whether a trial that trains a network shows a bar on stderr.
    """

    images: Sequence[np.ndarray]
    patch_size: int
    embedding: np.ndarray
    priors: Sequence[ImagePrior]
    counts: Sequence[int]
    num_scored: int = 2
    segment: Segment | None = None
    learn_embedding: Callable[..., StolenEmbedding] | None = None
    public_base: np.ndarray | None = None
    key_in_use: KeyFacts | None = None
    progress: bool = False
    labels: dict[int, np.ndarray] = field(init=False, repr=False, default_factory=dict)
    own_labels: dict[int, np.ndarray] = field(init=False, repr=False, default_factory=dict)

    @property
    def num_channels(self) -> int:
        """Channels of an image."""
        return len(self.images[0])

    @property
    def best_prior(self) -> ImagePrior:
        """The prior that knows most."""
        return self.priors[-1]

    @cached_property
    def grids(self) -> list[np.ndarray]:
        """(down, across, L) a victim, in plain."""
        return [to_grid(image, self.patch_size) for image in self.images]

    @property
    def embedded(self) -> list[np.ndarray]:
        """z, (down, across, hidden_size) a victim: what the server computes of each block, whatever the family."""
        return [grid @ self.embedding for grid in self.grids]

    @property
    def base(self) -> np.ndarray:
        """E0.

        Raises:
            ValueError: there are no public weights.
        """
        if self.public_base is None:
            raise ValueError("expected public weights near the model's, got none; give the scene a public_base")
        return self.public_base

    @property
    def drift(self) -> float:
        """How far the model's patch embedding is from the public one, relative to its norm."""
        return relative_drift(self.embedding, self.base)

    def with_public_base(self, public_base: np.ndarray) -> "Scene":
        """The same scene beside other public weights."""
        other = copy.copy(self)
        object.__setattr__(other, "public_base", public_base)
        return other

    def labels_of(self, image: np.ndarray) -> np.ndarray:
        """(channels, height, width) in [-1, 1] -> (h, w) labels by the plain model.

        Raises:
            ValueError: the scene has no model that segments.
        """
        if self.segment is None:
            raise ValueError("expected a model that segments, got none; give the scene a function segment")
        return self.segment(image)

    def labels_of_victim(self, index: int) -> np.ndarray:
        """The labels of a victim, computed once."""
        if index not in self.labels:
            self.labels[index] = self.labels_of(self.images[index])
        return self.labels[index]

    def labels_of_own(self, grid: np.ndarray) -> np.ndarray:
        """The labels of an image of the attacker's own, a grid of one of the priors, computed once."""
        if id(grid) not in self.own_labels:  # priors live as long as their scene
            self.own_labels[id(grid)] = self.labels_of(to_image(grid, self.patch_size))
        return self.own_labels[id(grid)]

    def score(self, estimates: dict[int, np.ndarray]) -> dict[str, float]:
        """{index of a victim: its estimated grid} -> means of PSNR, SSIM, hp and, if there is a model, agreement."""
        rows = []
        for index, grid in estimates.items():
            truth, estimate = self.images[index], to_image(grid, self.patch_size)
            row = image_metrics(estimate, truth)
            if self.segment is not None:
                row["agreement"] = float(np.mean(self.segment(estimate) == self.labels_of_victim(index)))
            rows.append(row)
        return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
