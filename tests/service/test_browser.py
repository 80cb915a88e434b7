"""The page in a real browser: every tab clicked through, every request recorded, keys and pixels in none of them.

Needs Playwright for Python and Debian's chromium (or the path of a Chrome in PRIVSEG_BROWSER). Screenshots go to the
folder PRIVSEG_SCREENSHOTS if that is set.
"""

import base64
import hashlib
import io
import json
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from helpers.browser import (
    choose,
    choose_family,
    fingerprint,
    finished,
    go_to,
    named,
    open_keys,
    opened,
    press,
    screenshot,
    segment,
    take_sample,
    tiny_service,
)
from helpers.leaks import assert_no_client_embedding, assert_no_secret
from helpers.loopback import running
from helpers.paths import VECTORS_FOLDER
from helpers.tiny_service import register
from hf_privseg import ClientEmbedding, SecretKey, SetrImageProcessor
from hf_privseg.catalog.street_images import STREET_IMAGES, street_file, street_image
from hf_privseg.client.http_calls import httpx
from hf_privseg.service.access import Grant, add_token
from hf_privseg.setr.transform_code import TransformCode

pytest.importorskip("gradio")
VECTORS = json.loads((VECTORS_FOLDER / "keys.json").read_text())["keys"]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def scripts_page(browser, public):
    """A page that serves to import the scripts."""
    with opened(browser, public[1]) as (page, _):
        yield page


def pixels_of(canvas):
    """(height, width, 3) uint8 of a canvas in the page."""
    data = canvas.evaluate("canvas => canvas.toDataURL()")
    return np.array(Image.open(io.BytesIO(base64.b64decode(data.partition(",")[2]))).convert("RGB"))


@pytest.mark.parametrize("family", ["orthogonal", "permutation"])
def test_only_ciphertexts_leave_the_page(browser, public, image, family, capfd):
    with opened(browser, public[1]) as (page, recorder):
        choose_family(page, family)
        assert "computed from the ciphertext" in segment(page, image)
        with page.expect_download() as download:
            press(page, "save-key")
        key = SecretKey.from_file(download.value.path())
        storage = page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])")
        shown = page.content()
        # what was uploaded is the encryption of the image as this page resized it
        seen = pixels_of(page.locator("canvas.chosen-image"))
        legend = page.locator('[data-privseg="segment-map"] .legend button').all_text_contents()
    assert np.array_equal(seen, np.array(Image.open(image)))
    (uploaded,) = recorder.images()
    assert (uploaded.family, uploaded.fingerprint, uploaded.original_size) == (family, key.fingerprint, (200, 300))
    sent = SetrImageProcessor().decrypt(uploaded, key)
    expected = SetrImageProcessor().decrypt(SetrImageProcessor().encrypt(Image.open(image), key), key)
    assert sent.size == expected.size
    assert np.abs(np.array(sent).astype(int) - np.array(expected)).mean() < 4  # another resampling of one image
    # neither key nor pixels are in any request, in the browser's storage, in the page or in the service's log
    plain = [seen[100, 60:90].tobytes(), np.array(sent)[96, 64:94].tobytes(), image.read_bytes()[100:200]]
    for text in (recorder.sent(), storage.encode(), shown.encode(), "".join(capfd.readouterr()).encode()):
        assert_no_secret(text, key)
        assert not any(part in text for part in plain)
    assert {urlsplit(address).netloc for address in recorder.asked_for} <= {urlsplit(recorder.address).netloc, ""}
    assert [line for line, _ in recorder.bodies()] == [
        f"PUT /v1/embeddings/{key.fingerprint} HTTP/1.1", "POST /v1/segment HTTP/1.1"
    ]  # fmt: skip
    assert recorder.complaints == []
    assert len(legend) >= 1


