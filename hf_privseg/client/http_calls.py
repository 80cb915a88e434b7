"""Requests to a segmentation service: bounded in time and size, repeated where that may help.

The service is not trusted. Whatever it answers is bounded, redirections are not followed, and its own texts lose their
control characters before they enter a message. No token of the machine, cookie or file name is sent.
"""

import asyncio
import importlib.util
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urlsplit

try:
    import httpx2 as httpx  # what huggingface_hub 2 depends on
except ImportError:  # pragma: no cover
    import httpx  # type: ignore[no-redef]  # what huggingface_hub 1 depends on

from ..setr.bounded_json import parse_json
from ..setr.errors import RequestRefusedError, ServiceError, ServiceUnavailableError

MAX_ANSWER_BYTES = 2**22  # of an answer in JSON

_SILENCE_SECONDS = 60.0
_CONNECT_SECONDS = 10.0
_BACKOFF_SECONDS = (0.5, 15.0)  # the first pause and the longest
_TEMPORARY = (408, 425, 429, 500, 502, 503, 504)


class NotFoundError(RequestRefusedError):
    """The service does not know what was asked for."""


@dataclass(frozen=True)
class Call:
    """One request.

    Args:
        method: of HTTP.
        path: below the service's address.
        max_bytes: of the answer.
        accept: its media type.
        content: the body, which goes as application/octet-stream.
    """

    method: str
    path: str
    max_bytes: int = MAX_ANSWER_BYTES
    accept: str = "application/json"
    content: bytes | None = None

    def arguments(self, url: str, left: float) -> dict[str, Any]:
        """What httpx takes for it, with `left` seconds to go."""
        headers = {"Accept": self.accept}
        if self.content is not None:
            headers["Content-Type"] = "application/octet-stream"
        timeout = httpx.Timeout(min(_SILENCE_SECONDS, left), connect=min(_CONNECT_SECONDS, left))
        address = f"{url}/{self.path}"
        return {
            "method": self.method, "url": address, "headers": headers, "content": self.content, "timeout": timeout
        }  # fmt: skip


class Attempts:
    """The attempts at one call: when they end, and how long to wait between two of them.

    Pauses double, and are drawn at random from their upper half, so that clients who failed together do not return
    together. A longer pause that the service asks for is kept.

    Args:
        url: the service's address, for messages.
        timeout: seconds for all attempts and pauses together.
        retries: attempts after the first.
    """

    def __init__(self, url: str, timeout: float, retries: int) -> None:
        self._url, self._timeout, self._retries = url, timeout, retries
        self._end = time.monotonic() + timeout
        self._pause, self._longest = _BACKOFF_SECONDS
        self._made = 0

    def remaining(self) -> float:
        """Seconds left, positive.

        Raises:
            ServiceUnavailableError: there are none.
        """
        left = self._end - time.monotonic()
        if left <= 0:
            raise ServiceUnavailableError(
                f"no result from {self._url} within {self._timeout:g} s; it is busy or stuck: try again later, or "
                "pass a larger timeout"
            )
        return left

    def pause_after(self, error: ServiceUnavailableError) -> float:
        """Seconds to wait after a failure.

        Raises:
            ServiceUnavailableError: it was the last attempt, or there is no time for another one.
        """
        self._made += 1
        wait = max(self._pause * random.uniform(0.5, 1.0), error.retry_after)
        if self._made > self._retries or wait >= self.remaining():
            raise ServiceUnavailableError(f"{error} (tried {self._made} times)") from error
        self._pause = min(2 * self._pause, self._longest)
        return wait


class _Address:
    """The service's address with the settings of all calls to it."""

    def __init__(
        self, url: str, *, timeout: float = 120.0, retries: int = 4, headers: Mapping[str, str] | None = None
    ) -> None:
        self.url = _checked_address(url)
        if not 0 < timeout < float("inf") or retries < 0:
            raise ValueError(f"expected timeout > 0 and retries >= 0, got timeout={timeout!r} and retries={retries!r}")
        self._timeout, self._retries = timeout, retries
        own = {"User-Agent": "hf-privseg", "Accept-Encoding": "identity"}
        self._options: dict[str, Any] = {
            "headers": {**own, **(headers or {})},
            "follow_redirects": False,
            "http2": importlib.util.find_spec("h2") is not None,
        }

    def _attempts(self) -> Attempts:
        return Attempts(self.url, self._timeout, self._retries)

    def _unreachable(self, error: Exception) -> ServiceUnavailableError:
        reason = printable(str(error)) or type(error).__name__
        return ServiceUnavailableError(
            f"no answer from {self.url} ({reason}); check the address, and that the service runs"
        )

    def _too_long(self, call: Call) -> ServiceError:
        return ServiceError(f"{self.url} answers with more than the {call.max_bytes} bytes expected of it")


