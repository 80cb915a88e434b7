"""The service's page: Gradio gives it its frame, and its own scripts (static/) are owner and client.

The scripts call the same routes as any other client. The key and the image stay in the page, which may connect to
nothing but its service. Of Gradio's many routes, only those that show the page are open, and those of one named
endpoint, `/segment`, for programs that use gradio_client (gradio_endpoint.py): no file can be uploaded to it.
"""

import html
import re
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import FileResponse
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from ..catalog.datasets import PRESETS
from ..catalog.street_images import FOLDER, STREET_CREDIT, STREET_IMAGES
from ..reporting.project_urls import project_urls
from ..setr.ciphers import CIPHERS
from ..setr.keys import DEFAULT_FAMILY, FAMILIES
from .api import Backend, UsedBackend, UsedGrant, read_image
from .gradio_endpoint import CALL_PATH, MAX_CALLS, OPEN_PATHS, CallGuard, add_endpoint
from .link_preview import LinkPreview
from .problems import Problem
from .server_view import ServerView

STATIC = Path(__file__).parent / "static"

# The tabs in their order: the address after # and the title, short enough for all of them to be seen on a phone. The
# contents are in static/<name>.html.
_TABS = {"segment": "Segment", "no_key": "No key", "upload": "Upload", "attack": "Attack", "about": "About"}
_PUBLIC_ALONE = ("no_key",)  # it needs the plain patch embedding
_SCENES = {"camvid": "streets as seen from a car:", "cityscapes": "streets as seen from a car:"}
_OPEN = ("/", "/config", "/theme.css", "/favicon.ico", "/manifest.json", *OPEN_PATHS)
_OPEN_FOLDERS = ("/assets/", "/static/", "/svelte/", "/_app/", "/gradio_api/startup-events", "/theme.css/")

router = APIRouter(prefix="/privseg", include_in_schema=False)


def add_page(app: FastAPI, model: str = "default") -> None:
    """Show the page at the root of an app of `create_app` that has this module's `router`.

    Args:
        app: the application.
        model: folder or Hub id of its model, for commands that the page shows; folders are not named to visitors.
    """
    backend: Backend = app.state.backend
    app.state.server_view = ServerView(backend.service)
    app.mount("/privseg", PageFiles(directory=STATIC))
    gr.mount_gradio_app(
        app,
        _blocks(app, "MODEL" if Path(model).exists() else model),
        path="/",
        theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        head='<link rel="stylesheet" href="privseg/page.css"><script type="module" src="privseg/page.js"></script>',
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        mcp_server=False,
    )
    (mount,) = (route for route in app.routes if isinstance(route, Mount) and route.path == "")
    mount.app = PageGuard(mount.app, CallGuard(mount.app, backend))


