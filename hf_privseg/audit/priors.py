"""What the attacker knows of images in an audit, prepared as the client prepares its own."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
from PIL import Image

from ..attacks.tools.priors import ImagePrior, image_prior, prior_from_colours, synthetic_prior
from ..catalog.sample_images import SAMPLE_IMAGES
from ..setr.image_inputs import PlainImage
from ..setr.image_processing_setr import SetrImageProcessor
from .subject import Subject


def priors_for(
    prior_images: Sequence[PlainImage | Sequence[PlainImage]], victims: Sequence[np.ndarray], subject: Subject
) -> list[ImagePrior]:
    """Images of similar scenes and the victims -> the priors: synthetic, unrelated and, with such images, in-domain.

    Raises:
        ValueError: a victim is among the images of similar scenes.
    """
    patch_size, num_channels = subject.projection.patch_size, subject.projection.num_channels
    for_colours = _for_colours(subject)
    samples = [for_colours.pixels(Image.fromarray(sample.load())) for sample in SAMPLE_IMAGES.values()]
    others = [sample for sample in samples if not _occurs(sample, victims)]
    priors = [
        synthetic_prior(patch_size, num_channels=num_channels),
        image_prior(others, patch_size, name="unrelated", num_shifts=2)
        if others and len(others[0]) == num_channels  # frames of a video among them
        else prior_from_colours(others, patch_size, num_channels=num_channels, num_shifts=2),
    ]
    similar = [subject.pixels(image) for image in prior_images]
    if any(_occurs(image, victims) for image in similar):
        raise ValueError("expected prior images that are no victims, got one that is; take it out of either")
    return [*priors, image_prior(similar, patch_size)] if similar else priors


def _for_colours(subject: Subject) -> Subject:
    """The same settings for RGB images, which the sample images are; processors of other classes take these anyway."""
    processor = subject.processor
    if not isinstance(processor, SetrImageProcessor) or processor.num_channels == 3:
        return subject
    settings = {"num_channels": 3, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    of_colours = SetrImageProcessor.from_dict(processor.to_dict() | settings)
    return replace(subject, processor=of_colours, projection=replace(subject.projection, num_channels=3))


def _occurs(image: np.ndarray, others: Iterable[np.ndarray]) -> bool:
    return any(image.shape == other.shape and np.allclose(image, other, atol=1e-3) for other in others)
