"""One key family under a fresh key, as an attacker meets it, and the key that guesses are compared with."""

from functools import cached_property

import numpy as np
import torch

from ..attacks.tools.blocks import to_grid, to_image
from ..attacks.tools.metrics import key_recovery
from ..setr.ciphers import cipher_for
from ..setr.encryption_key import EncryptionKey
from .scene import Scene


class Target:
    """The images and the model of a scene, encrypted with one key.

    Attributes:
        family: of the key.
        is_permutation: whether the key only moves and negates pixels.
        is_signed: whether it may negate them.
    """

    def __init__(self, scene: Scene, secret_key: EncryptionKey) -> None:
        self._scene = scene
        self._cipher = cipher_for(secret_key, patch_size=scene.patch_size, num_channels=scene.num_channels)
        self.family: str = secret_key.family
        self.is_permutation = self._cipher.acts_on_uint8
        self.is_signed = self.family != "permutation"

    def encrypt(self, grid: np.ndarray) -> np.ndarray:
        """(down, across, L) plain -> (down, across, M) ciphertext; M < L where the family sends fewer numbers."""
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

    def recovered(self, order: np.ndarray, signs: np.ndarray | None = None) -> dict[str, float]:
        """A guessed order and signs of a permutation family -> the shares of them that are right."""
        true_order, true_signs = self.order_and_signs
        found = key_recovery(order, true_order, self._scene.patch_size)
        if signs is not None and self.is_signed:
            found["signs"] = float(np.mean(signs == true_signs))
        return found

    @cached_property
    def _whole_embedding(self) -> np.ndarray:
        scene = self._scene
        shape = (-1, scene.num_channels, scene.patch_size, scene.patch_size)
        weight = torch.from_numpy(np.ascontiguousarray(scene.embedding.T)).reshape(shape)
        return self._cipher.encrypt_weight(weight).flatten(1).T.numpy()

    @cached_property
    def _num_sent(self) -> int:
        used = np.flatnonzero(np.abs(self._whole_embedding).max(axis=1))
        return int(used.max()) + 1 if self._cipher.ends_in_zeros else len(self._whole_embedding)

    def _as_pixels(self, row: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(to_image(row[None, None], self._scene.patch_size))
