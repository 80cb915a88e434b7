"""What a visitor meets on the page: the first screen, tabs, waiting, failures, keys, files, and how it looks."""

import email
import io
import re
import socket
import threading
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError
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
    place,
    press,
    screenshot,
    segment,
)
from helpers.tiny_service import register
from hf_privseg import EncryptedImage, SecretKey, SetrImageProcessor
from hf_privseg.catalog.street_images import street_image
from hf_privseg.client.http_calls import httpx

pytest.importorskip("gradio")
from hf_privseg.service.page import STATIC  # which needs Gradio

pytestmark = pytest.mark.slow

TABS = ["Segment", "No key", "Upload", "Attack", "About"]
SIZES = {"desk": (1280, 900), "tablet": (820, 1180), "phone": (390, 844)}
VISIBLE_TAB = '[role="tabpanel"]:not([hidden])'


def is_on_screen(page, locator):
    """Whether the middle of an element is within the window."""
    box, size = locator.bounding_box(), page.viewport_size
    return 0 <= box["x"] + box["width"] / 2 <= size["width"] and 0 <= box["y"] + box["height"] / 2 <= size["height"]


# ---------------------------------------------------------------------------------------------- first screen, tabs


def test_the_example_of_a_ciphertext_has_blocks_as_small_as_those_that_visitors_see():
    """In larger blocks the scene would be harder to recognise than it is in what a visitor's server gets."""
    picture = Image.open(STATIC / "example_ciphertext.webp").convert("L")
    levels = np.asarray(picture, float) - np.asarray(picture).mean()
    block = picture.width * 16 // street_image("cars").width  # neighbours of one colour are encrypted alike
    assert (levels[:, block:] * levels[:, :-block]).mean() > 0.3 * levels.var()


@pytest.mark.parametrize("screen", SIZES)
def test_the_first_screen_says_what_stays_and_what_the_server_gets(browser, public, screen):
    width, height = SIZES[screen]
    with opened(browser, public[1], width=width, height=height, phone=screen == "phone") as (page, recorder):
        headings = [page.get_by_role("heading", name=name) for name in ("Your browser", "Server")]
        pictures = page.locator(".picture img.example")
        warning = page.get_by_role("link", name="see the attack")
        assert all(is_on_screen(page, each) for each in (*headings, *pictures.all(), warning, named(page, "classes")))
        assert all(image.evaluate("image => image.naturalWidth") == 640 for image in pictures.all())
        # the classes are named before anything is chosen
        assert "LABEL 0" in named(page, "classes").text_content()
        assert page.locator(".steps > li h3:visible").all_inner_texts() == [
            "Choose an image", "A key is made for you", "Encrypt here, segment there"
        ]  # fmt: skip
    assert recorder.complaints == []


@pytest.mark.parametrize(
    ("screen", "theme"),
    [("desk", "light"), ("desk", "dark"), ("tablet", "light"), ("phone", "light"), ("phone", "dark")],
)
def test_every_tab_is_visible_and_fits_the_screen(browser, public, image, screen, theme):
    width, height = SIZES[screen]
    phone = screen == "phone"
    with opened(browser, public[1], width=width, height=height, theme=theme, phone=phone) as (page, recorder):
        screenshot(page, f"first-{screen}-{theme}")
        tabs = page.get_by_role("tab")
        assert tabs.all_text_contents() == TABS
        boxes = [tab.bounding_box() for tab in tabs.all()]
        assert all(box["x"] >= 0 and box["x"] + box["width"] <= width and box["height"] >= 44 for box in boxes)
        assert len({box["y"] for box in boxes}) == 1
        inner = tabs.evaluate_all("all => all.every((tab) => tab.scrollWidth <= tab.clientWidth)")
        assert inner, "a title is cut off"
        segment(page, image)
        for tab in TABS:
            go_to(page, tab)
            assert page.evaluate("document.documentElement.scrollWidth") <= width, tab
            screenshot(page, f"{tab.replace(' ', '-').lower()}-{screen}-{theme}")
        assert "whoever knows it" in page.locator(VISIBLE_TAB).text_content()
        colour = page.locator("#privseg").evaluate("part => getComputedStyle(part).color")
        assert (min(map(int, re.findall(r"\d+", colour)[:3])) > 150) == (theme == "dark")
    assert recorder.complaints == []


