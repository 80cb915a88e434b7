"""The page in a real browser: every tab clicked through, every request recorded, keys and pixels in none of them.

Needs Playwright for Python and Debian's chromium (or the path of a Chrome in PRIVSEG_BROWSER). Screenshots go to the
folder PRIVSEG_SCREENSHOTS if that is set.
"""

import base64
import hashlib
import io
import json
import os
import re
import shutil
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from helpers.leaks import assert_no_secret
from helpers.loopback import running
from helpers.paths import VECTORS_FOLDER
from helpers.recording_proxy import recording
from helpers.tiny_service import register
from helpers.tiny_setr import randomize, tiny_model
from hf_privseg import SecretKey, SetrImageProcessor
from hf_privseg.catalog.sample_images import sample_image
from hf_privseg.client.http_calls import httpx
from hf_privseg.service import SegmentationService
from hf_privseg.service.access import Grant, add_token
from hf_privseg.service.sample import SAMPLE, sample_credit, sample_file

sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
pytest.importorskip("gradio")
pytest.importorskip("sklearn")
BROWSER = os.environ.get("PRIVSEG_BROWSER") or shutil.which("chromium")
VECTORS = json.loads((VECTORS_FOLDER / "keys.json").read_text())["keys"]
FLAGS = "--no-sandbox --disable-gpu --disable-background-networking --disable-component-update --disable-sync"

pytestmark = [pytest.mark.slow, pytest.mark.skipif(BROWSER is None, reason="no chromium is installed")]


def tiny_service(key=None):
    model = randomize(tiny_model("mla", patch_size=16, image_size=64), seed=3)
    return SegmentationService(model.encrypt_model(key) if key else model, SetrImageProcessor())


@pytest.fixture(scope="module")
def public():
    engine = tiny_service()
    with running(engine, page=True) as url:
        yield engine, url


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=[*FLAGS.split(), "--no-first-run"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def scripts_page(browser, public):
    """A page that serves to import the scripts."""
    with opened(browser, public[1]) as (page, _):
        yield page


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """Path of a sample image of 300 x 200 pixels."""
    path = tmp_path_factory.mktemp("image") / "image.png"
    sample_image("china").resize((300, 200)).save(path)
    return path


@contextmanager
def opened(browser, url, *, width=1280, height=900, theme="light", phone=False):
    """A new visitor -> (page, recorder); the recorder also has what the browser asked for and complained of."""
    context = browser.new_context(
        viewport={"width": width, "height": height}, has_touch=phone, is_mobile=phone, accept_downloads=True
    )
    page = context.new_page()
    page.set_default_timeout(60_000)
    with recording(urlsplit(url).port) as (address, recorder):
        recorder.address, recorder.asked_for, recorder.complaints = address, [], []
        page.on("request", lambda request: recorder.asked_for.append(request.url))
        page.on("pageerror", lambda error: recorder.complaints.append(str(error)))
        page.on("console", lambda m: recorder.complaints.append(m.text) if m.type == "error" else None)
        page.goto(f"{address}?__theme={theme}")
        page.wait_for_selector('[data-privseg="image"]')
        try:
            yield page, recorder
        finally:
            context.close()


def go_to(page, tab):
    """Select a tab, through the menu of tabs that find no room where there is one."""
    if not page.get_by_role("tab", name=tab, exact=True).is_visible():
        page.locator(".overflow-menu > button").click()
        page.locator(".overflow-dropdown button", has_text=tab).click()
    else:
        page.get_by_role("tab", name=tab, exact=True).click()


def panel(page, name):
    """The part of the page around the visible element of this name."""
    return page.locator(".privseg", has=page.locator(f'[data-privseg="{name}"]:visible')).last


def finished(page, name, kind="done"):
    """The status line of that part once it says so."""
    status = panel(page, name).locator(f'.status[data-kind="{kind}"]')
    status.wait_for(timeout=60_000)
    return status.text_content()


def choose(page, path, name="image"):
    part = panel(page, name)
    part.locator(".status").evaluate("line => { line.dataset.kind = ''; }")
    part.locator(f'[data-privseg="{name}"]').set_input_files(path)


def press(page, name):
    part = panel(page, name)
    part.locator(".status").evaluate("line => { line.dataset.kind = ''; }")
    part.locator(f'button[data-privseg="{name}"]').click()


def segment(page, path):
    choose(page, path)
    finished(page, "image")
    press(page, "segment")
    return finished(page, "segment")


def screenshot(page, name):
    folder = os.environ.get("PRIVSEG_SCREENSHOTS")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


def choose_family(page, family):
    page.locator("details summary").first.click()
    page.locator('[data-privseg="family"]').select_option(family)


@pytest.mark.parametrize("family", ["orthogonal", "permutation"])
def test_only_ciphertexts_leave_the_page(browser, public, image, family, capfd):
    with opened(browser, public[1]) as (page, recorder):
        choose_family(page, family)
        assert "computed from the ciphertext" in segment(page, image)
        with page.expect_download() as download:
            page.locator('[data-privseg="save-key"]').click()
        key = SecretKey.from_file(download.value.path())
        storage = page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])")
        shown = page.content()
        # what was uploaded is the encryption of the image as this page resized it
        canvas = page.locator("canvas.chosen-image").evaluate("canvas => canvas.toDataURL()")
        seen = np.array(Image.open(io.BytesIO(base64.b64decode(canvas.partition(",")[2]))).convert("RGB"))
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
        press(page, "sample")
        finished(page, "sample")
        assert "danielbuechele" in panel(page, "sample").locator(".hint:visible").text_content()
        canvas = page.locator("canvas.chosen-image").evaluate("canvas => canvas.toDataURL()")
        press(page, "segment")
        assert "computed from the ciphertext" in finished(page, "segment")
        key_facts = page.locator('[data-privseg="key-facts"]').text_content()
        screenshot(page, "sample-phone")
    shown = np.array(Image.open(io.BytesIO(base64.b64decode(canvas.partition(",")[2]))).convert("RGB"))
    assert np.abs(shown.astype(int) - np.array(sample_image("china"))).mean() < 4
    (image,) = recorder.images()
    assert key_facts == f"orthogonal, fingerprint {image.fingerprint}"
    assert image.original_size == shown.shape[:2]
    assert len(recorder.bodies()) == 2  # the embedding and this image
    file = sample_file()
    assert file is not None
    for plain in (shown[200, 60:90].tobytes(), file[5000:5100]):
        assert plain not in recorder.sent()
    assert [urlsplit(a).path for a in recorder.asked_for].count("/privseg/sample.jpg") == 1
    assert recorder.complaints == []


