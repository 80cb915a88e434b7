"""The service on Ray Serve: replicas that come and go with the load, batches, tenants that stay with their replica.

    python examples/ray_serve.py --model encrypted_model --embeddings data/embeddings --tokens data/tokens.json
    python examples/ray_serve.py --model encrypted_model --embeddings /shared/embeddings --address auto --gpus 1

It answers POST /v1/segment as `privseg serve` does: an encrypted image goes up, its segmentation map comes back. The
engine is that of the package, and so are tokens and the folder of patch embeddings, which `privseg tenant` and
`privseg token` change while it runs; on a cluster all nodes see both at one path. A client that sends the header
serve_multiplexed_model_id with the fingerprint of its key is led to a replica that has its patch embedding in memory.
Requests wait 5 ms for others that share their batch: with that header Ray shares it among those of one
tenant, without it among those of all. No key comes here.

It needs the extras `ray` and `service`.
"""

import asyncio
import os
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # before Ray is imported

import numpy as np
import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import Response

from hf_privseg import EncryptedImage
from hf_privseg.service import EmbeddingFolder, Limits, SegmentationService
from hf_privseg.service.access import Access, ForbiddenError, Grant, RateLimitError, UnknownTokenError
from hf_privseg.service.answers import accepted, encoded
from hf_privseg.service.embedding_store import RegisteredEmbedding
from hf_privseg.service.problems import Problem, problem_of
from hf_privseg.service.requests import BodyReader
from hf_privseg.storage.models import load_model
from hf_privseg.training.arguments import parse_arguments, run_script

TENANTS_A_REPLICA = 64  # that Ray leads to one replica, before those used longest ago are led elsewhere


@dataclass(kw_only=True)
class Arguments:
    """The options of the script."""

    model: str = field(metadata={"help": "Encrypted SETR: a folder, at the same path on all nodes, or a Hub id."})
    embeddings: str = field(metadata={"help": "Folder of the tenants' patch embeddings, which all nodes see."})
    tokens: str | None = field(default=None, metadata={"help": "File of access tokens; without it, all are served."})
    host: str = field(default="127.0.0.1", metadata={"help": "Address to listen at."})
    port: int = field(default=7860, metadata={"help": "Port to listen at."})
    address: str | None = field(default=None, metadata={"help": "Of a Ray cluster; without it, this machine alone."})
    min_replicas: int = field(default=1, metadata={"help": "Replicas without load."})
    max_replicas: int = field(default=4, metadata={"help": "Replicas under load."})
    cpus: float = field(default=1, metadata={"help": "Cores of a replica."})
    gpus: float = field(default=0, metadata={"help": "GPUs of a replica; a fraction shares one."})


class Segmenter:
    """One replica: a model, and the patch embeddings of those who were led here."""

    def __init__(self, model: str, embeddings: Path, tokens: Path | None) -> None:
        limits = Limits()
        self._service = SegmentationService(*load_model(model), limits=limits, store=EmbeddingFolder(embeddings))
        self._access = Access(tokens)
        self._bodies = BodyReader(limits.max_body_bytes, limits.body_seconds)

    async def __call__(self, request: Request) -> Response:
        """The answer to POST /v1/segment."""
        try:
            return await self._answer(request)
        except Problem as problem:
            return problem.response(request)

    async def _answer(self, request: Request) -> Response:
        if (request.method, request.url.path) != ("POST", "/v1/segment"):
            raise Problem(404, "not_found", "expected POST /v1/segment, got something else")
        media_type = accepted(request.headers.get("accept"))
        try:
            grant = self._access.identify(request.headers.get("authorization"))
            with self._access.admitted(grant):
                segmentation_map = await self._segmented(request, grant)
        except UnknownTokenError as error:
            raise Problem(401, "unauthorized", str(error)) from None
        except ForbiddenError as error:
            raise Problem(403, "forbidden", str(error)) from None
        except RateLimitError as error:
            raise Problem(429, "rate_limit", str(error), retry_after=error.retry_after) from None
        except Problem:
            raise
        except Exception as error:
            raise problem_of(error) from None
        content = await asyncio.to_thread(encoded, segmentation_map, media_type, self._service)
        return Response(content, media_type=media_type, headers={"Cache-Control": "no-store"})

    async def _segmented(self, request: Request, grant: Grant) -> np.ndarray:
        body = await self._bodies.read(request, self._service.limits.max_upload_bytes)
        try:
            image = await asyncio.to_thread(self._service.opened, body)
            grant.check_key(image.fingerprint)
            found = await asyncio.to_thread(self._service.embedding_for, image)
            if found.facts != self._service.model.config.key_facts:
                await self.tenant(image.fingerprint)
            result = await self.segmented(image)
        finally:
            self._bodies.release(len(body))
        if isinstance(result, Exception):
            raise result
        return result

    @serve.multiplexed(max_num_models_per_replica=TENANTS_A_REPLICA)
    async def tenant(self, fingerprint: str) -> RegisteredEmbedding:
        """A tenant's patch embedding, which is now in memory. The store decides at each request whether it counts."""
        return await asyncio.to_thread(self._service.store.get, fingerprint)

    @serve.batch(max_batch_size=8, batch_wait_timeout_s=0.005)
    async def segmented(self, images: list[EncryptedImage]) -> list[np.ndarray | Exception]:
        """The maps of images of any sizes and keys; those of one size share a forward."""
        return await asyncio.to_thread(self._segment_by_size, images)

    def _segment_by_size(self, images: list[EncryptedImage]) -> list[np.ndarray | Exception]:
        alike: dict[tuple, list[int]] = defaultdict(list)
        for index, image in enumerate(images):
            alike[image.pixels.shape, image.pixels.dtype].append(index)
        found: dict[int, np.ndarray | Exception] = {}
        for indices in alike.values():
            found |= zip(indices, self._segment([images[index] for index in indices]), strict=True)
        return [found[index] for index in range(len(images))]

    def _segment(self, images: list[EncryptedImage]) -> list[np.ndarray | Exception]:
        """Of images of one size; where one of them fails, each by itself."""
        try:
            return [*self._service.segment_batch(images)]
        except Exception as error:
            return [error] if len(images) == 1 else [self._segment([image])[0] for image in images]


def start(args: Arguments) -> None:
    """Connect to Ray, or start it here, and serve until `serve.shutdown`."""
    ray.init(address=args.address, include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": args.host, "port": args.port})
    scaling = {"min_replicas": args.min_replicas, "max_replicas": args.max_replicas, "target_ongoing_requests": 8}
    resources = {"num_cpus": args.cpus, "num_gpus": args.gpus}
    deployment = serve.deployment(
        name="segment",
        max_ongoing_requests=64,
        graceful_shutdown_timeout_s=30,
        autoscaling_config=scaling,
        ray_actor_options=resources,
    )(Segmenter)
    tokens = Path(args.tokens).resolve() if args.tokens else None
    serve.run(deployment.bind(args.model, Path(args.embeddings).resolve(), tokens), name="privseg", route_prefix="/")


def main() -> None:
    start(parse_arguments(Arguments, description=__doc__))
    print("Ctrl-C ends the service.", flush=True)
    try:
        asyncio.run(asyncio.Event().wait())
    except KeyboardInterrupt:
        serve.shutdown()


if __name__ == "__main__":
    run_script(main)
