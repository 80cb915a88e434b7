"""The client for programs with an event loop: `await client.segment(image, key)`."""

import asyncio
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from ..setr.encrypted_image import EncryptedImage
from ..setr.encryption_key import EncryptionKey, as_encryption_key
from ..setr.errors import ServiceUnavailableError
from ..setr.image_encrypter import AnyImage, ImageEncrypter
from ..setr.image_inputs import is_single
from ..setr.public_facts import KeyFacts
from .http_calls import AsyncHttpCalls, Call, NotFoundError, parsed
from .preparation import Preparation
from .progress import shown
from .segmentation_client import all_maps, is_model_key, served_key, tenant_call, with_token
from .service_info import ServiceInfo

if TYPE_CHECKING:
    from ..setr.image_processing_setr import SetrImageProcessor


class AsyncSegmentationClient:
    """`SegmentationClient` with methods to await; images are encrypted, and answers decoded, in threads.

    Close it after use, or use it as an asynchronous context manager. Arguments and errors are those of
    `SegmentationClient`.
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
        self._calls = AsyncHttpCalls(
            url, timeout=timeout, retries=retries, headers=with_token(headers, token), ca_file=ca_file
        )
        self._own_processor, self._patch_size = processor, patch_size
        self._lock = asyncio.Lock()
        self._info: ServiceInfo | None = None
        self._prepared: Preparation | None = None
        self._served: set[KeyFacts] = set()

    @property
    def url(self) -> str:
        """The service's address."""
        return self._calls.url

    async def info(self) -> ServiceInfo:
        """The public facts of the service's model; asked for once."""
        async with self._lock:
            if self._info is None:
                answer = await self._calls.send(Call("GET", "v1/model"))
                self._info = ServiceInfo.from_json(parsed(answer, self.url), self.url)
            return self._info

    async def encrypt(
        self,
        image: AnyImage,
        secret_key: EncryptionKey | bytes,
        *,
        bits: int | None = None,
        bits_per_block: float | None = None,
    ) -> EncryptedImage:
        """As `SegmentationClient.encrypt`."""
        key, preparation = as_encryption_key(secret_key), await self._preparation()
        await self._check_key(key.facts)
        return await asyncio.to_thread(preparation.encrypt, image, key, bits=bits, bits_per_block=bits_per_block)

    async def segment(
        self,
        image: AnyImage,
        secret_key: EncryptionKey | bytes | None = None,
        *,
        bits: int | None = None,
        bits_per_block: float | None = None,
    ) -> np.ndarray:
        """As `SegmentationClient.segment`. Cancelling it closes the connection, and the service drops the image."""
        preparation = await self._preparation()
        encrypted = await asyncio.to_thread(preparation.opened, image)
        if encrypted is None:
            encrypted = await self.encrypt(
                image, preparation.key(secret_key), bits=bits, bits_per_block=bits_per_block
            )
        else:
            await self._check_key(encrypted.facts, subject="the encrypted image")
        content = await self._calls.send(await asyncio.to_thread(preparation.call, encrypted))
        return await asyncio.to_thread(preparation.segmentation_map, content, encrypted)

    async def segment_batch(
        self,
        images: Sequence[Any],
        secret_key: EncryptionKey | bytes | None = None,
        *,
        concurrency: int = 4,
        progress: bool = True,
        bits: int | None = None,
        bits_per_block: float | None = None,
    ) -> list[np.ndarray]:
        """As `SegmentationClient.segment_batch`."""
        images = [images] if is_single(images) else list(images)
        if secret_key is not None:
            secret_key = as_encryption_key(secret_key)
            await self._check_key(secret_key.facts)
        places, is_gone = asyncio.Semaphore(concurrency), asyncio.Event()

        async def one(index: int) -> tuple[int, np.ndarray | Exception]:
            async with places:
                if is_gone.is_set():
                    return index, ServiceUnavailableError(f"not sent, for {self.url} had become unavailable")
                try:
                    return index, await self.segment(
                        images[index], secret_key, bits=bits, bits_per_block=bits_per_block
                    )
                except (ValueError, TypeError, OSError, RuntimeError) as error:
                    if isinstance(error, ServiceUnavailableError):
                        is_gone.set()
                    return index, error

        results: dict[int, np.ndarray | Exception] = {}
        async with asyncio.TaskGroup() as group:  # starts them in order, and cancels them with the call
            tasks = asyncio.as_completed([group.create_task(one(index)) for index in range(len(images))])
            for task in shown(tasks, len(images), wanted=progress):
                index, result = await task
                results[index] = result
        return all_maps(images, results)

    async def close(self) -> None:
        """Close the connections to the service."""
        await self._calls.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"AsyncSegmentationClient({self.url!r})"

    async def _preparation(self) -> Preparation:
        if self._prepared is None:
            self._prepared = Preparation(
                await self.info(), self.url, own_processor=self._own_processor, patch_size=self._patch_size
            )
        return self._prepared

    async def _check_key(self, facts: KeyFacts, subject: str | None = None) -> None:
        info = await self.info()
        if is_model_key(facts, info) or facts in self._served:
            return
        try:
            answer = await self._calls.send(tenant_call(facts))
        except NotFoundError:
            answer = None
        self._served.add(served_key(facts, answer, info, self.url, subject))
