"""How much of an image or of a key an attack has recovered, and the baselines that figures are compared with.

Images are (channels, height, width) float in [-1, 1].
"""

import numpy as np
from scipy.ndimage import gaussian_filter
from skimage.metrics import structural_similarity

LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
HIGH_PASS_SIGMA_IN_PIXELS = 3.0
MAX_PSNR_IN_DB = 100.0


def psnr(estimate: np.ndarray, truth: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB, for a range of 2; at most 100, which stands for equal images."""
    error = float(np.mean((np.asarray(estimate, np.float64) - truth) ** 2))
    return 10 * float(np.log10(4 / max(error, 4 * 10 ** (-MAX_PSNR_IN_DB / 10))))


def ssim(estimate: np.ndarray, truth: np.ndarray) -> float:
    """Structural similarity (Wang et al. 2004), at most 1. High on dark images whatever they show: see `hp`."""
    return float(structural_similarity(np.asarray(estimate, np.float64), truth, channel_axis=0, data_range=2.0))


def luminance(image: np.ndarray) -> np.ndarray:
    """(channels, height, width) -> (height, width): BT.601 luminance of three channels, the mean of any others."""
    return np.tensordot(LUMA, image, axes=1) if len(image) == 3 else image.mean(axis=0)


def high_pass_correlation(estimate: np.ndarray, truth: np.ndarray) -> float:
    """hp: the correlation of high-pass luminance x - gaussian(x, sigma 3), -1 to 1; 0 where one of them is flat.

    It measures outlines and textures, and not brightness; a 1/16 thumbnail scores about 0.1.
    """
    detail = []
    for image in (estimate, truth):
        light = luminance(np.asarray(image, np.float64))
        detail.append((light - gaussian_filter(light, HIGH_PASS_SIGMA_IN_PIXELS)).ravel())
    norms = [float(np.linalg.norm(part)) for part in detail]
    return 0.0 if min(norms) < 1e-9 else float(detail[0] @ detail[1]) / (norms[0] * norms[1])


def image_metrics(estimate: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """{"psnr", "ssim", "hp"} of an estimate of one image."""
    return {
        "psnr": psnr(estimate, truth),
        "ssim": ssim(estimate, truth),
        "hp": high_pass_correlation(estimate, truth),
    }


def key_recovery(order: np.ndarray, truth: np.ndarray, patch_size: int) -> dict[str, float]:
    """Two orders (L,), guessed and true -> {"exact", "position", "within_one"}, shares of the L places.

    "position" forgives the colour, "within_one" one pixel in each direction and the colour: orders count pixels as
    (channel, row, column).
    """

    def coordinates(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        place = np.asarray(pixels) % patch_size**2
        return place // patch_size, place % patch_size

    (down, across), (true_down, true_across) = coordinates(order), coordinates(truth)
    error = np.maximum(abs(down - true_down), abs(across - true_across))
    return {
        "exact": float(np.mean(np.asarray(order) == truth)),
        "position": float(np.mean(error == 0)),
        "within_one": float(np.mean(error <= 1)),
    }


def grey(truth: np.ndarray) -> np.ndarray:
    """The baseline that knows nothing of the image: one grey, of value 0."""
    return np.zeros_like(truth)


def thumbnail(truth: np.ndarray, patch_size: int) -> np.ndarray:
    """The baseline that every family leaks: the mean of each block, in each channel."""
    channels, height, width = truth.shape
    cut = truth.reshape(channels, height // patch_size, patch_size, width // patch_size, patch_size)
    return np.broadcast_to(cut.mean(axis=(2, 4), keepdims=True), cut.shape).reshape(truth.shape)
