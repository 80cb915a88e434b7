"""Pictures of the service's page.

    python benchmarks/page_pictures.py
    python benchmarks/page_pictures.py http://127.0.0.1:7860 docs/images/space.jpg

The first makes the example pictures that the page shows: a sample image, and its ciphertext under a key that is thrown
away. The second takes a picture of the page of a running service (`privseg serve default --public-demo`) with a result
on it, with Playwright and its Chromium, or the browser that PRIVSEG_BROWSER names.
"""

import io
import os
import sys
from pathlib import Path

from PIL import Image

import hf_privseg.service
from hf_privseg import SecretKey, SetrImageProcessor
from hf_privseg.catalog.sample_images import sample_image

SIZE = (320, 208)  # in pixels: whole blocks, and what the page shows


def draw_examples() -> None:
    """Write both example pictures beside the page's other files."""
    folder = Path(hf_privseg.service.__file__).parent / "static"
    image = sample_image("china").resize(SIZE)
    ciphertext = SetrImageProcessor().encrypt(image, SecretKey.generate("orthogonal"))
    for name, picture in (("image", image), ("ciphertext", ciphertext.to_picture())):
        picture.save(folder / f"example_{name}.webp", quality=60)


def photograph(url: str, path: str) -> None:
    """Have the page at `url` segment the sample image, and write a picture of it."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=os.environ.get("PRIVSEG_BROWSER"))
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(f"{url}?__theme=light")
        page.locator('[data-sample="china"]').click()
        page.locator('.status[data-kind="done"]').wait_for()
        page.locator('button[data-privseg="segment"]').click()
        page.locator('[data-privseg="result"]').wait_for(timeout=120_000)
        page.wait_for_timeout(1000)  # it scrolls
        picture = Image.open(io.BytesIO(page.screenshot(full_page=True)))
        browser.close()
    picture.convert("RGB").save(path, quality=85)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        photograph(*sys.argv[1:])
    else:
        draw_examples()