def test_a_visitor_without_an_image_takes_the_sample_which_is_encrypted_as_any_other(browser, public):
    with opened(browser, public[1], width=390, height=844, phone=True) as (page, recorder):
        take_sample(page)
        shown = pixels_of(page.locator("canvas.chosen-image"))
        press(page, "segment")
        assert "computed from the ciphertext" in finished(page, "segment")
        key_facts = named(page, "key-facts").text_content()
        screenshot(page, "sample-phone")
    assert np.abs(shown.astype(int) - np.array(street_image("cars"))).mean() < 4
    (image,) = recorder.images()
    assert key_facts == f"orthogonal, fingerprint {image.fingerprint}"
    assert image.original_size == shown.shape[:2]
    assert len(recorder.bodies()) == 2  # the embedding and this image
    file = street_file("cars").read_bytes()
    for plain in (shown[200, 60:90].tobytes(), file[5000:5100]):
        assert plain not in recorder.sent()
    assert recorder.complaints == []


def test_an_image_of_ones_own_takes_the_place_of_the_sample_and_gets_another_key(browser, public, image):
    with opened(browser, public[1]) as (page, recorder):
        take_sample(page)
        press(page, "segment")
        finished(page, "segment")
        choose(page, image)
        finished(page, "image")
        assert not named(page, "ciphertext").is_visible()  # it is of the other image
        assert not named(page, "segment-map").is_visible()
        press(page, "segment")
        finished(page, "segment")
        assert named(page, "segment-map").is_visible()
        key = fingerprint(page)
    # one known image opens whatever else is encrypted with its key
    sample, own = recorder.images()
    assert own.fingerprint == key != sample.fingerprint


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_golden_vectors_in_the_browser(scripts_page, vector):
    found = scripts_page.evaluate(
        """async ({text, lengths}) => {
          const {SecretKey} = await import("./privseg/keys.js");
          const key = SecretKey.fromText(text);
          const orders = await Promise.all(lengths.map(async (length) => [...await key.permutation(length)]));
          return {fingerprint: await key.fingerprint(), orders, haar: [...await key.haar(12)]};
        }""",
        {"text": vector["text"], "lengths": [case["block_length"] for case in vector.get("permutation", [])]},
    )
    assert found["fingerprint"] == vector["fingerprint"]
    for order, case in zip(found["orders"], vector.get("permutation", []), strict=True):
        digest = hashlib.sha256(np.array(order, ">u2").tobytes()).hexdigest()
        assert digest == case["sha256_uint16_be"]
    haar = SecretKey.from_text(vector["text"]).haar(12)
    np.testing.assert_allclose(np.reshape(found["haar"], (12, 12)), haar, atol=1e-12)


def test_the_recorder_would_notice_a_key(browser, public):
    key = SecretKey.generate()
    with opened(browser, public[1]) as (page, recorder):
        page.evaluate("text => fetch('nothing', {method: 'POST', body: new Blob([text])})", key.to_text())
        page.wait_for_timeout(500)
    with pytest.raises(AssertionError, match="the secret key shows up"):
        assert_no_secret(recorder.sent(), key)


def test_the_browser_refuses_to_connect_elsewhere(browser, public):
    with opened(browser, public[1]) as (page, _):
        outcome = page.evaluate("fetch('http://127.0.0.1:9/').then(() => 'connected', (error) => error.message)")
        blocked = page.evaluate(
            """() => new Promise((resolve) => {
              addEventListener("securitypolicyviolation", (event) => resolve(event.effectiveDirective));
              fetch("http://127.0.0.1:9/").catch(() => {});
            })"""
        )
        worker, *_ = page.workers or [page.wait_for_event("worker")]
        from_worker = worker.evaluate("fetch('/').then(() => 'connected', (error) => error.message)")
        has_vectors = worker.evaluate("import('./products.js').then(({ hasVectors }) => hasVectors)")
    assert outcome != "connected"
    assert blocked == "connect-src"
    assert from_worker != "connected"  # to its own service either
    assert has_vectors  # the worker's policy admits WebAssembly


