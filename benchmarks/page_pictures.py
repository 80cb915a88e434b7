"""Pictures of the service's page, and the time from a press to a map.

    python benchmarks/page_pictures.py examples
    python benchmarks/page_pictures.py preview
    python benchmarks/page_pictures.py page http://127.0.0.1:7860 docs/images/space.jpg
    python benchmarks/page_pictures.py visit http://127.0.0.1:7860 docs/images

`examples` makes the pictures that the page shows: a street image, and its ciphertext under a key that is thrown away.
`preview` makes the picture that other sites show beside a link to the page: a street image, its ciphertext and the
segmentation map that the encrypted embedded model makes of that, over the image.
`page` takes a picture of the page of a running service (`privseg serve default --public-demo`) with a result on it.
`visit` goes through a first visit on a desk and on a phone, writes visit-desk.jpg and visit-phone.jpg, five screens
each, and prints the seconds from the press to the map, three times. Both need Playwright and its Chromium, or the
browser that PRIVSEG_BROWSER names.
"""

import io
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

import hf_privseg.service
from hf_privseg import SecretKey, SetrImageProcessor
from hf_privseg.catalog.street_images import street_image
from hf_privseg.inference.pictures import overlay, palette_for
from hf_privseg.inference.segmentation import segment_image
from hf_privseg.storage.models import load_model

SIZE = (640, 360)  # in pixels: twice what the page shows, for fine screens
SCREENS = {"desk": (1280, 900), "phone": (390, 844)}
COLUMNS = {"desk": 2, "phone": 5}  # of a picture of a visit
WIDTHS = {"desk": 720, "phone": 280}  # of a screen in it
PREVIEW_SIZE = (1200, 630)  # in pixels, as Open Graph's readers show it whole
PICTURE_SIZE = (368, 207)  # of a picture in it
STATIC = Path(hf_privseg.service.__file__).parent / "static"


def draw_examples() -> None:
    """Write both example pictures beside the page's other files."""
    image = street_image("cars")  # in full, for the blocks of a small one would be larger in it, and show less
    ciphertext = SetrImageProcessor().encrypt(image, SecretKey.generate("orthogonal"))
    for name, picture in (("image", image), ("ciphertext", ciphertext.to_picture())):
        picture.resize(SIZE).save(STATIC / f"example_{name}.webp", quality=60)


def draw_preview() -> None:
    """Write the picture for links beside the page's other files."""
    image, key = street_image("cars"), SecretKey.generate("orthogonal")
    model, processor = load_model("default")
    model.encrypt_model(key)
    ciphertext = processor.encrypt(image, key)
    segmentation_map = segment_image(model, processor, ciphertext)
    pictures = {
        "The image": image,
        "What the server sees": ciphertext.to_picture(),
        "Its answer, over the image": overlay(image, segmentation_map, palette_for(model.config)),
    }
    preview = Image.new("RGB", PREVIEW_SIZE, "#f8fafc")
    draw = ImageDraw.Draw(preview)
    draw.text((32, 56), "hf-privseg", "#0f172a", ImageFont.load_default(72))
    draw.text((32, 148), "Segmentation of encrypted images", "#334155", ImageFont.load_default(40))
    for number, (title, picture) in enumerate(pictures.items()):
        left = 32 + number * (PICTURE_SIZE[0] + 16)
        draw.text((left, 244), title, "#0f172a", ImageFont.load_default(28))
        preview.paste(picture.resize(PICTURE_SIZE), (left, 292))
    draw.text(
        (32, 548), "Visually protected, no more: see what attacks recover.", "#334155", ImageFont.load_default(32)
    )
    preview.save(STATIC / "preview.jpg", quality=85)


def photograph(url: str, path: str) -> None:
    """Have the page at `url` segment a street image, and write a picture of it."""
    with opened(url, "desk") as page:
        choose_sample(page)
        press(page)
        page.wait_for_timeout(1000)  # it scrolls
        picture = Image.open(io.BytesIO(page.screenshot(full_page=True)))
    picture.convert("RGB").save(path, quality=85)


def visit(url: str, folder: str) -> None:
    """A first visit on each screen: what is seen first, the choice, work, the map, the attack on one's ciphertext."""
    for name, (width, height) in SCREENS.items():
        with opened(url, name) as page:
            shots: list[Image.Image] = []

            def shoot(page: Any = page, shots: list[Image.Image] = shots) -> None:
                shots.append(Image.open(io.BytesIO(page.screenshot())).convert("RGB"))

            shoot()
            choose_sample(page)
            shoot()
            seconds = [press(page, meanwhile=shoot)]
            page.wait_for_timeout(1000)  # it scrolls
            shoot()
            seconds += [press(page) for _ in range(2)]
            page.goto(f"{page.url.partition('#')[0]}#attack")
            page.locator('button[data-privseg="server-view"]').click()
            page.locator('[data-privseg="views"] img').first.wait_for()
            page.locator('[data-privseg="views"]').scroll_into_view_if_needed()
            shoot()
        picture = side_by_side(shots, COLUMNS[name], (WIDTHS[name], height * WIDTHS[name] // width))
        picture.save(Path(folder) / f"visit-{name}.jpg", quality=80)
        print(f"{name}: seconds from the press to the map: {', '.join(f'{each:.1f}' for each in seconds)}")


def side_by_side(shots: list[Image.Image], columns: int, size: tuple[int, int], gap: int = 8) -> Image.Image:
    """Pictures of one size in rows of so many."""
    rows, (width, height) = -(-len(shots) // columns), size
    picture = Image.new("RGB", (columns * (width + gap) - gap, rows * (height + gap) - gap), "white")
    for number, shot in enumerate(shots):
        place = number % columns * (width + gap), number // columns * (height + gap)
        picture.paste(shot.resize(size, Image.Resampling.LANCZOS), place)
    return picture


@contextmanager
def opened(url: str, screen: str) -> Iterator[Any]:
    """A new visitor's page."""
    from playwright.sync_api import sync_playwright

    width, height = SCREENS[screen]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=os.environ.get("PRIVSEG_BROWSER"))
        page = browser.new_page(
            viewport={"width": width, "height": height}, is_mobile=screen == "phone", has_touch=screen == "phone"
        )
        page.set_default_timeout(300_000)  # milliseconds: of a machine that is busy
        page.goto(f"{url}?__theme=light")
        page.locator('[role="tabpanel"]:not([hidden])').wait_for()
        yield page
        browser.close()


def choose_sample(page: Any) -> None:
    """Choose a street image."""
    page.locator('[data-sample="cars"]').click()
    page.locator('.status[data-kind="done"]').first.wait_for()


def press(page: Any, meanwhile: Callable[[], None] = lambda: None) -> float:
    """Press the button, do something meanwhile, and wait for the map -> seconds."""
    button = page.locator('button[data-privseg="segment"]')
    status = page.locator("[data-work]", has=button).locator(".status")
    status.evaluate("line => { line.dataset.kind = ''; }")
    start = time.monotonic()
    button.click()
    meanwhile()
    page.locator("[data-work]", has=button).locator('.status[data-kind="done"]').wait_for()
    return time.monotonic() - start


if __name__ == "__main__":
    actions: dict[str, Callable[..., None]] = {
        "examples": draw_examples,
        "preview": draw_preview,
        "page": photograph,
        "visit": visit,
    }
    if len(sys.argv) < 2 or sys.argv[1] not in actions:
        raise SystemExit(__doc__)
    actions[sys.argv[1]](*sys.argv[2:])
