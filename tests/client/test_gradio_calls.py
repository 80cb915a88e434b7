"""Calls of a Gradio app: what is asked and sent, what is tried again, and answers of apps that mean no good."""

import json
import re
import threading
import time

import pytest

from helpers.loopback import ScriptedService, event, fault, unused_address
from hf_privseg.client import gradio_calls
from hf_privseg.client.gradio_calls import MAX_ANSWER_BYTES, Deadline, GradioCalls
from hf_privseg.setr.errors import RequestRefusedError, ServiceError, ServiceUnavailableError

pytestmark = pytest.mark.usefixtures("short_pauses")


@pytest.fixture
def short_pauses(monkeypatch):
    monkeypatch.setattr(gradio_calls, "_BACKOFF_SECONDS", (0.01, 0.02))


@pytest.fixture
def service():
    with ScriptedService({"double": 42}, {"/tmp/a%20map.png": b"content"}) as service:
        yield service


def call(service, **settings):
    with GradioCalls(service.url, **settings) as calls:
        return calls.persist(lambda deadline: calls.call("double", [21], deadline))


def upload(service):
    with GradioCalls(service.url) as calls:
        return calls.persist(lambda deadline: calls.upload(".png", b"\x00bytes", deadline))


def download(service, file, max_bytes=100):
    with GradioCalls(service.url) as calls:
        return calls.persist(lambda deadline: calls.download(file, max_bytes, deadline))


def test_a_call_is_posted_and_its_result_read_from_the_event(service):
    assert call(service) == 42
    (post, path, _, body), (get, result, _, _) = service.requests
    assert (post, path, json.loads(body)) == ("POST", "/gradio_api/call/double", {"data": [21]})
    assert (get, result) == ("GET", "/gradio_api/call/double/e1")


def test_heartbeats_and_intermediate_events_are_passed_over(service):
    service.faults = [fault('{"event_id": "a/b"}')]
    service.faults.append(fault(event("heartbeat", None) + event("generating", [1]) + event("complete", [2])))
    assert call(service) == 2
    assert service.requests[1][1] == "/gradio_api/call/double/a%2Fb"


def test_files_go_up_under_random_names_and_come_down_from_the_same_host(service):
    first, second = upload(service), upload(service)
    for file, (_, _, _, body) in zip((first, second), service.requests, strict=True):
        name = file.pop("orig_name")
        assert re.fullmatch(r"[0-9a-f]{32}\.png", name)
        assert file == {"path": "/tmp/uploaded", "meta": {"_type": "gradio.FileData"}}
        assert f'name="files"; filename="{name}"'.encode() in body
        assert b"\x00bytes" in body
    assert service.requests[0][3] != service.requests[1][3]
    file = {"path": "/tmp/a map.png", "url": "http://elsewhere.invalid/map.png"}
    assert download(service, file) == b"content"