def test_tabs_have_addresses_and_go_by_arrow_keys(browser, public):
    with opened(browser, public[1], tab="#attack") as (page, _):
        tabs = {name: page.get_by_role("tab", name=name, exact=True) for name in TABS}
        selected = page.locator('[role="tab"][aria-selected="true"]')
        assert selected.text_content() == "Attack"
        tabs["Attack"].focus()
        for key, expected, address in [
            ("ArrowRight", "About", "about"), ("ArrowRight", "Segment", "segment"), ("ArrowLeft", "About", "about"),
            ("Home", "Segment", "segment"), ("End", "About", "about"),
        ]:  # fmt: skip
            page.keyboard.press(key)
            assert selected.text_content() == expected
            assert urlsplit(page.url).fragment == address
            assert tabs[expected].evaluate("tab => tab === document.activeElement")
        assert tabs["Segment"].get_attribute("tabindex") == "-1"
        page.go_back()
        page.wait_for_function("document.querySelector('[aria-selected=true]').textContent === 'Segment'")
        page.locator('[role="tab"]').first.focus()
        page.keyboard.press("Shift+Tab")
        page.keyboard.press("Tab")
        ring = selected.evaluate("tab => getComputedStyle(tab).outlineStyle + getComputedStyle(tab).outlineWidth")
        assert ring == "solid3px"


def test_the_result_scrolls_into_view_on_a_tablet_and_the_map_comes_first(browser, public, image):
    with opened(browser, public[1], width=820, height=700) as (page, _):
        segment(page, image)
        page.wait_for_timeout(800)  # it scrolls
        canvas = page.locator('[data-privseg="segment-map"] canvas.labels')
        assert is_on_screen(page, canvas)
        assert canvas.bounding_box()["y"] < page.locator(".result .legend").bounding_box()["y"]


# ------------------------------------------------------------------------------------ what is sent is what is named


def test_after_a_broken_file_no_image_is_at_hand(browser, public, image, tmp_path):
    (tmp_path / "broken.png").write_bytes(image.read_bytes()[:300])
    with opened(browser, public[1]) as (page, recorder):
        choose(page, image)
        finished(page, "image")
        assert named(page, "image-name").text_content().startswith("image.png, 300 x 200 pixels.")
        choose(page, tmp_path / "broken.png")
        assert "broken.png cannot be read" in finished(page, "image", "error")
        assert named(page, "image-name").text_content() == "No image yet."
        assert not page.locator("canvas.chosen-image").is_visible()
        press(page, "segment")
        assert "Choose an image first" in finished(page, "segment", "error")
    assert recorder.images() == []


def test_while_one_thing_runs_nothing_else_can_be_started(browser, public, image):
    with opened(browser, public[1]) as (page, recorder):
        choose(page, image)
        finished(page, "image")
        page.route("**/v1/segment", lambda route: None)  # never answered
        press(page, "segment")
        page.locator('.progress li[data-kind="busy"]', has_text="Sending").wait_for()
        button = named(page, "segment")
        assert button.text_content() == "Working ..."
        assert button.get_attribute("aria-disabled") == "true"
        button.click(force=True)  # a second press is ignored
        for name in ("image", "family", "load-key", "new-key", "server-view", "ciphertext-file"):
            assert named(page, name).is_disabled(), name
        page.evaluate(
            """() => {
              const input = document.querySelector('[data-privseg="image"]');
              const files = new DataTransfer();
              files.items.add(new File(["no image"], "other.png"));
              const event = new DragEvent("drop", {dataTransfer: files, bubbles: true, cancelable: true});
              input.dispatchEvent(event);
            }"""
        )
        assert named(page, "image-name").text_content().startswith("image.png")
        page.locator("#panel-segment [data-cancel]").click()
        assert finished(page, "segment", "cancelled") == "Cancelled. Nothing was kept of it."
        assert not named(page, "image").is_disabled()
        assert button.text_content() == "Encrypt and send"
        page.unroute("**/v1/segment")
        press(page, "segment")
        finished(page, "segment")
    assert len(recorder.images()) == 1


def test_encryption_can_be_cancelled(browser, public, tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (1200, 1200, 3), np.uint8)).save(tmp_path / "large.png")
    with opened(browser, public[1]) as (page, recorder):
        choose(page, tmp_path / "large.png")
        finished(page, "image")
        press(page, "segment")
        page.locator('.progress li[data-kind="busy"]', has_text=re.compile(r"Encrypting, \d+\s%")).wait_for()
        page.locator("#panel-segment [data-cancel]").click()
        finished(page, "segment", "cancelled")
    assert recorder.bodies() == []


