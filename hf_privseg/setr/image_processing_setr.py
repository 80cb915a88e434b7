"""The image processor of SETR: convert, resize, pad if asked, rescale, normalise and, with a secret key, encrypt last.

The key is an argument of the call and reaches nothing of transformers. It is never an attribute, since attributes are
written to configurations and logs.
"""

import os
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar, Unpack, cast, overload

import numpy as np
import torch
import torchvision.transforms.v2.functional as tvF
from PIL import Image
from transformers.image_processing_backends import TorchvisionBackend
from transformers.image_processing_base import BatchFeature
from transformers.image_transforms import group_images_by_shape
from transformers.image_utils import ChannelDimension, PILImageResampling, SizeDict

from .arrays import to_array
from .centring import CENTRED, Centring, check_channels, refuse_secret_key, with_channels
from .ciphers import cipher_for
from .encrypted_image import EncryptedImage, check_ciphertexts, is_encrypted_image
from .encryption_key import EncryptionKey, as_encryption_key
from .errors import EncryptionStateError, InvalidImageError
from .image_decryption import ImageDecryption
from .image_encrypter import AnyImage
from .image_encrypter import ImageEncrypter as Defaults
from .image_inputs import PlainImage, flat_images, image_to_levels, is_single
from .patch_grid import PatchGrid
from .post_processing import SegmentationPostProcessing
from .processor_settings import ImagesOnGrid, SetrImageProcessorKwargs, check_settings_files
from .public_facts import KeyFacts
from .rounding import Rounding
from .segmentation_map_inputs import IGNORE_INDEX, check_ignore_index, segmentation_maps_to_indices
from .setting_checks import check_settings

OnePlainImage = TypeVar("OnePlainImage", bound=PlainImage)