def test_the_map_is_the_one_that_python_computes(browser, public, image):
    engine, url = public
    with opened(browser, url) as (page, recorder):
        segment(page, image)
        map_canvas = page.locator('[data-privseg="segment-map"] canvas.labels')
        shown = pixels_of(map_canvas)
        with page.expect_download() as download:
            press(page, "save-used-key")
        key = SecretKey.from_file(download.value.path())
        opacity = "canvas => getComputedStyle(canvas).opacity"
        assert map_canvas.evaluate(opacity) == "0.6"
        page.locator('[data-privseg="segment-map"] input[type=range]').fill("20")
        assert map_canvas.evaluate(opacity) == "0.2"
        button = page.locator('[data-privseg="segment-map"] .legend button').first
        button.click()
        assert button.get_attribute("aria-pressed") == "true"
        alone = map_canvas.evaluate(
            "c => new Set(c.getContext('2d').getImageData(0, 0, 300, 200).data.filter((_, i) => i % 4 === 3)).size"
        )
        map_canvas.hover()
        readout = page.locator('[data-privseg="segment-map"] .readout').text_content()
    register(engine, key, patch_size=16)
    (image,) = recorder.images()
    labels = engine.segment(image.to_bytes())
    assert np.array_equal(shown, np.array(engine.model_info()["palette"], np.uint8)[labels])
    assert alone == (1 if len(np.unique(labels)) == 1 else 2)
    assert readout == f"LABEL {labels[100, 150]}"


def test_a_visitor_may_send_half_as_much(browser, public, image):
    engine, url = public
    with opened(browser, url) as (page, recorder):
        segment(page, image)
        before = page.locator('[data-privseg="image-name"]').text_content()
        page.locator('[data-privseg="eight-bits"]').check()
        assert page.locator('[data-privseg="image-name"]').text_content() != before
        press(page, "segment")
        finished(page, "segment")
        with page.expect_download() as download:
            press(page, "save-used-key")
        key = SecretKey.from_file(download.value.path())
    register(engine, key, patch_size=16)  # the page has had its own forgotten
    exact, sent = recorder.images()
    assert (exact.bits, sent.bits) == (16, 8)
    assert np.abs(sent.pixels - exact.pixels).max() < 0.05
    assert (engine.segment(sent.to_bytes()) == engine.segment(exact.to_bytes())).mean() > 0.98


LATE_REVOCATIONS = """() => {
  const plain = window.fetch;
  window.fetch = async (address, options) => {
    if (options?.method === "DELETE") await new Promise((resolve) => setTimeout(resolve, 1000));
    return plain(address, options);
  };
}"""


def test_wrong_key_and_no_key(browser, public, image, monkeypatch):
    store, calls = public[0].store, []

    def noted(name, method):
        def call(what):
            calls.append(name)
            return method(what)

        return call

    for name in ("put", "remove"):
        monkeypatch.setattr(store, name, noted(name, getattr(store, name)))
    with opened(browser, public[1]) as (page, recorder):
        page.evaluate(LATE_REVOCATIONS)
        segment(page, image)
        go_to(page, "No key")
        press(page, "try-without")
        finished(page, "try-without")
        refusal = named(page, "refusal").text_content()
        own = fingerprint(page)
        shares = [named(page, f"{name}-map-share").text_content() for name in ("wrong-key", "no-key")]
        screenshot(page, "wrong-key")
    # the second embedding under the same fingerprint is sent once the server has forgotten the first
    assert calls[:4] == ["put", "put", "remove", "put"]
    (other,) = {image.fingerprint for image in recorder.images()} - {own}
    assert f"No patch embedding is registered for the key of the encrypted image (key fingerprint {other}" in refusal
    assert all(re.fullmatch(r"Agrees with the map under the right key on [\d.]+ % of the pixels\.", s) for s in shares)