def test_no_token_of_the_machine_is_sent_and_own_headers_are(service, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_stored")
    call(service, headers={"Authorization": "Bearer mine"})
    sent = [headers for _, _, headers, _ in service.requests]
    assert "hf_stored" not in str(sent)
    assert [headers["authorization"] for headers in sent] == ["Bearer mine"] * 2
    assert {headers["user-agent"] for headers in sent} == {"hf-privseg"}


# -------------------------------------------------------------------------------------------------- trying again


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_failure_that_may_pass_is_tried_again(service, status):
    service.faults = [fault(status=status)] * 3
    assert call(service, retries=3) == 42
    assert len(service.requests) == 5


def test_a_connection_that_breaks_is_tried_again(service):
    service.faults = [fault("cut short", content_length="100"), fault('{"event_id": "e"}'), fault("")]
    assert call(service) == 42
    assert len(service.requests) == 5


def test_it_gives_up_after_the_last_attempt_and_says_so(service):
    service.faults = [fault(status=503)] * 3
    text = rf"the service at {service.url} is busy \(HTTP 503\); try again later \(tried 3 times\)"
    with pytest.raises(ServiceUnavailableError, match=text):
        call(service, retries=2)
    assert len(service.requests) == 3


def test_a_service_that_fails_on_its_own_is_named_so(service):
    service.faults = [fault(status=500)]
    with pytest.raises(ServiceUnavailableError, match=r"fails, or is none of hf-privseg \(HTTP 500\)"):
        call(service, retries=0)


def test_nobody_listening():
    with unused_address() as url, GradioCalls(url, retries=1) as calls:
        text = rf"no answer from {url} \(.*refused.*\); check the address, and that the service runs \(tried 2 times\)"
        with pytest.raises(ServiceUnavailableError, match=text):
            calls.persist(lambda deadline: calls.call("double", [1], deadline))


def test_the_pause_that_a_service_asks_for_is_kept(service):
    service.faults = [fault(status=429, retry_after="1")]
    start = time.monotonic()
    assert call(service) == 42
    assert 1 <= time.monotonic() - start < 5


def test_a_pause_beyond_the_deadline_is_not_waited_for(service):
    service.faults = [fault(status=429, retry_after="600")]
    start = time.monotonic()
    with pytest.raises(ServiceUnavailableError, match=r"is busy \(HTTP 429\).*\(tried 1 times\)"):
        call(service)
    assert time.monotonic() - start < 5


def test_pauses_grow_up_to_a_longest_one(service, monkeypatch):
    pauses = []
    monkeypatch.setattr(gradio_calls.time, "sleep", pauses.append)
    monkeypatch.setattr(gradio_calls, "_BACKOFF_SECONDS", (1.0, 4.0))
    service.faults = [fault(status=503)] * 5
    assert call(service, retries=5) == 42
    for pause, longest in zip(pauses, [1, 2, 4, 4, 4], strict=True):
        assert longest / 2 <= pause <= longest


# ----------------------------------------------------------------------------------------- services that mean no good


def test_a_service_that_never_ends_is_left_at_the_deadline(service):
    def dribble(handler):
        handler.send_response(200)
        handler.end_headers()
        while not stop.wait(0.05):
            handler.wfile.write(event("heartbeat", None).encode())

    stop = threading.Event()
    service.faults = [fault('{"event_id": "e"}'), dribble]
    start = time.monotonic()
    text = rf"no result from {service.url} within 0.5 s; it is busy or stuck: try again later, or pass a larger"
    try:
        with pytest.raises(ServiceUnavailableError, match=text):
            call(service, timeout=0.5)
    finally:
        stop.set()
    assert time.monotonic() - start < 5
    assert len(service.requests) == 2


def test_a_service_that_says_nothing_is_left_at_the_deadline(service):
    stop = threading.Event()
    service.faults = [lambda handler: stop.wait(20)] * 9
    try:
        with pytest.raises(ServiceUnavailableError, match=r"within 0.5 s"):
            call(service, timeout=0.5)
    finally:
        stop.set()


def test_a_deadline_counts_down():
    deadline = Deadline(60, "there")
    assert 59 < deadline.remaining() <= 60


@pytest.mark.parametrize("place", [0, 1], ids=["answer", "events"])
def test_an_endless_answer_is_cut_off(service, place):
    service.faults = [fault('{"event_id": "e"}')] * place + [fault("x" * (MAX_ANSWER_BYTES + 1))]
    with pytest.raises(ServiceError, match=f"answers with more than the {MAX_ANSWER_BYTES} bytes expected of it"):
        call(service)


def test_a_file_may_be_as_large_as_expected_and_no_larger(service):
    assert download(service, {"path": "/tmp/a map.png"}, max_bytes=7) == b"content"
    with pytest.raises(ServiceError, match="answers with more than the 6 bytes expected of it"):
        download(service, {"path": "/tmp/a map.png"}, max_bytes=6)


@pytest.mark.parametrize(
    ("answer", "kind", "message"),
    [
        (fault(status=413), RequestRefusedError, r"the upload is larger than {url} takes \(HTTP 413\); shrink the"),
        (fault(status=401), ServiceError, r"{url} wants credentials \(HTTP 401\); pass them as headers="),
        (fault(status=404), ServiceError, r"{url} is no segmentation service of hf-privseg \(HTTP 404\); check"),
        (
            fault(status=307, location="http://elsewhere/\x1b[31m"),
            ServiceError,
            r"{url} redirects to 'http://elsewhere/ ?\[31m', which is not followed; if it is trusted, use that",
        ),
        (fault("<html>"), ServiceError, "{url} answers with something other than JSON; check that it is a"),
        (fault("[" * 100_000), ServiceError, "{url} answers with something other than JSON"),
        (
            fault('{"event_id": 7}'),
            ServiceError,
            "{url} did not accept a call as a Gradio app does; check the address",
        ),
        (fault("[1]"), ServiceError, "{url} did not accept a call as a Gradio app does; check the address"),
    ],
    ids=["413", "401", "404", "redirect", "HTML", "deep", "number", "list"],
)
def test_answers_without_success(service, answer, kind, message):
    service.faults = [answer]
    with pytest.raises(ServiceError, match=message.format(url=service.url)) as raised:
        call(service)
    assert raised.type is kind
    assert len(service.requests) == 1


@pytest.mark.parametrize(
    ("data", "kind", "message"),
    [
        ({"error": "wrong \x1b]0;key\n"}, RequestRefusedError, "refused by {url}, /double: wrong ]0;key$"),
        ({"error": "x" * 9999}, RequestRefusedError, "refused by {url}, /double: x{{500}}$"),
        ({"error": None}, ServiceError, "{url}, /double failed without a reason; its operator finds it in the"),
        (None, ServiceError, "{url}, /double failed without a reason"),
        ("Server stopped.", ServiceUnavailableError, r"{url}, /double: Server stopped. \(tried 1 times\)"),
    ],
    ids=["reason", "long", "none", "null", "stopped"],
)
def test_errors_that_a_service_reports(service, data, kind, message):
    service.faults = [fault('{"event_id": "e"}'), fault(event("error", data))]
    with pytest.raises(ServiceError, match=message.format(url=service.url)) as raised:
        call(service, retries=0)
    assert raised.type is kind


def test_a_result_that_never_comes(service):
    service.faults = [fault('{"event_id": "e"}'), fault(event("heartbeat", None))]
    with pytest.raises(ServiceUnavailableError, match=f"the connection to {service.url} ended before the result of"):
        call(service, retries=0)


@pytest.mark.parametrize("data", [[1, 2], {"a": 1}, None], ids=str)
def test_another_number_of_outputs(service, data):
    service.faults = [fault('{"event_id": "e"}'), fault(event("complete", data))]
    with pytest.raises(ServiceError, match=f"expected one output of /double at {service.url}, got .*"):
        call(service)


@pytest.mark.parametrize("answer", ["{}", "[]", "[1]", '["a", "b"]'])
def test_an_upload_that_is_not_acknowledged(service, answer):
    service.faults = [fault(answer)]
    with pytest.raises(ServiceError, match=f"{service.url} did not acknowledge an upload as a Gradio app does"):
        upload(service)


@pytest.mark.parametrize(("file", "name"), [(None, "NoneType"), ({"path": 7}, "dict"), ("/etc/passwd", "str")])
def test_a_result_that_is_no_file(service, file, name):
    with pytest.raises(ServiceError, match=f"expected a file from {service.url}, got {name}"):
        download(service, file)


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
        GradioCalls(url)


@pytest.mark.parametrize("settings", [{"timeout": 0}, {"timeout": float("inf")}, {"retries": -1}], ids=str)
def test_numbers_out_of_range(settings):
    ((name, value),) = settings.items()
    with pytest.raises(ValueError, match=rf"expected timeout > 0 and retries >= 0, got .*{name}={value}"):
        GradioCalls("http://localhost", **settings)
