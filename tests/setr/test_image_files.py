"""Mutated image files: decoded or refused with one error, whatever their decoder raises.

PRIVSEG_FUZZ_INPUTS=200000 pytest tests/setr/test_image_files.py tries so many inputs instead of a few.
"""

import io
import os
import random

import numpy as np
import pytest
from PIL import Image, features

from hf_privseg import InvalidImageError
from hf_privseg.setr.image_files import OPENED_FORMATS, open_image
from hf_privseg.setr.image_inputs import image_to_levels

NUM_INPUTS = int(os.environ.get("PRIVSEG_FUZZ_INPUTS", "1500"))
RGB = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8))
EXTREMES = (b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"\x80\0\0\0", b"\0\0\xff\xff")
OTHER_STARTS = (
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    b"8BPS\0\1",
    b"DDS ",
    b"\x01\xda",
    b"P7\n",
    b"Pf\n",
)


def saved(image, format, **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def seeds():
    """Small sound files of every format, mode and number of frames that matters to a decoder."""
    formats = [*(name for name in OPENED_FORMATS if name != "AVIF" or features.check("avif")), "MPO"]
    found = [saved(RGB, name) for name in formats]
    grey = RGB.convert("L")
    found += [saved(RGB.convert(mode), "PNG") for mode in ("1", "L", "P", "LA", "RGBA", "I;16")]
    found += [saved(RGB, name, save_all=True, append_images=[RGB] * 3) for name in ("PNG", "WEBP", "GIF")]
    found += [saved(grey, "TIFF", save_all=True, append_images=[grey] * 3), saved(RGB.convert("CMYK"), "TIFF")]
    found += [saved(RGB, "TIFF", compression=name) for name in ("tiff_lzw", "tiff_adobe_deflate", "jpeg")]
    exif = Image.Exif()
    exif[0x0112] = 6
    return [*found, saved(RGB, "JPEG", exif=exif), saved(RGB, "PNG", exif=exif), saved(RGB.convert("1"), "PPM")]


def mutated(data, rng):
    data = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(min(len(data), 200) if rng.random() < 0.6 else len(data))
        match rng.randrange(6):
            case 0:
                data[place] = rng.randrange(256)
            case 1:
                data[place] ^= 1 << rng.randrange(8)
            case 2:
                data[place : place + 4] = rng.choice(EXTREMES)
            case 3:
                data = data[: place + 1]
            case 4:
                data[place:place] = rng.randbytes(rng.randint(1, 8))
            case 5:
                other = rng.randrange(len(data))
                data[place : place + 8] = data[other : other + 8]
    return (rng.choice(OTHER_STARTS) if rng.random() < 0.03 else b"") + bytes(data)


@pytest.mark.filterwarnings("ignore")
def test_a_mutated_file_is_decoded_or_refused():
    rng, sound, counts = random.Random(NUM_INPUTS), seeds(), {"decoded": 0, "refused": 0}
    for _ in range(NUM_INPUTS):
        data = mutated(rng.choice(sound), rng)
        try:
            with open_image(io.BytesIO(data)) as image:
                levels = image_to_levels(image, num_channels=rng.choice((1, 3, 3, 4)))
            assert levels.ndim == 3
            counts["decoded"] += 1
        except InvalidImageError:
            counts["refused"] += 1
        except Exception as error:
            pytest.fail(f"{type(error).__name__} ({error}) for {data[:2000]!r}")
    assert min(counts.values()) > NUM_INPUTS // 50, counts
