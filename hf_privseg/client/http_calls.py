"""Requests to a segmentation service: bounded in time and size, repeated where that may help.

The service is not trusted. Whatever it answers is bounded, redirections are not followed, and its own texts lose their
control characters before they enter a message. No token of the machine, cookie or file name is sent.
"""

import asyncio
import importlib.util
import os
import random
import re
import ssl
import threading
import time
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Self, TypedDict, TypeVar
from urllib.parse import urlsplit

try:
    import httpx2 as httpx  # what huggingface_hub 2 depends on
except ImportError:  # pragma: no cover
    import httpx  # type: ignore[no-redef]  # what huggingface_hub 1 depends on

from ..setr.bounded_json import parse_json
from ..setr.errors import RequestRefusedError, ServiceError, ServiceUnavailableError

__all__ = [
    "MAX_ANSWER_BYTES",
    "AsyncHttpCalls",
    "Attempts",
    "Call",
    "HttpCalls",
    "NotFoundError",
    "httpx",
    "parsed",
    "printable",
]

MAX_ANSWER_BYTES = 2**22  # of an answer in JSON

_SILENCE_SECONDS = 60.0
_CONNECT_SECONDS = 10.0
_BACKOFF_SECONDS = (0.5, 15.0)  # the first pause and the longest
_TEMPORARY = (408, 425, 429, 500, 502, 503, 504)
_Result = TypeVar("_Result")


class NotFoundError(RequestRefusedError):
    """The service does not know what was asked for."""


class CallArguments(TypedDict):
    """A request in the names of httpx."""

    method: str
    url: str
    headers: dict[str, str]
    content: bytes | None
    timeout: httpx.Timeout


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

    def arguments(self, url: str, left: float) -> CallArguments:
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
            raise self.too_late()
        return left

    def too_late(self) -> ServiceUnavailableError:
        """The error that says that the time is over."""
        return ServiceUnavailableError(
            f"no result from {self._url} within {self._timeout:g} s; it is busy or stuck: try again later, or "
            "pass a larger timeout"
        )

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


class AsyncHttpCalls:
    """Calls of one service from a program with an event loop; close it after use.

    Args:
        url: address of the service, http:// or https://.
        timeout: seconds for one call, all its attempts and pauses together.
        retries: how often a call is tried again after a failure that may pass.
        headers: sent with every request, for instance the Authorization of a private Space.
        ca_file: PEM file with the certificates that are trusted, in place of those that the machine trusts.

    Raises:
        ValueError: an address of another form or with credentials in it, a header that cannot be sent, numbers out of
            range, or a file without certificates.
        OSError: the file cannot be read.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float = 120.0,
        retries: int = 4,
        headers: Mapping[str, str] | None = None,
        ca_file: str | os.PathLike[str] | None = None,
    ) -> None:
        self.url = _checked_address(url)
        if not 0 < timeout < float("inf") or retries < 0:
            raise ValueError(f"expected timeout > 0 and retries >= 0, got timeout={timeout!r} and retries={retries!r}")
        self._timeout, self._retries = timeout, retries
        own = {"User-Agent": "hf-privseg", "Accept-Encoding": "identity"}
        self._client = httpx.AsyncClient(
            headers={**own, **_checked_headers(headers or {})},
            follow_redirects=False,
            http2=importlib.util.find_spec("h2") is not None,
            verify=True if ca_file is None else _trusting(ca_file),
        )

    async def send(self, call: Call) -> bytes:
        """The body of a successful answer.

        Raises:
            ServiceUnavailableError: no connection, a busy service, or no answer in time, at every attempt.
            RequestRefusedError: the service says why it refuses.
            ServiceError: any other answer than the one expected.
        """
        attempts = Attempts(self.url, self._timeout, self._retries)
        try:
            async with asyncio.timeout(self._timeout):  # whatever the service does, headers without end included
                while True:
                    try:
                        return await self._once(call, attempts)
                    except ServiceUnavailableError as error:
                        wait = attempts.pause_after(error)
                    await asyncio.sleep(wait)
        except TimeoutError:
            raise attempts.too_late() from None

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _once(self, call: Call, attempts: Attempts) -> bytes:
        content = bytearray()  # one block, however small the chunks
        try:
            async with self._client.stream(**call.arguments(self.url, attempts.remaining())) as response:
                async for chunk in response.aiter_raw():
                    content += chunk
                    if len(content) > call.max_bytes:
                        raise ServiceError(
                            f"{self.url} answers with more than the {call.max_bytes} bytes expected of it"
                        )
        except httpx.TransportError as error:
            untrusted = _untrusted_certificate(error)
            if untrusted is not None:  # trying again does not help
                raise ServiceError(
                    f"the certificate of {self.url} is not trusted ({printable(untrusted)}), and nothing was sent; if "
                    "the service has an authority of its own, give its certificate: --ca-file on the command line, "
                    "ca_file= in Python"
                ) from error
            attempts.remaining()
            reason = printable(str(error)) or type(error).__name__
            raise ServiceUnavailableError(
                f"no answer from {self.url} ({reason}); check the address, and that the service runs"
            ) from error
        return _checked(response.status_code, response.headers, bytes(content), self.url)


class HttpCalls:
    """`AsyncHttpCalls` for programs without an event loop: all of them share one, in a thread of its own.

    Only an event loop can leave a service in the middle of whatever it does. Safe to use from several threads.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float = 120.0,
        retries: int = 4,
        headers: Mapping[str, str] | None = None,
        ca_file: str | os.PathLike[str] | None = None,
    ) -> None:
        self._calls = AsyncHttpCalls(url, timeout=timeout, retries=retries, headers=headers, ca_file=ca_file)
        self.url = self._calls.url

    def send(self, call: Call) -> bytes:
        """As `AsyncHttpCalls.send`."""
        return _awaited(self._calls.send(call))

    def close(self) -> None:
        """Close the connections."""
        _awaited(self._calls.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _awaited(work: Coroutine[Any, Any, _Result]) -> _Result:
    """What a coroutine returns in the shared event loop; Ctrl+C ends it there too."""
    with _lock:
        future = asyncio.run_coroutine_threadsafe(work, _shared_loop())
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


@cache
def _shared_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="privseg-http", daemon=True).start()
    return loop


_lock = threading.Lock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_shared_loop.cache_clear)  # a child has none of the parent's threads


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


def _trusting(ca_file: str | os.PathLike[str]) -> ssl.SSLContext:
    """A file of certificates -> the context that trusts them alone."""
    try:
        return ssl.create_default_context(cafile=ca_file)
    except ssl.SSLError as error:
        raise ValueError(f"expected certificates in PEM form, got {os.fspath(ca_file)}, which holds none") from error


def _untrusted_certificate(error: BaseException | None) -> str | None:
    """Why a connection's certificate was refused, where that is what made it fail."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return error.verify_message
        error = error.__cause__ or error.__context__
    return None


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


def _checked_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Headers that can be sent; an error does not repeat their values, one of which may be a token."""
    for name, value in headers.items():
        if not re.fullmatch("[ -~]*", value):
            raise ValueError(
                f"expected printable ASCII characters in one line for the header {name}, got others; read_token reads "
                "a token from a file"
            )
    return dict(headers)


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
        raise ServiceError(
            f"{url} wants credentials (HTTP {status}); give its access token: --token-file or "
            "PRIVSEG_TOKEN on the command line, token= in Python"
        )
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