class HttpCalls(_Address):
    """Calls of one service. Safe to use from several threads; close it after use.

    Args:
        url: address of the service, http:// or https://.
        timeout: seconds for one call, all its attempts and pauses together.
        retries: how often a call is tried again after a failure that may pass.
        headers: sent with every request, for instance the Authorization of a private Space.

    Raises:
        ValueError: an address of another form or with credentials in it, or numbers out of range.
    """

    def __init__(
        self, url: str, *, timeout: float = 120.0, retries: int = 4, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(url, timeout=timeout, retries=retries, headers=headers)
        self._client = httpx.Client(**self._options)

    def send(self, call: Call) -> bytes:
        """The body of a successful answer.

        Raises:
            ServiceUnavailableError: no connection, a busy service, or no answer in time, at every attempt.
            RequestRefusedError: the service says why it refuses.
            ServiceError: any other answer than the one expected.
        """
        attempts = self._attempts()
        while True:
            try:
                return self._once(call, attempts)
            except ServiceUnavailableError as error:
                wait = attempts.pause_after(error)
            time.sleep(wait)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _once(self, call: Call, attempts: Attempts) -> bytes:
        chunks, count = [], 0
        try:
            with self._client.stream(**call.arguments(self.url, attempts.remaining())) as response:
                for chunk in response.iter_raw():
                    count += len(chunk)
                    if count > call.max_bytes:
                        raise self._too_long(call)
                    attempts.remaining()
                    chunks.append(chunk)
        except httpx.TransportError as error:
            attempts.remaining()
            raise self._unreachable(error) from error
        return _checked(response.status_code, response.headers, b"".join(chunks), self.url)


class AsyncHttpCalls(_Address):
    """Calls of one service from a program with an event loop; arguments and errors are those of `HttpCalls`."""

    def __init__(
        self, url: str, *, timeout: float = 120.0, retries: int = 4, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(url, timeout=timeout, retries=retries, headers=headers)
        self._client = httpx.AsyncClient(**self._options)

    async def send(self, call: Call) -> bytes:
        """As `HttpCalls.send`."""
        attempts = self._attempts()
        while True:
            try:
                return await self._once(call, attempts)
            except ServiceUnavailableError as error:
                wait = attempts.pause_after(error)
            await asyncio.sleep(wait)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _once(self, call: Call, attempts: Attempts) -> bytes:
        chunks, count = [], 0
        try:
            async with self._client.stream(**call.arguments(self.url, attempts.remaining())) as response:
                async for chunk in response.aiter_raw():
                    count += len(chunk)
                    if count > call.max_bytes:
                        raise self._too_long(call)
                    attempts.remaining()
                    chunks.append(chunk)
        except httpx.TransportError as error:
            attempts.remaining()
            raise self._unreachable(error) from error
        return _checked(response.status_code, response.headers, b"".join(chunks), self.url)


def parsed(content: bytes, url: str) -> Any:
    """JSON from a service -> its value.

    Raises:
        ServiceError: it is something else.
    """
    try:
        return parse_json(content, max_bytes=MAX_ANSWER_BYTES)
    except ValueError as error:
        raise ServiceError(
            f"{url} answers with something other than JSON; check that it is a segmentation service of hf-privseg"
        ) from error


def printable(text: str, limit: int = 500) -> str:
    """A text from elsewhere -> one line without control characters, `limit` characters at most."""
    return " ".join("".join(c if c.isprintable() else " " for c in text[:limit]).split())


def _checked_address(url: str) -> str:
    """An address -> the same without a slash at its end."""
    parts = urlsplit(url)
    is_address = parts.scheme in ("http", "https") and bool(parts.hostname)
    if not is_address or parts.query or parts.fragment or "@" in parts.netloc:
        came = f"a text of {len(url)} characters"  # which may be a key in the wrong place, or hold a password
        raise ValueError(
            "expected a service's address such as http://127.0.0.1:7860 or https://OWNER-NAME.hf.space, without "
            f"credentials, query or fragment, got {came if '@' in url or not is_address else repr(url)}"
        )
    return url.rstrip("/")


def _checked(status: int, headers: Mapping[str, str], content: bytes, url: str) -> bytes:
    """The content of an answer with success; what else there is, is raised."""
    if 200 <= status < 300:
        return content
    reason = _reason(content)
    if status in _TEMPORARY:
        what = f": {reason}" if reason else " is busy" if status in (429, 503) else " fails, or is none of hf-privseg"
        error = ServiceUnavailableError(f"the service at {url}{what} (HTTP {status}); try again later")
        pause = headers.get("retry-after", "")
        error.retry_after = float(pause) if pause.isdecimal() and len(pause) < 10 else 0.0
        raise error
    if 300 <= status < 400:
        target = printable(headers.get("location", ""))
        raise ServiceError(f"{url} redirects to {target!r}, which is not followed; if it is trusted, use that address")
    if reason is not None:
        kind = NotFoundError if status == 404 else RequestRefusedError
        raise kind(f"refused by {url} (HTTP {status}): {reason}")
    if status in (401, 403):
        raise ServiceError(f"{url} wants credentials (HTTP {status}); pass its access token, or other headers")
    if status == 413:
        raise RequestRefusedError(f"the upload is larger than {url} takes (HTTP 413); shrink the image first")
    raise ServiceError(f"{url} is no segmentation service of hf-privseg (HTTP {status}); check the address")


def _reason(content: bytes) -> str | None:
    """The message in a refusal of our own services; None where there is none."""
    try:
        message = parse_json(content, max_bytes=MAX_ANSWER_BYTES)["error"]["message"]
    except (ValueError, LookupError, TypeError):
        return None
    return printable(message) if isinstance(message, str) and message else None