def test_a_ciphertext_of_privseg_encrypt_is_taken(browser, public, image, tmp_path):
    key = SecretKey.generate("signed_permutation")
    key.to_file(tmp_path / "own.key")
    SetrImageProcessor().encrypt(Image.open(image), key).to_file(tmp_path / "image.png")
    with opened(browser, public[1]) as (page, recorder):
        go_to(page, "Upload")
        choose(page, tmp_path / "image.png", "ciphertext-file")
        assert finished(page, "ciphertext-file", "error") == (
            f"This file was made with another key (signed_permutation, fingerprint {key.fingerprint}). Load that key "
            "in step 2 of the tab Segment, then choose the file again."
        )
        go_to(page, "Segment")
        open_keys(page)
        choose(page, tmp_path / "own.key", "load-key")
        finished(page, "load-key")
        assert fingerprint(page) == key.fingerprint
        assert named(page, "family").input_value() == "signed_permutation"
        go_to(page, "Upload")
        choose(page, tmp_path / "image.png", "ciphertext-file")
        finished(page, "ciphertext-file")
        page.locator('[data-privseg="upload-map"] canvas.labels').wait_for()
        screenshot(page, "upload")
    assert_no_secret(recorder.sent(), key)


def test_what_is_no_ciphertext_is_not_sent(browser, public, image, tmp_path):
    key = SecretKey.generate()
    key.to_file(tmp_path / "own.key")
    with opened(browser, public[1], tab="#upload") as (page, recorder):
        for wrong in (image, tmp_path / "own.key"):
            choose(page, wrong, "ciphertext-file")
            assert finished(page, "ciphertext-file", "error") == (
                f"{wrong.name} is no encrypted image, so it was not sent. Choose a file that privseg encrypt or "
                "this page wrote."
            )
    assert recorder.bodies() == []
    assert_no_secret(recorder.sent(), key)


def test_what_the_server_can_see(browser, public, image):
    with opened(browser, public[1]) as (page, _):
        page.get_by_role("link", name="see the attack").click()
        press(page, "server-view")
        assert "Segment an image first" in finished(page, "server-view", "error")
        go_to(page, "Segment")
        segment(page, image)
        go_to(page, "Attack")
        press(page, "server-view")
        finished(page, "server-view")
        titles = page.locator('[data-privseg="views"] strong').all_text_contents()
        sizes = page.locator('[data-privseg="views"] img').evaluate_all("all => all.map((i) => i.naturalWidth)")
    assert titles == [
        "With the public model",
        "From this ciphertext alone",
        "The thumbnail, from this ciphertext alone",
    ]
    assert set(sizes) == {304}


def test_errors_say_what_to_do(browser, public, tmp_path):
    (tmp_path / "note.txt").write_text("no picture")
    with opened(browser, public[1]) as (page, _):
        press(page, "segment")
        assert finished(page, "segment", "error") == "Choose an image first, in step 1."
        choose(page, tmp_path / "note.txt")
        assert finished(page, "image", "error") == (
            "note.txt cannot be read as an image. Choose a JPEG, PNG or WebP file."
        )
        open_keys(page)
        choose(page, tmp_path / "note.txt", "load-key")
        assert finished(page, "load-key", "error") == (
            "This is no key, whose text form is 'privseg1.<family>.<base64url>' with one of the families permutation, "
            "signed_permutation, orthogonal, matrix. Choose a key file that hf-privseg or this page wrote."
        )


def test_a_page_without_https_says_so(browser, public, image):
    with opened(browser, public[1]) as (page, recorder):
        page.evaluate("Object.defineProperty(window, 'isSecureContext', {value: false})")
        press(page, "segment")
        assert "over https or on localhost alone" in finished(page, "segment", "error")
    assert recorder.bodies() == []


def test_a_key_that_the_service_has_forgotten_is_registered_again(browser, public, image):
    engine, url = public
    with opened(browser, url) as (page, recorder):
        segment(page, image)
        key = fingerprint(page)
        assert engine.store.remove(key)
        press(page, "segment")
        finished(page, "segment")
        assert engine.store.get(key)
        assert "The session had ended; renewing it" in page.locator("#panel-segment .progress").text_content()
        assert engine.store.remove(key)
        go_to(page, "Attack")
        press(page, "server-view")
        finished(page, "server-view")
    assert {image.fingerprint for image in recorder.images()} == {key}