def test_an_image_of_ones_own_takes_the_place_of_the_sample(browser, public, image):
    with opened(browser, public[1]) as (page, _):
        press(page, "sample")
        finished(page, "sample")
        press(page, "segment")
        finished(page, "segment")
        choose(page, image)
        finished(page, "image")
        assert not panel(page, "image").locator(".hint").first.is_visible()
        assert not page.locator('[data-privseg="ciphertext"]').is_visible()  # it is of the other image
        assert not page.locator('[data-privseg="segment-map"]').is_visible()
        press(page, "segment")
        finished(page, "segment")
        assert page.locator('[data-privseg="segment-map"]').is_visible()


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
    assert outcome != "connected"
    assert blocked == "connect-src"


def test_the_map_is_the_one_that_python_computes(browser, public, image):
    engine, url = public
    with opened(browser, url) as (page, recorder):
        segment(page, image)
        map_canvas = page.locator('[data-privseg="segment-map"] canvas.labels')
        data = map_canvas.evaluate("canvas => canvas.toDataURL()")
        with page.expect_download() as download:
            page.locator("details summary").first.click()
            page.locator('[data-privseg="save-key"]').click()
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
    shown = np.array(Image.open(io.BytesIO(base64.b64decode(data.partition(",")[2]))).convert("RGB"))
    register(engine, key, patch_size=16)
    (image,) = recorder.images()
    labels = engine.segment(image.to_bytes())
    assert np.array_equal(shown, np.array(engine.model_info()["palette"], np.uint8)[labels])
    assert alone == (1 if len(np.unique(labels)) == 1 else 2)
    assert readout == f"LABEL_{labels[100, 150]}"


def test_wrong_key_and_no_key(browser, public, image):
    with opened(browser, public[1]) as (page, recorder):
        segment(page, image)
        go_to(page, "Wrong key / no key")
        press(page, "try-without")
        finished(page, "try-without")
        refusal = page.locator('[data-privseg="refusal"]').text_content()
        own = page.locator('[data-privseg="key-facts"]').text_content().split()[-1]
        shares = [
            page.locator(f'[data-privseg="{name}-map-share"]').text_content() for name in ("wrong-key", "no-key")
        ]
        screenshot(page, "wrong-key")
    images = recorder.images()
    (other,) = {image.fingerprint for image in images} - {own}
    assert f"no patch embedding is registered for the key of the encrypted image (key fingerprint {other}" in refusal
    assert all(re.fullmatch(r"Agrees with the map under the right key on [\d.]+ % of the pixels\.", s) for s in shares)


