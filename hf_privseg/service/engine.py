"""Segmentation for clients that keep their keys and their images; knows nothing of the web.

The model is either encrypted, or plain and public. In both cases it serves any number of keys: its own, where it is
encrypted, and those whose encrypted patch embeddings are registered. With a public model that shows how the method
works, without its protection, for anybody can invert what such a service computes.

No key ever comes here. Nothing that was sent is kept, apart from registered embeddings.
"""

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import torch

from ..inference.pictures import palette_for
from ..inference.segmentation import WHOLE_IMAGE
from ..inference.windows import Inference
from ..setr.encrypted_image import EncryptedImage
from ..setr.errors import CiphertextError
from ..setr.image_processing_setr import SetrImageProcessor
from ..setr.modeling_setr import SetrForSemanticSegmentation
from ..setr.public_facts import FAMILIES, FORMAT_VERSION, check_image_fits, check_key_fits
from .embedding_file import embedding_from_bytes, embedding_to_bytes
from .embedding_store import EmbeddingStore, RegisteredEmbedding, TemporaryEmbeddings, UnknownEmbeddingError
from .limits import Limits
from .mixed_keys import with_weights


class SegmentationService:
    """Segments encrypted images of many keys with one shared network; safe to call from several threads at a time.

    Args:
        model: in evaluation mode; plain (public) or encrypted. It is never changed.
        processor: the model's.
        limits: what clients may ask for.
        store: where registered embeddings are kept; by default in memory, for a limited time.
        inference: whether an image is segmented whole, or by windows on its patch grid, one image at a time.

    Raises:
        ValueError: the model has more classes than an 8-bit segmentation map holds.
        As `Inference.check_ciphertexts`.
    """

    def __init__(
        self,
        model: SetrForSemanticSegmentation,
        processor: SetrImageProcessor,
        *,
        limits: Limits | None = None,
        store: EmbeddingStore | None = None,
        inference: Inference = WHOLE_IMAGE,
    ) -> None:
        inference.check_ciphertexts(processor.patch_size)
        self.model = model
        self.inference = inference
        self.processor = processor
        self.limits = limits or Limits()
        if store is None:  # not "or": a store without embeddings counts as false
            store = TemporaryEmbeddings(self.limits.max_temporary_embeddings, self.limits.temporary_seconds)
        self.store = store
        self._palette = palette_for(model.config)
        facts = model.config.key_facts
        self._own = None if facts is None else RegisteredEmbedding(self._weight, facts)

    @property
    def is_public(self) -> bool:
        """Whether the model is plain, so that clients bring encrypted embeddings made from the public one."""
        return self._own is None

    @property
    def palette(self) -> np.ndarray:
        """(num_labels, 3) uint8, a colour for each class."""
        return self._palette

    @property
    def labels(self) -> dict[int, str]:
        """The name of each class."""
        return {int(index): str(name) for index, name in (self.model.config.id2label or {}).items()}

    def model_info(self) -> dict[str, object]:
        """What a client has to know to prepare an image; JSON."""
        config = self.model.config
        return {
            "version": FORMAT_VERSION,
            "encryption": config.encryption,
            "patch_size": config.patch_size,
            "num_channels": config.num_channels,
            "hidden_size": config.hidden_size,
            "labels": {str(index): name for index, name in self.labels.items()},
            "palette": self.palette.tolist(),
            "window": None if self.inference == WHOLE_IMAGE else asdict(self.inference),
            "max_pixels": self.limits.max_pixels,
            "max_original_pixels": self.limits.max_original_pixels,
            "max_upload_bytes": self.limits.max_upload_bytes,
            "preprocessor": self.processor.to_dict(),
            "families": list(FAMILIES),
        }

    def public_embedding(self) -> bytes:
        """safetensors of "weight" (hidden_size, channels, patch_size, patch_size) float32, the plain projection.

        Raises:
            LookupError: the model is encrypted, and its plain embedding is not here.
        """
        if self._own is not None:
            raise LookupError(
                f"the model of this service is encrypted ({self._own.facts}): its plain patch embedding is not here"
            )
        return embedding_to_bytes(self._weight)

    def register(self, fingerprint: str, data: bytes) -> bool:
        """Take a tenant's encrypted patch embedding -> whether its fingerprint is new here.

        Args:
            fingerprint: of the tenant's key.
            data: a file of `embedding_to_bytes`. The service takes its facts on trust.

        Raises:
            ValueError: the file holds something else, or belongs to another fingerprint; or the fingerprint is the
                model's own.
        """
        weight, facts = embedding_from_bytes(data)
        if weight.shape != self._weight.shape:
            raise ValueError(
                f"expected a projection weight of shape {tuple(self._weight.shape)}, got {tuple(weight.shape)}"
            )
        if facts.fingerprint != fingerprint:
            raise ValueError(f"expected the patch embedding of the key {fingerprint}, got that of {facts.fingerprint}")
        if self._own is not None and fingerprint == self._own.facts.fingerprint:
            raise ValueError(f"the model of this service is encrypted with the key {fingerprint} itself")
        return self.store.put(RegisteredEmbedding(weight, facts))

    def opened(self, data: bytes) -> EncryptedImage:
        """A container file as `EncryptedImage.to_bytes` writes it -> the image, within the limits.

        Raises:
            CiphertextError: no encrypted image, a damaged one or one too large.
        """
        image = EncryptedImage.from_bytes(data, max_pixels=self.limits.max_pixels)
        height, width = image.original_size
        if height * width > self.limits.max_original_pixels:
            raise CiphertextError(
                f"an image's original size has at most {self.limits.max_original_pixels} pixels here, got {height} x "
                f"{width}; reduce the image, then encrypt"
            )
        return image

    def embedding_for(self, image: EncryptedImage) -> RegisteredEmbedding:
        """The patch embedding under the image's key: the model's own, or a registered one.

        Raises:
            KeyMismatchError: the image's key is not the model's.
            UnknownEmbeddingError: no embedding is registered for the image's key.
            DamagedEmbeddingError: the registered one cannot be read.
            CiphertextError: the image is encrypted in blocks of another size than the model's patches.
        """
        own, name = self._own, "the model of this service"
        if own is None or image.fingerprint != own.facts.fingerprint:
            try:
                own, name = self.store.get(image.fingerprint), "the patch embedding that is registered here"
            except UnknownEmbeddingError:
                if own is not None:
                    check_key_fits(image.facts, own.facts, subject="the encrypted image", model=name)
                raise UnknownEmbeddingError(
                    f"no patch embedding is registered for the key of the encrypted image ({image.facts}), or none "
                    "any more; register it first"
                ) from None
        config = self.model.config
        check_image_fits(image, own.facts, config.patch_size, config.num_channels, model=name)
        return own

    def segment(self, data: bytes) -> np.ndarray:
        """A container file -> (height, width) uint8 class indices at the image's own size.

        Raises:
            As `opened` and `embedding_for`.
        """
        (segmentation_map,) = self.segment_batch([self.opened(data)])
        return segmentation_map

    @torch.inference_mode()
    def segment_batch(self, images: Sequence[EncryptedImage]) -> list[np.ndarray]:
        """Images of one size, each of any key -> (height, width) uint8 class indices at their own sizes.

        Raises:
            As `embedding_for`.
        """
        device = self.model.device
        weights = [self.embedding_for(image).weight for image in images]
        weights = [weight if weight is self._weight else weight.to(self._weight) for weight in weights]
        if self.inference != WHOLE_IMAGE:
            return [self._segment_windows(*each) for each in zip(images, weights, strict=True)]
        inputs = self.processor(images=list(images), return_tensors="pt").to(device)
        maps = self.processor.post_process_semantic_segmentation(
            with_weights(self.model, weights)(**inputs),
            [image.original_size for image in images],
            valid_regions=[image.valid_region for image in images],
        )
        return [found.to(torch.uint8).cpu().numpy() for found in maps]

    def _segment_windows(self, image: EncryptedImage, weight: torch.Tensor) -> np.ndarray:
        """One image, by windows -> (height, width) uint8."""
        scores = self.inference.scores(with_weights(self.model, [weight]), self.processor, image)
        return scores.segmentation_map().to(torch.uint8).cpu().numpy()

    @property
    def _weight(self) -> torch.Tensor:
        weight: torch.Tensor = self.model.setr.embeddings.patch_embeddings.projection.weight
        return weight