class SetrImageProcessor(ImageDecryption, SegmentationPostProcessing, TorchvisionBackend):
    r"""Turns images into `pixel_values`, encrypted ones with a key, and a model's logits into segmentation maps.

    By default an image is resized, bilinearly with antialias, to the multiple of `patch_size` that is nearest to its
    own size times `resize_factor`. A `size` of {"height", "width"}, {"shortest_edge"[, "longest_edge"]} or an int (a
    square) sets the size instead and is rounded to the grid as well. With `do_pad` the size is not rounded, and the
    image is padded at the bottom and right to whole patches. `image_inputs` says what is accepted as an image of
    `num_channels` channels; all of it is 8 bits deep from there to the normalisation (except floats with
    `do_rescale=False`).

    Encryption needs pixels in [-1, 1], that is mean = std = 0.5, which are the defaults.

    Args:
        patch_size, num_channels, resize_factor, pad_value, do_reduce_labels, ignore_index: see
            `SetrImageProcessorKwargs`.
        do_pad: whether to pad to whole patches instead of resizing to them.
        size, resample, do_resize, do_rescale, rescale_factor, do_normalize, image_mean, image_std, do_convert_rgb: as
            in every image processor of transformers.

    Raises:
        TypeError: `secret_key` is among the arguments.
        ValueError: a setting out of range, or one (crop, fixed pad size) that this processor does not have.
    """

    valid_kwargs = SetrImageProcessorKwargs
    do_convert_rgb = Defaults.do_convert_rgb
    do_resize = Defaults.do_resize
    size = Defaults.size
    resize_factor = Defaults.resize_factor
    resample = PILImageResampling(Defaults.resample)
    do_pad = Defaults.do_pad
    pad_value = Defaults.pad_value
    do_rescale = Defaults.do_rescale
    do_normalize = Defaults.do_normalize
    image_mean = Defaults.image_mean
    image_std = Defaults.image_std
    do_reduce_labels = False
    ignore_index = IGNORE_INDEX
    patch_size = Defaults.patch_size
    num_channels = Defaults.num_channels

    def __init__(self, **kwargs: Unpack[SetrImageProcessorKwargs]) -> None:
        refuse_secret_key(kwargs)
        check_settings(kwargs)
        num_channels = kwargs.get("num_channels", self.num_channels)
        if num_channels != self.num_channels:
            half = (0.5,) * num_channels
            kwargs = {"image_mean": half, "image_std": half} | kwargs
        super().__init__(**kwargs)  # type: ignore[misc]
        self._validate_preprocess_kwargs(**{name: getattr(self, name) for name in self._valid_kwargs_names})

    @classmethod
    def get_image_processor_dict(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:
        """As in transformers, whose `from_pretrained` calls it; raises ValueError for other JSON than settings."""
        check_settings_files(pretrained_model_name_or_path, kwargs)
        try:
            return super().get_image_processor_dict(pretrained_model_name_or_path, **kwargs)
        except (RecursionError, AttributeError, TypeError) as error:
            raise ValueError(
                f"expected the settings of an image processor in JSON, got something else ({error})"
            ) from error

    @classmethod
    def from_dict(cls, image_processor_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As in transformers (`from_pretrained` comes here too), but a `secret_key` among the settings is refused.

        Raises:
            TypeError: a `secret_key` is among the settings.
            ValueError: the settings are no dictionary, of an unknown kind, or out of range.
        """
        if not isinstance(image_processor_dict, dict):
            raise ValueError(f"expected a dictionary of settings, got {image_processor_dict!r:.80}")
        refuse_secret_key(image_processor_dict)
        refuse_secret_key(kwargs)
        for name in image_processor_dict:
            if callable(getattr(cls, name, None)):  # it would replace a method
                raise ValueError(f"expected settings of an image processor, got one with the name {name!r:.80}")
        # A device in a file is one of another machine.
        settings = {name: value for name, value in image_processor_dict.items() if name != "device"}
        return super().from_dict(settings, **kwargs)

    def __call__(  # type: ignore[override]
        self,
        images: AnyImage | Sequence[AnyImage],
        segmentation_maps: Any = None,
        *,
        secret_key: EncryptionKey | bytes | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """As `preprocess`."""
        return self.preprocess(images, segmentation_maps, secret_key=secret_key, **kwargs)

    def preprocess(
        self,
        images: AnyImage | Sequence[AnyImage],
        segmentation_maps: Any = None,
        *,
        secret_key: EncryptionKey | bytes | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        r"""Images -> `pixel_values` (batch, channels, height, width) float32 in [-1, 1], encrypted by a key if given.

        `EncryptedImage`s are taken as well, without a key; their pixels are never resampled. The batch's attribute
        `key_facts` is a tuple of the different public facts about the keys of its images, (None,) for plain ones.

        Args:
            images: one plain or encrypted image, or a list of either.
            segmentation_maps: of the images' sizes; become `labels` (batch, height, width) int64. They are resized by
                nearest neighbour, padded with `ignore_index`, and never normalised or encrypted.
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
            refused = {"secret_key": secret_key, "segmentation_maps": segmentation_maps} | kwargs
            check_ciphertexts(_as_list(images), self.patch_size, self.num_channels, refused)
            Centring.of(vars(self)).check_encryptable()
            return self._from_ciphertexts(_as_list(images), **kwargs)
        key = None if secret_key is None else as_encryption_key(secret_key)
        batch = self._on_grid(images, segmentation_maps, kwargs)
        if key is None:
            pixel_values = batch.map(lambda stack: self._centred(stack, batch.centring))
        else:
            batch.centring.check_encryptable()
            cipher = cipher_for(key, patch_size=batch.grid.patch_size, num_channels=batch.num_channels)
            pixel_values = batch.map(lambda stack: cipher.encrypt(self._centred(stack, batch.centring)))
        labels = {} if batch.labels is None else {"labels": batch.labels}
        facts = None if key is None else key.facts
        return _batch_feature({"pixel_values": pixel_values, **labels}, batch.return_tensors, [facts])

    @overload
    def encrypt(
        self, images: Image.Image | str | os.PathLike[str], secret_key: EncryptionKey | bytes, **kwargs: Any
    ) -> EncryptedImage: ...

    @overload
    def encrypt(
        self,
        images: list[OnePlainImage] | tuple[OnePlainImage, ...],
        secret_key: EncryptionKey | bytes,
        **kwargs: Any,
    ) -> list[EncryptedImage]: ...

    @overload
    def encrypt(
        self, images: np.ndarray | torch.Tensor, secret_key: EncryptionKey | bytes, **kwargs: Any
    ) -> EncryptedImage | list[EncryptedImage]: ...

    def encrypt(
        self,
        images: PlainImage | Sequence[PlainImage],
        secret_key: EncryptionKey | bytes,
        *,
        bits: int | None = None,
        bits_per_block: float | None = None,
        **kwargs: Any,
    ) -> EncryptedImage | list[EncryptedImage]:
        """One image -> `EncryptedImage`, a list or batch of images -> list: to be kept, sent and processed keyless.

        The pixels are those of `processor(images, secret_key=secret_key)`: bit for bit for the permutation families,
        and for the others until a file form rounds them to 16 bits.

        Args:
            images: one image, or a list or batch of them.
            secret_key: its family chooses the cipher.
            bits: 8 sends 8 bits a number in place of 16, and gives exactness up for it; the families with 8-bit
                pixels do so exactly.
            bits_per_block: rounds what is sent to about so many bits a block, and gives exactness up for it. Only a
                client embedding with a transform code can.
            **kwargs: settings that replace the processor's own for this call.

        Raises:
            As `preprocess`, and ValueError for other bits than 8, or bits of a block that the key is not fitted for.
        """
        if any(map(is_encrypted_image, _as_list(images))):
            raise EncryptionStateError(
                "expected plain images, got an EncryptedImage: encrypting twice would ruin it; use it as it is"
            )
        key = as_encryption_key(secret_key)
        rounding = Rounding.of(key, bits=bits, bits_per_block=bits_per_block)
        batch = self._on_grid(images, None, kwargs)
        batch.centring.check_encryptable()
        cipher = cipher_for(key, patch_size=batch.grid.patch_size, num_channels=batch.num_channels)
        if cipher.acts_on_uint8:
            pixels = batch.map(cipher.encrypt)
        else:
            pixels = batch.map(lambda stack: cipher.encrypt(self._centred(stack, batch.centring)))
        encrypted = [
            EncryptedImage(
                **rounding.of_pixels(to_array(each), cipher.patch_size),
                family=cipher.family,
                fingerprint=key.fingerprint,
                patch_size=cipher.patch_size,
                original_size=size,
                valid_region=batch.grid.valid_region(size),
            )
            for each, size in zip(pixels, batch.original_sizes, strict=True)
        ]
        return encrypted[0] if is_single(images) else encrypted

    def encrypt_pixels(self, pixel_values: torch.Tensor, secret_key: EncryptionKey | bytes) -> torch.Tensor:
        """(..., channels, height, width) float in [-1, 1], as a call without a key gives them -> the same, encrypted.

        This is for pixels that are cut or mirrored after preprocessing, as windows are. `encrypt_pixels` of
        `processor(image)` is `processor(image, secret_key=key)`. It cannot see whether pixels are encrypted already.

        Args:
            pixel_values: on any device; height and width are multiples of `patch_size`.
            secret_key: its family chooses the cipher.

        Raises:
            InvalidImageError: a side is no multiple of the patch size, or the dtype or channels do not fit.
            InvalidKeyError: `secret_key` is no key.
            ValueError: this processor's pixels are not in [-1, 1].
        """
        Centring.of(vars(self)).check_encryptable()
        cipher = cipher_for(secret_key, patch_size=self.patch_size, num_channels=self.num_channels)
        return cipher.encrypt(pixel_values)

    def to_levels(self, image: PlainImage) -> torch.Tensor:
        """One image of any kind -> (channels, height, width) uint8, as a call takes it before it resizes.

        Floats stay floats where `do_rescale` is off.

        Raises:
            InvalidImageError: no image, several images, a damaged one, or channels or values that do not fit.
        """
        images = flat_images(image)
        if len(images) != 1:
            raise InvalidImageError(f"expected one image, got {len(images)}; take them one by one")
        convert, keep_floats = bool(self.do_convert_rgb), not self.do_rescale
        levels = image_to_levels(images[0], num_channels=self.num_channels, convert=convert, keep_floats=keep_floats)
        return _like(levels, images[0])

    def process_image(  # type: ignore[override]
        self,
        image: PlainImage,
        *,
        num_channels: int,
        do_convert_rgb: bool | None,
        do_rescale: bool | None,
        input_data_format: str | ChannelDimension | None,
        device: "str | torch.device | None",
        **unused: Any,
    ) -> torch.Tensor:
        """One image -> (num_channels, height, width) uint8."""
        levels = image_to_levels(
            image,
            num_channels=num_channels,
            convert=bool(do_convert_rgb),
            keep_floats=not do_rescale,
            channels=input_data_format,
        )
        tensor = _like(levels, image)
        return tensor if device is None else tensor.to(device)

    def _validate_preprocess_kwargs(self, **settings: Any) -> None:  # type: ignore[override]
        """Refuse settings that this processor does not have or that make no sense; called with every setting."""
        if settings["do_center_crop"] or settings["pad_size"]:
            raise ValueError(
                "this processor neither crops nor pads to a fixed size, got do_center_crop or pad_size; "
                "use size, or do_pad=True for whole patches"
            )
        PatchGrid.of(settings)
        check_channels(settings)
        # the library wants a size whenever it resizes; here the image's own size is one
        super()._validate_preprocess_kwargs(**{**settings, "do_resize": False})

    def _prepare_images_structure(self, images: Any, expected_ndims: int = 3) -> list[Any]:
        """Any nesting of images, paths and batches -> flat list of images."""
        flat = flat_images(images)
        if not flat:
            raise InvalidImageError("expected at least one image, got an empty list")
        return flat

    def _on_grid(self, images: Any, segmentation_maps: Any, settings: dict[str, Any]) -> ImagesOnGrid:
        """Plain images -> the batch on the grid. The library checks and completes the settings of the call."""
        check_settings(settings)
        settings = with_channels(settings)
        return cast(ImagesOnGrid, super().preprocess(images, segmentation_maps, **settings))

    def _preprocess_image_like_inputs(  # type: ignore[override] # a BatchFeature is made once all is encrypted
        self,
        images: Any,
        segmentation_maps: Any,
        *,
        pad_value: float | Sequence[float],
        resample: Any,
        do_reduce_labels: bool,
        ignore_index: int,
        disable_grouping: bool | None,
        return_tensors: Any,
        **settings: Any,
    ) -> ImagesOnGrid:
        """Images and their segmentation maps -> both on the patch grid; transformers calls it with every setting."""
        grid, centring = PatchGrid.of(settings), Centring.of(settings)
        plain = self._prepare_image_like_inputs(images, **settings)
        stacks, order = group_images_by_shape(plain, disable_grouping=disable_grouping)
        for shape, stack in stacks.items():
            fill = centring.before(pad_value, is_8_bits=stack.dtype == torch.uint8)
            stacks[shape] = self._fit(stack, grid, resample, fill)
        sizes = [(image.shape[-2], image.shape[-1]) for image in plain]
        labels = None
        if segmentation_maps is not None:
            maps = segmentation_maps_to_indices(
                segmentation_maps, sizes, reduce=bool(do_reduce_labels), ignore_index=ignore_index, images=images
            )
            nearest = tvF.InterpolationMode.NEAREST_EXACT
            fitted = [self._fit(indices[None], grid, nearest, fill=ignore_index)[0] for indices in maps]
            check_ignore_index(maps, fitted, ignore_index)
            labels = [indices.to(settings["device"] or "cpu") for indices in fitted]
        return ImagesOnGrid(stacks, order, sizes, labels, grid, centring, return_tensors)

    def _fit(self, stack: torch.Tensor, grid: PatchGrid, resample: Any, fill: Any) -> torch.Tensor:
        """(..., height, width) images or maps -> resized, then padded with `fill` where the grid says so."""
        height, width = region = grid.valid_region((stack.shape[-2], stack.shape[-1]))
        stack = self.resize(stack, SizeDict(height=height, width=width), resample=resample)
        padded = grid.padded(region)
        if padded == region:
            return stack
        return tvF.pad(stack, [0, 0, padded[1] - width, padded[0] - height], fill=fill)

    def _centred(self, stack: torch.Tensor, centring: Centring) -> torch.Tensor:
        """(..., channels, height, width) levels -> float, rescaled and normalised in the library's one fused step."""
        return self.rescale_and_normalize(stack, **centring.to_dict())

    def _from_ciphertexts(
        self, images: Sequence[EncryptedImage], return_tensors: Any = None, device: Any = None
    ) -> BatchFeature:
        """Encrypted images -> `pixel_values`; 8-bit pixels are centred, float ones are already."""
        tensors = [torch.from_numpy(image.pixels).to(device or "cpu") for image in images]
        centred = [self._centred(t, CENTRED) if t.dtype == torch.uint8 else t for t in tensors]
        return _batch_feature({"pixel_values": centred}, return_tensors, [image.facts for image in images])


def _batch_feature(
    data: dict[str, list[torch.Tensor]], return_tensors: Any, facts: Iterable[KeyFacts | None]
) -> BatchFeature:
    """Lists of tensors -> BatchFeature; one tensor each where `return_tensors` asks for that.

    Its attribute `key_facts`, a tuple, says what the pixels are encrypted with; as no entry of the batch it reaches no
    model.
    """
    sizes = sorted({tuple(pixels.shape[-2:]) for pixels in data["pixel_values"]})
    if return_tensors is not None and len(sizes) > 1:
        raise InvalidImageError(
            f"expected images of one size for one tensor, got {sizes[:4]} (height, width) after resizing; pass "
            "size={'height': ..., 'width': ...}, or process the images one by one"
        )
    batch = BatchFeature(data=data, tensor_type=return_tensors)
    vars(batch)["key_facts"] = tuple(dict.fromkeys(facts))
    return batch


def _like(levels: np.ndarray, image: Any) -> torch.Tensor:
    """Levels of an image -> a tensor, on the device of the image where that is a tensor."""
    tensor = torch.from_numpy(levels)
    return tensor.to(image.device) if isinstance(image, torch.Tensor) else tensor


def _as_list(images: Any) -> Any:
    return images if isinstance(images, list | tuple) else [images]
