"""Mutated image files: decoded or refused with one error, whatever their decoder raises.

pytest tests/setr/test_image_files.py --fuzz-inputs 200000 tries so many inputs instead of a few.
"""

import io
import random

import numpy as np
import pytest
from PIL import Image, features

from helpers.mutations import mutated_bytes
from hf_privseg import InvalidImageError
from hf_privseg.setr.image_files import OPENED_FORMATS, open_image
from hf_privseg.setr.image_inputs import image_to_levels

RGB = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8))
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
    """Bytes -> mutated ones, now and then behind the first bytes of a format that is not opened."""
    return (rng.choice(OTHER_STARTS) if rng.random() < 0.03 else b"") + mutated_bytes(data, rng)


@pytest.mark.filterwarnings("ignore")
def test_a_mutated_file_is_decoded_or_refused(request):
    num_inputs = request.config.getoption("--fuzz-inputs") or 1500
    rng, sound, counts = random.Random(num_inputs), seeds(), {"decoded": 0, "refused": 0}
    for _ in range(num_inputs):
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
    assert min(counts.values()) > num_inputs // 50, counts
