"""The service on the web: a Gradio app with named endpoints, and a page whose own scripts are owner and client.

    app = build_app(SegmentationService(model, processor)); launch(app, ...)

The endpoints take and return files as they are, without loss. An upload is deleted as soon as it has been read, an
answer within minutes. The key and the image stay in the page (static/), which may connect to nothing but this service:
its content security policy says so to the browser.
"""

import io
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import gradio as gr
from gradio import processing_utils
from gradio.utils import get_upload_folder
from PIL import Image
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..storage.models import load_model
from .cleanup import Cleanup
from .engine import Limits, SegmentationService
from .sample import sample_credit, sample_file
from .server_view import ServerView

STATIC = Path(__file__).parent / "static"

_TABS = {
    "segment": "Segment",
    "wrong_key": "Wrong key / no key",
    "upload": "Upload a ciphertext",
    "server_view": "What can the server see?",
    "about": "About",
}
_POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; connect-src 'self' data: blob:; "
    "worker-src 'self'; object-src 'none'; base-uri 'self'; form-action 'self'"
)
_SECONDS_KEPT = 300  # answers wait this long for whoever asked
_CLEANUP_SECONDS = 60
_NEVER = 2**31  # seconds
# For every session, a call of gradio_client's included, Gradio keeps a copy of the page: 10,000 of them by default.
# The service needs none.
_GRADIO_SESSIONS = 64
_Result = TypeVar("_Result")


def build_app(service: SegmentationService) -> gr.Blocks:
    """Service -> Gradio app with the page and the endpoints, to be started by `launch`."""
    # delete_cache: Gradio deletes what is left when the service ends; while it runs, cleanup.py does.
    with gr.Blocks(title="hf-privseg", analytics_enabled=False, delete_cache=(_NEVER, _NEVER)) as app:
        _add_page(service)
        _add_endpoints(service)
    app.max_file_size = service.limits.max_upload_bytes
    return app.queue(max_size=64, default_concurrency_limit=4)


def launch(app: gr.Blocks, **options: Any) -> tuple[Any, str, str]:
    """Starts an app of `build_app`; `options` are those of `gr.Blocks.launch` and win over what is set here."""
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    settings: dict[str, Any] = {
        "theme": gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        "head": '<link rel="stylesheet" href="privseg/page.css"><script type="module" src="privseg/page.js"></script>',
        "app_kwargs": {
            "routes": [Route("/privseg/sample.jpg", _sample), Mount("/privseg", StaticFiles(directory=STATIC))],
            "middleware": [Middleware(_ContentPolicy)],
        },
        "max_file_size": app.max_file_size,
        "state_session_capacity": _GRADIO_SESSIONS,
        "run_history": False,
        "footer_links": ["api"],
        "ssr_mode": False,
        "share": False,
    }
    Cleanup(app, seconds_kept=_SECONDS_KEPT, interval=_CLEANUP_SECONDS).start()
    return app.launch(**settings | options)


def serve(model: str | Path = "default", *, limits: Limits | None = None, **options: Any) -> None:
    """Folder or Hub id of a plain or encrypted SETR, or "default" -> runs its service until it is stopped.

    Args:
        model: folder, Hub id, or "default".
        limits: what clients may ask for.
        **options: of `gr.Blocks.launch`: server_name, server_port, ...

    Raises:
        OSError, ValueError: there is no such model.
    """
    launch(build_app(SegmentationService(*load_model(model), limits=limits)), **options)


def _add_page(service: SegmentationService) -> None:
    """The tabs, with static/<name>.html in them; page.js brings them to life, page.css hides what does not apply."""
    kind = "public" if service.is_public else "private"
    if not service.is_public or sample_file() is None:
        kind += " without-sample"

    def part(name: str) -> None:
        text = (STATIC / f"{name}.html").read_text(encoding="utf-8")
        text = text.replace("<!-- the sample image's credit -->", sample_credit())
        gr.HTML(text.replace('class="privseg"', f'class="privseg {kind}"'), padding=False)

    part("header")
    with gr.Tabs():
        for name, title in _TABS.items():
            with gr.Tab(title, id=name):
                part(name)


