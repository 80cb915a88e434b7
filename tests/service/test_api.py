"""The service's routes over loopback: answers, refusals in one form, the log, and requests that mean no good."""

import io
import json
import logging
import select
import socket
import threading
import time
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from helpers.leaks import assert_no_secret
from helpers.loopback import running
from helpers.tiny_service import ciphertext, embedding_for, processor, register, service
from helpers.tiny_setr import tiny_model
from hf_privseg import SecretKey
from hf_privseg.client.http_calls import httpx
from hf_privseg.service import EmbeddingFolder, Limits, SegmentationService
from hf_privseg.service.access import Grant, add_token, revoke_token

pytest.importorskip("fastapi")
LIMITS = Limits(max_pixels=2**14, body_seconds=1)


@pytest.fixture(scope="module")
def key():
    return SecretKey.generate()


@pytest.fixture(scope="module")
def engine(key):
    engine = service(limits=LIMITS)
    register(engine, key)
    return engine


@pytest.fixture(scope="module")
def url(engine):
    with running(engine) as url:
        yield url


@pytest.fixture(scope="module")
def client(url):
    with httpx.Client(base_url=url, timeout=60) as client:
        yield client


@pytest.fixture
def log(caplog):
    """The lines that the service logs for a response, or all of them; they come after the response."""
    from hf_privseg.service.requests import JsonLines

    caplog.set_level(logging.INFO, "hf_privseg.service")

    def lines(response=None):
        wanted = response and response.headers["x-request-id"]
        deadline = time.monotonic() + 10
        while True:
            found = [json.loads(JsonLines().format(record)) for record in caplog.records]
            found = [line for line in found if wanted in (None, line.get("request_id"))]
            if any(line["message"] == "request" for line in found) or time.monotonic() > deadline:
                return found
            time.sleep(0.01)

    return lines


def refused(response, status, code):
    """A refusal in our one form -> its message."""
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert response.json().keys() == {"error"}
    assert (error["status"], error["code"]) == (status, code)
    assert error["request_id"] == response.headers["x-request-id"]
    return error["message"]


# ----------------------------------------------------------------------------------------------------------- answers


@pytest.mark.parametrize("family", ["permutation", "orthogonal"])
def test_an_image_is_segmented_in_one_request(engine, client, family):
    key = SecretKey.generate(family)
    assert client.put(f"/v1/embeddings/{key.fingerprint}", content=embedding_for(key, engine)).status_code == 201
    assert client.put(f"/v1/embeddings/{key.fingerprint}", content=embedding_for(key, engine)).status_code == 200
    expected = engine.segment(ciphertext(key))
    response = client.post("/v1/segment", content=ciphertext(key))
    assert response.headers["content-type"] == "image/png"
    picture = Image.open(io.BytesIO(response.content))
    assert (picture.format, picture.mode, picture.size) == ("PNG", "P", (30, 18))
    np.testing.assert_array_equal(np.array(picture), expected)
    assert (picture.getpalette() or [])[: engine.palette.size] == engine.palette.ravel().tolist()
    facts = client.get(f"/v1/embeddings/{key.fingerprint}").json()
    assert facts == {**key.facts.to_dict(), "shape": [32, 3, 4, 4]}
    assert client.delete(f"/v1/embeddings/{key.fingerprint}").status_code == 204
    message = refused(client.post("/v1/segment", content=ciphertext(key)), 409, "unknown_key")
    assert key.fingerprint in message
    refused(client.get(f"/v1/embeddings/{key.fingerprint}"), 404, "unknown_key")
    refused(client.delete(f"/v1/embeddings/{key.fingerprint}"), 404, "unknown_key")