# ------------------------------------------------------------------------------------------------------------ waiting


def test_the_steps_are_listed_with_seconds(browser, public, image):
    with opened(browser, public[1]) as (page, recorder):
        segment(page, image)
        steps = page.locator("#panel-segment .progress li").all_inner_texts()
        (size,) = {len(body) for line, body in recorder.bodies() if "segment" in line}
    names = ["Preparing the key", "Encrypting", "Telling the server", "Sending", "Segmenting on the server"]
    assert len(steps) == len(names)
    for step, name in zip(steps, names, strict=True):
        assert re.fullmatch(rf"{name}.* \d+\.\d\ss", step), step
    assert f"{size / 1e6:.1f}\u00a0MB of" in steps[3]


def test_choosing_an_image_and_a_key_works_without_the_server(browser, public, image, tmp_path):
    SecretKey.generate().to_file(tmp_path / "own.key")
    with opened(browser, public[1]) as (page, recorder):
        page.route("**/v1/**", lambda route: route.abort())
        choose(page, image)
        assert finished(page, "image") == "Nothing has been sent."
        open_keys(page)
        choose(page, tmp_path / "own.key", "load-key")
        finished(page, "load-key")
        key = fingerprint(page)
        press(page, "segment")
        error = finished(page, "segment", "error")
        assert error == "The server cannot be reached. Check your connection, then try again."
        page.unroute("**/v1/**")
        press(page, "segment")  # nothing was lost
        finished(page, "segment")
    assert {image.fingerprint for image in recorder.images()} == {key}


@contextmanager
def stalling(port):
    """A relay to a server on loopback -> (its address, an event that makes it swallow everything)."""
    listener, stalled = socket.create_server(("127.0.0.1", 0)), threading.Event()

    def pump(source, target):
        try:
            while data := source.recv(2**16):
                if not stalled.is_set():
                    target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def accept():
        try:
            while True:
                client, _ = listener.accept()
                server = socket.create_connection(("127.0.0.1", port))
                for ends in ((client, server), (server, client)):
                    threading.Thread(target=pump, args=ends, daemon=True).start()
        except OSError:
            pass

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/", stalled
    finally:
        listener.close()


def test_a_server_that_hangs_is_noticed_within_seconds(browser, public, image):
    with stalling(urlsplit(public[1]).port) as (url, stalled), opened(browser, url) as (page, _):
        choose(page, image)
        finished(page, "image")
        stalled.set()
        press(page, "segment")
        status = place(page, "segment").locator('.status[data-kind="error"]')
        status.wait_for(timeout=40_000)  # a few silences of 4 s, on a busy machine
        assert status.text_content() == "The server has stopped answering. Try again in a minute."
        stalled.clear()
        press(page, "segment")
        finished(page, "segment")


def test_a_small_image_is_not_enlarged_without_a_word(browser, public, tmp_path):
    Image.new("RGB", (20, 10)).save(tmp_path / "tiny.png")
    with opened(browser, public[1]) as (page, _):
        choose(page, tmp_path / "tiny.png")
        finished(page, "image")
        assert named(page, "image-name").text_content() == (
            "tiny.png, 20 x 10 pixels. It is sent as 16 x 16 pixels, 0.0\u00a0MB."
        )
        page.evaluate(
            """async () => {
              const {gridSize} = await import("./privseg/image.js");
              window.size = gridSize(10, 20, {patch_size: 16, max_pixels: 2**21,
                preprocessor: {do_resize: true, size: {shortest_edge: 720, longest_edge: 1440}}});
            }"""
        )
        assert page.evaluate("window.size") == [720, 1440]


# --------------------------------------------------------------------------------------------------------------- keys


def test_another_family_acts_at_once_and_hides_what_the_old_key_gave(browser, public, image):
    with opened(browser, public[1]) as (page, recorder):
        segment(page, image)
        first = fingerprint(page)
        said = choose_family(page, "permutation")
        assert "The last one is gone, with all that it could open." in said
        assert named(page, "key-facts").text_content().startswith("permutation, fingerprint ")
        assert fingerprint(page) != first
        for name in ("segment-map", "ciphertext", "save-ciphertext"):
            assert not named(page, name).is_visible(), name
        press(page, "segment")
        finished(page, "segment")
        options = named(page, "family").locator("option").all_text_contents()
    assert [image.family for image in recorder.images()] == ["orthogonal", "permutation"]
    assert [option for option in options if "the image stays recognisable" in option] == options[2:]


