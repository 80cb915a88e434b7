"""What other sites show beside a link to the page: Open Graph's tags, with the project's picture and words."""

import html
import re

from fastapi import Request
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

TITLE = "hf-privseg: segmentation of encrypted images"
DESCRIPTION = (
    "Your browser encrypts an image, the server segments the ciphertext. Visually protected, no more: the page shows "
    "what attacks recover."
)
_PICTURE = "privseg/preview.jpg"
_SIZE = (1200, 630)
_ALTERNATIVE = "A street image, its ciphertext, and the segmentation map that the server makes of the ciphertext."
_TAGS = re.compile(rb'<meta\s+(?:property="og:|name="twitter:)[^>]*>')


class LinkPreview:
    """ASGI middleware around what answers with the page: the tags for links are ours instead of Gradio's.

    The picture's address is absolute, as its readers want it, and starts with that of the request.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started: list[Message] = []
        body = bytearray()

        async def gather(message: Message) -> None:
            if message["type"] == "http.response.start":
                started.append(message)
                return
            body.extend(message.get("body", b""))
            if not message.get("more_body"):
                page = _with_tags(bytes(body), str(Request(scope).base_url))
                headers = MutableHeaders(raw=started[0]["headers"])
                headers["Content-Length"] = str(len(page))
                await send(started[0])
                await send({"type": "http.response.body", "body": page})

        plain = [(name, value) for name, value in scope["headers"] if name.lower() != b"accept-encoding"]
        await self._app({**scope, "headers": plain}, receive, gather)


def _with_tags(page: bytes, url: str) -> bytes:
    """The page of the service at `url`, with our tags at the start of its head."""
    picture = f"{url.rstrip('/')}/{_PICTURE}"
    tags = {
        "og:type": "website",
        "og:title": TITLE,
        "og:description": DESCRIPTION,
        "og:image": picture,
        "og:image:width": str(_SIZE[0]),
        "og:image:height": str(_SIZE[1]),
        "og:image:alt": _ALTERNATIVE,
        "twitter:card": "summary_large_image",
    }
    head = "".join(
        f'<meta {"name" if name.startswith("twitter:") else "property"}="{name}" content="{html.escape(content)}">'
        for name, content in tags.items()
    )
    return _TAGS.sub(b"", page).replace(b"<head>", b"<head>" + head.encode(), 1)
