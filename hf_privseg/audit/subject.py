"""The model that is audited: of any class, as far as attacks on its patch embedding see it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.video_processing_utils import BaseVideoProcessor

from ..any_vit.projection import find_projection
from ..attacks.model_theft import Progress, StolenEmbedding, TheftBudget, steal_embedding
from ..attacks.public_base import embedding_matrix
from ..inference.windows import logits_of
from ..setr.errors import InvalidImageError
from ..setr.image_encrypter import AnyImage
from ..setr.model_encryption import PatchProjection
from ..setr.modeling_setr import SetrForSemanticSegmentation
from .square_blocks import as_one_image, in_square_blocks

SEGMENTED_SIDE = 384  # pixels

# ((n, channels, height, width) in [-1, 1], (n, height, width) labels, E (L, hidden_size) to begin with, ...) -> E'
LearnEmbedding = Callable[[np.ndarray, np.ndarray, np.ndarray, TheftBudget, Progress], StolenEmbedding]


@dataclass(frozen=True)
class Subject:
    """A plain model and its processor, in the units of the attacks: pixels in [-1, 1].

    Processors make pixels of other ranges from other means and standard deviations. Dividing them by the largest that
    they make, and multiplying the patch embedding by it, changes nothing in what the model computes or in what an
    encryption shows.

    Args:
        projection: the patch embedding for pixels in [-1, 1], in square blocks.
        processor: the one of images or videos among the model's.
        depth: how many frames a block spans, 1 for images.
        scale: the largest absolute value of a pixel as the processor makes it.
        segment: maps (channels, height, width) pixels in [-1, 1] to labels; None for a model that is no SETR.
        learn_embedding: learns a patch embedding from labelled images; None for a model that is no SETR.
    """

    projection: PatchProjection
    processor: Any
    depth: int
    scale: float
    segment: Callable[[np.ndarray], np.ndarray] | None
    learn_embedding: LearnEmbedding | None = None

    @classmethod
    def of(cls, model: PreTrainedModel, processor: Any) -> "Subject":
        """A plain model of any class, and its processor.

        Raises:
            ValueError: the model cannot be encrypted, or it takes patches of unknown sides.
        """
        processor = _of_pixels(processor)
        (found, depth), scale = in_square_blocks(find_projection(model)), _largest_pixel(processor)
        weight = nn.Parameter(found.weight.float().cpu() * scale, requires_grad=False)
        projection = replace(found, weight=weight)
        if not isinstance(model, SetrForSemanticSegmentation):
            return cls(projection, processor, depth, scale, segment=None)
        return cls(projection, processor, depth, scale, segmenter(model), thief(model))

    @property
    def embedding(self) -> np.ndarray:
        """E, (L, hidden_size) float64, for pixels in [-1, 1]."""
        return matrix_of(self.projection)

    def pixels(self, image: AnyImage | Sequence[AnyImage]) -> np.ndarray:
        """An image, or the frames of a video -> (channels, height, width) float64 in [-1, 1], in whole blocks.

        Frames lie side by side. Those that a block spans are channels of it, and an image is repeated for them.

        Raises:
            InvalidImageError: the processor cannot take it, or makes something else than one image of it; names its
                file.
        """
        try:
            made = as_one_image(self._processed(image), self.processor, self.projection, self.depth)
        except InvalidImageError as error:
            raise InvalidImageError(
                f"{image}: {error}" if isinstance(image, str | PathLike) else str(error)
            ) from error
        return made.double().numpy() / self.scale

    def _processed(self, image: AnyImage | Sequence[AnyImage]) -> Mapping[str, Any]:
        frames = list(image) if isinstance(image, list | tuple) else None
        made: Mapping[str, Any]
        if isinstance(self.processor, BaseVideoProcessor):
            made = self.processor(videos=[frames or [image] * self.depth], return_tensors="pt")
        else:
            made = self.processor(images=frames or image, return_tensors="pt")
        return made


def matrix_of(projection: PatchProjection) -> np.ndarray:
    """A patch embedding in square blocks -> E, (L, hidden_size) float64, as the paper has it (section 3.2.1)."""
    size = projection.patch_size
    return embedding_matrix(projection.weight.detach().cpu().reshape(-1, projection.num_channels, size, size).numpy())


def segmenter(model: SetrForSemanticSegmentation) -> Callable[[np.ndarray], np.ndarray]:
    """A model -> what maps (channels, height, width) pixels in [-1, 1] to labels, for comparisons.

    Larger images are reduced to a longer side of 384 pixels first, because comparing labels needs no more.
    """
    patch_size = model.config.patch_size

    @torch.inference_mode()
    def segment(image: np.ndarray) -> np.ndarray:
        pixel_values = torch.from_numpy(np.ascontiguousarray(image, np.float32))[None]
        scale = min(1.0, SEGMENTED_SIDE / max(image.shape[1:]))
        size = [max(1, round(side * scale / patch_size)) * patch_size for side in image.shape[1:]]
        pixel_values = F.interpolate(pixel_values, size, mode="bilinear", antialias=True)
        return logits_of(model, pixel_values)[0].argmax(0).cpu().numpy()

    return segment


def thief(model: SetrForSemanticSegmentation) -> LearnEmbedding:
    """A model -> what learns a patch embedding for the layers behind its own."""
    projection = model.patch_projection.weight

    def segment(images: torch.Tensor) -> torch.Tensor:
        with torch.autocast(images.device.type, torch.bfloat16):
            return model(pixel_values=images).logits.float()

    def learn(
        images: np.ndarray, labels: np.ndarray, start: np.ndarray, budget: TheftBudget, progress: Progress
    ) -> StolenEmbedding:
        return steal_embedding(
            segment,
            projection,
            torch.from_numpy(images).to(projection),
            torch.from_numpy(labels).to(projection.device),
            start=torch.from_numpy(start.T.copy()).reshape(projection.shape),
            budget=budget,
            progress=progress,
        )

    return learn


def _of_pixels(processor: Any) -> Any:
    """A processor -> itself, or the one of images or else of videos inside it."""
    inside = (getattr(processor, name, None) for name in ("image_processor", "video_processor"))
    return next((found for found in inside if found is not None), processor)


def _largest_pixel(processor: Any) -> float:
    """The largest absolute value of a pixel as the processor normalises it."""
    if not getattr(processor, "do_normalize", False):
        return 1.0
    mean, std = (np.atleast_1d(np.asarray(getattr(processor, name), float)) for name in ("image_mean", "image_std"))
    # ViViT's processor makes [-1, 1] of levels, and normalises that.
    lowest = -1.0 if getattr(processor, "offset", False) else 0.0
    return float(np.max(np.maximum(np.abs((lowest - mean) / std), np.abs((1 - mean) / std))))
