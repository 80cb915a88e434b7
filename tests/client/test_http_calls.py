"""Calls of a service: what is sent, what is tried again, and answers of services that mean no good."""

import asyncio
import contextlib
import multiprocessing
import os
import re
import shutil
import socket
import threading
import time

import pytest

from helpers.loopback import ScriptedService, fault, make_certificate, refusal, unused_address
from hf_privseg.client import http_calls
from hf_privseg.client.http_calls import MAX_ANSWER_BYTES, AsyncHttpCalls, Attempts, Call, HttpCalls, NotFoundError
from hf_privseg.setr.errors import RequestRefusedError, ServiceError, ServiceUnavailableError

MODEL = Call("GET", "v1/model")


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(http_calls, "_BACKOFF_SECONDS", (0.01, 0.02))


@pytest.fixture
def service():
    with ScriptedService(42, b"content") as service:
        yield service


def sent(url, call=MODEL, **settings):
    with HttpCalls(url, **settings) as calls:
        return calls.send(call)


def sent_from_a_loop(url, call=MODEL, **settings):
    async def run():
        calls = AsyncHttpCalls(url, **settings)
        try:
            return await calls.send(call)
        finally:
            await calls.close()

    return asyncio.run(run())


@pytest.fixture(params=[sent, sent_from_a_loop], ids=["threads", "loop"])
def send(request):
    return request.param


def test_one_request_carries_the_content_and_nothing_of_the_machine(service, send, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_stored")
    call = Call("POST", "v1/segment", 7, "image/png", b"\x00bytes")
    assert send(service.url, call, headers={"Authorization": "Bearer mine"}) == b"content"
    ((method, path, headers, body),) = service.requests
    assert (method, path, body) == ("POST", "/v1/segment", b"\x00bytes")
    assert headers["content-type"] == "application/octet-stream"
    assert headers["authorization"] == "Bearer mine"
    assert headers["accept"] == "image/png"
    assert headers["user-agent"] == "hf-privseg"
    assert "hf_stored" not in str(headers)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_failure_that_may_pass_is_tried_again(service, send, status):
    service.faults = [fault(status=status)] * 3
    assert send(service.url, retries=3) == b"42"
    assert len(service.requests) == 4


def test_a_connection_that_breaks_is_tried_again(service, send):
    service.faults = [fault("cut short", content_length="100")]
    assert send(service.url) == b"42"
    assert len(service.requests) == 2


def test_it_gives_up_after_the_last_attempt_and_says_so(service, send):
    service.faults = [fault(status=503)] * 3
    text = rf"the service at {service.url} is busy \(HTTP 503\); try again later \(tried 3 times\)"
    with pytest.raises(ServiceUnavailableError, match=text):
        send(service.url, retries=2)
    assert len(service.requests) == 3


def test_the_reason_of_a_busy_service_is_passed_on(service, send):
    service.faults = [fault(refusal("the queue is full"), 503)]
    with pytest.raises(ServiceUnavailableError, match=r": the queue is full \(HTTP 503\); try again later"):
        send(service.url, retries=0)


def test_a_service_that_fails_on_its_own_is_named_so(service, send):
    service.faults = [fault(status=500)]
    with pytest.raises(ServiceUnavailableError, match=r"fails, or is none of hf-privseg \(HTTP 500\)"):
        send(service.url, retries=0)


def test_nobody_listening(send):
    with unused_address() as url:
        text = rf"no answer from {url} \(.*\); check the address, and that the service runs \(tried 2 times\)"
        with pytest.raises(ServiceUnavailableError, match=text):
            send(url, retries=1)


def test_the_pause_that_a_service_asks_for_is_kept(service, send):
    service.faults = [fault(status=429, retry_after="1")]
    start = time.monotonic()
    assert send(service.url) == b"42"
    assert 1 <= time.monotonic() - start < 5


def test_a_pause_beyond_the_deadline_is_not_waited_for(service, send):
    service.faults = [fault(status=429, retry_after="600")]
    start = time.monotonic()
    with pytest.raises(ServiceUnavailableError, match=r"is busy \(HTTP 429\).*\(tried 1 times\)"):
        send(service.url)
    assert time.monotonic() - start < 5


def test_pauses_grow_up_to_a_longest_one(monkeypatch):
    monkeypatch.setattr(http_calls, "_BACKOFF_SECONDS", (1.0, 4.0))
    attempts = Attempts("there", 60, 5)
    pauses = [attempts.pause_after(ServiceUnavailableError("busy")) for _ in range(5)]
    for pause, longest in zip(pauses, [1, 2, 4, 4, 4], strict=True):
        assert longest / 2 <= pause <= longest
    with pytest.raises(ServiceUnavailableError, match=r"^busy \(tried 6 times\)$"):
        attempts.pause_after(ServiceUnavailableError("busy"))


# ----------------------------------------------------------------------------------------- services that mean no good


def test_a_service_that_never_ends_is_left_at_the_deadline(service, send):
    def dribble(handler):
        handler.send_response(200)
        handler.end_headers()
        while not stop.wait(0.05):
            handler.wfile.write(b" ")

    stop = threading.Event()
    service.faults = [dribble]
    start = time.monotonic()
    text = rf"no result from {service.url} within 0.5 s; it is busy or stuck: try again later, or pass a larger"
    try:
        with pytest.raises(ServiceUnavailableError, match=text):
            send(service.url, timeout=0.5)
    finally:
        stop.set()
    assert time.monotonic() - start < 5
    assert len(service.requests) == 1


@pytest.mark.parametrize("part", [b"HTTP/1.1 100 Continue\r\n\r\n", b"a"], ids=["continue", "status line"])
def test_a_service_whose_headers_never_end_is_left_at_the_deadline(service, send, part):
    def dribble(handler):
        handler.close_connection = True
        handler.wfile.write(b"HTTP/1.1 " if part == b"a" else b"")
        with contextlib.suppress(OSError):
            while not stop.wait(0.05):
                handler.wfile.write(part)

    stop = threading.Event()
    service.faults = [dribble] * 9
    start = time.monotonic()
    try:
        with pytest.raises(ServiceUnavailableError, match=r"within 0.5 s"):
            send(service.url, timeout=0.5)
    finally:
        stop.set()
    assert time.monotonic() - start < 5


def test_a_service_that_does_not_read_is_left_at_the_deadline(send):
    with socket.create_server(("127.0.0.1", 0), backlog=9) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**12)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        start = time.monotonic()
        with pytest.raises(ServiceUnavailableError, match=r"within 0.5 s"):
            send(url, Call("POST", "v1/segment", 7, content=bytes(2**25)), timeout=0.5)
    assert time.monotonic() - start < 5


