"""A browser and a service for the tests of the page."""

import pytest

from helpers.browser import BROWSER, launched, tiny_service
from helpers.loopback import running
from hf_privseg.catalog.sample_images import sample_image


@pytest.fixture(scope="module")
def browser():
    pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    if BROWSER is None:
        pytest.skip("no chromium is installed")
    with launched() as browser:
        yield browser


@pytest.fixture(scope="module")
def public():
    """(engine, address) of a service with a public model and a page."""
    pytest.importorskip("gradio")
    engine = tiny_service()
    with running(engine, page=True) as url:
        yield engine, url


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """Path of a sample image of 300 x 200 pixels."""
    pytest.importorskip("sklearn")
    path = tmp_path_factory.mktemp("image") / "image.png"
    sample_image("china").resize((300, 200)).save(path)
    return path