def test_a_key_about_to_be_lost_is_said(browser, public, image):
    with opened(browser, public[1]) as (page, _):
        dialogs = []
        page.on("dialog", lambda dialog: dialogs.append(dialog.type))
        page.on("dialog", lambda dialog: dialog.accept())
        segment(page, image)
        page.reload()
        page.wait_for_selector(VISIBLE_TAB)
        assert dialogs == ["beforeunload"]
        segment(page, image)
        with page.expect_download():
            press(page, "save-used-key")
        page.reload()
    assert dialogs == ["beforeunload"]


# ---------------------------------------------------------------------------------------------------- files to keep


def test_map_overlay_ciphertext_and_key_can_be_saved(browser, public, image):
    engine, url = public
    with opened(browser, url) as (page, recorder):
        segment(page, image)
        files = {}
        for name in ("save-map", "save-overlay", "save-ciphertext", "save-used-key"):
            with page.expect_download() as download:
                press(page, name)
            files[name] = (download.value.suggested_filename, download.value.path().read_bytes())
            finished(page, name)
    (sent,) = recorder.images()
    assert [name for name, _ in files.values()] == [
        "image-map.png", "image-overlay.png", "image.encrypted.safetensors", f"privseg-{sent.fingerprint}.key"
    ]  # fmt: skip
    key = SecretKey.from_text(files["save-used-key"][1].decode())
    register(engine, key, patch_size=16)
    labels = engine.segment(sent.to_bytes())
    picture = Image.open(io.BytesIO(files["save-map"][1]))
    assert picture.mode == "P"
    assert np.array_equal(np.array(picture), labels)
    colours = np.array(engine.palette)[labels]
    assert np.array_equal(np.array(picture.convert("RGB")), colours)
    blended = 0.6 * colours + 0.4 * np.array(Image.open(image).convert("RGB"))
    overlay = np.array(Image.open(io.BytesIO(files["save-overlay"][1])).convert("RGB"))
    assert np.abs(overlay - blended).max() < 3
    saved = EncryptedImage.from_bytes(files["save-ciphertext"][1])
    assert saved.fingerprint == key.fingerprint
    assert SetrImageProcessor().decrypt(saved, key).size == (304, 208)


def test_the_legend_lists_every_class_that_is_coloured(browser, public):
    with opened(browser, public[1]) as (page, _):
        found = page.evaluate(
            """async () => {
              const {legendOf, showMap} = await import("./privseg/map_view.js");
              const labels = new Uint8Array(10_000).fill(0).fill(1, 9000).fill(2, 9980).fill(3, 9990);
              const info = {labels: {0: "sky", 1: "sign_symbol", 2: "pole", 3: "car"},
                            palette: [[1, 2, 3], [4, 5, 6], [7, 8, 9], [10, 11, 12]]};
              const map = {labels, height: 100, width: 100};
              const box = document.createElement("div");
              document.querySelector("#privseg").append(box);
              box.className = "privseg-map";
              showMap(box, map, info);
              return {entries: legendOf(map, info),
                text: [...box.querySelectorAll(".legend button")].map((b) => b.textContent),
                alternative: box.querySelector("canvas.labels").ariaLabel,
                ends: [...box.querySelectorAll(".opacity span")].map((end) => end.textContent)};
            }"""
        )
    assert sorted(label for entry in found["entries"] for label in entry["labels"]) == [0, 1, 2, 3]
    assert sum(entry["share"] for entry in found["entries"]) == pytest.approx(1)
    assert found["text"] == ["sky 90.0\u00a0%", "sign symbol 9.8\u00a0%", "other (pole, car) 0.2\u00a0%"]
    assert found["alternative"] == f"Segmentation map: {', '.join(found['text'])}"
    assert found["ends"] == ["Image", "Map"]


# ------------------------------------------------------------------------------------------------------ accessibility