def test_closing_the_page_has_the_service_forget_its_key(browser, public, image):
    engine, url = public
    with opened(browser, url) as (page, _):
        page.on("dialog", lambda dialog: dialog.accept())
        segment(page, image)
        own = fingerprint(page)
        assert engine.store.get(own).facts.fingerprint == own
        page.goto("about:blank")
        deadline = time.monotonic() + 10
        while is_known(engine.store, own) and time.monotonic() < deadline:
            page.wait_for_timeout(100)
    assert not is_known(engine.store, own)


def is_known(store, fingerprint):
    try:
        store.get(fingerprint)
    except LookupError:
        return False
    return True


def test_two_visitors_at_once(browser, public, image):
    with opened(browser, public[1]) as (first, one), opened(browser, public[1]) as (second, two):
        for page in (first, second):
            choose(page, image)
            finished(page, "image")
        press(first, "segment")
        press(second, "segment")
        maps = []
        for page in (first, second):
            finished(page, "segment")
            maps.append(pixels_of(page.locator('[data-privseg="segment-map"] canvas.labels')))
    keys = [recorder.images()[0].fingerprint for recorder in (one, two)]
    assert keys[0] != keys[1]
    assert np.array_equal(*maps)


def test_a_service_with_tokens_asks_for_one(browser, image, tmp_path):
    token = add_token(tmp_path / "tokens.json", Grant("visitor", may_register=True))
    with running(tiny_service(), page=True, tokens=tmp_path / "tokens.json") as url:
        with opened(browser, url) as (page, recorder):
            choose(page, image)
            finished(page, "image")
            press(page, "segment")
            assert "wants an access token. Enter yours" in finished(page, "segment", "error")
            named(page, "token").fill("privseg-token-wrong")
            named(page, "token").blur()
            assert "wants an access token. Enter yours" in finished(page, "token", "error")
            named(page, "token").fill(token)
            named(page, "token").blur()
            assert finished(page, "token") == "The token is right."
            assert "LABEL 1" in named(page, "classes").text_content()
            press(page, "segment")
            finished(page, "segment")
        assert len(recorder.images()) == 1


def test_of_gradio_only_the_page_and_one_endpoint_are_open(public):
    url = public[1]
    assert httpx.get(url).status_code == 200
    assert "privseg/page.js" in httpx.get(url).text
    for method, path in [
        ("POST", "/gradio_api/upload"), ("POST", "/gradio_api/call/segment"), ("POST", "/gradio_api/run/segment"),
        ("GET", "/gradio_api/file=/etc/passwd"), ("POST", "/gradio_api/cancel"), ("POST", "/gradio_api/vibe-edit"),
        ("POST", "/config"), ("GET", "/nothing"), ("POST", "/"),
    ]:  # fmt: skip
        response = httpx.request(method, f"{url}{path}", content=b'{"data": [NaN]}' if method == "POST" else None)
        assert response.status_code in (404, 405), (method, path)
        assert response.json()["error"]["request_id"] == response.headers["x-request-id"]


def test_few_attacks_wait_at_a_time(monkeypatch):
    from hf_privseg.service.server_view import ServerView

    gate, key, engine = threading.Event(), SecretKey.generate(), tiny_service()
    monkeypatch.setattr(ServerView, "views", lambda view, image: [] if gate.wait(20) else None)
    register(engine, key, patch_size=16)
    content = SetrImageProcessor().encrypt(Image.new("RGB", (32, 32)), key).to_bytes()
    with running(engine, page=True) as url, ThreadPoolExecutor(6) as pool:
        post = partial(httpx.post, f"{url}/privseg/server-view", content=content, timeout=60)
        answers = [pool.submit(post) for _ in range(6)]
        deadline = time.monotonic() + 10
        while sum(answer.done() for answer in answers) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        refused = [answer.result() for answer in answers if answer.done()]
        gate.set()
        statuses = sorted(answer.result().status_code for answer in answers)
    assert [(answer.status_code, answer.headers["retry-after"]) for answer in refused] == [(503, "5")] * 2
    assert statuses == [200] * 4 + [503] * 2