class PageFiles(StaticFiles):
    """The page's own files. Its worker holds the keys: it may run modules and WebAssembly, and connects to nothing."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers["Content-Security-Policy"] = "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'"
        return response


class PageGuard:
    """ASGI middleware around Gradio's application: its routes are closed but for those of the page and the endpoint.

    Args:
        app: Gradio's.
        calls: the same, for calls of the endpoint.
    """

    def __init__(self, app: ASGIApp, calls: ASGIApp) -> None:
        self._app, self._calls, self._page = app, calls, LinkPreview(app)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] == "http":
            path = scope["path"].removeprefix(scope.get("root_path", "")) or "/"
            if path == CALL_PATH and scope["method"] == "POST":
                await self._calls(scope, receive, send)
                return
            is_open = path in _OPEN or path.startswith(_OPEN_FOLDERS)
            if not (is_open and scope["method"] in ("GET", "HEAD")):
                problem = Problem(404, "not_found", "there is nothing here; the routes are listed at /openapi.json")
                await problem.response(Request(scope))(scope, receive, send)
                return
            if path == "/" and scope["method"] == "GET":
                await self._page(scope, receive, send)
                return
        await self._app(scope, receive, send)


@router.get("/samples/{name}")
async def sample(name: str) -> Response:
    """A street image, NAME.webp, or LICENSE.txt."""
    names = [*(f"{each}.webp" for each in STREET_IMAGES), "LICENSE.txt"]
    if name not in names:
        raise Problem(404, "no_sample", f"expected one of {', '.join(names)}")
    kind = "image/webp" if name.endswith(".webp") else "text/plain"
    return FileResponse(FOLDER / name, media_type=kind, headers={"Cache-Control": "max-age=3600"})


@router.post("/server-view")
async def server_view(request: Request, backend: UsedBackend, grant: UsedGrant) -> list[dict[str, str]]:
    """A ciphertext container -> what the service can make of it with simple means, as pictures for whoever sent it."""
    async with read_image(request, backend, grant) as image:
        views = await backend.between_batches(request.app.state.server_view.views, image)
    return [view.to_json() for view in views]


def _blocks(app: FastAPI, model: str) -> gr.Blocks:
    """The whole page in one piece of HTML: page.js brings it to life, page.css hides what does not apply."""
    with gr.Blocks(title="Segmentation of encrypted images", analytics_enabled=False) as blocks:
        gr.HTML(_page(app.state.backend, model), padding=False)
        add_endpoint(app)
    return blocks.queue(max_size=MAX_CALLS)


def _page(backend: Backend, model: str) -> str:
    service = backend.service
    kind = "public" if service.is_public else "private"
    if backend.access.needs_token:
        kind += " with-token"
    tabs = {
        name.replace("_", "-"): (title, _part(name))
        for name, title in _TABS.items()
        if service.is_public or name not in _PUBLIC_ALONE
    }
    buttons = "".join(
        f'<button type="button" role="tab" id="tab-{name}" aria-controls="panel-{name}">{title}</button>'
        for name, (title, _) in tabs.items()
    )
    panels = "".join(
        f'<div role="tabpanel" id="panel-{name}" aria-labelledby="tab-{name}" hidden>{content}</div>'
        for name, (_, content) in tabs.items()
    )
    page = (
        f'<div id="privseg" class="{kind}" data-scenes="{_scenes(service.labels)}">{_part("header")}'
        f'<div role="tablist" aria-label="Parts of the page">{buttons}</div>{panels}</div>'
    )
    return (
        page.replace("<!-- the model's name -->", html.escape(model))
        .replace("<!-- the project's links -->", _project_links())
        .replace("<!-- the key families -->", family_options())
        .replace("<!-- the street images -->", _gallery() if service.is_public else "")
        .replace("<!-- the street images' credit -->", _linked(STREET_CREDIT) if service.is_public else "")
    )


def _part(name: str) -> str:
    return (STATIC / f"{name}.html").read_text(encoding="utf-8")


def family_options() -> str:
    """The families of keys that a visitor makes; those on 8-bit pixels, which show most, come last."""
    ordered = sorted(FAMILIES, key=lambda family: (CIPHERS[family].acts_on_uint8, family != DEFAULT_FAMILY))
    return "".join(
        f'<option value="{family}">{family}: {html.escape(CIPHERS[family].summary)}</option>' for family in ordered
    )


def _gallery() -> str:
    """The street images to choose from, with a public model alone, where visitors make keys of their own: one known
    image opens whatever else is encrypted with the same key.
    """
    buttons = (
        f'<button type="button" class="sample" data-privseg="sample" data-sample="{name}" data-busy="Fetching ..." '
        f'aria-pressed="false"><img src="privseg/samples/{name}.webp" alt="{html.escape(image.description)}" '
        f'width="160" height="90"><span class="label">{image.title}</span></button>'
        for name, image in STREET_IMAGES.items()
    )
    return f'<div class="gallery" role="group" aria-label="Street images to try">{"".join(buttons)}</div>'


def _project_links() -> str:
    """Links to the project's addresses under a heading, in HTML, if there are any."""
    items = [
        f'<li><a href="{html.escape(address)}" target="_blank" rel="noopener">{html.escape(name)}</a></li>'
        for name, address in project_urls().items()
    ]
    return f"<h2>Links</h2><ul>{''.join(items)}</ul>" if items else ""


def _linked(credit: str) -> str:
    """A credit under a heading, in HTML: an address in brackets becomes a link that is named after its host."""
    text = re.sub(
        r"\((https://([^/)]+)[^)]*)\)",
        r'(<a href="\1" target="_blank" rel="noopener">\2</a>)',
        html.escape(credit),
    )
    return f'<h2>The pictures</h2><p>{text} <a href="privseg/samples/LICENSE.txt" target="_blank">The licence</a></p>'


def _scenes(labels: dict[int, str]) -> str:
    """What the images show that a model with these classes was made for, where they are those of a known data set."""
    for name, scenes in _SCENES.items():
        if tuple(labels.values()) == PRESETS[name].class_names:
            return scenes
    return ""
