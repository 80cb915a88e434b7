"""The HTTP interface of a service: an ASGI application with versioned routes.

    POST /v1/segment                      a ciphertext container -> its segmentation map (PNG, npy or class shares)
    GET  /v1/model                        the public facts of the model
    GET  /v1/model/embedding              the plain patch embedding of a public model
    PUT, GET, DELETE /v1/embeddings/F     the encrypted patch embedding under the key of fingerprint F
    GET  /healthz  /readyz  /metrics      for those who operate it
    GET  /openapi.json                    the description of all of it

Bodies are bounded while they are read and parsed in memory; nothing that comes with a request is written to disk,
apart from registered embeddings. Refusals have one JSON form (problems.py).
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Annotated, Any, TypeVar

import numpy as np
from fastapi import APIRouter, Depends, FastAPI, Path, Request, Response

from ..setr.encrypted_image import EncryptedImage
from .access import Access, ForbiddenError, Grant, RateLimitError, UnknownTokenError
from .answers import JSON, NPY, PNG, accepted, encoded
from .batching import MicroBatcher
from .embedding_store import UnknownEmbeddingError
from .engine import SegmentationService
from .metrics import Metrics
from .problems import Problem, add_problem_handlers, fault, problem_of
from .requests import Accounting, BodyReader, log, until_disconnected

SAFETENSORS = "application/vnd.safetensors"
_CONTAINER_TYPES = ("application/octet-stream", PNG, SAFETENSORS)
_HOUSEKEEPING_SECONDS = 30.0
_MAX_BETWEEN = 4  # requests that run between batches, or wait for it
_THREADS = 4  # that decode requests and encode answers, beside the one that runs the model
_Result = TypeVar("_Result")
Fingerprint = Annotated[str, Path(pattern="^[0-9a-f]{16}$", description="Of the key, 16 hexadecimal characters.")]


class Backend:
    """What the routes share: the engine behind its queue, access, metrics and bounded bodies.

    Args:
        service: segments.
        access: who may use it.
    """

    def __init__(self, service: SegmentationService, access: Access) -> None:
        limits = service.limits
        self.service, self.access, self.metrics = service, access, Metrics()
        self.bodies = BodyReader(limits.max_body_bytes, limits.body_seconds)
        self.batcher: MicroBatcher[EncryptedImage, np.ndarray] = MicroBatcher(
            service.segment_batch,
            max_batch=limits.max_batch,
            max_wait_seconds=limits.max_wait_ms / 1000,
            max_queue=limits.max_queue,
            on_batch=self.metrics.batch_size.observe,
            on_depth=self.metrics.queue_depth.set,
        )
        self.is_ready, self._num_between = False, 0
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="privseg-codec")

    @asynccontextmanager
    async def running(self, app: FastAPI) -> AsyncIterator[None]:
        """The time in which the app serves."""
        self.batcher.start()
        housekeeping = asyncio.create_task(self._housekeeping())
        self.is_ready = True
        try:
            yield
        finally:
            self.is_ready = False
            housekeeping.cancel()
            await self.batcher.close()
            self._threads.shutdown(wait=False)

    async def in_thread(self, work: Callable[..., _Result], *arguments: Any) -> _Result:
        """work(*arguments) outside the event loop; the engine's refusals become those of HTTP."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)
        except Exception as error:
            raise problem_of(error) from None

    async def segmented(self, request: Request, image: EncryptedImage, grant: Grant) -> np.ndarray:
        """The segmentation map of an image, unless its client goes away first."""
        tenant = image.fingerprint if grant.fingerprints is None else grant.name
        size = (*image.pixels.shape, image.pixels.dtype)
        work = asyncio.ensure_future(self.batcher.submit(image, tenant=tenant, size=size))
        gone = asyncio.ensure_future(until_disconnected(request))
        try:
            await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise Problem(499, "gone", "the client closed the connection")
            return work.result()
        except Problem:
            raise
        except Exception as error:
            raise problem_of(error) from None
        finally:
            for task in (work, gone):
                task.cancel()
            await asyncio.wait((work, gone))

    async def between_batches(self, work: Callable[..., _Result], *arguments: Any) -> _Result:
        """work(*arguments) in the thread of the model; the engine's refusals become those of HTTP.

        Raises:
            Problem: so many wait for this already, which takes longer than a batch, that segmentation would suffer.
        """
        if self._num_between >= _MAX_BETWEEN:
            raise Problem(503, "busy", "too many requests wait already; try again later", retry_after=5)
        self._num_between += 1
        try:
            return await self.batcher.run_between(lambda: work(*arguments))
        except Exception as error:
            raise problem_of(error) from None
        finally:
            self._num_between -= 1

    async def _housekeeping(self) -> None:
        while True:
            await asyncio.sleep(_HOUSEKEEPING_SECONDS)
            len(self.service.store)  # which forgets embeddings whose time is over


