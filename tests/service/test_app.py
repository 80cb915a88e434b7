"""The service's endpoints over loopback, called as anyone would with gradio_client."""

import io
import json
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.leaks import assert_no_secret
from helpers.tiny_service import ciphertext, embedding_for, processor, service
from helpers.tiny_setr import tiny_model
from hf_privseg import SecretKey
from hf_privseg.catalog.sample_images import sample_image
from hf_privseg.client.gradio_calls import Deadline, GradioCalls
from hf_privseg.service import Limits, SegmentationService
from hf_privseg.service.sample import SAMPLE, sample_credit, sample_file
from hf_privseg.setr.errors import RequestRefusedError

gr = pytest.importorskip("gradio")
client_module = pytest.importorskip("gradio_client")
pytest.importorskip("sklearn")


def started(engine):
    from hf_privseg.service.app import build_app, launch

    app = build_app(engine)
    _, url, _ = launch(app, prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")
    return app, url


@pytest.fixture(scope="module")
def public(temporary):
    engine = service(limits=Limits(max_pixels=2**14))
    app, url = started(engine)
    yield engine, url, app
    app.close()


@pytest.fixture(scope="module")
def client(public, tmp_path_factory):
    return client_module.Client(public[1], verbose=False, download_files=tmp_path_factory.mktemp("downloads"))


def upload(tmp_path, data, name="upload.safetensors"):
    path = tmp_path / name
    path.write_bytes(data)
    return client_module.handle_file(path)


@pytest.mark.parametrize("family", ["permutation", "orthogonal"])
def test_a_client_registers_and_segments(public, client, temporary, tmp_path, family, capfd):
    engine, key = public[0], SecretKey.generate(family)
    before = {path for path in temporary.rglob("*") if path.is_file()}
    answer = client.predict(upload(tmp_path, embedding_for(key, engine)), api_name="/register_embedding")
    assert set(answer) == {"session", "expires_in_seconds"}
    data = ciphertext(key)
    name = "image.encrypted.png" if family == "permutation" else "image.encrypted.safetensors"
    result = client.predict(upload(tmp_path, data, name), answer["session"], api_name="/segment")
    picture = Image.open(result)
    assert (picture.format, picture.mode, picture.size) == ("PNG", "L", (30, 18))
    assert np.array_equal(np.array(picture), engine.segment(data, answer["session"]))
    left = {path for path in temporary.rglob("*") if path.is_file()} - before
    assert {path.name for path in left} <= {"segmentation.png"}  # uploads are gone
    output = "".join(capfd.readouterr())
    assert_no_secret(output, key)
    assert answer["session"] not in output


def test_gradio_keeps_few_sessions_however_many_call(monkeypatch, temporary):
    monkeypatch.setattr("hf_privseg.service.app._GRADIO_SESSIONS", 3)
    engine = service()
    app, url = started(engine)
    try:
        with GradioCalls(url) as calls:
            for _ in range(8):  # a session each
                assert calls.call("public_embedding", [], Deadline(60, url))
        assert 1 <= len(app.state_holder.session_data) <= 3
    finally:
        app.close()


def test_model_info_is_what_the_engine_says(public, client):
    info = client.predict(api_name="/model_info")
    assert info == json.loads(json.dumps(public[0].model_info()))


def test_the_public_embedding_is_served_as_it_is(public, client):
    assert Path(client.predict(api_name="/public_embedding")).read_bytes() == public[0].public_embedding()


def test_refusals_reach_the_client_in_full_and_stay_out_of_the_log(public, client, tmp_path, capfd):
    key, other = SecretKey.generate(), SecretKey.generate()
    session = client.predict(upload(tmp_path, embedding_for(key, public[0])), api_name="/register_embedding")[
        "session"
    ]
    for data, token, message in (
        (ciphertext(other), session, f"{other.fingerprint}.*{key.fingerprint}"),
        (ciphertext(key), "", "expected a session"),
        (ciphertext(key), "nonsense", "unknown or over"),
        (b"rubbish", session, "expected an encrypted image"),
    ):
        with pytest.raises(client_module.exceptions.AppError, match=message):
            client.predict(upload(tmp_path, data), token, api_name="/segment")
    with pytest.raises(client_module.exceptions.AppError, match="expected a file, got none"):
        client.predict(None, session, api_name="/segment")
    client.predict(session, api_name="/end_session")
    with pytest.raises(client_module.exceptions.AppError, match="unknown or over"):
        client.predict(upload(tmp_path, ciphertext(key)), session, api_name="/segment")
    assert "Traceback" not in "".join(capfd.readouterr())


def posted(url, name, data):
    """An upload as any program may make it, under a name of its choice -> what Gradio answers."""
    head = f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    body = head.encode() + data + b"\r\n--x--"
    with urllib.request.urlopen(urllib.request.Request(f"{url}gradio_api/upload", body, headers)) as response:
        return json.load(response)


def test_equal_files_of_one_name_are_one_and_the_second_has_to_come_again(public, capfd):
    engine, url, _ = public
    key = SecretKey.generate()
    session, data = engine.register_embedding(embedding_for(key, engine))["session"], ciphertext(key)
    with GradioCalls(url) as calls:
        deadline = Deadline(60, url)

        def call(path):
            return calls.call("segment", [{"path": path, "meta": {"_type": "gradio.FileData"}}, session], deadline)

        (one,), (two,) = posted(url, "a.safetensors", data), posted(url, "a.safetensors", data)
        assert one == two  # which is why clients of ours take random names
        call(one)
        with pytest.raises(RequestRefusedError, match=r"the upload is gone: .* under the same name; upload it again"):
            call(two)
        call(*posted(url, "a.safetensors", data))
    assert "Traceback" not in "".join(capfd.readouterr())


def test_an_upload_beyond_the_limit_is_refused(public):
    with pytest.raises(urllib.error.HTTPError, match="413"):
        posted(public[1], "a.png", bytes(2**18))


def test_a_file_of_the_service_is_neither_read_nor_deleted_for_a_client(public, client):
    from hf_privseg.service.app import STATIC

    target = STATIC / "page.js"
    with pytest.raises(client_module.exceptions.AppError):
        client.predict({"path": str(target), "meta": {"_type": "gradio.FileData"}}, "", api_name="/segment")
    assert target.is_file()


def test_answers_are_deleted_in_time(monkeypatch, temporary):
    monkeypatch.setattr("hf_privseg.service.app._SECONDS_KEPT", 0.2)
    monkeypatch.setattr("hf_privseg.service.app._CLEANUP_SECONDS", 0.05)
    app, url = started(service())
    try:
        with GradioCalls(url) as calls:
            answer = Path(calls.call("public_embedding", [], Deadline(60, url))["path"])
        deadline = time.monotonic() + 10
        while answer.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert temporary in answer.parents
        assert not answer.exists()
    finally:
        app.close()


def test_the_page_may_connect_to_nothing_but_its_service(public):
    with urllib.request.urlopen(public[1]) as response:
        policy, page = response.headers["Content-Security-Policy"], response.read().decode()
    assert "connect-src 'self' data: blob:;" in policy
    assert "privseg/page.js" in page
    with urllib.request.urlopen(f"{public[1]}privseg/page.js") as response:
        assert "javascript" in response.headers["Content-Type"]


def test_the_sample_image_is_a_plain_public_picture(public):
    with urllib.request.urlopen(f"{public[1]}privseg/sample.jpg") as response:
        kind, data = response.headers["Content-Type"], response.read()
    assert kind == "image/jpeg"
    found, expected = np.array(Image.open(io.BytesIO(data))), np.array(sample_image(SAMPLE))
    assert np.abs(found.astype(int) - expected).mean() < 4
    with urllib.request.urlopen(public[1]) as response:
        page = response.read().decode()
    assert "danielbuechele" in page
    assert "without-sample" not in page


def test_where_no_sample_image_is_installed_none_is_offered(temporary, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    sample_file.cache_clear()
    app, url = started(service())
    try:
        with urllib.request.urlopen(url) as response:
            assert "without-sample" in response.read().decode()
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"{url}privseg/sample.jpg")
    finally:
        app.close()
        sample_file.cache_clear()


def test_the_credit_of_the_sample_image_is_linked():
    credit = sample_credit()
    assert 'href="https://www.flickr.com/photos/danielbuechele/6061409035/" target' in credit
    assert ">creativecommons.org</a>" in credit
    assert "(https" not in credit


def test_an_encrypted_model_offers_no_registration(temporary, tmp_path):
    key = SecretKey.generate("permutation")
    engine = SegmentationService(tiny_model().encrypt_model(key), processor())
    app, url = started(engine)
    try:
        client = client_module.Client(url, verbose=False, download_files=tmp_path)
        names = set(client.view_api(return_format="dict")["named_endpoints"])
        assert names == {"/model_info", "/end_session", "/segment"}
        with urllib.request.urlopen(url) as response:  # a known image would open what others encrypt with this key
            assert "without-sample" in response.read().decode()
        result = client.predict(upload(tmp_path, ciphertext(key), "image.png"), "", api_name="/segment")
        assert Image.open(io.BytesIO(Path(result).read_bytes())).size == (30, 18)
    finally:
        app.close()
