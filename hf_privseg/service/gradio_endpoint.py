"""The endpoint `/segment` for gradio_client, beside the HTTP interface: the same request in Gradio's form.

    found = Client(URL).predict(base64.b64encode(ciphertext).decode(), api_name="/segment")

Gradio's own upload and download routes write files. So the ciphertext comes as text, and the answer is text as well.
The function asks the service's own route, POST /v1/segment, within the process: tokens, limits, metrics and refusals
are those of that route.
"""

import base64
import binascii

import gradio as gr
import httpx
from fastapi import FastAPI, Request
from gradio.events import api
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .answers import PNG
from .api import Backend, grant_of
from .problems import Problem

CALL_PATH = "/gradio_api/queue/join"
OPEN_PATHS = ("/gradio_api/queue/data", "/gradio_api/info")  # the answer, and what there is to call
MAX_CALLS = 8  # that wait
_ENVELOPE_BYTES = 4096  # of JSON around the ciphertext


def add_endpoint(app: FastAPI) -> None:
    """Add the endpoint to the Gradio app whose context is open.

    Args:
        app: of `create_app`.
    """

    async def segment(ciphertext: str, request: gr.Request) -> str:
        """Segment one encrypted image.

        Args:
            ciphertext: a ciphertext container in base64.
            request: of the caller, with the access token where one is needed.

        Returns:
            The segmentation map, a PNG file in base64.
        """
        try:
            content = base64.b64decode(ciphertext, validate=True)
        except (binascii.Error, ValueError):
            text = "expected a ciphertext container in base64, got something else"
            raise gr.Error(text, print_exception=False) from None
        token = request.headers.get("authorization")
        headers = {"accept": PNG} | ({"authorization": token} if token else {})
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=None) as client:
            answer = await client.post("/v1/segment", content=content, headers=headers)
        if answer.status_code != 200:
            raise gr.Error(answer.json()["error"]["message"], print_exception=False)
        return base64.b64encode(answer.content).decode()

    api(segment, api_name="segment", concurrency_limit=None)


class CallGuard:
    """ASGI middleware around Gradio's application: a call's token is checked, and its body bounded while it is read.

    Args:
        app: Gradio's.
        backend: whose access and limits hold.
    """

    def __init__(self, app: ASGIApp, backend: Backend) -> None:
        self._app, self._backend = app, backend
        self._max_bytes = backend.service.limits.max_upload_bytes * 4 // 3 + _ENVELOPE_BYTES

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            grant_of(request, self._backend)
            body = await self._backend.bodies.read(request, self._max_bytes)
        except Problem as problem:
            await problem.response(request)(scope, receive, send)
            return
        messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return messages.pop() if messages else await receive()

        try:
            await self._app(scope, replay, send)
        finally:
            self._backend.bodies.release(len(body))