def test_a_service_that_says_nothing_is_left_at_the_deadline(service, send):
    stop = threading.Event()
    service.faults = [lambda handler: stop.wait(20)] * 9
    try:
        with pytest.raises(ServiceUnavailableError, match=r"within 0.5 s"):
            send(service.url, timeout=0.5)
    finally:
        stop.set()


@pytest.mark.parametrize("status", [200, 422])
def test_an_endless_answer_is_cut_off(service, send, status):
    service.faults = [fault("x" * (MAX_ANSWER_BYTES + 1), status)]
    with pytest.raises(ServiceError, match=f"answers with more than the {MAX_ANSWER_BYTES} bytes expected of it"):
        send(service.url)


def test_an_answer_may_be_as_large_as_expected_and_no_larger(service, send):
    assert send(service.url, Call("POST", "v1/segment", 7)) == b"content"
    with pytest.raises(ServiceError, match="answers with more than the 6 bytes expected of it"):
        send(service.url, Call("POST", "v1/segment", 6))


@pytest.mark.parametrize(
    ("answer", "kind", "message"),
    [
        (fault(status=413), RequestRefusedError, r"the upload is larger than {url} takes \(HTTP 413\); shrink the"),
        (fault(status=401), ServiceError, r"{url} wants credentials \(HTTP 401\); give its access token"),
        (fault(status=404), ServiceError, r"{url} is no segmentation service of hf-privseg \(HTTP 404\); check"),
        (
            fault(status=307, location="http://elsewhere/\x1b[31m"),
            ServiceError,
            r"{url} redirects to 'http://elsewhere/ ?\[31m', which is not followed; if it is trusted, use that",
        ),
        (fault(refusal("a \x1b]0;key\n"), 409), RequestRefusedError, r"refused by {url} \(HTTP 409\): a ]0;key$"),
        (fault(refusal("x" * 9999), 422), RequestRefusedError, r"refused by {url} \(HTTP 422\): x{{500}}$"),
        (fault(refusal("no such key"), 404), NotFoundError, r"refused by {url} \(HTTP 404\): no such key$"),
        (fault('{"error": {"message": 7}}', 422), ServiceError, r"{url} is no segmentation service .*\(HTTP 422\)"),
        (fault("[" * 100_000, 422), ServiceError, r"{url} is no segmentation service of hf-privseg \(HTTP 422\)"),
    ],
    ids=["413", "401", "404", "redirect", "control", "long", "unknown", "number", "deep"],
)  # fmt: skip
def test_answers_without_success(service, send, answer, kind, message):
    service.faults = [answer]
    with pytest.raises(ServiceError, match=message.format(url=service.url)) as raised:
        send(service.url)
    assert raised.type is kind
    assert len(service.requests) == 1


