"""Calls of a Gradio app's named endpoints over HTTP: bounded in time and size, repeated where that may help.

Gradio documents three requests ("Querying Gradio Apps with Curl"): a file is posted to `upload`, a call to
`call/NAME`, and the result is read from `call/NAME/EVENT` as server-sent events. They are made here with the HTTP
library that huggingface_hub brings along. The package gradio_client was not taken, since what it sends is not all ours
to decide: by default it gives the app the access token that is stored on the machine, tells a third party the app's
address (which its argument `analytics_enabled` does not turn off in version 2.7), and sends each file's own name; it
also has no limit on what an app may answer, nor on how long its threads wait.

The app is not trusted: whatever it answers is bounded, nothing it names is followed to another host, and texts of its
own are stripped of control characters before they enter a message.
"""

import json
import random
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self, TypeVar
from urllib.parse import quote, urlsplit

try:
    import httpx2 as httpx  # what huggingface_hub 2 depends on
except ImportError:  # pragma: no cover
    import httpx  # type: ignore[no-redef]  # what huggingface_hub 1 depends on

from ..setr.errors import RequestRefusedError, ServiceError, ServiceUnavailableError

MAX_ANSWER_BYTES = 2**22  # of an answer in JSON or events

_PREFIX = "gradio_api"
_SILENCE_SECONDS = 40.0  # Gradio sends a heartbeat every 15 seconds
_CONNECT_SECONDS = 10.0
_BACKOFF_SECONDS = (0.5, 15.0)  # the first pause and the longest
_TEMPORARY = (408, 425, 429, 500, 502, 503, 504)
_Result = TypeVar("_Result")


class Deadline:
    """A point in time that a piece of work must not pass.

    Args:
        seconds: from now, positive.
        what: the address that is waited for, for the error.
    """

    def __init__(self, seconds: float, what: str) -> None:
        self._seconds, self._what = seconds, what
        self._end = time.monotonic() + seconds

    def remaining(self) -> float:
        """Seconds left, positive.

        Raises:
            ServiceUnavailableError: there are none.
        """
        left = self._end - time.monotonic()
        if left <= 0:
            raise ServiceUnavailableError(
                f"no result from {self._what} within {self._seconds:g} s; it is busy or stuck: try again later, or "
                "pass a larger timeout"
            )
        return left


class GradioCalls:
    """The named endpoints of one Gradio app. Safe to use from several threads; close it after use.

    Args:
        url: address of the app, http:// or https://.
        timeout: seconds for one piece of work, all its requests, pauses and attempts together.
        retries: how often a piece of work is tried again after a failure that may pass.
        headers: sent with every request, for instance the Authorization of a private Space.

    Raises:
        ValueError: an address of another form or with credentials in it, or numbers out of range.
    """

    def __init__(
        self, url: str, *, timeout: float = 120.0, retries: int = 4, headers: Mapping[str, str] | None = None
    ) -> None:
        self.url = _checked_address(url)
        if not 0 < timeout < float("inf") or retries < 0:
            raise ValueError(f"expected timeout > 0 and retries >= 0, got timeout={timeout!r} and retries={retries!r}")
        self._timeout, self._retries = timeout, retries
        own = {"User-Agent": "hf-privseg", "Accept-Encoding": "identity"}
        self._client = httpx.Client(headers={**own, **(headers or {})}, follow_redirects=False)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def persist(self, work: Callable[[Deadline], _Result]) -> _Result:
        """work(deadline), tried again after pauses that double, while it raises ServiceUnavailableError.

        Pauses are drawn at random from the upper half, so that clients who failed together do not return together.

        Raises:
            ServiceUnavailableError: the last attempt failed too, or there is no time for another one.
        """
        deadline, attempts = Deadline(self._timeout, self.url), 0
        pause, longest = _BACKOFF_SECONDS
        while True:
            attempts += 1
            try:
                return work(deadline)
            except ServiceUnavailableError as error:
                wait = max(pause * random.uniform(0.5, 1.0), error.retry_after)
                if attempts > self._retries or wait >= deadline.remaining():
                    raise ServiceUnavailableError(f"{error} (tried {attempts} times)") from error
            time.sleep(wait)
            pause = min(2 * pause, longest)

    def upload(self, suffix: str, content: bytes, deadline: Deadline) -> dict[str, Any]:
        """A file name's ending, such as ".png", and the content -> what stands for the file in arguments of `call`.

        The name itself is a random one: an app keeps equal files of one name as one, which others may have it delete,
        and names can tell what is in a file.

        Raises:
            ServiceError: as `call`.
        """
        name = f"{secrets.token_hex(16)}{suffix}"
        files = {"files": (name, content, "application/octet-stream")}
        answer = _parsed(self._exchange("POST", "upload", MAX_ANSWER_BYTES, deadline, files=files), self.url)
        if not isinstance(answer, list) or len(answer) != 1 or not isinstance(answer[0], str):
            raise ServiceError(f"{self.url} did not acknowledge an upload as a Gradio app does; check the address")
        return {"path": answer[0], "orig_name": name, "meta": {"_type": "gradio.FileData"}}

    def call(self, endpoint: str, arguments: list[Any], deadline: Deadline) -> Any:
        """Name of an endpoint with one output, and its arguments -> the output.

        Raises:
            ServiceUnavailableError: no connection, a busy service, or no answer in time.
            RequestRefusedError: the service says why it refuses.
            ServiceError: any other answer than the one that Gradio documents.
        """
        body = self._exchange("POST", f"call/{endpoint}", MAX_ANSWER_BYTES, deadline, json={"data": arguments})
        event = _parsed(body, self.url)
        event_id = event.get("event_id") if isinstance(event, dict) else None
        if not isinstance(event_id, str):
            raise ServiceError(f"{self.url} did not accept a call as a Gradio app does; check the address")
        chunks = self._chunks("GET", f"call/{endpoint}/{quote(event_id, safe='')}", MAX_ANSWER_BYTES, deadline)
        for kind, data in _events(chunks, self.url):
            if kind == "error":
                raise _failure(data, f"{self.url}, /{endpoint}")
            if kind == "complete":
                if not isinstance(data, list) or len(data) != 1:
                    raise ServiceError(f"expected one output of /{endpoint} at {self.url}, got {data!r:.80}")
                return data[0]
        raise ServiceUnavailableError(f"the connection to {self.url} ended before the result of /{endpoint}")

    def download(self, file: Any, max_bytes: int, deadline: Deadline) -> bytes:
        """What an endpoint returned for a file -> its content, from the app itself and no other host.

        Raises:
            ServiceError: no file, or one larger than `max_bytes`; and as `call`.
        """
        path = file.get("path") if isinstance(file, dict) else None
        if not isinstance(path, str):
            raise ServiceError(f"expected a file from {self.url}, got {type(file).__name__}")
        return self._exchange("GET", f"file={quote(path)}", max_bytes, deadline)

    def _exchange(self, method: str, path: str, max_bytes: int, deadline: Deadline, **content: Any) -> bytes:
        return b"".join(self._chunks(method, path, max_bytes, deadline, **content))

    def _chunks(self, method: str, path: str, max_bytes: int, deadline: Deadline, **content: Any) -> Iterator[bytes]:
        """The body of a successful answer as it comes, never more than `max_bytes` nor after the deadline."""
        left = deadline.remaining()
        timeout = httpx.Timeout(min(_SILENCE_SECONDS, left), connect=min(_CONNECT_SECONDS, left))
        address = f"{self.url}/{_PREFIX}/{path}"
        count = 0
        try:
            with self._client.stream(method, address, timeout=timeout, **content) as response:
                if not response.is_success:
                    raise _bad_status(response, self.url)
                for chunk in response.iter_raw():
                    count += len(chunk)
                    if count > max_bytes:
                        raise ServiceError(f"{self.url} answers with more than the {max_bytes} bytes expected of it")
                    deadline.remaining()
                    yield chunk
        except httpx.TransportError as error:
            deadline.remaining()
            reason = _printable(str(error)) or type(error).__name__
            raise ServiceUnavailableError(
                f"no answer from {self.url} ({reason}); check the address, and that the service runs"
            ) from error


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