def _backend(request: Request) -> Backend:
    backend: Backend = request.app.state.backend
    return backend


def grant_of(request: Request, backend: Annotated[Backend, Depends(_backend)]) -> Grant:
    """Who asks, from the request's token.

    Raises:
        Problem: no token, or an unknown one, where one is needed.
    """
    try:
        grant = backend.access.identify(request.headers.get("authorization"))
    except UnknownTokenError as error:
        raise Problem(401, "unauthorized", str(error)) from None
    except (OSError, ValueError) as error:
        log.error("tokens", extra={"facts": {"event": "tokens", **fault(error)}})
        text = "the service cannot read its file of access tokens; tell its operator"
        raise Problem(503, "no_tokens", text, retry_after=10) from None
    if backend.access.needs_token:
        request.state.token = grant.name
    return grant


UsedBackend = Annotated[Backend, Depends(_backend)]
UsedGrant = Annotated[Grant, Depends(grant_of)]


@asynccontextmanager
async def _admitted(backend: Backend, grant: Grant) -> AsyncIterator[None]:
    try:
        with backend.access.admitted(grant):
            yield
    except RateLimitError as error:
        raise Problem(429, "rate_limit", str(error), retry_after=error.retry_after) from None


@asynccontextmanager
async def _body(request: Request, backend: Backend, max_bytes: int) -> AsyncIterator[bytes]:
    """The request's body, whose room is given back at the end."""
    kind = request.headers.get("content-type", _CONTAINER_TYPES[0]).partition(";")[0].strip().lower()
    if kind not in _CONTAINER_TYPES:
        raise Problem(
            415, "unsupported_type", f"expected a body of type {', '.join(_CONTAINER_TYPES)}, which is the file as it "
            "is, got another Content-Type",
        )  # fmt: skip
    body = await backend.bodies.read(request, max_bytes)
    try:
        yield body
    finally:
        backend.bodies.release(len(body))


def _check_key(request: Request, grant: Grant, fingerprint: str, *, registers: bool = False) -> None:
    request.state.fingerprint = fingerprint
    try:
        grant.check_key(fingerprint, registers=registers)
    except ForbiddenError as error:
        raise Problem(403, "forbidden", str(error)) from None


@asynccontextmanager
async def read_image(request: Request, backend: Backend, grant: Grant) -> AsyncIterator[EncryptedImage]:
    """The encrypted image in a request's body, once token, limits and key allow it."""
    async with _admitted(backend, grant), _body(request, backend, backend.service.limits.max_upload_bytes) as body:
        image = await backend.in_thread(backend.service.opened, body)
        _check_key(request, grant, image.fingerprint)
        request.state.size = list(image.pixels.shape[-2:])
        await backend.in_thread(backend.service.embedding_for, image)
        yield image


def _error(description: str) -> dict[str, object]:
    error = {"status": 422, "code": "bad_ciphertext", "message": "expected ..., got ...; do ...", "request_id": "..."}
    return {"description": description, "content": {JSON: {"example": {"error": error}}}}


_REFUSALS: dict[int | str, dict[str, Any]] = {
    401: _error("No access token, or an unknown one."),
    403: _error("The access token is not for this key, or not for registering."),
    408: _error("The body came too slowly."),
    413: _error("The body is too large."),
    415: _error("The body is of another type."),
    422: _error("The content cannot be used: damaged, too large, or something else."),
    429: _error("The limit of the access token is reached; Retry-After says when to come again."),
    503: _error("Too many requests are under way; Retry-After says when to come again."),
}


def _some(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: _REFUSALS[status] for status in statuses}


def _file_body(description: str) -> dict[str, object]:
    content = {kind: {"schema": {"type": "string", "format": "binary"}} for kind in _CONTAINER_TYPES}
    return {"requestBody": {"required": True, "description": description, "content": content}}


v1 = APIRouter(prefix="/v1", responses=_some(401, 429))


@v1.post(
    "/segment",
    response_class=Response,
    responses={
        **_some(403, 408, 413, 415, 422, 503),
        200: {
            "description": "The segmentation map; its values are class indices.",
            "content": {
                PNG: {"schema": {"type": "string", "format": "binary"}},
                NPY: {"schema": {"type": "string", "format": "binary"}},
                JSON: {"example": {"height": 1, "width": 4, "shares": [{"index": 2, "label": "road", "share": 1.0}]}},
            },
        },
        406: _error("The client accepts none of the answers' types."),
        409: _error("No patch embedding is here for the image's key."),
    },
    openapi_extra=_file_body("An encrypted image, as `EncryptedImage.to_bytes` or `privseg encrypt` writes it."),
)
async def segment(request: Request, backend: UsedBackend, grant: UsedGrant) -> Response:
    """Segment one encrypted image."""
    media_type = accepted(request.headers.get("accept"))
    async with read_image(request, backend, grant) as image:
        found = await backend.segmented(request, image, grant)
        content = await backend.in_thread(encoded, found, media_type, backend.service)
    return Response(content, media_type=media_type, headers={"Cache-Control": "no-store"})


