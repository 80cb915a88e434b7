"""The page in a real browser: opens it behind a recorder, and does what visitors do."""

import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from helpers.recording_proxy import recording
from helpers.tiny_setr import randomize, tiny_model
from hf_privseg import SetrImageProcessor
from hf_privseg.service import SegmentationService

BROWSER = os.environ.get("PRIVSEG_BROWSER") or shutil.which("chromium")
FLAGS = "--no-sandbox --disable-gpu --disable-background-networking --disable-component-update --disable-sync"


def tiny_service(key=None):
    model = randomize(tiny_model("mla", patch_size=16, image_size=64), seed=3)
    return SegmentationService(model.encrypt_model(key) if key else model, SetrImageProcessor())


@contextmanager
def launched():
    """A browser without a window."""
    from playwright import sync_api

    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=[*FLAGS.split(), "--no-first-run"])
        yield browser
        browser.close()


@contextmanager
def opened(browser, url, *, width=1280, height=900, theme="light", phone=False, tab="", **settings):
    """A new visitor -> (page, recorder); the recorder also has what the browser asked for and complained of."""
    context = browser.new_context(
        viewport={"width": width, "height": height},
        has_touch=phone,
        is_mobile=phone,
        accept_downloads=True,
        **settings,
    )
    page = context.new_page()
    page.set_default_timeout(60_000)
    with recording(urlsplit(url).port) as (address, recorder):
        recorder.address, recorder.asked_for, recorder.complaints = address, [], []
        page.on("request", lambda request: recorder.asked_for.append(request.url))
        page.on("pageerror", lambda error: recorder.complaints.append(str(error)))
        page.on("console", lambda m: recorder.complaints.append(m.text) if m.type == "error" else None)
        page.goto(f"{address}?__theme={theme}{tab}")
        page.wait_for_selector('[role="tabpanel"]:not([hidden])')
        try:
            yield page, recorder
        finally:
            context.close()


def named(page, name):
    """The element of the page with this name."""
    return page.locator(f'[data-privseg="{name}"]')


def go_to(page, tab):
    page.get_by_role("tab", name=tab, exact=True).click()


def place(page, name):
    """The part of the page around the element of this name, with the status line that speaks of it."""
    return page.locator("[data-work]", has=named(page, name))


def finished(page, name, kind="done"):
    """The status line of that part once it says so."""
    kinds = ", ".join(f'[data-kind="{each}"]' for each in {"done", "error", kind})
    status = place(page, name).locator(f".status:is({kinds})")
    status.wait_for(timeout=60_000)
    assert status.get_attribute("data-kind") == kind, status.text_content()
    return status.text_content()


def _forget_last(page, name):
    place(page, name).locator(".status").evaluate("line => { line.dataset.kind = ''; }")


def choose(page, path, name="image"):
    _forget_last(page, name)
    named(page, name).set_input_files(path)


def press(page, name):
    _forget_last(page, name)
    named(page, name).click()


def take_sample(page):
    _forget_last(page, "image")
    page.locator('[data-sample="cars"]').click()
    return finished(page, "image")


def segment(page, path):
    choose(page, path)
    finished(page, "image")
    press(page, "segment")
    return finished(page, "segment")


def open_keys(page):
    """Open the box with the key's controls."""
    page.locator("details:not([open]) summary").click()


def choose_family(page, family):
    open_keys(page)
    _forget_last(page, "family")
    named(page, "family").select_option(family)
    return finished(page, "family")


def fingerprint(page):
    """Of the key at hand."""
    return named(page, "key-facts").text_content().split()[-1]


def screenshot(page, name):
    folder = os.environ.get("PRIVSEG_SCREENSHOTS")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)
