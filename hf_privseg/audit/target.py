"""One cipher family under a fresh key, as an attacker meets it, and the truth that is compared with."""

from functools import cached_property
from typing import Any

import numpy as np
import torch

from ..attacks.tools.blocks import to_grid, to_image
from ..setr.ciphers import cipher_for
from .scene import Scene


class Target:
    """One family under a fresh key: what the provider has, and the truth that trials are scored against.

    Attributes:
        family: of the key.
        is_signed: whether pixels may be negated.
    """

    def __init__(self, scene: Scene, secret_key: Any) -> None:
        self._scene = scene
        self._cipher = cipher_for(secret_key, patch_size=scene.patch_size, num_channels=len(scene.images[0]))
        self.family: str = secret_key.family
        self.is_signed = self.family != "permutation"

    def encrypt(self, grid: np.ndarray) -> np.ndarray:
        """(down, across, L) plain -> (down, across, M) ciphertext; M < L where the family sends less numbers."""
        pixels = torch.from_numpy(to_image(grid, self._scene.patch_size))
        return to_grid(self._cipher.encrypt(pixels).numpy(), self._scene.patch_size)[..., : self._num_sent]

    @cached_property
    def ciphertexts(self) -> list[np.ndarray]:
        """(down, across, M) a victim."""
        return [self.encrypt(grid) for grid in self._scene.grids]

    @cached_property
    def embedding(self) -> np.ndarray:
        """E_hat, (M, hidden_size)."""
        return self._whole_embedding[: self._num_sent]

    @cached_property
    def order_and_signs(self) -> tuple[np.ndarray, np.ndarray]:
        """The key of a permutation family: b_hat[i] = signs[i] b[order[i]]."""
        length = len(self._scene.embedding)
        probe = np.arange(1.0, length + 1)
        seen = to_grid(self._cipher.encrypt(self._as_pixels(probe)).numpy(), self._scene.patch_size)[0, 0]
        return np.abs(seen).round().astype(np.int64) - 1, np.sign(seen)

    @cached_property
    def _whole_embedding(self) -> np.ndarray:
        scene = self._scene
        shape = (-1, len(scene.images[0]), scene.patch_size, scene.patch_size)
        weight = torch.from_numpy(np.ascontiguousarray(scene.embedding.T)).reshape(shape)
        return self._cipher.encrypt_weight(weight).flatten(1).T.numpy()

    @cached_property
    def _num_sent(self) -> int:
        used = np.flatnonzero(np.abs(self._whole_embedding).max(axis=1))
        return int(used.max()) + 1 if self._cipher.ends_in_zeros else len(self._whole_embedding)

    def _as_pixels(self, row: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(to_image(row[None, None], self._scene.patch_size))