def contrast(first, second):
    """WCAG's contrast ratio of two (red, green, blue)."""
    levels = np.array([first, second]) / 255
    linear = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
    low, high = sorted(linear @ [0.2126, 0.7152, 0.0722])
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_borders_of_controls_and_rings_of_focus_can_be_seen(browser, public, theme):
    with opened(browser, public[1], theme=theme) as (page, _):
        open_keys(page)
        found = page.evaluate(
            """() => {
              const style = (element) => getComputedStyle(element);
              const isClear = (colour) => colour === "rgba(0, 0, 0, 0)";
              const behind = (element) => {
                if (element === null) return "rgb(255, 255, 255)";
                const colour = style(element).backgroundColor;
                return isClear(colour) ? behind(element.parentElement) : colour;
              };
              const kinds = ".row button, .sample, .button, select, [type=checkbox]";
              const all = [...document.querySelectorAll(`#privseg :is(${kinds})`)];
              const controls = all.filter((control) => control.offsetParent);
              return {
                behind: behind(document.querySelector("#privseg")),
                ring: style(document.querySelector("#privseg")).getPropertyValue("--ring"),
                borders: controls.map((control) => style(control).borderTopColor),
                boxes: [...document.querySelectorAll(".box")].map((box) => style(box).backgroundColor),
              };
            }"""
        )
    numbers = lambda text: [int(level) for level in re.findall(r"\d+", text)[:3]]  # noqa: E731
    behind = numbers(found["behind"])
    assert len(found["borders"]) >= 8
    assert min(contrast(numbers(border), behind) for border in found["borders"]) >= 3
    ring = list(bytes.fromhex(found["ring"].strip().removeprefix("#")))
    assert min(contrast(ring, each) for each in (behind, *map(numbers, found["boxes"]))) >= 3


def test_forced_colours_keep_the_swatches(browser, public, image):
    with opened(browser, public[1], forced_colors="active") as (page, _):
        segment(page, image)
        swatch = page.locator(".legend .swatch").first
        colour = swatch.evaluate("swatch => getComputedStyle(swatch).backgroundColor")
        palette = [f"rgb({', '.join(map(str, each))})" for each in public[0].palette]
    assert colour in palette


def test_the_command_names_the_model(public):
    page = httpx.get(public[1]).text
    assert "--model default" in page
    assert "the model's name" not in page


def test_a_link_to_the_page_is_shown_with_our_picture_and_words(public):
    """Each tag is there once, Gradio's are not, and the picture has the size that the tags name."""
    address = public[1]
    answer = httpx.get(address, headers={"Accept-Encoding": "br, gzip"})
    assert int(answer.headers["content-length"]) == len(answer.content)
    found = re.findall(r'<meta (?:property|name)="((?:og|twitter):[^"]+)" content="([^"]*)">', answer.text)
    assert len(re.findall(r'"(?:og|twitter):', answer.text)) == len(found) == len(dict(found))
    tags = dict(found)
    assert tags["og:title"] == "hf-privseg: segmentation of encrypted images"
    assert "Visually protected, no more" in tags["og:description"]
    assert tags["og:image"] == f"{address}/privseg/preview.jpg"
    assert tags["twitter:card"] == "summary_large_image"
    picture = httpx.get(tags["og:image"])
    assert picture.headers["content-type"] == "image/jpeg"
    size = Image.open(io.BytesIO(picture.content)).size
    assert size == (1200, 630) == (int(tags["og:image:width"]), int(tags["og:image:height"]))


def test_the_picture_of_a_link_has_the_address_of_the_request(public):
    page = httpx.get(public[1], headers={"Host": 'example.org:8443"><b>'}).text
    assert "<b>" not in page.partition("</head>")[0]
    page = httpx.get(public[1], headers={"Host": "example.org:8443", "X-Forwarded-Proto": "https"}).text
    assert 'property="og:image" content="https://example.org:8443/privseg/preview.jpg"' in page


def test_links_are_those_of_the_projects_metadata(monkeypatch):
    from hf_privseg.reporting import project_urls
    from hf_privseg.service import page

    found = email.message_from_string(
        "Project-URL: Source, https://example.org/a?b=1&c=2\nProject-URL: Odd, javascript:alert(1)\n"
    )
    monkeypatch.setattr(project_urls, "metadata", lambda name: found)
    assert page._project_links() == (
        '<h2>Links</h2><ul><li><a href="https://example.org/a?b=1&amp;c=2" target="_blank" rel="noopener">Source</a>'
        "</li></ul>"
    )

    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(project_urls, "metadata", missing)
    assert page._project_links() == ""
