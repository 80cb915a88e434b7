"""Services on the loopback interface: one that answers as a script says, and a relay that records what is sent."""

import json
import socket
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest


class ScriptedService:
    """Speaks Gradio's three requests and answers as the test says, above all wrongly.

    `outputs` are the outputs of endpoints by name, `files` the content of files by path. `faults` come first: each is
    a function of the request's handler that answers one request instead. `requests` lists what came in.
    """

    def __init__(self, outputs=None, files=None):
        self.outputs, self.files = outputs or {}, files or {}
        self.faults, self.requests = [], []
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                service.answer(self)

            do_GET = do_POST

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()

    def answer(self, handler):
        body = handler.rfile.read(int(handler.headers.get("content-length", 0)))
        self.requests.append((handler.command, handler.path, {k.lower(): v for k, v in handler.headers.items()}, body))
        path = handler.path.removeprefix("/gradio_api/")
        if self.faults:
            self.faults.pop(0)(handler)
        elif path == "upload":
            send(handler, json.dumps(["/tmp/uploaded"]))
        elif path.startswith("file="):
            send(handler, self.files[path.removeprefix("file=")])
        elif handler.command == "POST":
            send(handler, json.dumps({"event_id": "e1"}))
        else:
            send(handler, event("complete", [self.outputs[path.split("/")[1]]]))


def send(handler, body, status=200, **headers):
    body = body if isinstance(body, bytes) else body.encode()
    handler.send_response(status)
    for name, value in {"content-length": str(len(body)), **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


def event(kind, data):
    return f"event: {kind}\ndata: {json.dumps(data)}\n\n"


def fault(body="", status=200, **headers):
    """An answer that a ScriptedService gives to one request."""
    return lambda handler: send(handler, body, status, **headers)


class Relay:
    """Passes connections on to a service and keeps every byte that clients send: `url`, `sent`."""

    def __init__(self, url):
        parts = urlsplit(url)
        self._target = parts.hostname, parts.port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._received = []
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    @property
    def sent(self):
        return b"".join(self._received)

    def __enter__(self):
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._listener.close()

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(self._target)
            threading.Thread(target=self._pass_on, args=(client, server, self._received), daemon=True).start()
            threading.Thread(target=self._pass_on, args=(server, client, None), daemon=True).start()

    @staticmethod
    def _pass_on(source, target, record):
        try:
            while data := source.recv(65536):
                if record is not None:
                    record.append(data)
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass


@contextmanager
def unused_address():
    """An address on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{probe.getsockname()[1]}"


@contextmanager
def running(engine, temporary):
    """The real service of an engine on a free port, its uploads and answers in the folder `temporary` -> address."""
    from hf_privseg.service.app import build_app, launch

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(temporary))
        app = build_app(engine)
        _, url, _ = launch(app, prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")
        try:
            yield url.rstrip("/")
        finally:
            app.close(verbose=False)