def test_a_ciphertext_of_privseg_encrypt_is_taken(browser, public, image, tmp_path):
    key = SecretKey.generate("signed_permutation")
    key.to_file(tmp_path / "own.key")
    encrypted = SetrImageProcessor().encrypt(Image.open(image), key)
    encrypted.to_file(tmp_path / "image.png")
    with opened(browser, public[1]) as (page, recorder):
        page.locator("details summary").first.click()
        choose(page, tmp_path / "own.key", "load-key")
        finished(page, "load-key")
        assert key.fingerprint in page.locator('[data-privseg="key-facts"]').text_content()
        go_to(page, "Upload a ciphertext")
        choose(page, tmp_path / "image.png", "ciphertext-file")
        finished(page, "ciphertext-file")
        page.locator('[data-privseg="upload-map"] canvas.labels').wait_for()
        screenshot(page, "upload")
        choose(page, image, "ciphertext-file")
        error = finished(page, "ciphertext-file", "error")
    assert "no 'privseg' header" in error
    assert_no_secret(recorder.sent(), key)


def test_what_the_server_can_see(browser, public, image):
    with opened(browser, public[1]) as (page, _):
        go_to(page, "What can the server see?")
        press(page, "server-view")
        assert "segment an image or a ciphertext first" in finished(page, "server-view", "error")
        go_to(page, "Segment")
        segment(page, image)
        go_to(page, "What can the server see?")
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
        assert "choose an image first" in finished(page, "segment", "error")
        choose(page, tmp_path / "note.txt")
        assert "note.txt cannot be read as a picture" in finished(page, "image", "error")
        page.locator("details summary").first.click()
        choose(page, tmp_path / "note.txt", "load-key")
        assert "a key's text form is" in finished(page, "load-key", "error")


def test_a_page_without_https_says_so_and_so_does_one_without_a_service(browser, public, image):
    with opened(browser, public[1]) as (page, recorder):
        page.route("**/v1/**", lambda route: route.abort())
        choose(page, image)
        assert "cannot be reached" in finished(page, "image", "error")
        page.evaluate("Object.defineProperty(window, 'isSecureContext', {value: false})")
        press(page, "segment")
        assert "over https or on localhost alone" in finished(page, "segment", "error")
    assert recorder.bodies() == []


def test_a_key_that_the_service_has_forgotten_is_registered_again(browser, public, image):
    engine, url = public
    with opened(browser, url) as (page, recorder):
        segment(page, image)
        key = page.locator('[data-privseg="key-facts"]').text_content().split()[-1]
        assert engine.store.remove(key)
        press(page, "segment")
        finished(page, "segment")
        assert engine.store.get(key)
    assert {image.fingerprint for image in recorder.images()} == {key}


def test_closing_the_page_has_the_service_forget_its_key(browser, public, image):
    engine, url = public
    before = len(engine.store)
    with opened(browser, url) as (page, _):
        segment(page, image)
        assert len(engine.store) == before + 1
        page.goto("about:blank")
        deadline = time.monotonic() + 10
        while len(engine.store) > before and time.monotonic() < deadline:
            page.wait_for_timeout(100)
    assert len(engine.store) == before


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
            canvas = page.locator('[data-privseg="segment-map"] canvas.labels')
            maps.append(canvas.evaluate("canvas => canvas.toDataURL()"))
    keys = [recorder.images()[0].fingerprint for recorder in (one, two)]
    assert keys[0] != keys[1]
    assert maps[0] == maps[1]


def test_a_key_outlives_a_service_that_could_not_be_reached(browser, public, image, tmp_path):
    key = SecretKey.generate()
    key.to_file(tmp_path / "own.key")
    with opened(browser, public[1]) as (page, recorder):
        page.locator("details summary").first.click()
        choose(page, image)
        finished(page, "image")
        page.route("**/v1/embeddings/*", lambda route: route.abort())
        choose(page, tmp_path / "own.key", "load-key")
        assert "cannot be reached" in finished(page, "load-key", "error")
        page.unroute("**/v1/embeddings/*")
        press(page, "segment")
        finished(page, "segment")
    (image,) = recorder.images()
    assert image.fingerprint == key.fingerprint


def test_a_service_with_tokens_asks_for_one(browser, image, tmp_path):
    token = add_token(tmp_path / "tokens.json", Grant("visitor", may_register=True))
    with running(tiny_service(), page=True, tokens=tmp_path / "tokens.json") as url:
        with opened(browser, url) as (page, recorder):
            choose(page, image)
            assert "enter your access token first" in finished(page, "image", "error")
            page.locator('[data-privseg="token"]').fill(token)
            segment(page, shutil.copy(image, tmp_path / "again.png"))
        assert len(recorder.images()) == 1
        with opened(browser, url) as (page, _):
            page.locator('[data-privseg="token"]').fill("privseg-token-wrong")
            choose(page, image)
            assert "enter your access token first" in finished(page, "image", "error")


