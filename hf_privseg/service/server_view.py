"""What the service can make of a ciphertext that it was sent: shown to whoever sent it, as a part of being honest.

First what a public model gives away, where there is one, then what ciphertexts show by themselves. The attacks are
those of hf_privseg/attacks; nothing here has a key.
"""

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from PIL import Image

from ..attacks.blocks import to_grid, to_image
from ..attacks.priors import PHOTOS, ImagePrior, image_prior, synthetic_prior
from ..attacks.public_base import embedding_matrix, invert_ciphertexts
from ..encrypted_image import EncryptedImage
from ..modeling_setr import SetrForSemanticSegmentation
from .engine import SegmentationService


@dataclass(frozen=True)
class View:
    """One reconstruction, (3, height, width) in [-1, 1], with a title and what it was made from."""

    image: np.ndarray
    title: str
    note: str

    def to_json(self) -> dict[str, str]:
        """{"picture": a PNG in base64, "title", "note"}."""
        levels = ((self.image.transpose(1, 2, 0) + 1) * 127.5).round().clip(0, 255).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(levels).save(buffer, "PNG")
        return {"picture": base64.b64encode(buffer.getvalue()).decode(), "title": self.title, "note": self.note}


class ServerView:
    """The attacks that a service can run on what its clients send it."""

    def __init__(self, service: SegmentationService) -> None:
        self._service = service

    def views(self, data: bytes, session: str) -> list[View]:
        """A container file and its session, as `SegmentationService.segment` takes them -> reconstructions.

        Raises:
            As `SegmentationService.segment`.
        """
        image, model = self._service.opened(data, session)
        pixels = next(iter(self._service.processor(image, return_tensors="pt").pixel_values)).numpy()
        height, width = image.valid_region
        views = [*self._with_the_public_model(pixels, image, model), *_from_the_ciphertext(pixels, image)]
        return [View(view.image[:, :height, :width], view.title, view.note) for view in views]

    def _with_the_public_model(
        self, pixels: np.ndarray, image: EncryptedImage, model: SetrForSemanticSegmentation
    ) -> Iterator[View]:
        if not self._service.is_public:
            return
        encrypted, base = (_embedding(each) for each in (model, self._service.model))
        decoder = invert_ciphertexts(encrypted, base, self._prior.statistics)
        yield View(
            to_image(decoder.decode(to_grid(pixels, image.patch_size)), image.patch_size),
            "With the public model",
            "The service computes the plain patch embeddings, whatever the key, and the public model tells how to "
            f"invert them. What it cannot tell comes from the statistics of {self._prior.name} images. This is why a "
            "deployment needs a patch embedding that nobody else has.",
        )

    @cached_property
    def _prior(self) -> ImagePrior:
        """Statistics of sample photographs, prepared as clients prepare theirs; of none where none is installed."""
        processor = self._service.processor
        try:
            photos = [Image.fromarray(load()) for load in PHOTOS.values()]
        except ImportError:
            return synthetic_prior(processor.patch_size)
        images = [processor(photo, return_tensors="pt").pixel_values[0].numpy() for photo in photos]
        return image_prior(images, processor.patch_size, name="other")


def _from_the_ciphertext(pixels: np.ndarray, image: EncryptedImage) -> Iterator[View]:
    """What needs neither a model nor other images."""
    scores = _first_component(to_grid(pixels, image.patch_size))
    levels = np.clip((scores - np.median(scores)) / (2 * scores.std() or 1.0), -1, 1)
    enlarged = np.kron(levels, np.ones((image.patch_size, image.patch_size)))
    yield View(
        np.broadcast_to(enlarged, (3, *enlarged.shape)),
        "From this ciphertext alone",
        "The first principal component of the encrypted blocks: the brightness of each block, up to its sign, that is "
        "a thumbnail. No key of any family hides it.",
    )


def _first_component(grid: np.ndarray) -> np.ndarray:
    """(down, across, L) -> (down, across), each block's first principal component; its sign is a guess.

    One known fact decides it: photographs are brighter above than below more often than not.
    """
    rows = grid.reshape(-1, grid.shape[-1])
    centred = rows - rows.mean(axis=0)
    direction = np.linalg.eigh(centred.T @ centred)[1][:, -1]
    scores = (centred @ direction).reshape(grid.shape[:2])
    half = max(len(scores) // 2, 1)
    return scores if scores[:half].mean() >= scores[-half:].mean() else -scores


def _embedding(model: SetrForSemanticSegmentation) -> np.ndarray:
    weight: torch.Tensor = model.setr.embeddings.patch_embeddings.projection.weight
    return embedding_matrix(weight.detach().cpu().numpy())
