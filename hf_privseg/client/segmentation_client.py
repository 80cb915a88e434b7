"""A client of the segmentation service: encrypts images on this machine, sends ciphertexts, returns segmentation maps.

    from hf_privseg import SecretKey
    from hf_privseg.client import SegmentationClient

    with SegmentationClient("https://OWNER-NAME.hf.space") as client:
        segmentation_map = client.segment("image.jpg", SecretKey.from_file("secret.key"))

What leaves the machine is the ciphertext's container file, under a random name. Neither the
key nor a plain pixel does. What the service can still tell from ciphertexts is said in SECURITY.md; that it returns
the segmentation map in the clear is a reason for https.

Before anything is sent, the client asks the service for the public facts of its model and refuses a key of another
family or fingerprint. The service also says how images are to be prepared, and that is not taken on trust: blocks
smaller than agreed on, or images greatly enlarged, would show what the method is there to hide.
"""

import io
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from ..setr.encrypted_image import EncryptedImage, is_encrypted_image
from ..setr.encryption_key import EncryptionKey, as_encryption_key
from ..setr.errors import (
    EncryptionStateError,
    InvalidImageError,
    PartialFailureError,
    ServiceError,
    ServiceUnavailableError,
)
from ..setr.image_inputs import is_single
from ..setr.image_processing_setr import SetrImageProcessor
from ..setr.patch_grid import PatchGrid
from ..setr.public_facts import KeyFacts, check_image_fits, check_key_fits, check_processor_fits
from ..storage.images import is_ciphertext
from .gradio_calls import Deadline, GradioCalls

API_VERSION = 1
MAX_ENLARGEMENT = 2  # of an image's sides, by settings that come from the service

_SETTINGS = (
    "patch_size", "num_channels", "do_resize", "size", "resize_factor", "resample", "do_pad", "pad_value",
    "do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std",
)  # fmt: skip
_MAX_LABELS = 256  # what an 8-bit map holds
_NAMED_FAILURES = 5


@dataclass(frozen=True)
class ServiceInfo:
    """The public facts of a service's model, as its endpoint /model_info tells them.

    Args:
        key_facts: about the key that the model is encrypted with.
        patch_size: side of a patch, and so of the cipher's blocks, in pixels.
        num_channels: of the images that it takes.
        labels: the name of each class.
        palette: (num_labels, 3) uint8, a colour for each class.
        max_pixels: how large an encrypted image may be.
        max_upload_bytes: how large its file may be.
        preprocessor: settings of the model's image processor.
    """

    key_facts: KeyFacts
    patch_size: int
    num_channels: int
    labels: tuple[str, ...]
    palette: np.ndarray
    max_pixels: int
    max_upload_bytes: int
    preprocessor: Mapping[str, Any]

    @classmethod
    def from_json(cls, answer: Any, url: str) -> "ServiceInfo":
        """The answer of /model_info, from anyone -> the facts, their types checked.

        Raises:
            EncryptionStateError: the service runs a plain model.
            ServiceError: another version of the interface, or facts that are missing or make no sense.
        """
        version = answer.get("version") if isinstance(answer, dict) else None
        if version != API_VERSION:
            raise ServiceError(
                f"expected version {API_VERSION} of the service's interface at {url}, got {version!r:.40}; "
                "update hf-privseg, or check the address"
            )
        if answer.get("encryption", "") is None:
            raise EncryptionStateError(
                f"the service at {url} runs a plain, public model, which is a demonstration for browsers and protects "
                "nothing; this client needs a service whose model is encrypted (privseg serve ENCRYPTED_MODEL)"
            )
        try:
            labels = tuple(str(answer["labels"][str(index)]) for index in range(len(answer["labels"])))
            facts = cls(
                key_facts=KeyFacts.from_dict(answer["encryption"]),
                patch_size=answer["patch_size"],
                num_channels=answer["num_channels"],
                labels=tuple("".join(c for c in name if c.isprintable())[:80] for name in labels),
                palette=np.array(answer["palette"], np.uint8).reshape(-1, 3)[: len(labels)],
                max_pixels=answer["max_pixels"],
                max_upload_bytes=answer["max_upload_bytes"],
                preprocessor={k: v for k, v in dict(answer["preprocessor"]).items() if k in _SETTINGS},
            )
        except (LookupError, TypeError, ValueError, OverflowError) as error:
            raise ServiceError(
                f"the service at {url} describes its model in an unknown form ({type(error).__name__}: {error!s:.200})"
                "; update hf-privseg, or check the address"
            ) from error
        whole = (facts.patch_size, facts.max_pixels, facts.max_upload_bytes, facts.num_channels)
        if any(type(number) is not int or number < 1 for number in whole) or not 0 < len(labels) <= _MAX_LABELS:
            raise ServiceError(f"the service at {url} describes its model with sizes {whole!r:.80} that make no sense")
        if len(facts.palette) != len(labels):
            raise ServiceError(
                f"expected {len(labels)} colours from {url}, as it has labels, got {len(facts.palette)}"
            )
        return facts


