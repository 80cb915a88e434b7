"""What the tests of the attacks with side information share: victims, keys and embeddings of a small patch size."""

from functools import cache

import numpy as np
import torch

from hf_privseg import SecretKey
from hf_privseg.attacks.tools.blocks import to_grid, to_image
from hf_privseg.attacks.tools.priors import ImagePrior, sample_prior
from hf_privseg.catalog.sample_images import SAMPLE_IMAGES
from hf_privseg.setr.ciphers import cipher_for

PATCH_SIZE = 4
LENGTH = 3 * PATCH_SIZE**2
HIDDEN_SIZE = 24
VICTIMS = ("astronaut", "coffee")


@cache
def pixels_of(name: str, side: int = 256) -> np.ndarray:
    """(3, side, side) float64 in [-1, 1], on an 8-bit scale."""
    return SAMPLE_IMAGES[name].load()[:side, :side].transpose(2, 0, 1) / 127.5 - 1


@cache
def prior() -> ImagePrior:
    """Images, the victims not among them."""
    return sample_prior(PATCH_SIZE, exclude=VICTIMS, num_shifts=2)


def victim(name: str = "astronaut") -> np.ndarray:
    """(64, 64, 48)"""
    return to_grid(pixels_of(name), PATCH_SIZE)


def cipher(family: str, first_byte: int = 7, patch_size: int = PATCH_SIZE):
    return cipher_for(SecretKey(bytes([first_byte]) + bytes(range(31)), family), patch_size=patch_size)


def encrypt(grid: np.ndarray, family: str, patch_size: int = PATCH_SIZE) -> np.ndarray:
    """(down, across, L) plain -> ciphertext, in float32 as the client computes it."""
    pixels = torch.from_numpy(to_image(grid, patch_size)).float()
    return to_grid(cipher(family, patch_size=patch_size).encrypt(pixels).numpy(), patch_size)


def encrypt_embedding(embedding: np.ndarray, family: str, patch_size: int = PATCH_SIZE) -> np.ndarray:
    """E (L, D) -> E_hat (L, D) in float32."""
    weight = torch.from_numpy(embedding.T.reshape(-1, 3, patch_size, patch_size)).float()
    return cipher(family, patch_size=patch_size).encrypt_weight(weight).reshape(len(weight), -1).T.numpy()


def key_of(family: str, patch_size: int = PATCH_SIZE) -> tuple[np.ndarray, np.ndarray]:
    """(order, signs) of the key that `encrypt` uses."""
    length = 3 * patch_size**2
    key = SecretKey(bytes([7]) + bytes(range(31)), family)
    signs = key.signs(length) if family == "signed_permutation" else np.ones(length)
    return np.asarray(key.permutation(length)), np.asarray(signs)


@cache
def embedding(coarse: float = 1.0, fine: float = 0.03) -> np.ndarray:
    """E (48, 24) float64: smooth filters, mixed, with singular values from `coarse` to `fine`."""
    rng = np.random.default_rng(0)
    smooth = np.linalg.eigh(prior().statistics.covariance)[1][:, ::-1][:, :HIDDEN_SIZE]
    mixing = np.linalg.qr(rng.standard_normal((HIDDEN_SIZE, HIDDEN_SIZE)))[0]
    return smooth * np.geomspace(coarse, fine, HIDDEN_SIZE) @ mixing


def drifted(embedding: np.ndarray, drift: float) -> np.ndarray:
    """E0: E with Gaussian noise of `drift` times its norm."""
    noise = np.random.default_rng(1).standard_normal(embedding.shape)
    return embedding + drift * np.linalg.norm(embedding) / np.linalg.norm(noise) * noise