def test_the_other_forms_of_an_answer(engine, client, key):
    expected = engine.segment(ciphertext(key))
    response = client.post("/v1/segment", content=ciphertext(key), headers={"Accept": "application/x-npy"})
    np.testing.assert_array_equal(np.load(io.BytesIO(response.content)), expected)
    accept = "application/json, image/png;q=0.5"
    found = client.post("/v1/segment", content=ciphertext(key), headers={"Accept": accept}).json()
    assert (found["height"], found["width"]) == (18, 30)
    shares = np.bincount(expected.ravel(), minlength=5) / expected.size
    assert {entry["index"]: entry["share"] for entry in found["shares"]} == pytest.approx(
        {index: share for index, share in enumerate(shares) if share}
    )
    assert [entry["share"] for entry in found["shares"]] == sorted(shares[shares > 0], reverse=True)
    for accept in ("text/html", "image/png;q=0", "image/png;q=x"):
        refused(client.post("/v1/segment", content=b"x", headers={"Accept": accept}), 406, "not_acceptable")


def test_the_model_and_its_public_embedding_are_what_the_engine_says(engine, client):
    assert client.get("/v1/model").json() == json.loads(json.dumps(engine.model_info()))
    assert client.get("/v1/model/embedding").content == engine.public_embedding()


def test_an_encrypted_model_keeps_its_plain_embedding(key):
    with running(SegmentationService(tiny_model().encrypt_model(key), processor())) as url:
        assert key.fingerprint in refused(httpx.get(f"{url}/v1/model/embedding"), 404, "not_public")
        assert httpx.post(f"{url}/v1/segment", content=ciphertext(key)).status_code == 200
        other = SecretKey.generate()
        message = refused(httpx.post(f"{url}/v1/segment", content=ciphertext(other)), 409, "key_mismatch")
        assert other.fingerprint in message
        assert key.fingerprint in message


def test_operation(client, key):
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {"status": "ready", "queue_depth": 0}
    client.post("/v1/segment", content=ciphertext(key))
    text = client.get("/metrics").text
    assert 'privseg_requests_total{route="/v1/segment",status="200"}' in text
    assert 'privseg_request_seconds_bucket{le="0.01",route="/v1/segment"}' in text
    assert 'privseg_batch_size_bucket{le="1.0"}' in text
    assert "privseg_tenants 1.0" in text
    assert "privseg_queue_depth 0.0" in text
    assert key.fingerprint not in text


def test_the_description_names_every_route_and_status(client):
    paths = client.get("/openapi.json").json()["paths"]
    assert set(paths) == {
        "/v1/segment", "/v1/model", "/v1/model/embedding", "/v1/embeddings/{fingerprint}", "/healthz", "/readyz",
        "/metrics",
    }  # fmt: skip
    assert set(paths["/v1/embeddings/{fingerprint}"]) == {"put", "get", "delete"}
    operation = paths["/v1/segment"]["post"]
    assert {"200", "401", "403", "406", "409", "413", "415", "422", "429", "503"} <= set(operation["responses"])
    assert set(operation["requestBody"]["content"]) == {
        "application/octet-stream", "image/png", "application/vnd.safetensors"
    }  # fmt: skip