def _bad_status(response: Any, url: str) -> ServiceError:
    """An answer without success -> the error to raise."""
    status = response.status_code
    if status in _TEMPORARY:
        reason = "is busy" if status in (429, 503) else "fails, or is none of hf-privseg"
        error = ServiceUnavailableError(f"the service at {url} {reason} (HTTP {status}); try again later")
        pause = response.headers.get("retry-after", "")
        error.retry_after = float(pause) if pause.isdecimal() else 0.0
        return error
    if status == 413:
        return RequestRefusedError(f"the upload is larger than {url} takes (HTTP 413); shrink the photo first")
    if response.is_redirect:
        target = _printable(response.headers.get("location", ""))
        return ServiceError(
            f"{url} redirects to {target!r}, which is not followed; if it is trusted, use that address"
        )
    if status in (401, 403):
        return ServiceError(f"{url} wants credentials (HTTP {status}); pass them as headers={{'Authorization': ...}}")
    return ServiceError(f"{url} is no segmentation service of hf-privseg (HTTP {status}); check the address")


def _failure(data: Any, what: str) -> ServiceError:
    """Data of an error event -> the error to raise."""
    if isinstance(data, str):  # Gradio's own: it stops, or has lost the event
        return ServiceUnavailableError(f"{what}: {_printable(data)}")
    reason = data.get("error") if isinstance(data, dict) else None
    if isinstance(reason, str) and reason:
        return RequestRefusedError(f"refused by {what}: {_printable(reason)}")
    return ServiceError(f"{what} failed without a reason; its operator finds it in the service's log")


def _events(chunks: Iterator[bytes], url: str) -> Iterator[tuple[str, Any]]:
    """The body of an event stream -> (event, data) pairs; blank lines separate them."""
    rest = b""
    for chunk in chunks:
        *complete, rest = (rest + chunk).replace(b"\r\n", b"\n").split(b"\n\n")
        for block in complete:
            fields = dict(line.partition(b": ")[::2] for line in block.split(b"\n"))
            yield fields.get(b"event", b"").decode("ascii", "replace"), _parsed(fields.get(b"data", b"null"), url)


def _parsed(content: bytes, url: str) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ServiceError(
            f"{url} answers with something other than JSON; check that it is a segmentation service of hf-privseg"
        ) from error


def _printable(text: str, limit: int = 500) -> str:
    """A text from elsewhere -> one line without control characters, `limit` characters at most."""
    return " ".join("".join(c if c.isprintable() else " " for c in text[:limit]).split())
