"""Services on the loopback interface: one that answers as a script says, and a relay that records what is sent."""

import json
import socket
import ssl
import subprocess
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


def make_certificate(folder):
    """A certificate for this machine that nobody has signed, and its key: certificate.pem and key.pem."""
    files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "certificate.pem")]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", *names, *files]
    subprocess.run(make, check=True, capture_output=True)
    return folder


class ScriptedService:
    """Has the routes of a service and answers as the test says, above all wrongly.

    `model` is what /v1/model says, `map` what /v1/segment returns, `embeddings` what is said of tenants by
    fingerprint. `faults` come first: each is a function of the request's handler that answers one request instead.
    `requests` lists what came in: (method, path, headers, body). `certificate` is a folder from `make_certificate`.
    """

    def __init__(self, model=None, map=b"", embeddings=None, certificate=None):
        self.model, self.map, self.embeddings = model, map, embeddings or {}
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
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate / "certificate.pem", certificate / "key.pem")
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
            self.url = self.url.replace("http", "https")

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()

    def answer(self, handler):
        body = handler.rfile.read(int(handler.headers.get("content-length", 0)))
        self.requests.append((handler.command, handler.path, {k.lower(): v for k, v in handler.headers.items()}, body))
        fingerprint = handler.path.removeprefix("/v1/embeddings/")
        if self.faults:
            self.faults.pop(0)(handler)
        elif handler.path == "/v1/model":
            send(handler, json.dumps(self.model))
        elif handler.path == "/v1/segment":
            send(handler, self.map)
        elif fingerprint in self.embeddings:
            send(handler, json.dumps(self.embeddings[fingerprint]))
        else:
            send(handler, refusal("nothing is known of it"), 404)

    @property
    def paths(self):
        """The paths of the requests that came."""
        return [path for _, path, _, _ in self.requests]


def send(handler, body, status=200, **headers):
    body = body if isinstance(body, bytes) else body.encode()
    handler.send_response(status)
    for name, value in {"content-length": str(len(body)), **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


def refusal(message):
    """The body of a refusal, as the service words it."""
    return json.dumps({"error": {"status": 400, "code": "refused", "message": message}})


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
def running(engine, **settings):
    """The real service of an engine on a free port -> its address; settings are those of `Settings`."""
    import uvicorn

    from hf_privseg.service.server import Settings, build_app

    app = build_app(Settings(**{"page": False, **settings}), engine)
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", access_log=False, ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the service did not start"
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(timeout=30)
