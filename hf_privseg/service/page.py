"""The service's page: Gradio gives it its frame, and its own scripts (static/) are owner and client.

The scripts call the same routes as any other client. The key and the image stay in the page, which may connect to
nothing but its service. Gradio has no functions to call here, and of its many routes only those that show the page
are open: nothing can be uploaded to it.
"""

from pathlib import Path

import gradio as gr
from fastapi import APIRouter, FastAPI, Request, Response
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from .api import Backend, UsedBackend, UsedGrant, read_image
from .problems import Problem
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
_OPEN = ("/", "/config", "/theme.css", "/favicon.ico", "/manifest.json")
_OPEN_FOLDERS = ("/assets/", "/static/", "/svelte/", "/_app/", "/gradio_api/startup-events", "/theme.css/")

router = APIRouter(prefix="/privseg", include_in_schema=False)


def add_page(app: FastAPI) -> None:
    """Show the page at the root of an app of `create_app` that has this module's `router`."""
    backend: Backend = app.state.backend
    app.state.server_view = ServerView(backend.service)
    app.mount("/privseg", StaticFiles(directory=STATIC))
    gr.mount_gradio_app(
        app,
        _blocks(backend),
        path="/",
        theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        head='<link rel="stylesheet" href="privseg/page.css"><script type="module" src="privseg/page.js"></script>',
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        mcp_server=False,
    )
    (mount,) = (route for route in app.routes if isinstance(route, Mount) and route.path == "")
    mount.app = PageGuard(mount.app)


class PageGuard:
    """ASGI middleware around Gradio's application: of its routes, only those that show the page are open."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] == "http":
            path = scope["path"].removeprefix(scope.get("root_path", "")) or "/"
            is_open = path in _OPEN or path.startswith(_OPEN_FOLDERS)
            if not (is_open and scope["method"] in ("GET", "HEAD")):
                problem = Problem(404, "not_found", "there is nothing here; the routes are listed at /openapi.json")
                await problem.response(Request(scope))(scope, receive, send)
                return
        await self._app(scope, receive, send)


@router.get("/sample.jpg")
async def sample() -> Response:
    """The sample image."""
    image = sample_file()
    if image is None:
        raise Problem(404, "no_sample", "the package that ships the sample image is not installed here")
    return Response(image, media_type="image/jpeg", headers={"Cache-Control": "max-age=3600"})


@router.post("/server-view")
async def server_view(request: Request, backend: UsedBackend, grant: UsedGrant) -> list[dict[str, str]]:
    """A ciphertext container -> what the service can make of it with simple means, as pictures for whoever sent it."""
    async with read_image(request, backend, grant) as image:
        views = await backend.between_batches(request.app.state.server_view.views, image)
    return [view.to_json() for view in views]


def _blocks(backend: Backend) -> gr.Blocks:
    """The tabs, with static/<name>.html in them; page.js brings them to life, page.css hides what does not apply."""
    service = backend.service
    kind = "public" if service.is_public else "private"
    if not service.is_public or sample_file() is None:
        kind += " without-sample"
    if backend.access.needs_token:
        kind += " with-token"

    def part(name: str) -> None:
        text = (STATIC / f"{name}.html").read_text(encoding="utf-8")
        text = text.replace("<!-- the sample image's credit -->", sample_credit())
        gr.HTML(text.replace('class="privseg"', f'class="privseg {kind}"'), padding=False)

    with gr.Blocks(title="hf-privseg", analytics_enabled=False) as blocks:
        part("header")
        with gr.Tabs():
            for name, title in _TABS.items():
                with gr.Tab(title, id=name):
                    part(name)
    return blocks
