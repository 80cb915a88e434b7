"""Refusals of the service, in one JSON form: {"error": {"status", "code", "message", "request_id"}}.

The message says what was expected, what came and what to do. Whatever goes wrong, an answer repeats no content of a
request, apart from the facts about keys, which are public.
"""

import math
import traceback
from collections.abc import Mapping

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from ..setr.errors import CiphertextError, KeyMismatchError
from .batching import QueueFullError
from .embedding_store import DamagedEmbeddingError, UnknownEmbeddingError

_CODES = {404: "not_found", 405: "method_not_allowed"}


class Problem(Exception):
    """A refusal.

    Args:
        status: of HTTP, 400 to 599.
        code: one word for programs.
        message: for people: what was expected, what came and what to do.
        retry_after: seconds after which the same request may succeed.
        close: whether the connection is closed.
        headers: of HTTP, further ones.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        retry_after: float = 0,
        close: bool = False,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message
        self.retry_after, self.close, self.headers = retry_after, close, headers or {}

    def response(self, request: Request) -> JSONResponse:
        """The answer to a request."""
        headers = {"Cache-Control": "no-store", **self.headers}
        if self.retry_after:
            headers["Retry-After"] = str(math.ceil(self.retry_after))
        if self.status == 401:
            headers["WWW-Authenticate"] = 'Bearer realm="hf-privseg"'
        if self.close:
            headers["Connection"] = "close"
        request.state.error_code = self.code
        error = {"status": self.status, "code": self.code, "message": self.message}
        error["request_id"] = getattr(request.state, "request_id", "")
        return JSONResponse({"error": error}, self.status, headers)


def problem_of(error: Exception) -> Problem:
    """An error of the engine -> the refusal. Anything else is raised again: it is a fault of ours."""
    if isinstance(error, QueueFullError):
        return Problem(503, "busy", str(error), retry_after=1)
    if isinstance(error, KeyMismatchError):
        return Problem(409, "key_mismatch", str(error))
    if isinstance(error, UnknownEmbeddingError):
        return Problem(409, "unknown_key", str(error))
    if isinstance(error, DamagedEmbeddingError):
        return Problem(409, "damaged_embedding", str(error))
    if isinstance(error, CiphertextError):
        return Problem(422, "bad_ciphertext", str(error))
    if isinstance(error, ValueError):
        return Problem(422, "bad_content", str(error))
    raise error


def add_problem_handlers(app: FastAPI) -> None:
    """Have an app answer in our form where its framework refuses a request."""

    @app.exception_handler(Problem)
    async def refused(request: Request, error: Problem) -> JSONResponse:
        return error.response(request)

    @app.exception_handler(HTTPException)
    async def by_framework(request: Request, error: HTTPException) -> JSONResponse:
        code = _CODES.get(error.status_code, "bad_request")
        message = f"{error.detail}; the routes are listed at /openapi.json"
        headers = {"Allow": _allowed_methods(request)} if error.status_code == 405 else None
        return Problem(error.status_code, code, message, headers=headers).response(request)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        # not the error's own text, which repeats what came
        places = sorted({".".join(map(str, item["loc"])) for item in error.errors()})
        expected = f"expected other values at {', '.join(places)[:200]}, as /openapi.json describes"
        return Problem(422, "bad_request", expected).response(request)


def _allowed_methods(request: Request) -> str:
    """The methods of a request's path, as described; the framework names those of one of its routes."""
    described = request.app.openapi()["paths"].get(getattr(request.scope.get("route"), "path", None), {})
    return ", ".join(sorted(map(str.upper, described)))


def fault(error: BaseException) -> dict[str, object]:
    """An unexpected error -> its type and where it came from; never its message, which may hold content."""
    frames = traceback.extract_tb(error.__traceback__)[-4:]
    return {"type": type(error).__name__, "at": [f"{frame.filename}:{frame.lineno}" for frame in frames]}


def failure() -> Problem:
    """The answer to a request that met a fault of ours."""
    return Problem(500, "failure", "the service failed; the operator's log has the reason, under this request_id")
