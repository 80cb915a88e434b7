"""A client of the segmentation service: encrypts images on this machine, sends ciphertexts, returns segmentation maps.

    from hf_privseg import SecretKey
    from hf_privseg.client import SegmentationClient

    with SegmentationClient("https://OWNER-NAME.hf.space") as client:
        segmentation_map = client.segment("image.jpg", SecretKey.from_file("secret.key"))

What leaves the machine is the ciphertext's container file, one request an image. Neither the key nor a plain pixel
does. What the service can still tell from ciphertexts is said in SECURITY.md; that it returns the segmentation map in
the clear is a reason for https.

Before anything is sent, the client asks the service for the public facts of its model, and refuses a key that the
service does not serve.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from ..setr.counts import counted
from ..setr.encrypted_image import EncryptedImage
from ..setr.encryption_key import EncryptionKey, as_encryption_key
from ..setr.errors import PartialFailureError, ServiceError, ServiceUnavailableError
from ..setr.files import read_private_file
from ..setr.image_encrypter import AnyImage, ImageEncrypter
from ..setr.image_inputs import is_single
from ..setr.public_facts import KeyFacts, check_key_fits
from .http_calls import Call, HttpCalls, NotFoundError, parsed
from .preparation import Preparation
from .progress import shown
from .service_info import ServiceInfo

if TYPE_CHECKING:
    from ..setr.image_processing_setr import SetrImageProcessor

_NAMED_FAILURES = 5
_MAX_TOKEN_BYTES = 4096


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
        token: the service's access token, where it wants one; `read_token` reads one from a file.
        headers: sent with every request, for instance the Authorization of a private Space.
        ca_file: PEM file with the certificates that are trusted, in place of those that the machine trusts.

    Raises:
        ValueError: an address of another form, numbers out of range, or a file without certificates.
        OSError: the file of certificates cannot be read.
    """

    def __init__(
        self,
        url: str,
        *,
        processor: "SetrImageProcessor | ImageEncrypter | None" = None,
        patch_size: int = 16,
        timeout: float = 120.0,
        retries: int = 4,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
        ca_file: str | os.PathLike[str] | None = None,
    ) -> None:
        self._calls = HttpCalls(
            url, timeout=timeout, retries=retries, headers=with_token(headers, token), ca_file=ca_file
        )
        self._own_processor, self._patch_size = processor, patch_size
        self._served: set[KeyFacts] = set()  # keys of tenants, which the service has confirmed

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
        return ServiceInfo.from_json(parsed(self._calls.send(Call("GET", "v1/model")), self.url), self.url)

    @property
    def processor(self) -> "SetrImageProcessor | ImageEncrypter":
        """The image processor that prepares images: the owner's, or one with the service's settings.

        Raises:
            ServiceError: the service's settings are none, or ask for other blocks than agreed on.
        """
        return self._preparation.processor

    def check_key(self, secret_key: EncryptionKey | bytes) -> None:
        """Refuse a key that the service does not serve, neither its model's nor a tenant's.

        Raises:
            KeyMismatchError: the service does not serve it.
            ServiceError: the service gives no answer.
        """
        self._check_key(as_encryption_key(secret_key).facts)

    def encrypt(
        self,
        image: AnyImage,
        secret_key: EncryptionKey | bytes,
        *,
        bits: int | None = None,
        bits_per_block: float | None = None,
    ) -> EncryptedImage:
        """One image, of any kind that `SetrImageProcessor` takes -> what `segment` sends; nothing is sent yet.

        Args:
            image: a plain image.
            secret_key: that of the service's model, or of a tenant.
            bits: 8 sends 8 bits a number in place of 16, and gives exactness up for it; the families with 8-bit
                pixels do so exactly.
            bits_per_block: rounds what is sent to about so many bits a block, for which the key must be a client
                embedding with a transform code.

        Raises:
            ValueError: other bits than 8, or the key is not fitted for so many a block.
            KeyMismatchError: the service does not serve this key.
            InvalidKeyError, InvalidImageError: no key, or no image.
            ServiceError: the service gives no answer, or asks for settings that would show too much.
        """
        key = as_encryption_key(secret_key)
        self._check_key(key.facts)
        return self._preparation.encrypt(image, key, bits=bits, bits_per_block=bits_per_block)

    def segment(
        self,
        image: AnyImage,
        secret_key: EncryptionKey | bytes | None = None,
        *,
        bits: int | None = None,
        bits_per_block: float | None = None,
    ) -> np.ndarray:
        """One image, encrypted image, or path of either -> (height, width) uint8 class indices, at the image's size.

        Args:
            image: a plain image is encrypted first; an encrypted one is sent as it is.
            secret_key: that of the service's model, or of a tenant; only plain images need it.
            bits, bits_per_block: as for `encrypt`; an encrypted image is sent as it is.

        Raises:
            EncryptionStateError: a plain image without a key.
            KeyMismatchError: the service does not serve the key, or that of the encrypted image.
            InvalidKeyError, InvalidImageError, CiphertextError: what was given cannot be used.
            ServiceUnavailableError: no result in time, after all attempts.
            RequestRefusedError: the service says why it refuses.
            ServiceError: it answers otherwise than it should.
        """
        encrypted = self._preparation.opened(image)
        if encrypted is None:
            encrypted = self.encrypt(
                image, self._preparation.key(secret_key), bits=bits, bits_per_block=bits_per_block
            )
        else:
            self._check_key(encrypted.facts, subject="the encrypted image")
        content = self._calls.send(self._preparation.call(encrypted))
        return self._preparation.segmentation_map(content, encrypted)

    def segment_each(
        self,
        images: Sequence[AnyImage],
        secret_key: EncryptionKey | bytes | None = None,
        *,
        concurrency: int = 4,
        bits: int | None = None,
        bits_per_block: float | None = None,
    ) -> Iterator[tuple[int, np.ndarray | Exception]]:
        """Images as `segment` takes them -> (position, segmentation map or error), each as soon as it is there.

        An image that fails does not stop the others, except that nothing more is sent to a service that stays
        unavailable.

        Args:
            images: of any sizes.
            secret_key: as for `segment`.
            concurrency: how many images are under way at once, at least 1.
            bits, bits_per_block: as for `segment`.

        Raises:
            KeyMismatchError, InvalidKeyError, ServiceError: as `segment`, where not a single image can succeed.
        """
        if secret_key is not None:
            secret_key = as_encryption_key(secret_key)
            self._check_key(secret_key.facts)
        pool = ThreadPoolExecutor(concurrency)
        try:
            send = partial(self.segment, secret_key=secret_key, bits=bits, bits_per_block=bits_per_block)
            tasks = {pool.submit(send, image): index for index, image in enumerate(images)}
            for task in as_completed(tasks):
                index = tasks.pop(task)  # so that the task can be freed, and the map in it
                try:
                    yield index, task.result()
                except CancelledError:
                    yield index, ServiceUnavailableError(f"not sent, for {self.url} had become unavailable")
                except (ValueError, TypeError, OSError, RuntimeError) as error:
                    if isinstance(error, ServiceUnavailableError):
                        for waiting in tasks:
                            waiting.cancel()
                    yield index, error
        finally:
            pool.shutdown(cancel_futures=True)

    def segment_batch(
        self,
        images: Sequence[Any],
        secret_key: EncryptionKey | bytes | None = None,
        *,
        concurrency: int = 4,
        progress: bool = True,
        bits: int | None = None,
        bits_per_block: float | None = None,
    ) -> list[np.ndarray]:
        """Images as `segment` takes them -> their segmentation maps in the same order.

        Args:
            images, secret_key, concurrency, bits, bits_per_block: as for `segment_each`.
            progress: whether a progress bar is shown on stderr.

        Raises:
            PartialFailureError: names the images without a segmentation map; holds the maps of the others.
            KeyMismatchError, InvalidKeyError, ServiceError: as `segment_each`.
        """
        images = [images] if is_single(images) else list(images)
        each = self.segment_each(images, secret_key, concurrency=concurrency, bits=bits, bits_per_block=bits_per_block)
        return all_maps(images, dict(shown(each, len(images), wanted=progress)))

    def close(self) -> None:
        """Close the connections to the service."""
        self._calls.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"SegmentationClient({self.url!r})"

    @cached_property
    def _preparation(self) -> Preparation:
        return Preparation(self.info, self.url, own_processor=self._own_processor, patch_size=self._patch_size)

    def _check_key(self, facts: KeyFacts, subject: str | None = None) -> None:
        """Refuse a key that is neither the model's nor that of a tenant whom the service knows."""
        if is_model_key(facts, self.info) or facts in self._served:
            return
        try:
            answer = self._calls.send(tenant_call(facts))
        except NotFoundError:
            answer = None
        self._served.add(served_key(facts, answer, self.info, self.url, subject))