def _add_endpoints(service: SegmentationService) -> None:
    """The service's functions under their names; the components are there for their types, and hidden."""
    attacks = ServerView(service)
    file, answer = _upload(), gr.File(visible=False)
    session, facts, trigger = gr.Textbox(visible=False), gr.JSON(visible=False), gr.Button(visible=False)

    def model_info() -> dict[str, Any]:
        return service.model_info()

    def public_embedding() -> str:
        return _answer_file(_or_error(service.public_embedding), "embedding.safetensors", answer)

    def register_embedding(file: str) -> dict[str, Any]:
        return _or_error(lambda: service.register_embedding(_taken(file)))

    def segment(file: str, session: str) -> str:
        labels = _or_error(lambda: service.segment(_taken(file), session))
        buffer = io.BytesIO()
        Image.fromarray(labels).save(buffer, "PNG")
        return _answer_file(buffer.getvalue(), "segmentation.png", answer)

    def server_view(file: str, session: str) -> list[dict[str, str]]:
        return [view.to_json() for view in _or_error(lambda: attacks.views(_taken(file), session))]

    def end_session(session: str) -> None:
        service.end_session(session)

    trigger.click(model_info, None, facts, api_name="model_info", queue=False)
    trigger.click(end_session, session, None, api_name="end_session")
    if service.is_public:
        trigger.click(public_embedding, None, answer, api_name="public_embedding")
        trigger.click(register_embedding, file, facts, api_name="register_embedding")
    with_model: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "model"}
    trigger.click(segment, [file, session], answer, api_name="segment", **with_model)
    trigger.click(
        server_view, [file, session], facts, api_name="server_view", api_visibility="undocumented", **with_model
    )


def _sample(request: Request) -> Response:
    """The sample image, or status 404 where none is installed."""
    image = sample_file()
    if image is None:
        return Response("the package that ships the sample image is not installed here", 404)
    return Response(image, media_type="image/jpeg", headers={"Cache-Control": "max-age=3600"})


def _upload() -> gr.File:
    """A hidden file input that hands on the path of an upload.

    `gr.File` would leave an empty temporary file behind each time. Gradio has checked by then that the path lies in
    its folder of uploads. (A subclass would make Gradio write a stub file beside this module.)
    """
    file = gr.File(visible=False)
    file.preprocess = lambda payload: getattr(payload, "path", None)  # type: ignore[method-assign]
    return file


def _or_error(work: Callable[[], _Result]) -> _Result:
    """What work() returns; its refusals reach the client as they are, and the log not at all."""
    try:
        return work()
    except (ValueError, RuntimeError) as error:
        raise gr.Error(str(error), print_exception=False) from None


def _taken(path: str | None) -> bytes:
    """Path of an upload -> its content; the file is gone afterwards.

    Raises:
        ValueError: there is none, or none any more.
    """
    if path is None:
        raise ValueError("expected a file, got none; upload one and pass what the upload returned")
    file = Path(path)
    try:
        data = file.read_bytes()
    except FileNotFoundError as error:  # Gradio keeps equal files of one name as one, and whoever came first took it
        raise ValueError(
            "expected a file, but the upload is gone: it was read before, or equal content was uploaded under the "
            "same name; upload it again, under a name of its own"
        ) from error
    if Path(get_upload_folder()).resolve() in file.resolve().parents:  # never a file of ours that a client names
        file.unlink(missing_ok=True)
    return data


def _answer_file(data: bytes, name: str, component: gr.File) -> str:
    """Content of a file -> its path in the app's cache, whence it is deleted in time.

    In a folder of its own: equal files would have one path, and be written anew while others download them.
    """
    folder = Path(component.GRADIO_CACHE) / secrets.token_hex(16)
    return processing_utils.save_bytes_to_cache(data, name, str(folder))


class _ContentPolicy:
    """Adds the content security policy to every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["Content-Security-Policy"] = _POLICY
            await send(message)

        await self._app(scope, receive, send_with_policy if scope["type"] == "http" else send)