def test_of_gradio_only_the_page_is_open(public):
    url = public[1]
    assert httpx.get(url).status_code == 200
    assert "privseg/page.js" in httpx.get(url).text
    for method, path in [
        ("POST", "/gradio_api/upload"), ("POST", "/gradio_api/queue/join"), ("POST", "/gradio_api/run/segment"),
        ("GET", "/gradio_api/file=/etc/passwd"), ("GET", "/gradio_api/info"), ("POST", "/gradio_api/vibe-edit"),
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


def test_the_sample_image_is_a_plain_public_picture_with_its_credit(public):
    response = httpx.get(f"{public[1]}/privseg/sample.jpg")
    assert response.headers["content-type"] == "image/jpeg"
    found, expected = np.array(Image.open(io.BytesIO(response.content))), np.array(sample_image(SAMPLE))
    assert np.abs(found.astype(int) - expected).mean() < 4
    page = httpx.get(public[1]).text
    assert "danielbuechele" in page
    assert "without-sample" not in page
    credit = sample_credit()
    assert 'href="https://www.flickr.com/photos/danielbuechele/6061409035/" target' in credit
    assert ">creativecommons.org</a>" in credit
    assert "(https" not in credit


def test_where_no_sample_image_is_installed_none_is_offered(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    sample_file.cache_clear()
    try:
        with running(tiny_service(), page=True) as url:
            assert "without-sample" in httpx.get(url).text
            assert httpx.get(f"{url}/privseg/sample.jpg").json()["error"]["code"] == "no_sample"
    finally:
        sample_file.cache_clear()


def test_an_encrypted_model_asks_for_its_key(browser, image, tmp_path):
    key, other = SecretKey.generate(), SecretKey.generate()
    key.to_file(tmp_path / "own.key")
    other.to_file(tmp_path / "other.key")
    with running(tiny_service(key), page=True) as url, opened(browser, url) as (page, recorder):
        assert not page.locator('[data-privseg="new-key"]').is_visible()
        assert not page.locator('[data-privseg="sample"]').is_visible()  # a known image would open the others
        choose(page, image)
        finished(page, "image")
        press(page, "segment")
        assert "load the key file of the model first" in finished(page, "segment", "error")
        page.locator("details summary").first.click()
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
        assert page.locator('[data-privseg="key-facts"]').inner_text() == "none that fits"
        press(page, "segment")  # not with the wrong key, which would be refused, nor with the one before
        assert "load the key file of the model first" in finished(page, "segment", "error")
    assert len(recorder.images()) == len(recorder.bodies()) == 1


def test_a_ciphertext_for_an_encrypted_model_is_taken_from_visitors_without_the_key(browser, image, tmp_path):
    key = SecretKey.generate()
    SetrImageProcessor().encrypt(Image.open(image), key).to_file(tmp_path / "image.safetensors")
    with running(tiny_service(key), page=True) as url, opened(browser, url) as (page, recorder):
        assert page.locator('[data-privseg="key-facts"]').inner_text() == "none yet"
        go_to(page, "Upload a ciphertext")
        choose(page, tmp_path / "image.safetensors", "ciphertext-file")
        finished(page, "ciphertext-file")
        page.locator('[data-privseg="upload-map"] canvas.labels').wait_for()
    (image,) = recorder.images()
    assert image.fingerprint == key.fingerprint


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(1280, 900), (390, 844)], ids=["desktop", "phone"])
def test_every_tab_fits_the_screen(browser, public, image, width, height, theme):
    with opened(browser, public[1], width=width, height=height, theme=theme, phone=width < 500) as (page, recorder):
        segment(page, image)
        for tab in ("Segment", "Wrong key / no key", "Upload a ciphertext", "What can the server see?", "About"):
            go_to(page, tab)
            page.wait_for_timeout(300)
            widest = page.evaluate("document.documentElement.scrollWidth")
            assert widest <= width, tab
            screenshot(page, f"{tab.split()[0].lower()}-{width}-{theme}")
        assert "whoever knows it" in page.locator(".privseg:visible").last.text_content()
        colour = page.locator(".privseg:visible").last.evaluate("part => getComputedStyle(part).color")
        assert (min(map(int, re.findall(r"\d+", colour)[:3])) > 150) == (theme == "dark")
    assert recorder.complaints == []