def segment(
    url: str,
    image: AnyImage,
    secret_key: EncryptionKey | bytes | None = None,
    *,
    timeout: float = 120.0,
    retries: int = 4,
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


def read_token(path: str | os.PathLike[str]) -> str:
    """The access token in a file; warns if other users of the machine can read it.

    Raises:
        OSError: the file cannot be read.
        ValueError: it holds no token; the message does not repeat what it holds.
    """
    token = read_private_file(path, _MAX_TOKEN_BYTES, noun="token file").strip()
    if not token or not all(33 <= byte <= 126 for byte in token):
        raise ValueError(f"expected a file with an access token in one line, got {Path(path)}, which holds none")
    return token.decode("ascii")


def with_token(headers: Mapping[str, str] | None, token: str | None) -> dict[str, str]:
    """The headers of every request, with an access token if there is one."""
    return {**({} if token is None else {"Authorization": f"Bearer {token}"}), **(headers or {})}


def is_model_key(facts: KeyFacts, info: ServiceInfo) -> bool:
    """Whether these are the facts about the key that the service's model is encrypted with."""
    return facts.to_dict() == info.key_facts.to_dict()


def tenant_call(facts: KeyFacts) -> Call:
    """The request whether a service serves a key other than its model's."""
    return Call("GET", f"v1/embeddings/{facts.fingerprint}")


def served_key(
    facts: KeyFacts, answer: bytes | None, info: ServiceInfo, url: str, subject: str | None = None
) -> KeyFacts:
    """The answer to `tenant_call`, None where the service knows no such tenant -> the facts, if they agree.

    Raises:
        KeyMismatchError: the service does not serve the key.
        ServiceError: the answer is another than expected.
    """
    if answer is None:
        check_key_fits(facts, info.key_facts, subject=subject, model=f"the model of {url}")
    else:
        found = parsed(answer, url)
        try:
            theirs = KeyFacts.from_dict({name: found[name] for name in facts.to_dict()})
        except (ValueError, LookupError, TypeError) as error:
            raise ServiceError(
                f"{url} describes a patch embedding in an unknown form; update hf-privseg, or check the address"
            ) from error
        check_key_fits(facts, theirs, subject=subject, model=f"the patch embedding that is registered at {url}")
    return facts


def all_maps(images: Sequence[AnyImage], results: Mapping[int, np.ndarray | Exception]) -> list[np.ndarray]:
    """The segmentation maps of images, by position.

    Raises:
        PartialFailureError: some have an error in their place.
    """
    found = [results[index] for index in range(len(images))]
    failures = {index: result for index, result in enumerate(found) if isinstance(result, Exception)}
    if failures:
        maps = [None if isinstance(result, Exception) else result for result in found]
        raise PartialFailureError(_failures_text(images, failures), maps, failures)
    return [result for result in found if not isinstance(result, Exception)]


def _failures_text(images: Sequence[AnyImage], failures: Mapping[int, Exception]) -> str:
    """What went wrong with which images, one line, the first few by name."""
    lines = []
    for index in sorted(failures)[:_NAMED_FAILURES]:
        image = images[index]
        name = f" ({os.fspath(image)})" if isinstance(image, os.PathLike) else ""
        lines.append(f"image {index}{name}: {failures[index]}")
    more = len(failures) - len(lines)
    lines += [f"and {more} more"] * (more > 0)
    return f"no segmentation map for {len(failures)} of {counted(len(images), 'image')}: " + "; ".join(lines)
