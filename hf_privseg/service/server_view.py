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

from ..attacks.orthogonal import reconstruct_orthogonal
from ..attacks.permutation import recover_permutation
from ..attacks.public_base import embedding_matrix, invert_ciphertexts
from ..attacks.thumbnail import reconstruct_thumbnail
from ..attacks.tools.blocks import LinearDecoder, to_grid, to_image
from ..attacks.tools.priors import ImagePrior, image_prior, synthetic_prior
from ..catalog.sample_images import SAMPLE_IMAGES
from ..setr.ciphers import CIPHERS
from ..setr.encrypted_image import EncryptedImage
from .engine import SegmentationService

_PUBLIC = (
    "The service computes the plain patch embedding of each block, whatever the key. The public model tells how to "
    "invert it; what is lost in it comes from the statistics of other images. Hence a deployment needs a patch "
    "embedding that nobody else has."
)
_PERMUTATION = (
    "The order of the pixels, guessed from how alike neighbouring pixels are in other images. Colours may be "
    "exchanged, and black and white too. More ciphertexts of the same key make it exact."
)
_ALIGNMENT = (
    "The leading principal components of the encrypted blocks, turned to fit those of other images. Black and "
    "white may be exchanged. More ciphertexts of the same key show far more: sixteen, and images of similar "
    "scenes, give most of what is in the picture."
)
_THUMBNAIL = (
    "The brightness of each block, from the first principal component of the encrypted blocks; black and white may be "
    "exchanged. No family hides it, and no private model. More ciphertexts of the same key show more."
)


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
    """The attacks that a service can run on what a client sends it.

    Args:
        service: whose model it is.
        prior: what the attacker knows of images; by default of sample images, prepared as clients prepare theirs.
    """

    def __init__(self, service: SegmentationService, prior: ImagePrior | None = None) -> None:
        self._service = service
        self._given_prior = prior

    def views(self, image: EncryptedImage) -> list[View]:
        """An encrypted image of a key that the service serves -> reconstructions.

        Raises:
            As `SegmentationService.embedding_for`.
        """
        weight = self._service.embedding_for(image).weight
        pixels = self._service.processor(image, return_tensors="pt").pixel_values[0].numpy()
        grid = to_grid(pixels, image.patch_size)
        height, width = image.valid_region
        return [
            View(to_image(decoder.decode(grid), image.patch_size)[:, :height, :width], title, note)
            for decoder, title, note in self._attacks(grid, image, weight)
        ]

    def _attacks(
        self, grid: np.ndarray, image: EncryptedImage, weight: torch.Tensor
    ) -> Iterator[tuple[LinearDecoder, str, str]]:
        """Each attack's decoder, its title and what it rests on."""
        if self._service.is_public:
            plain = self._service.model.setr.embeddings.patch_embeddings.projection.weight
            encrypted, base = (embedding_matrix(each.detach().cpu().numpy()) for each in (weight, plain))
            yield invert_ciphertexts(encrypted, base, self._prior.statistics), "With the public model", _PUBLIC
        cipher = CIPHERS[image.family]
        if cipher.acts_on_uint8:
            signed = image.family != "permutation"
            yield recover_permutation([grid], self._prior, signed=signed), "From this ciphertext alone", _PERMUTATION
        elif not cipher.ends_in_zeros:
            yield reconstruct_orthogonal([grid], self._prior), "From this ciphertext alone", _ALIGNMENT
        yield reconstruct_thumbnail([grid], self._prior), "The thumbnail, from this ciphertext alone", _THUMBNAIL

    @cached_property
    def _prior(self) -> ImagePrior:
        """Statistics of images that no visitor is offered, prepared as clients prepare theirs; of none at all
        where none is installed.
        """
        if self._given_prior is not None:
            return self._given_prior
        processor = self._service.processor
        try:
            samples = [Image.fromarray(sample.load()) for sample in SAMPLE_IMAGES.values()]
        except ImportError:
            return synthetic_prior(processor.patch_size, num_channels=processor.num_channels)
        images = [processor(sample, return_tensors="pt").pixel_values[0].numpy() for sample in samples]
        return image_prior(images, processor.patch_size, name="unrelated")