# --------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected an encrypted image"),
        (b"rubbish", "expected an encrypted image"),
        (b'{"data": [NaN, Infinity]}', "expected an encrypted image"),
        (b"\0" * 2000, "expected an encrypted image"),
    ],
    ids=["empty", "rubbish", "nan", "zeros"],
)
def test_what_is_no_encrypted_image_is_refused(client, content, message, log):
    response = client.post("/v1/segment", content=content)
    assert message in refused(response, 422, "bad_ciphertext")
    assert len(log(response)) == 1


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/segment", 405, "method_not_allowed"),
        ("POST", "/v1/model", 405, "method_not_allowed"),
        ("PATCH", f"/v1/embeddings/{'1' * 16}", 405, "method_not_allowed"),
        ("GET", "/v1/nothing", 404, "not_found"),
        ("GET", "/gradio_api/call/segment", 404, "not_found"),
        ("POST", "/gradio_api/upload", 404, "not_found"),
        ("GET", "/v1/embeddings/NaN", 422, "bad_request"),
        ("GET", "/v1/embeddings/..%2F..%2Fetc", 404, "not_found"),
        ("GET", "/v1/embeddings/%00", 422, "bad_request"),
        ("PUT", f"/v1/embeddings/{'0' * 5000}", 422, "bad_request"),
        ("PUT", f"/v1/embeddings/{'0' * 16}", 422, "bad_content"),
        ("GET", "/" + "%F0%9F%94%92" * 500, 404, "not_found"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_every_refusal_has_one_form_and_one_line_in_the_log(client, method, path, status, code, log, capfd):
    response = client.request(method, path)
    assert "Traceback" not in refused(response, status, code)
    allowed = {"/v1/segment": "POST", "/v1/model": "GET", f"/v1/embeddings/{'1' * 16}": "DELETE, GET, PUT"}
    assert response.headers.get("allow") == (allowed[path] if status == 405 else None)
    (line,) = log(response)
    assert (line["status"], line["error_code"], line["method"]) == (status, code, method)
    assert path not in str(line) or path == line["route"]
    assert "".join(capfd.readouterr()) == ""


def test_other_types_of_content_are_refused(client):
    for kind in ("application/json", "multipart/form-data; boundary=x", "text/plain"):
        message = refused(
            client.post("/v1/segment", content=b"x", headers={"Content-Type": kind}), 415, "unsupported_type"
        )
        assert "application/octet-stream" in message


def received(connection):
    """Everything that comes until the service closes the connection."""
    connection.settimeout(20)
    answer = b""
    try:
        while data := connection.recv(2**16):
            answer += data
    except OSError:
        pass
    return answer


@pytest.mark.parametrize("is_chunked", [False, True], ids=["declared", "chunked"])
def test_a_body_beyond_the_limit_is_refused_before_it_is_read(url, is_chunked):
    size, sent = 10**9, 0
    parts = urlsplit(url)
    length = "Transfer-Encoding: chunked" if is_chunked else f"Content-Length: {size}"
    with socket.create_connection((parts.hostname, parts.port)) as connection:
        connection.sendall(f"POST /v1/segment HTTP/1.1\r\nHost: x\r\n{length}\r\n\r\n".encode())
        block = b"10000\r\n" + bytes(2**16) + b"\r\n" if is_chunked else bytes(2**16)
        while sent < size and not select.select([connection], [], [], 0)[0]:
            connection.sendall(block)
            sent += len(block)
        answer = b""
        while b"too_large" not in answer and (data := connection.recv(2**16)):
            answer += data
        connection.sendall(block * 50)  # is thrown away
    assert b" 413 " in answer
    assert b"too_large" in answer
    assert sent < 10**8


def test_a_body_that_comes_too_slowly_is_refused(url):
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port)) as connection:
        connection.sendall(b"POST /v1/segment HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nabc")
        answer = received(connection)
    assert b" 408 " in answer
    assert b"expected the request's body within 1 s, got 3 bytes of it" in answer