def test_the_street_images_are_plain_public_pictures_with_their_licence(public):
    page = httpx.get(public[1]).text
    for name, image in STREET_IMAGES.items():
        response = httpx.get(f"{public[1]}/privseg/samples/{name}.webp")
        assert response.headers["content-type"] == "image/webp"
        assert response.content == street_file(name).read_bytes()
        assert f'data-sample=\\"{name}' in page
        assert f'alt=\\"{image.description}' in page
    assert 'href=\\"https://github.com/udacity/CarND-Advanced-Lane-Lines\\"' in page
    assert "Copyright (c) 2016-2018 Udacity" in httpx.get(f"{public[1]}/privseg/samples/LICENSE.txt").text
    for name in ("china.webp", "..%2fkeys.webp", "..%2fstreet_images.py"):
        assert httpx.get(f"{public[1]}/privseg/samples/{name}").status_code == 404


def test_a_street_image_is_chosen_by_keyboard_and_without_the_server(browser, public):
    with opened(browser, public[1]) as (page, _):
        page.wait_for_function("[...document.querySelectorAll('.sample img')].every((image) => image.complete)")
        page.context.set_offline(True)
        named(page, "image").focus()
        page.keyboard.press("Tab")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        finished(page, "image")
        pressed = [button.get_attribute("aria-pressed") for button in page.locator(".sample").all()]
        assert named(page, "image-name").text_content().startswith("sign.webp, 1280 x 720 pixels.")
        assert page.get_by_role("button", name=STREET_IMAGES["sign"].description).count() == 1
    assert pressed == ["false", "true", "false"]


def test_an_encrypted_model_asks_for_its_key(browser, image, tmp_path):
    key, other = SecretKey.generate(), SecretKey.generate()
    key.to_file(tmp_path / "own.key")
    other.to_file(tmp_path / "other.key")
    with running(tiny_service(key), page=True) as url, opened(browser, url) as (page, recorder):
        assert not named(page, "new-key").is_visible()
        assert named(page, "load-key").is_visible()  # the box of the key is open
        assert page.locator("[data-sample]").count() == 0  # a known image would open the others
        assert page.get_by_role("tab").all_text_contents() == ["Segment", "Upload", "Attack", "About"]
        screenshot(page, "private")
        choose(page, image)
        finished(page, "image")
        press(page, "segment")
        assert "Load the key file of the model first" in finished(page, "segment", "error")
        choose(page, tmp_path / "other.key", "load-key")
        error = finished(page, "load-key", "error")
        assert key.fingerprint in error
        assert other.fingerprint in error
        choose(page, tmp_path / "own.key", "load-key")
        finished(page, "load-key")
        press(page, "segment")
        finished(page, "segment")
        choose(page, tmp_path / "other.key", "load-key")
        finished(page, "load-key", "error")
        assert named(page, "key-facts").inner_text() == "none that fits"
        press(page, "segment")  # not with the wrong key, which would be refused, nor with the one before
        assert "Load the key file of the model first" in finished(page, "segment", "error")
    assert len(recorder.images()) == len(recorder.bodies()) == 1


def coded(model):
    """A client embedding with a transform code for the model of a tiny service."""
    plain = ClientEmbedding.generate(model)
    transform = np.random.default_rng(0).normal(size=(plain.shape[1],) * 2)
    return plain.with_code(TransformCode(transform, np.array([2.0**-9, 2.0**-2]), np.array([400.0, 60.0])))


