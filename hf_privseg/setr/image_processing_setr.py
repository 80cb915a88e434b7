"""Image processor of SETR: convert, resize, pad if asked, rescale, normalise and, with a secret key, encrypt last.

The key is an argument of the call. It is never an attribute, so that no configuration, file or log can hold it.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torchvision.transforms.v2.functional as tvF
from PIL import Image
from transformers.image_processing_backends import TorchvisionBackend
from transformers.image_processing_outputs import SemanticSegmentationPostProcessorOutput
from transformers.image_processing_utils import BatchFeature
from transformers.image_transforms import group_images_by_shape, reorder_images
from transformers.image_utils import PILImageResampling, SizeDict
from transformers.processing_utils import ImagesKwargs, Unpack

from .block_cipher import BlockCipher
from .ciphers import cipher_for
from .encrypted_image import EncryptedImage, is_encrypted_image
from .encryption_key import EncryptionKey, as_encryption_key
from .errors import CiphertextError, EncryptionStateError, InvalidImageError
from .image_inputs import flat_images, flat_segmentation_maps, image_to_levels, is_single, segmentation_map_to_indices
from .patch_grid import PatchGrid, logits_to_image_size, padding_before_centring
from .public_facts import check_key_fits

IGNORE_INDEX = 255  # the label of pixels that belong to no class

# what gives pixels in [-1, 1], with one mean and one deviation for all channels
_CENTRED: dict[str, Any] = {
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": (0.5, 0.5, 0.5),
    "image_std": (0.5, 0.5, 0.5),
}


class SetrImageProcessorKwargs(ImagesKwargs, total=False):
    r"""
    patch_size (`int`, *optional*, defaults to `self.patch_size`):
        Side of a patch of the model, and of a block of the cipher, in pixels. Every image ends on this grid.
    resize_factor (`float`, *optional*, defaults to `self.resize_factor`):
        The image's own size is multiplied by it, for models that want their input enlarged. A `size` replaces both.
    pad_value (`float` or `list[float]`, *optional*, defaults to `self.pad_value`):
        Padding in units of the normalised image, one number or one a channel; rounded to the nearest 8-bit level.
    do_reduce_labels (`bool`, *optional*, defaults to `self.do_reduce_labels`):
        Whether label 0 is background that becomes 255 (ignored), while every other label moves down by 1.
    """

    patch_size: int
    # int as well: the library checks types strictly
    resize_factor: float | int
    pad_value: float | int | list[float | int] | tuple[float | int, ...]
    do_reduce_labels: bool


class SetrImageProcessor(TorchvisionBackend):
    r"""Turns photos into `pixel_values`, encrypted ones with a key, and a model's logits into segmentation maps.

    By default an image is resized, bilinearly with antialias, to the multiple of `patch_size` that is nearest to its
    own size times `resize_factor`. A `size` of {"height", "width"}, {"shortest_edge"[, "longest_edge"]} or an int (a
    square) sets the size instead and is rounded to the grid as well. With `do_pad` the size is not rounded, and the
    image is padded at the bottom and right to whole patches. What is accepted as an image is said in `image_inputs`;
    all of it is 8 bits deep from there to the normalisation (except floats with `do_rescale=False`).

    Encryption needs pixels in [-1, 1], that is mean = std = 0.5, which are the defaults.

    Args:
        patch_size, resize_factor, pad_value, do_reduce_labels: see `SetrImageProcessorKwargs`.
        do_pad: whether to pad to whole patches instead of resizing to them.
        size, resample, do_resize, do_rescale, rescale_factor, do_normalize, image_mean, image_std, do_convert_rgb: as
            in every image processor of transformers.

    Raises:
        TypeError: `secret_key` is among the arguments.
        ValueError: a setting out of range, or one (crop, fixed pad size) that this processor does not have.
    """

    valid_kwargs = SetrImageProcessorKwargs
    do_convert_rgb = True
    do_resize = True
    size = None
    resize_factor = 1.0
    resample = PILImageResampling.BILINEAR
    do_pad = False
    pad_value = 0.0
    do_rescale = True
    do_normalize = True
    image_mean = (0.5, 0.5, 0.5)
    image_std = (0.5, 0.5, 0.5)
    do_reduce_labels = False
    patch_size = 16

    def __init__(self, **kwargs: Unpack[SetrImageProcessorKwargs]) -> None:
        _refuse_secret_key(kwargs)
        super().__init__(**kwargs)  # type: ignore[misc]
        self._validate_preprocess_kwargs(**self._own(self._valid_kwargs_names))

    @classmethod
    def from_dict(cls, image_processor_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As in transformers (`from_pretrained` comes here too), but a `secret_key` among the settings is refused."""
        _refuse_secret_key(image_processor_dict)
        _refuse_secret_key(kwargs)
        return super().from_dict(image_processor_dict, **kwargs)

    def __call__(  # type: ignore[override]
        self,
        images: Any,
        segmentation_maps: Any = None,
        *,
        secret_key: EncryptionKey | bytes | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """As `preprocess`."""
        return self.preprocess(images, segmentation_maps, secret_key=secret_key, **kwargs)

    def preprocess(
        self,
        images: Any,
        segmentation_maps: Any = None,
        *,
        secret_key: EncryptionKey | bytes | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        r"""Photos -> `pixel_values` (batch, 3, height, width) float32 in [-1, 1], encrypted where a key is given.

        `EncryptedImage`s are taken as well, without a key; their pixels are never resampled.

        Args:
            images: one photo or encrypted image, or a list of either.
            segmentation_maps: label maps of the photos' sizes; become `labels` (batch, height, width) int64. They are
                resized by nearest neighbour, padded with 255, and never normalised or encrypted.
            secret_key: encrypts the pixels; its family chooses the cipher.
            **kwargs: settings that replace the processor's own for this call.

        Raises:
            InvalidImageError: an input that is no image, or sizes that do not fit together.
            InvalidKeyError: `secret_key` is no key.
            CiphertextError: an encrypted image of another patch size, or together with a setting.
            EncryptionStateError: an encrypted image together with a key.
            ValueError: settings that cannot be encrypted with.
        """
        if any(map(is_encrypted_image, _as_list(images))):
            self._check_ciphertexts(_as_list(images), segmentation_maps, secret_key, kwargs)
            return self._from_ciphertexts(_as_list(images), **kwargs)
        key = None if secret_key is None else as_encryption_key(secret_key)
        # positional: the library forwards these without validating or storing them
        return super().preprocess(images, segmentation_maps, key, False, **kwargs)

    def encrypt(self, images: Any, secret_key: EncryptionKey | bytes, **kwargs: Any) -> Any:
        """One photo -> `EncryptedImage`, a list or batch of photos -> list: to be kept, sent and processed keyless.

        The same pixels as `processor(images, secret_key=secret_key)`: bit for bit for the permutation families, and
        for the others until a file form rounds them to 16 bits.

        Args:
            images: one photo, or a list or batch of them.
            secret_key: its family chooses the cipher.
            **kwargs: settings that replace the processor's own for this call.

        Raises:
            As `preprocess`.
        """
        if any(map(is_encrypted_image, _as_list(images))):
            raise EncryptionStateError(
                "expected photos, got an EncryptedImage: encrypting twice would ruin it; use it as it is"
            )
        encrypted = super().preprocess(images, None, as_encryption_key(secret_key), True, **kwargs)
        return encrypted[0] if is_single(images) else encrypted

    def encrypt_pixels(self, pixel_values: torch.Tensor, secret_key: EncryptionKey | bytes) -> torch.Tensor:
        """(..., 3, height, width) float in [-1, 1], as a call without a key gives them -> the same shape, encrypted.

        For pixels that are cut or turned after preprocessing, as windows are: `processor(photo, secret_key=key)` is
        `encrypt_pixels` of `processor(photo)`. Whether pixels are encrypted already cannot be seen, nor checked.

        Args:
            pixel_values: on any device; height and width are multiples of `patch_size`.
            secret_key: its family chooses the cipher.

        Raises:
            InvalidImageError: a side is no multiple of the patch size, or the dtype or channels do not fit.
            InvalidKeyError: `secret_key` is no key.
            ValueError: this processor's pixels are not in [-1, 1].
        """
        _check_centred(self._own(_CENTRED))
        return cipher_for(secret_key, patch_size=self.patch_size).encrypt(pixel_values)

    def decrypt(self, images: Any, secret_key: EncryptionKey | bytes) -> Any:
        """An `EncryptedImage` -> PIL image of its valid region (a list -> list): the photo as it was resized.

        Raises:
            KeyMismatchError: the image was encrypted with another key.
            EncryptionStateError: it was encrypted with a client embedding.
        """
        if not is_encrypted_image(images):
            return [self.decrypt(image, secret_key) for image in images]
        key = as_encryption_key(secret_key)
        check_key_fits(key.facts, images.facts, model="the encrypted image")
        pixels = cipher_for(key, patch_size=images.patch_size).decrypt(images.pixels)
        if pixels.is_floating_point():
            pixels = ((pixels + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        height, width = images.valid_region
        return Image.fromarray(pixels[:, :height, :width].permute(1, 2, 0).contiguous().numpy())

    def post_process_semantic_segmentation(
        self,
        outputs: Any,
        target_sizes: Iterable[tuple[int, int]] | torch.Tensor | None = None,
        return_segmentation_scores: bool = False,
        *,
        valid_regions: Iterable[tuple[int, int]] | None = None,
    ) -> list[torch.Tensor] | list[SemanticSegmentationPostProcessorOutput]:
        """A model's output -> one (height, width) int64 map of class indices an image, at its target size.

        Args:
            outputs: has `logits` (batch, num_labels, any height, any width) over the whole, possibly padded input.
            target_sizes: (height, width) of each upright photo, `EncryptedImage.original_size`. None leaves the maps
                at the size of the logits, padding included.
            return_segmentation_scores: whether each item has `segmentation` and `segmentation_scores`, the resized
                logits (num_labels, height, width).
            valid_regions: (height, width) of the part of each input that the photo covers,
                `EncryptedImage.valid_region`. None computes it from the target sizes and this processor's own
                settings, which is right unless a call replaced `size`, `resize_factor` or `do_pad`.

        Raises:
            ValueError: not as many sizes as images.
        """
        scores = list(outputs.logits)
        if target_sizes is not None:
            sizes = [(int(height), int(width)) for height, width in target_sizes]
            regions = self._valid_regions(sizes) if valid_regions is None else list(valid_regions)
            if not len(sizes) == len(regions) == len(scores):
                raise ValueError(
                    f"expected a target size (and valid region) for each of the {len(scores)} images of the batch, "
                    f"got {len(sizes)} (and {len(regions)})"
                )
            each = zip(scores, sizes, regions, strict=True)
            scores = [logits_to_image_size(*item, patch_size=self.patch_size) for item in each]
        maps = [score.argmax(dim=0) for score in scores]
        if not return_segmentation_scores:
            return maps
        return [
            SemanticSegmentationPostProcessorOutput({"segmentation": segmentation, "segmentation_scores": score})
            for segmentation, score in zip(maps, scores, strict=True)
        ]

    def process_image(self, image: Any, **settings: Any) -> torch.Tensor:  # type: ignore[override]
        """One photo -> (3, height, width) uint8; other channel counts only with `do_convert_rgb=False`."""
        levels = image_to_levels(
            image,
            to_rgb=bool(settings["do_convert_rgb"]),
            keep_floats=not settings["do_rescale"],
            channels=settings["input_data_format"],
        )
        mean = settings["image_mean"]
        if settings["do_normalize"] and isinstance(mean, tuple) and len(mean) != len(levels):
            raise InvalidImageError(
                f"expected {len(mean)} channels, as many as image_mean has, got {len(levels)}; "
                "do_convert_rgb=True makes every image RGB"
            )
        return levels if settings["device"] is None else levels.to(settings["device"])

    def _own(self, names: Iterable[str]) -> dict[str, Any]:
        """This processor's own value of each of these settings."""
        return {name: getattr(self, name, None) for name in names}

    def _valid_regions(self, sizes: list[tuple[int, int]]) -> list[Any]:
        """Sizes of photos -> the part of its input that each covers by the processor's settings; None is all of it."""
        if not self.do_pad:
            return [None] * len(sizes)
        return [PatchGrid.of(self._own(self._valid_kwargs_names)).valid_region(size) for size in sizes]

    def _validate_preprocess_kwargs(self, **settings: Any) -> None:  # type: ignore[override]
        """Refuse settings that this processor does not have or that make no sense; called with every setting."""
        if settings["do_center_crop"] or settings["pad_size"]:
            raise ValueError(
                "this processor neither crops nor pads to a fixed size, got do_center_crop or pad_size; "
                "use size, or do_pad=True for whole patches"
            )
        PatchGrid.of(settings)
        # the library wants a size whenever it resizes; here the image's own size is one
        super()._validate_preprocess_kwargs(**{**settings, "do_resize": False})

    def _prepare_images_structure(self, images: Any, expected_ndims: int = 3) -> list[Any]:
        """Any nesting of photos, paths and batches -> flat list of photos."""
        photos = flat_images(images)
        if not photos:
            raise InvalidImageError("expected at least one image, got an empty list")
        return photos

    def _preprocess_image_like_inputs(  # type: ignore[override]
        self, images: Any, segmentation_maps: Any, secret_key: EncryptionKey | None, contained: bool, **settings: Any
    ) -> Any:
        """Photos -> BatchFeature, or, where `contained`, a list of EncryptedImage; `settings` are complete here."""
        cipher = None
        if secret_key is not None:
            _check_centred(settings)
            cipher = cipher_for(secret_key, patch_size=settings["patch_size"])
        photos = self._prepare_image_like_inputs(images, **settings)
        sizes = [(photo.shape[-2], photo.shape[-1]) for photo in photos]
        if secret_key is not None and cipher is not None and contained:
            pixels = self._preprocess(photos, cipher, as_levels=cipher.acts_on_uint8, **settings)
            regions = map(PatchGrid.of(settings).valid_region, sizes)
            facts = (cipher.family, secret_key.fingerprint, cipher.patch_size)
            each = zip(pixels, sizes, regions, strict=True)
            return [EncryptedImage(p.cpu(), *facts, size, region) for p, size, region in each]
        data = {"pixel_values": self._preprocess(photos, cipher, as_levels=False, **settings)}
        if segmentation_maps is not None:
            data["labels"] = self._preprocess_labels(segmentation_maps, sizes, **settings)
        return _batch_feature(data, settings["return_tensors"])

    def _preprocess(  # type: ignore[override]
        self, images: list[torch.Tensor], cipher: BlockCipher | None, as_levels: bool, **settings: Any
    ) -> list[torch.Tensor]:
        """(channels, height, width) photos -> on the patch grid, centred unless `as_levels`, encrypted last."""
        centring = {name: settings[name] for name in _CENTRED}
        groups, index = group_images_by_shape(images, disable_grouping=settings["disable_grouping"])
        for shape, stack in groups.items():
            fill = padding_before_centring(settings["pad_value"], stack.dtype, **centring)
            stack = self._fit(stack, fill, **settings)
            if not as_levels:
                stack = self.rescale_and_normalize(stack, **centring)
            groups[shape] = stack if cipher is None else cipher.encrypt(stack)
        return list(reorder_images(groups, index))

    def _preprocess_labels(
        self, segmentation_maps: Any, photo_sizes: list[tuple[int, int]], **settings: Any
    ) -> list[torch.Tensor]:
        """Label maps of the photos' sizes -> (height, width) int64 on the patch grid."""
        maps = [segmentation_map_to_indices(label_map) for label_map in flat_segmentation_maps(segmentation_maps)]
        sizes = [(label_map.shape[0], label_map.shape[1]) for label_map in maps]
        if sizes != photo_sizes:
            raise InvalidImageError(
                f"expected one label map of the same (height, width) for each of the {len(photo_sizes)} images, which "
                f"are {photo_sizes[:4]}, got {len(sizes)} of {sizes[:4]}; a map in colours has to be translated to "
                "indices first, and a photo is turned as its EXIF tag says"
            )
        if settings["do_reduce_labels"]:
            maps = [torch.where((m == 0) | (m == IGNORE_INDEX), IGNORE_INDEX, m - 1) for m in maps]
        settings["resample"] = tvF.InterpolationMode.NEAREST_EXACT
        return [self._fit(m[None], IGNORE_INDEX, **settings)[0].to(settings["device"] or "cpu") for m in maps]

    def _fit(self, stack: torch.Tensor, fill: Any, **settings: Any) -> torch.Tensor:
        """(..., height, width) photos or label maps -> resized, then padded with `fill` where that is asked for."""
        grid = PatchGrid.of(settings)
        height, width = region = grid.valid_region((stack.shape[-2], stack.shape[-1]))
        stack = self.resize(stack, SizeDict(height=height, width=width), resample=settings["resample"])
        padded = grid.padded(region)
        if padded == region:
            return stack
        return tvF.pad(stack, [0, 0, padded[1] - width, padded[0] - height], fill=fill)

    def _check_ciphertexts(
        self, images: Sequence[Any], segmentation_maps: Any, secret_key: Any, settings: dict[str, Any]
    ) -> None:
        """Refuse whatever cannot be done to encrypted images, or not without being noticed."""
        if not all(map(is_encrypted_image, images)):
            raise InvalidImageError("expected either photos or EncryptedImages, got both; process them in two calls")
        if secret_key is not None:
            raise EncryptionStateError(
                "got a secret_key for an EncryptedImage: encrypting twice would ruin it; leave the key out"
            )
        refused = sorted(set(settings) - {"return_tensors", "device"})
        if segmentation_maps is not None or refused:
            raise CiphertextError(
                f"got {', '.join(refused) or 'segmentation_maps'} for an EncryptedImage, whose pixels are never "
                "resampled or scaled; settings belong to encrypt(), and label maps are compared with the final map"
            )
        for image in images:
            if image.patch_size != self.patch_size:
                raise CiphertextError(
                    f"expected an image encrypted in blocks of {self.patch_size} pixels, the processor's patch_size, "
                    f"got blocks of {image.patch_size}; encrypt with the processor of the model"
                )
        _check_centred(self._own(_CENTRED))

    def _from_ciphertexts(self, images: Sequence[Any], return_tensors: Any = None, device: Any = None) -> BatchFeature:
        """Encrypted images -> `pixel_values`; 8-bit pixels are centred, float ones are already."""
        tensors = [image.pixels.to(device or "cpu") for image in images]
        centred = [self.rescale_and_normalize(t, **_CENTRED) if t.dtype == torch.uint8 else t for t in tensors]
        return _batch_feature({"pixel_values": centred}, return_tensors)


def _refuse_secret_key(settings: Any) -> None:
    if "secret_key" in settings:
        raise TypeError(
            "secret_key is no setting of an image processor, for settings are saved and shown; pass it to the call: "
            "processor(images, secret_key=key)"
        )


def _check_centred(settings: dict[str, Any]) -> None:
    """Refuse to encrypt unless the settings give pixels in [-1, 1]."""
    for name, expected in _CENTRED.items():
        found = settings[name]
        if isinstance(expected, tuple):
            found = tuple(found) if isinstance(found, Sequence) else (found,) * 3
        if found != expected:
            raise ValueError(
                f"encryption needs pixels in [-1, 1], that is {name}={expected}, got {found}; a key mixes channels, "
                "and would not cancel with statistics of their own: fold them into the patch embedding's weight and "
                "bias, as SetrForSemanticSegmentation.from_vit does, and use this processor's defaults"
            )


def _batch_feature(data: dict[str, list[torch.Tensor]], return_tensors: Any) -> BatchFeature:
    """Lists of tensors -> BatchFeature; one tensor each where `return_tensors` asks for that."""
    sizes = sorted({tuple(pixels.shape[-2:]) for pixels in data["pixel_values"]})
    if return_tensors is not None and len(sizes) > 1:
        raise InvalidImageError(
            f"expected images of one size for one tensor, got {sizes[:4]} (height, width) after resizing; pass "
            "size={'height': ..., 'width': ...}, or process the images one by one"
        )
    return BatchFeature(data=data, tensor_type=return_tensors)


def _as_list(images: Any) -> Any:
    return images if isinstance(images, list | tuple) else [images]