def test_more_bodies_than_there_is_room_for_are_refused(key):
    engine = service(limits=Limits(max_pixels=2**8, max_embedding_bytes=6000, max_memory_mib=1, body_seconds=5))
    room = engine.limits.max_body_bytes
    with running(engine) as url:
        parts = urlsplit(url)
        held = []
        try:
            for _ in range(room // 60_000 + 1):
                connection = socket.create_connection((parts.hostname, parts.port))
                connection.sendall(
                    b"POST /v1/segment HTTP/1.1\r\nHost: x\r\nContent-Length: 66000\r\n\r\n" + bytes(60_000)
                )
                held.append(connection)
            time.sleep(0.5)
            response = httpx.post(f"{url}/v1/segment", content=bytes(60_000))
            refused(response, 503, "busy")
            assert response.headers["retry-after"] == "1"
        finally:
            for connection in held:
                connection.close()
        time.sleep(0.5)
        refused(httpx.post(f"{url}/v1/segment", content=bytes(1000)), 422, "bad_ciphertext")


def test_a_full_queue_is_said_with_a_time_to_come_again(key):
    engine = service(limits=Limits(max_queue=2, max_batch=1))
    register(engine, key)
    gate, answers = threading.Event(), []
    original = engine.segment_batch
    engine.segment_batch = lambda images: (gate.wait(20), original(images))[1]
    with running(engine) as url:
        post = lambda: answers.append(httpx.post(f"{url}/v1/segment", content=ciphertext(key), timeout=30))  # noqa: E731
        threads = [threading.Thread(target=post) for _ in range(6)]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 10
        while len(answers) < 4 and time.monotonic() < deadline:
            time.sleep(0.02)
        gate.set()
        for thread in threads:
            thread.join()
    busy = [answer for answer in answers if answer.status_code == 503]
    assert len(busy) == 4  # one runs, and one waits: half of the places
    assert {answer.headers["retry-after"] for answer in busy} == {"1"}
    assert "1 request of this tenant waits already; try again later" in refused(busy[0], 503, "busy")
    assert [answer.status_code for answer in answers].count(200) == 2


def test_a_client_that_goes_away_takes_its_image_out_of_the_queue(key):
    engine = service(limits=Limits(max_batch=1))
    register(engine, key)
    gate, ran = threading.Event(), []
    original = engine.segment_batch

    def segment_batch(images):
        ran.append(images)
        gate.wait(20)
        return original(images)

    engine.segment_batch = segment_batch
    with running(engine) as url, httpx.Client(timeout=30) as kept:
        first = threading.Thread(target=lambda: kept.post(f"{url}/v1/segment", content=ciphertext(key)))
        first.start()
        while not ran:
            time.sleep(0.01)
        with pytest.raises(httpx.TimeoutException):
            httpx.post(f"{url}/v1/segment", content=ciphertext(key), timeout=0.5)
        time.sleep(0.3)
        assert httpx.get(f"{url}/readyz").json()["queue_depth"] == 0
        gate.set()
        first.join()
    assert len(ran) == 1


def test_a_fault_of_ours_says_nothing_of_the_content(key, log, capfd):
    engine = service()
    register(engine, key)

    def segment_batch(images):
        raise RuntimeError("a secret detail of the image")

    engine.segment_batch = segment_batch
    with running(engine) as url:
        response = httpx.post(f"{url}/v1/segment", content=ciphertext(key))
        message = refused(response, 500, "failure")
        assert httpx.get(f"{url}/healthz").status_code == 200
    assert message == "the service failed; the operator's log has the reason, under this request_id"
    failure = next(line for line in log(response) if line["message"] == "failure")
    assert failure["type"] == "RuntimeError"
    assert any("test_api.py" in place for place in failure["at"])
    assert "secret detail" not in str(log()) + "".join(capfd.readouterr())


def test_neither_keys_nor_content_are_logged(engine, client, key, log):
    headers = {"Authorization": "Bearer privseg-token-abc"}
    (line,) = log(client.post("/v1/segment", content=ciphertext(key), headers=headers))
    assert {name: line[name] for name in ("event", "route", "status", "fingerprint", "size")} == {
        "event": "request", "route": "/v1/segment", "status": 200, "fingerprint": key.fingerprint, "size": [20, 32]
    }  # fmt: skip
    assert line["received_bytes"] == len(ciphertext(key))
    assert_no_secret(json.dumps(line), key)
    assert "privseg-token-abc" not in json.dumps(line)


@pytest.mark.parametrize(("seconds", "header"), [(0.1, "1"), (1, "1"), (1.2, "2"), (0, None)])
def test_nobody_is_asked_to_come_again_too_early(seconds, header):
    from starlette.requests import Request

    from hf_privseg.service.problems import Problem

    response = Problem(503, "busy", "busy", retry_after=seconds).response(Request({"type": "http", "state": {}}))
    assert response.headers.get("retry-after") == header


def test_every_answer_has_the_security_headers(client):
    for path in ("/v1/model", "/nothing", "/healthz"):
        headers = client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert "connect-src 'self' data: blob:;" in headers["content-security-policy"]
        assert "access-control-allow-origin" not in headers
        assert "server" not in headers or "uvicorn" in headers["server"]


# ------------------------------------------------------------------------------------------------- tenants and tokens


def test_tenants_have_tokens_for_their_own_keys(tmp_path, log):
    file = tmp_path / "tokens.json"
    keys = [SecretKey.generate() for _ in range(2)]
    tokens = [add_token(file, Grant(f"tenant-{n}", (key.fingerprint,))) for n, key in enumerate(keys)]
    registrar = {"Authorization": f"Bearer {add_token(file, Grant('registrar', may_register=True))}"}
    engine = service(store=EmbeddingFolder(tmp_path / "embeddings"))
    with running(engine, tokens=file) as url, httpx.Client(base_url=url) as client:
        headers = [{"Authorization": f"Bearer {token}"} for token in tokens]
        response = client.get("/v1/model")
        assert "privseg token add" in refused(response, 401, "unauthorized")
        assert response.headers["www-authenticate"].startswith("Bearer")
        for key in keys:
            path, content = f"/v1/embeddings/{key.fingerprint}", embedding_for(key, engine)
            assert "not for registering" in refused(
                client.put(path, content=content, headers=headers[0]), 403, "forbidden"
            )
            assert client.put(path, content=content, headers=registrar).status_code == 201
        for n, key in enumerate(keys):
            assert client.post("/v1/segment", content=ciphertext(key), headers=headers[n]).status_code == 200
            refused(client.post("/v1/segment", content=ciphertext(key), headers=headers[1 - n]), 403, "forbidden")
        revoke_token(file, "tenant-0")
        refused(client.post("/v1/segment", content=ciphertext(keys[0]), headers=headers[0]), 401, "unauthorized")
        assert client.get("/healthz").status_code == 200
    assert {line.get("token") for line in log()} >= {"tenant-0", "tenant-1", "registrar"}
    assert not any(token in str(log()) for token in tokens)
    restarted = service(store=EmbeddingFolder(tmp_path / "embeddings"))
    with running(restarted, tokens=file) as url:
        assert httpx.post(f"{url}/v1/segment", content=ciphertext(keys[1]), headers=headers[1]).status_code == 200


def test_the_limit_of_a_token_is_said_with_a_time_to_come_again(tmp_path):
    file = tmp_path / "tokens.json"
    token = add_token(file, Grant("one", requests_per_minute=10))
    with running(service(), tokens=file) as url:
        answers = [httpx.get(f"{url}/v1/model", headers={"Authorization": f"Bearer {token}"}) for _ in range(6)]
    assert [answer.status_code for answer in answers] == [200] * 5 + [429]
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 6
    assert "10 requests a minute" in refused(answers[-1], 429, "rate_limit")


def test_a_file_of_tokens_that_cannot_be_read_lets_nobody_in_and_is_said(tmp_path, log):
    file = tmp_path / "tokens.json"
    headers = {"Authorization": f"Bearer {add_token(file, Grant('one'))}"}
    whole = file.read_bytes()
    with running(service(), tokens=file) as url:
        assert httpx.get(f"{url}/v1/model", headers=headers).status_code == 200
        file.write_bytes(whole[:-9])
        response = httpx.get(f"{url}/v1/model", headers=headers)
        assert "cannot read its file of access tokens" in refused(response, 503, "no_tokens")
        assert response.headers["retry-after"] == "10"
        assert "tokens" in [line["message"] for line in log()]
        file.unlink()
        refused(httpx.get(f"{url}/v1/model", headers=headers), 503, "no_tokens")
        assert httpx.get(f"{url}/healthz").status_code == 200
        file.write_bytes(whole)
        file.chmod(0o600)
        assert httpx.get(f"{url}/v1/model", headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("host", "folder", "status"), [("127.0.0.1", True, 201), ("0.0.0.0", True, 403), ("0.0.0.0", False, 201)]
)
def test_without_tokens_nobody_changes_the_tenants_of_a_public_address(tmp_path, host, folder, status):
    embeddings, key = tmp_path / "embeddings", SecretKey.generate()
    engine = service(store=EmbeddingFolder(embeddings)) if folder else service()
    path = f"/v1/embeddings/{key.fingerprint}"
    with running(engine, host=host, embeddings=embeddings if folder else None) as url:
        response = httpx.put(url + path, content=embedding_for(key, engine))
        assert response.status_code == status
        if status == 403:
            assert "is not for registering patch embeddings" in refused(response, 403, "forbidden")
            register(engine, key)
            refused(httpx.delete(url + path), 403, "forbidden")
            assert httpx.post(f"{url}/v1/segment", content=ciphertext(key)).status_code == 200
