"""Inference as the field does it: the whole image, a sliding window, several scales, and the mirrored image as well.

The semantics are those of mmsegmentation, whose figures for SETR are the reference: windows that would reach beyond
the image are shifted back inside, the logits of each are resized to the window, summed, and divided by how often a
pixel was covered; several scales, or the mirrored image, are views whose probabilities are averaged.

    Inference()                                              the whole image, once
    Inference(crop_size=512)                                 ADE20K, single scale: stride 341
    Inference(crop_size=768, scales=(0.5, 0.75, 1.0, 1.25, 1.5, 1.75), flip=True)    Cityscapes, multi-scale

With a key, the plain image is resized, mirrored and cut, and every window is encrypted after that: a ciphertext is
never resampled, its mirror image is not the ciphertext of the mirror image, and it can be cut between blocks alone.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from functools import partial
from itertools import product
from typing import Any, cast

import torch
from torch.nn import functional as F
from transformers import PreTrainedModel

from ..setr.encrypted_image import is_encrypted_image
from ..setr.encryption_key import EncryptionKey, as_encryption_key
from ..setr.errors import CiphertextError, EncryptionStateError
from ..setr.image_encrypter import AnyImage
from ..setr.image_inputs import PlainImage
from ..setr.image_processing_setr import SetrImageProcessor
from ..setr.image_scores import ImageScores
from ..setr.patch_grid import PatchGrid, check_on_grid

Encrypt = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Inference:
    """How the scores of an image are computed; the default is one forward pass over the whole image.

    Args:
        crop_size: side of a square window in pixels of the resized image, a multiple of the patch size; a shorter side
            of the image is taken whole. None takes the whole image.
        stride: pixels from one window to the next. None is two thirds of the crop size, rounded down as published
            (512 -> 341, 768 -> 512). An encrypted image needs a multiple of its patch size.
        scales: factors of the size that the processor gives an image.
        flip: whether the mirrored image counts as well, at every scale.

    Raises:
        ValueError: a setting out of range.
    """

    crop_size: int | None = None
    stride: int | None = None
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "scales", tuple(self.scales))
        if self.crop_size is not None and self.crop_size < 1:
            raise ValueError(f"crop_size is None or a positive number of pixels, got {self.crop_size}")
        if self.stride is not None and not 1 <= self.stride <= (self.crop_size or 0):
            raise ValueError(
                f"stride is None or in 1 .. crop_size, so that windows leave no gap, got {self.stride} with a "
                f"crop_size of {self.crop_size}"
            )
        if not self.scales or not all(0 < scale < float("inf") for scale in self.scales):
            raise ValueError(f"scales are one or more positive numbers, got {self.scales}")

    @torch.inference_mode()
    def scores(
        self,
        model: PreTrainedModel,
        processor: SetrImageProcessor,
        image: AnyImage,
        *,
        secret_key: EncryptionKey | bytes | None = None,
        encrypt: Encrypt | None = None,
    ) -> ImageScores:
        """One image, plain or encrypted -> the scores of its pixels, at its own size and on the model's device.

        They are logits or, where there are several views, mean probabilities.

        Args:
            model: in evaluation mode, plain or encrypted. Whether the key fits it is not
                checked; `segment_image` checks.
            processor: the model's.
            image: whatever the processor takes.
            secret_key: encrypts what the model sees of a plain image.
            encrypt: does so instead of a key, by another cipher: (1, channels, height, width) pixels in [-1, 1] of the
                whole image or of a window -> the same shape, for the model to see.

        Raises:
            ValueError: the crop size is no multiple of the patch size; scales for a processor that does not resize.
            CiphertextError: an encrypted image, and a window off its patch grid, a scale other than 1, or `flip`.
            EncryptionStateError: an encrypted image together with a key, or `encrypt` with either.
        """
        if encrypt is not None and (is_encrypted_image(image) or secret_key is not None):
            raise EncryptionStateError(
                "expected one way to encrypt an image, got `encrypt` together with "
                f"{'an encrypted image' if is_encrypted_image(image) else 'a key'}; leave one of the two out"
            )
        patch_size = processor.patch_size
        self._check_window(patch_size)
        if is_encrypted_image(image):
            self.check_ciphertexts(patch_size)
            pixel_values = processor(image, secret_key=secret_key, return_tensors="pt").pixel_values
            return self._of_pixels(model, pixel_values, image.original_size, image.valid_region, patch_size)
        if secret_key is not None:
            encrypt = partial(processor.encrypt_pixels, secret_key=as_encryption_key(secret_key))
        levels = processor.to_levels(cast(PlainImage, image))
        views = [(scale, mirrored) for scale in self.scales for mirrored in (False, True)[: 1 + self.flip]]
        scores = (self._of_view(model, processor, levels, *view, encrypt) for view in views)
        return next(scores) if len(views) == 1 else _mean(scores, len(views))

    def _of_view(
        self,
        model: PreTrainedModel,
        processor: SetrImageProcessor,
        levels: torch.Tensor,
        scale: float,
        mirrored: bool,
        encrypt: Encrypt | None,
    ) -> ImageScores:
        """(channels, height, width) levels -> the logits of one view of them."""
        changes = _scaled(processor, scale)
        size = (levels.shape[-2], levels.shape[-1])
        own = {field.name: getattr(processor, field.name) for field in fields(PatchGrid)}
        region = PatchGrid.of(own | changes).valid_region(size)
        changes["input_data_format"] = "channels_first"
        levels = levels.flip(-1) if mirrored else levels
        pixel_values = processor(levels, return_tensors="pt", **changes).pixel_values
        # Windows of a plain image end where it ends, not where its padding does, as long as it is not smaller.
        if self.crop_size is not None:
            height, width = (n if n >= self.crop_size else None for n in region)
            pixel_values = pixel_values[..., :height, :width]
        scores = self._of_pixels(model, pixel_values, size, region, processor.patch_size, encrypt)
        return replace(scores, rows=lambda first, last: scores.rows(first, last).flip(-1)) if mirrored else scores

    def _of_pixels(
        self,
        model: PreTrainedModel,
        pixel_values: torch.Tensor,
        size: tuple[int, int],
        valid_region: tuple[int, int],
        patch_size: int,
        encrypt: Encrypt | None = None,
    ) -> ImageScores:
        """(1, channels, height, width) resized, maybe padded pixels -> the logits of an image of this size."""
        if self.crop_size is None:
            logits = logits_of(model, pixel_values if encrypt is None else encrypt(pixel_values))
            return ImageScores.from_logits(logits[0], size, valid_region, patch_size)
        logits = self._slide(model, pixel_values, self.crop_size, encrypt)
        height, width = valid_region
        return ImageScores.from_logits(logits[:, :height, :width], size, None, patch_size)

    def _slide(
        self, model: PreTrainedModel, pixel_values: torch.Tensor, crop_size: int, encrypt: Encrypt | None
    ) -> torch.Tensor:
        """(1, channels, height, width) -> (num_labels, height, width) float32: the mean of the windows on a pixel."""
        total, counts = None, pixel_values.new_zeros(pixel_values.shape[-2:], dtype=torch.float32, device=model.device)
        for rows, columns in self._windows(pixel_values.shape[-2], pixel_values.shape[-1], crop_size):
            window = pixel_values[..., rows, columns]
            logits = logits_of(model, window if encrypt is None else encrypt(window)).float()
            logits = F.interpolate(logits, size=window.shape[-2:], mode="bilinear", align_corners=False)[0]
            if total is None:
                total = logits.new_zeros(len(logits), *counts.shape)
            total[:, rows, columns] += logits
            counts[rows, columns] += 1
        return cast(torch.Tensor, total).div_(counts)

    def _windows(self, height: int, width: int, crop_size: int) -> list[tuple[slice, slice]]:
        """Size of the image -> (rows, columns) of every window, each inside the image."""
        stride = self._stride(crop_size)

        def along(side: int) -> list[slice]:
            last = max(side - crop_size, 0)
            return [slice(start, start + min(crop_size, side)) for start in (*range(0, last, stride), last)]

        return list(product(along(height), along(width)))

    def _stride(self, crop_size: int) -> int:
        return self.stride or max(crop_size * 2 // 3, 1)

    def check_ciphertexts(self, patch_size: int) -> None:
        """Refuse what can be done to a plain image before its encryption, and not to a ciphertext.

        A window on the patch grid of a ciphertext is the ciphertext of that window.

        Args:
            patch_size: side of the blocks that are encrypted, in pixels.

        Raises:
            ValueError: the crop size is no multiple of the patch size.
            CiphertextError: scales, mirroring, or a stride off the patch grid.
        """
        self._check_window(patch_size)
        if self.scales != (1.0,) or self.flip:
            raise CiphertextError(
                f"an encrypted image is neither resized nor mirrored, got scales={self.scales} and flip={self.flip}; "
                "that happens before encryption: give the plain image and its key, or use scales=(1.0,) and flip=False"
            )
        if self.crop_size is not None:
            stride, advice = self._stride(self.crop_size), "an encrypted image is cut between its blocks alone"
            check_on_grid((stride,), patch_size, what="the stride", advice=advice, error=CiphertextError)

    def _check_window(self, patch_size: int) -> None:
        if self.crop_size is not None:
            advice = "windows hold whole patches"
            check_on_grid((self.crop_size,), patch_size, what="the window (crop_size)", advice=advice)


def _scaled(processor: SetrImageProcessor, scale: float) -> dict[str, Any]:
    """Factor of the size -> the settings of the processor that differ for it."""
    if scale == 1:
        return {}
    if not processor.do_resize:
        raise ValueError(
            f"expected a processor that resizes, for the scale {scale}, got one with do_resize=False; set "
            "do_resize=True or use scales=(1.0,)"
        )
    if processor.size is None:
        return {"resize_factor": processor.resize_factor * scale}
    return {"size": {name: max(round(side * scale), 1) for name, side in dict(processor.size).items()}}


def _mean(views: Iterator[ImageScores], num_views: int) -> ImageScores:
    """Logits of several views of one image -> the mean of their probabilities; holds one sum, not every view."""
    first = next(views)
    total = first.whole().softmax(dim=0)
    for view in views:
        total += view.whole().softmax(dim=0)
    total /= num_views
    return replace(first, rows=lambda first_row, last_row: total[:, first_row:last_row])


def logits_of(model: PreTrainedModel, pixel_values: torch.Tensor) -> torch.Tensor:
    """(batch, channels, height, width) pixels on any device -> (batch, num_labels, any, any) logits on the model's."""
    return cast(torch.Tensor, model(pixel_values=pixel_values.to(model.device)).logits)
