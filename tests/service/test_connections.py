"""Connections on which nothing is asked are closed; those that are used stay."""

import socket
import threading
import time

import pytest

pytest.importorskip("fastapi")

import uvicorn

from hf_privseg.service.connections import Connection

SECONDS = 0.3
HEAD = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


async def app(scope, receive, send):
    """Answers with as many bytes as the query says."""
    if scope["type"] == "http":
        size = scope["query_string"] or b"3"
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", size)]})
        await send({"type": "http.response.body", "body": b"x" * int(size)})


class Impatient(Connection):
    idle_seconds = SECONDS


@pytest.fixture(scope="module")
def port():
    config = uvicorn.Config(app, port=0, http=Impatient, ws="none", log_level="error", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    thread.join(timeout=20)


def seconds_until_closed(connection, send=b""):
    """Sends a byte now and then until the server ends the connection -> how long that took."""
    start = time.monotonic()
    connection.settimeout(SECONDS / 3)
    while time.monotonic() - start < 20:
        try:
            connection.sendall(send)
            if not connection.recv(100):
                break
        except TimeoutError:
            continue
        except OSError:
            break
    return time.monotonic() - start


@pytest.mark.parametrize(("first", "then"), [(b"", b""), (b"GET / HT", b""), (b"GET / HTTP/1.1\r\nX-A: ", b"a")])
def test_a_connection_without_a_whole_request_is_closed(port, first, then):
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(first)
        assert seconds_until_closed(connection, then) < 10 * SECONDS


def test_a_body_that_nobody_reads_does_not_hold_a_connection(port):
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(HEAD.replace(b"\r\n\r\n", b"\r\nContent-Length: 999999\r\n\r\n"))
        assert b" 200 " in connection.recv(1000)
        assert seconds_until_closed(connection, b"a") < 10 * SECONDS


def test_an_answer_that_nobody_fetches_does_not_hold_a_connection(port):
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(HEAD.replace(b"/ ", b"/?50000000 "))
        time.sleep(4 * SECONDS)
        found = 0
        try:
            while data := connection.recv(2**20):
                found += len(data)
        except ConnectionError:
            pass
        assert found < 50_000_000


def test_a_connection_that_is_used_stays(port):
    with socket.create_connection(("127.0.0.1", port)) as connection:
        for _ in range(6):
            connection.sendall(HEAD)
            answer = b""
            while not answer.endswith(b"xxx"):
                answer += connection.recv(1000)
            assert b" 200 " in answer
            time.sleep(SECONDS / 2)