@v1.get("/model")
async def model(backend: UsedBackend, grant: UsedGrant) -> dict[str, object]:
    """The public facts of the model: what a client has to know to prepare an image."""
    async with _admitted(backend, grant):
        return backend.service.model_info()


@v1.get("/model/embedding", response_class=Response, responses={404: _error("The model is encrypted.")})
async def public_embedding(backend: UsedBackend, grant: UsedGrant) -> Response:
    """The plain patch embedding of a public model, as safetensors."""
    async with _admitted(backend, grant):
        try:
            content = backend.service.public_embedding()
        except LookupError as error:
            raise Problem(404, "not_public", str(error)) from None
    return Response(content, media_type=SAFETENSORS)


@v1.put(
    "/embeddings/{fingerprint}",
    responses={**_some(403, 408, 413, 415, 422, 503), 201: {"description": "New."}},
    openapi_extra=_file_body("A patch embedding that is encrypted with the key, as safetensors."),
)
async def register(
    fingerprint: Fingerprint, request: Request, response: Response, backend: UsedBackend, grant: UsedGrant
) -> dict[str, object]:
    """Register a tenant's encrypted patch embedding, or replace it. It counts from the next request on."""
    async with _admitted(backend, grant):
        _check_key(request, grant, fingerprint, registers=True)
        async with _body(request, backend, backend.service.limits.max_embedding_bytes) as body:
            response.status_code = 201 if await backend.in_thread(backend.service.register, fingerprint, body) else 200
    return {"fingerprint": fingerprint, "registered": True}


@v1.get("/embeddings/{fingerprint}", responses={**_some(403, 422), 404: _error("None is registered.")})
async def embedding(
    fingerprint: Fingerprint, request: Request, backend: UsedBackend, grant: UsedGrant
) -> dict[str, object]:
    """The public facts of a registered patch embedding."""
    async with _admitted(backend, grant):
        _check_key(request, grant, fingerprint)
        try:
            found = await asyncio.to_thread(backend.service.store.get, fingerprint)
        except UnknownEmbeddingError:
            raise _not_registered(fingerprint) from None
        except RuntimeError as error:
            raise problem_of(error) from None
    return {**found.facts.to_dict(), "shape": list(found.weight.shape)}


@v1.delete(
    "/embeddings/{fingerprint}", status_code=204, response_class=Response,
    responses={**_some(403, 422), 404: _error("None is registered.")},
)  # fmt: skip
async def revoke(fingerprint: Fingerprint, request: Request, backend: UsedBackend, grant: UsedGrant) -> Response:
    """Revoke a tenant's patch embedding: the next image of its key is refused."""
    async with _admitted(backend, grant):
        _check_key(request, grant, fingerprint, registers=True)
        if not await asyncio.to_thread(backend.service.store.remove, fingerprint):
            raise _not_registered(fingerprint)
    return Response(status_code=204)


def _not_registered(fingerprint: str) -> Problem:
    return Problem(404, "unknown_key", f"no patch embedding is registered for the key {fingerprint}")


operation = APIRouter(tags=["operation"])


@operation.get("/healthz")
async def health() -> dict[str, str]:
    """Whether the process lives."""
    return {"status": "ok"}


@operation.get("/readyz", responses={503: _error("The model is not loaded yet, or the service is ending.")})
async def readiness(backend: UsedBackend) -> dict[str, object]:
    """Whether requests are served."""
    if not backend.is_ready:
        raise Problem(503, "not_ready", "the service is starting or ending; try again later", retry_after=2)
    return {"status": "ready", "queue_depth": backend.batcher.depth}


@operation.get("/metrics", response_class=Response)
async def metrics(backend: UsedBackend) -> Response:
    """Counters in Prometheus' text form."""
    text = backend.metrics.text(tenants=lambda: len(backend.service.store))
    return Response(text, media_type="text/plain; version=0.0.4")


def create_app(
    service: SegmentationService,
    access: Access | None = None,
    *,
    root_path: str = "",
    routers: Sequence[APIRouter] = (),
) -> FastAPI:
    """An engine -> the application.

    Args:
        service: the engine.
        access: who may use it; None is everybody.
        root_path: the path under which a proxy shows the service.
        routers: further routes, as the page has them.
    """
    backend = Backend(service, access or Access())
    app = FastAPI(
        title="hf-privseg", version="1", description=__doc__.split("\n")[0], root_path=root_path, docs_url=None,
        redoc_url=None, lifespan=backend.running,
    )  # fmt: skip
    app.state.backend = backend
    add_problem_handlers(app)
    for router in (v1, operation, *routers):
        app.include_router(router)
    app.add_middleware(Accounting, metrics=backend.metrics)
    return app
