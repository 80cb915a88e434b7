"""What every request passes through: a request id, headers, one line in the log, metrics; and its body, bounded.

The log holds JSON lines with the request's id, route, status, times and sizes, and the fingerprint of the key. It
never holds content, tokens, keys, file names or the text of a path.
"""

import asyncio
import json
import logging
import secrets
import sys
import time

from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .metrics import Metrics
from .problems import Problem, failure, fault

log = logging.getLogger("hf_privseg.service")

_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    # The page may connect to its service alone; Gradio's frame needs inline scripts and eval.
    "Content-Security-Policy": (
        "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; connect-src 'self' data: blob:; "
        "worker-src 'self'; object-src 'none'; base-uri 'self'; form-action 'self'"
    ),
}


class JsonLines(logging.Formatter):
    """Log records as one JSON object a line: time, level, message, and the record's `facts`."""

    def format(self, record: logging.LogRecord) -> str:
        facts = getattr(record, "facts", {})
        when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {"time": f"{when}.{int(record.msecs):03}Z", "level": record.levelname.lower()}
        return json.dumps({**line, "message": record.getMessage(), **facts})


def log_to_stderr() -> None:
    """Write the service's log, and the web server's warnings, to standard error as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    for logger, level in ((log, logging.INFO), (logging.getLogger("uvicorn"), logging.WARNING)):
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)


class Accounting:
    """ASGI middleware: gives each request an id, adds headers, and logs and counts what became of it."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, request_id = time.monotonic(), secrets.token_hex(8)
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        found = {"status": 0, "received": 0, "sent": 0}

        async def counted_receive() -> Message:
            message = await receive()
            found["received"] += len(message.get("body", b""))
            return message

        async def counted_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                found["status"] = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = request_id
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            found["sent"] += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, counted_receive, counted_send)
        except Exception as error:  # not raised again: the server would log a traceback, which may hold content
            log.error("failure", extra={"facts": {"event": "failure", "request_id": request_id, **fault(error)}})
            if not found["status"]:
                await failure().response(Request(scope))(scope, counted_receive, counted_send)
        finally:
            self._record(scope, found, time.monotonic() - start)

    def _record(self, scope: Scope, found: dict[str, int], seconds: float) -> None:
        route = getattr(scope.get("route"), "path", None) or "page"
        status = found["status"] or 499  # the client went away before there was an answer
        self._metrics.requests.labels(route, status).inc()
        self._metrics.seconds.labels(route).observe(seconds)
        self._metrics.received_bytes.inc(found["received"])
        self._metrics.sent_bytes.inc(found["sent"])
        state = scope.get("state", {})
        facts = {"event": "request", "request_id": state.get("request_id"), "method": scope["method"]}
        facts |= {"route": route, "status": status, "seconds": round(seconds, 4)}
        facts |= {"received_bytes": found["received"], "sent_bytes": found["sent"]}
        facts |= {name: state[name] for name in ("token", "fingerprint", "size", "error_code") if name in state}
        log.log(logging.WARNING if status >= 500 else logging.INFO, "request", extra={"facts": facts})


class BodyReader:
    """Reads the bodies of requests, within a limit for each and one for all of them together.

    The web server throws away what still comes of a body after a refusal, so that proxies and clients who send first
    and read later see the refusal; connections.py ends that.

    Args:
        max_bytes: of all bodies in memory.
        seconds: in which a body has to arrive.
    """

    def __init__(self, max_bytes: int, seconds: float) -> None:
        self._max_bytes, self._seconds = max_bytes, seconds
        self._held = 0

    async def read(self, request: Request, max_bytes: int) -> bytes:
        """The whole body. Its bytes count until `release` is called with their number.

        Raises:
            Problem: it is larger than `max_bytes`, comes too slowly, or there is no room for it now.
        """
        declared = request.headers.get("content-length", "")
        if declared.isdecimal() and len(declared) < 20 and int(declared) > max_bytes:
            raise _too_large(max_bytes)
        body = bytearray()  # one block, however small the chunks
        try:
            async with asyncio.timeout(self._seconds):
                async for chunk in request.stream():
                    body += chunk
                    self._held += len(chunk)
                    if len(body) > max_bytes:
                        raise _too_large(max_bytes)
                    if self._held > self._max_bytes:
                        text = "the service has too many requests under way; try again later"
                        raise Problem(503, "busy", text, retry_after=1)
            return bytes(body)
        except ClientDisconnect:
            self.release(len(body))
            raise Problem(499, "gone", "the client closed the connection") from None
        except TimeoutError:
            self.release(len(body))
            raise Problem(
                408, "too_slow", f"expected the request's body within {self._seconds:g} s, got {len(body)} bytes of "
                "it; send it again over a faster connection", close=True,
            ) from None  # fmt: skip
        except BaseException:
            self.release(len(body))
            raise

    def release(self, count: int) -> None:
        """Give back the room of a body of so many bytes."""
        self._held -= count


async def until_disconnected(request: Request) -> None:
    """Returns when the client has gone away; the request's body has been read before."""
    while True:
        try:
            message = await request.receive()
        except ClientDisconnect:
            return
        if message["type"] == "http.disconnect":
            return


def _too_large(max_bytes: int) -> Problem:
    return Problem(
        413, "too_large", f"expected a body of at most {max_bytes} bytes, got a larger one; reduce the image before "
        "encryption",
    )  # fmt: skip
