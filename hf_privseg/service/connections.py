"""Connections that end where nothing is asked on them: uvicorn waits for a request, or its rest, without end."""

import asyncio
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

_IDLE_SECONDS = 60.0


class Connection(AutoHTTPProtocol):  # type: ignore[misc, valid-type]  # one of two classes, by what is installed
    """A connection that is closed once no request has begun on it for a while, or no answer been fetched.

    Without it, some hundred clients that connect and send a byte now and then would keep all others out. What a
    request under way may take is bounded elsewhere.
    """

    idle_seconds = _IDLE_SECONDS

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._idle_since: Any = self.cycle  # the last request; None before the first
        self._watch = self.loop.call_later(self.idle_seconds, self._close_if_idle)

    def connection_lost(self, exc: Exception | None) -> None:
        self._watch.cancel()
        super().connection_lost(exc)

    def _close_if_idle(self) -> None:
        """Close if the last request was answered before the last look, and none has come since."""
        is_idle = self.cycle is None or self.cycle.response_complete
        if is_idle and self.cycle is self._idle_since:
            self.transport.abort()
            return
        self._idle_since = self.cycle if is_idle else self
        self._watch = self.loop.call_later(self.idle_seconds, self._close_if_idle)