@pytest.mark.parametrize("text", ["<html>", "[" * 100_000], ids=["HTML", "deep"])
def test_what_is_no_json(text):
    with pytest.raises(ServiceError, match="there answers with something other than JSON; check that it is a"):
        http_calls.parsed(text.encode(), "there")


# ---------------------------------------------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("url", "came"),
    [
        ("127.0.0.1:7860", "a text of 14 characters"),
        ("file:///etc/passwd", "a text of 18 characters"),
        ("https://", "a text of 8 characters"),
        ("privseg1.orthogonal.AAAA", "a text of 24 characters"),
        ("https://me:password@host", "a text of 24 characters"),
        ("http://a/?b=c", "'http://a/?b=c'"),
        ("http://a/#b", "'http://a/#b'"),
    ],
)
def test_an_address_of_another_form_is_refused_and_no_secret_repeated(url, came):
    text = "expected a service's address such as http://127.0.0.1:7860 .*, got "
    with pytest.raises(ValueError, match=f"{text}{re.escape(came)}$"):
        HttpCalls(url)


@pytest.mark.parametrize(
    "value", ["Bearer secret\n", "Bearer sec\r\nret", "Bearer s\u00e9cret", "secret\0"], ids=ascii
)
def test_a_header_that_cannot_be_sent_is_named_and_not_repeated(value):
    with pytest.raises(ValueError, match=r"^expected printable ASCII .* header Authorization, got [^\n]*$") as raised:
        HttpCalls("http://localhost", headers={"Authorization": value})
    assert "secret" not in str(raised.value)
    assert "Bearer" not in str(raised.value)


@pytest.mark.parametrize("settings", [{"timeout": 0}, {"timeout": float("inf")}, {"retries": -1}], ids=str)
def test_numbers_out_of_range(settings):
    ((name, value),) = settings.items()
    with pytest.raises(ValueError, match=rf"expected timeout > 0 and retries >= 0, got .*{name}={value}"):
        HttpCalls("http://localhost", **settings)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_has_an_event_loop_of_its_own(service):
    assert sent(service.url) == b"42"
    child = multiprocessing.get_context("fork").Process(target=sent, args=(service.url,), daemon=True)
    child.start()
    child.join(20)
    assert child.exitcode == 0
    assert len(service.requests) == 2


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_a_certificate_is_trusted_by_its_file_and_another_ends_the_call_at_once(tmp_path, send):
    own, other = (make_certificate(tmp_path / name) for name in ("own", "other") if not (tmp_path / name).mkdir())
    with ScriptedService(42, certificate=own) as service:
        assert send(service.url, ca_file=own / "certificate.pem") == b"42"
        for settings in ({}, {"ca_file": other / "certificate.pem"}):
            with pytest.raises(ServiceError, match=rf"the certificate of {service.url} is not trusted \(self.signed"):
                send(service.url, **settings)
        assert len(service.requests) == 1  # nothing was sent, and nothing tried again


def test_a_file_without_certificates(tmp_path):
    (tmp_path / "empty.pem").write_text("nothing")
    with pytest.raises(ValueError, match=r"expected certificates in PEM form, got .*empty\.pem, which holds none"):
        HttpCalls("https://localhost", ca_file=tmp_path / "empty.pem")
    with pytest.raises(FileNotFoundError):
        HttpCalls("https://localhost", ca_file=tmp_path / "missing.pem")