def test_a_client_embedding_is_loaded_like_a_key_and_encrypts_in_its_forms(browser, image, tmp_path):
    embedding = coded(tiny_service().model)
    embedding.to_file(tmp_path / "client.embedding")
    with running(tiny_service(embedding), page=True) as url, opened(browser, url) as (page, recorder):
        choose(page, image)
        finished(page, "image")
        assert not named(page, "few-bits").is_visible()
        choose(page, tmp_path / "client.embedding", "load-key")
        finished(page, "load-key")
        assert named(page, "key-facts").inner_text() == f"embedding, fingerprint {embedding.fingerprint}"
        assert named(page, "rates").inner_text() == "60 to 400"
        press(page, "segment")
        finished(page, "segment")
        named(page, "eight-bits").check()
        press(page, "segment")
        finished(page, "segment")
        named(page, "bits-per-block").fill("1000")
        named(page, "bits-per-block").press("Tab")
        assert not named(page, "eight-bits").is_checked()
        press(page, "segment")
        assert "60 to 400 bits a block, got 1000" in finished(page, "segment", "error")
        named(page, "bits-per-block").fill("100")
        named(page, "bits-per-block").press("Tab")
        press(page, "segment")
        finished(page, "segment")
        screenshot(page, "client-embedding")
        seen = pixels_of(page.locator("canvas.chosen-image"))
        with page.expect_download() as download:
            press(page, "save-key")
        assert Path(download.value.path()).read_bytes() == embedding.to_bytes()
    usual, eight, few = recorder.images()
    assert [each.fingerprint for each in (usual, eight, few)] == [embedding.fingerprint] * 3
    assert embedding.code is not None
    assert (usual.step, eight.bits, few.step) == (None, 8, pytest.approx(embedding.code.step_for(100), rel=1e-6))
    sizes = [len(each.to_bytes()) for each in (usual, eight, few)]
    assert sizes[2] < 0.7 * sizes[1] < 0.5 * sizes[0]
    exact = SetrImageProcessor().encrypt(Image.open(image), embedding).pixels
    correlation = np.corrcoef(exact.ravel(), usual.pixels.ravel())[0, 1]
    assert correlation > 0.99  # another resampling of one image
    assert_no_client_embedding(recorder.sent(), embedding)
    assert seen[100, 60:90].tobytes() not in recorder.sent()
    assert recorder.complaints == []


def test_a_client_embedding_is_refused_where_the_model_is_public(browser, public, image, tmp_path):
    coded(public[0].model).to_file(tmp_path / "client.embedding")
    with opened(browser, public[1]) as (page, recorder):
        open_keys(page)
        choose(page, tmp_path / "client.embedding", "load-key")
        assert "is for the model that its owner encrypted with it" in finished(page, "load-key", "error")
        assert segment(page, image)  # with a key that is made
    assert [each.family for each in recorder.images()] == ["orthogonal"]


def test_a_ciphertext_for_an_encrypted_model_is_taken_from_visitors_without_the_key(browser, image, tmp_path):
    key, other = SecretKey.generate(), SecretKey.generate()
    for name, each in (("image", key), ("other", other)):
        SetrImageProcessor().encrypt(Image.open(image), each).to_file(tmp_path / f"{name}.safetensors")
    with running(tiny_service(key), page=True) as url, opened(browser, url, tab="#upload") as (page, recorder):
        assert named(page, "key-facts").text_content().strip().endswith("none yet")
        choose(page, tmp_path / "image.safetensors", "ciphertext-file")
        finished(page, "ciphertext-file")
        page.locator('[data-privseg="upload-map"] canvas.labels').wait_for()
        choose(page, tmp_path / "other.safetensors", "ciphertext-file")
        error = finished(page, "ciphertext-file", "error")
        assert not named(page, "upload-map").is_visible()
    assert recorder.images()[0].fingerprint == key.fingerprint
    assert error == (
        f"This file was made with another key (orthogonal, fingerprint {other.fingerprint}). Encrypt the image with "
        f"the key {key.fingerprint}, which the model has."
    )
