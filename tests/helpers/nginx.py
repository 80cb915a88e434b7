"""A configuration of deploy/ in a real nginx with TLS on loopback."""

import re
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from helpers.loopback import make_certificate
from helpers.paths import ROOT
from hf_privseg.client.http_calls import httpx

NGINX = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin") or ""
needs_nginx = pytest.mark.skipif(not NGINX or shutil.which("openssl") is None, reason="nginx or openssl is missing")
MAIN = """
daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    include {folder}/default.conf;
}}
"""


@contextmanager
def proxy(name: str, services: Sequence[str], folder: Path) -> Iterator[httpx.Client]:
    """A client of an nginx that runs a configuration before services, whose names in it give way to their addresses.

    Args:
        name: of the file in deploy/.
        services: addresses, http://HOST:PORT each; those in the file are replaced by them in turn.
        folder: for all files of nginx; it is empty.
    """
    make_certificate(folder)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    (folder / "default.conf").write_text(adapted(name, services, folder, port))
    (folder / "nginx.conf").write_text(MAIN.format(folder=folder))
    options = ["-c", str(folder / "nginx.conf"), "-p", str(folder)]
    process = subprocess.Popen([NGINX, *options, "-e", str(folder / "error.log")])
    trusted = ssl.create_default_context(cafile=folder / "certificate.pem")
    try:
        with httpx.Client(base_url=f"https://localhost:{port}", verify=trusted, timeout=30) as client:
            deadline = time.monotonic() + 20
            while process.poll() is None and time.monotonic() < deadline:
                try:
                    client.get("/healthz")
                    break
                except httpx.TransportError:
                    time.sleep(0.1)
            assert process.poll() is None, (folder / "error.log").read_text()
            yield client
    finally:
        process.terminate()
        process.wait(timeout=20)


def adapted(name: str, services: Sequence[str], folder: Path, port: int) -> str:
    """A configuration for this machine: addresses, folders, and the option of HTTP/2 before nginx 1.25.1."""
    text = (ROOT / "deploy" / name).read_text(encoding="utf-8")
    version = subprocess.run([NGINX, "-v"], capture_output=True, text=True, check=True).stderr
    protocol = ""
    if tuple(map(int, re.findall(r"\d+", version)[:3])) < (1, 25, 1):
        text, protocol = text.replace("    http2 on;\n", ""), " http2"
    text = replaced(text, "listen 443 ssl;", f"listen 127.0.0.1:{port} ssl{protocol};")
    text = replaced(text, "/etc/nginx/tls/", f"{folder}/")
    names = re.findall(r"\S+:7860", text)
    assert len(names) == len(services)
    for service, address in zip(names, services, strict=True):
        text = replaced(text, service, address if service.startswith("http:") else address.removeprefix("http://"))
    return text


def replaced(text: str, old: str, new: str) -> str:
    assert old in text
    return text.replace(old, new)