class SegmentationClient:
    """Encrypts images here and has them segmented by a service, which gets neither the key nor a plain pixel.

    Safe to use from several threads. Close it after use, or use it as a context manager.

    Args:
        url: the service's address.
        processor: the model's image processor, from its owner. Without it the service's settings are taken, within
            limits: `patch_size` is as given here, and images are enlarged to twice their sides at most.
        patch_size: of the model, where there is no `processor`.
        timeout: seconds for one image, with all waiting and all attempts.
        retries: how often an image is tried again while the service is busy, fails or cannot be reached.
        headers: sent with every request, for instance the Authorization of a private Space.

    Raises:
        ValueError: an address of another form, or numbers out of range.
    """

    def __init__(
        self,
        url: str,
        *,
        processor: SetrImageProcessor | None = None,
        patch_size: int = 16,
        timeout: float = 120.0,
        retries: int = 4,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._calls = GradioCalls(url, timeout=timeout, retries=retries, headers=headers)
        self._own_processor, self._patch_size = processor, patch_size

    @property
    def url(self) -> str:
        """The service's address."""
        return self._calls.url

    @cached_property
    def info(self) -> ServiceInfo:
        """The public facts of the service's model; asked for once.

        Raises:
            ServiceError, EncryptionStateError: as `ServiceInfo.from_json`, and where the service gives no answer.
        """
        answer = self._calls.persist(lambda deadline: self._calls.call("model_info", [], deadline))
        return ServiceInfo.from_json(answer, self.url)

    @cached_property
    def processor(self) -> SetrImageProcessor:
        """The image processor that prepares images: the owner's, or one with the service's settings.

        Raises:
            ServiceError: the service's settings are none, or ask for other blocks than agreed on.
        """
        if self._own_processor is not None:
            return self._own_processor
        settings = dict(self.info.preprocessor)
        if not self._patch_size == self.info.patch_size == settings.get("patch_size"):
            raise ServiceError(
                f"expected a model with patches of {self._patch_size} pixels at {self.url}, got "
                f"{self.info.patch_size}; smaller blocks show more of an image: if its owner confirms the size, pass "
                f"patch_size={self.info.patch_size}, or the owner's processor"
            )
        try:
            return SetrImageProcessor(**settings)
        except (TypeError, ValueError) as error:
            raise ServiceError(
                f"the service at {self.url} names settings for images that cannot be used ({error!s:.200}); pass the "
                "owner's processor"
            ) from error

    def encrypt(self, image: Any, secret_key: EncryptionKey | bytes) -> EncryptedImage:
        """One image, of any kind that `SetrImageProcessor` takes -> what `segment` sends; nothing is sent yet.

        Raises:
            KeyMismatchError: the service's model is encrypted with another key or family.
            InvalidKeyError, InvalidImageError: no key, or no image.
            ServiceError: the service gives no answer, or asks for settings that would show too much.
        """
        key = as_encryption_key(secret_key)
        check_key_fits(key.facts, self.info.key_facts, model=f"the model of {self.url}")
        check_processor_fits(self.processor, self.info, model=f"the model of {self.url}")
        levels = self.processor.to_levels(image)
        self._check_sizes((levels.shape[-2], levels.shape[-1]))
        (encrypted,) = self.processor.encrypt([levels], key, input_data_format="channels_first")
        return encrypted

    def segment(self, image: Any, secret_key: EncryptionKey | bytes | None = None) -> np.ndarray:
        """One image, encrypted image, or path of either -> (height, width) uint8 class indices, at the image's size.

        Args:
            image: a plain image is encrypted first; an encrypted one is sent as it is.
            secret_key: that of the service's model; only plain images need it.

        Raises:
            EncryptionStateError: a plain image without a key.
            KeyMismatchError: the service's model belongs to another key or family than the key or encrypted image.
            InvalidKeyError, InvalidImageError, CiphertextError: what was given cannot be used.
            ServiceUnavailableError: no result in time, after all attempts.
            RequestRefusedError: the service says why it refuses.
            ServiceError: it answers otherwise than it should.
        """
        encrypted = self._encrypted(image, secret_key)
        info, theirs = self.info, f"the model of {self.url}"
        check_image_fits(encrypted, info.key_facts, info.patch_size, info.num_channels, model=theirs)
        content = encrypted.to_bytes()
        if len(content) > self.info.max_upload_bytes:
            raise InvalidImageError(
                f"expected a ciphertext of at most {self.info.max_upload_bytes} bytes, which is what {self.url} takes"
                f", got {len(content)}; shrink the image before encryption"
            )
        height, width = encrypted.original_size

        def work(deadline: Deadline) -> bytes:
            file = self._calls.upload(encrypted.suffix, content, deadline)
            result = self._calls.call("segment", [file, ""], deadline)
            return self._calls.download(result, 2 * height * width + 2**16, deadline)

        return _segmentation_map(self._calls.persist(work), (height, width), len(self.info.labels), self.url)

    def segment_batch(
        self,
        images: Sequence[Any],
        secret_key: EncryptionKey | bytes | None = None,
        *,
        concurrency: int = 4,
        progress: bool = True,
    ) -> list[np.ndarray]:
        """Images as `segment` takes them -> their segmentation maps in the same order.

        An image that fails does not stop the others, except that nothing more is sent to a service that stays
        unavailable.

        Args:
            images: of any sizes.
            secret_key: as for `segment`.
            concurrency: how many images are under way at once, at least 1.
            progress: whether a progress bar is shown on stderr.

        Raises:
            PartialFailureError: names the images without a segmentation map; holds the maps of the others.
            KeyMismatchError, InvalidKeyError, ServiceError: as `segment`, where not a single image can succeed.
        """
        images = [images] if is_single(images) else list(images)
        if secret_key is not None:
            secret_key = as_encryption_key(secret_key)
            check_key_fits(secret_key.facts, self.info.key_facts, model=f"the model of {self.url}")
        segmentation_maps: list[np.ndarray | None] = [None] * len(images)
        failures: dict[int, Exception] = {}
        pool = ThreadPoolExecutor(concurrency)
        try:
            tasks = {pool.submit(self.segment, image, secret_key): index for index, image in enumerate(images)}
            for task in tqdm(as_completed(tasks), "Segmenting", len(tasks), unit="image", disable=not progress):
                try:
                    segmentation_maps[tasks[task]] = task.result()
                except CancelledError:
                    failures[tasks[task]] = ServiceUnavailableError(f"not sent, for {self.url} had become unavailable")
                except (ValueError, TypeError, OSError, RuntimeError) as error:
                    failures[tasks[task]] = error
                    if isinstance(error, ServiceUnavailableError):
                        for waiting in tasks:
                            waiting.cancel()
        finally:
            pool.shutdown(cancel_futures=True)
        if failures:
            raise PartialFailureError(_failures_text(images, failures), segmentation_maps, failures)
        return [segmentation_map for segmentation_map in segmentation_maps if segmentation_map is not None]

    def close(self) -> None:
        """Close the connections to the service."""
        self._calls.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"SegmentationClient({self.url!r})"

    def _encrypted(self, image: Any, secret_key: EncryptionKey | bytes | None) -> EncryptedImage:
        """A plain image, an encrypted image or the path of either -> encrypted image."""
        if isinstance(image, str | os.PathLike) and os.path.exists(image) and is_ciphertext(Path(image)):
            image = EncryptedImage.from_file(image)
        if is_encrypted_image(image):
            return image
        if secret_key is None:
            raise EncryptionStateError(
                f"got a plain image and no key for {self.url}, to which nothing plain is sent; give the key that its "
                "model is encrypted with"
            )
        return self.encrypt(image, secret_key)

    def _check_sizes(self, image_size: tuple[int, int]) -> None:
        """Refuse images that become larger than the service takes, or than its settings may make them."""
        grid = PatchGrid.of({name: getattr(self.processor, name) for name in _SETTINGS})
        region = grid.valid_region(image_size)
        limits = [MAX_ENLARGEMENT * side + grid.patch_size for side in image_size]
        if self._own_processor is None and any(side > limit for side, limit in zip(region, limits, strict=True)):
            raise ServiceError(
                f"the service at {self.url} wants an image of {image_size} pixels enlarged to {region}, more than "
                f"{MAX_ENLARGEMENT} times, which would show more of it; give a larger image, or pass the processor "
                "of the model's owner"
            )
        height, width = grid.padded(region)
        if height * width > self.info.max_pixels:
            raise InvalidImageError(
                f"expected an image of at most {self.info.max_pixels} pixels, which is what {self.url} takes, got "
                f"{height} x {width} after resizing; shrink the image first"
            )


def segment(
    url: str, image: Any, secret_key: EncryptionKey | bytes | None = None, *, timeout: float = 120.0, retries: int = 4
) -> np.ndarray:
    """One image, encrypted image, or path of either -> (height, width) uint8 class indices, at the image's size.

    For a single image; a `SegmentationClient` keeps the connection and what it knows of the model.

    Args:
        url: the service's address.
        image, secret_key: as for `SegmentationClient.segment`.
        timeout, retries: as for `SegmentationClient`.

    Raises:
        As `SegmentationClient` and its `segment`.
    """
    with SegmentationClient(url, timeout=timeout, retries=retries) as client:
        return client.segment(image, secret_key)


def _segmentation_map(content: bytes, size: tuple[int, int], num_labels: int, url: str) -> np.ndarray:
    """A PNG file from the service -> (height, width) uint8 of `size` with values below `num_labels`."""
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as picture:  # reads the size and decodes nothing yet
            found = f"{picture.height} x {picture.width} pixels of mode {picture.mode}"
            fits = (picture.height, picture.width) == size and picture.mode in ("L", "P")
            segmentation_map = np.array(picture) if fits else None
    except Exception as error:  # on damaged data Pillow raises OSError, SyntaxError, ValueError, zlib.error, ...
        raise ServiceError(f"{url} returned no PNG file ({error!s:.120}); the service is faulty") from error
    if segmentation_map is None or segmentation_map.max() >= num_labels:
        what = found if segmentation_map is None else f"the class {segmentation_map.max()}"
        raise ServiceError(
            f"expected a segmentation map of {size[0]} x {size[1]} pixels and {num_labels} classes from {url}, got "
            f"{what}; the service is faulty"
        )
    return segmentation_map


def _failures_text(images: Sequence[Any], failures: Mapping[int, Exception]) -> str:
    """What went wrong with which images, one line, the first few by name."""
    lines = []
    for index in sorted(failures)[:_NAMED_FAILURES]:
        image = images[index]
        name = f" ({os.fspath(image)})" if isinstance(image, os.PathLike) else ""
        lines.append(f"image {index}{name}: {failures[index]}")
    more = len(failures) - len(lines)
    lines += [f"and {more} more"] * (more > 0)
    return f"{len(failures)} of {len(images)} images have no segmentation map: " + "; ".join(lines)
