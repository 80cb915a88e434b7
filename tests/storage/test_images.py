"""Image files: which are opened, how the others are refused, and which present themselves as encrypted."""

import io

import numpy as np
import pytest
from PIL import Image, ImageFile, features

from helpers.tiny_setr import make_key
from hf_privseg import InvalidImageError, SetrImageProcessor
from hf_privseg.setr.image_files import decoded, open_image
from hf_privseg.storage.images import is_ciphertext, read_image

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
LOSSLESS = {"PNG": {}, "WEBP": {"lossless": True}, "TIFF": {}, "BMP": {}, "PPM": {}, "JPEG2000": {}}
OTHERS = ("EPS", "SGI", "DDS", "ICO", "TGA", "PCX", "PDF", "IM", "ICNS", "QOI", "XBM", "PSD")
PSD = b"8BPS\0\1" + bytes(6) + b"\0\3" + b"\0\0\0\x18\0\0\0\x20\0\x08\0\3" + bytes(12) + bytes(2 + 3 * 24 * 32)


def file_bytes(format, **options):
    if format == "PSD":
        return PSD
    buffer = io.BytesIO()
    image = Image.fromarray(PIXELS)
    (image.convert("1") if format == "XBM" else image).save(buffer, format, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("format", LOSSLESS)
def test_the_lossless_formats_give_their_pixels(format, tmp_path):
    (tmp_path / "x").write_bytes(file_bytes(format, **LOSSLESS[format]))  # the content decides, not the name
    image = read_image(tmp_path / "x")
    assert image.mode == "RGB"
    assert np.array_equal(np.asarray(image), PIXELS)


@pytest.mark.parametrize("format", ["JPEG", "GIF", "AVIF", "MPO"])
def test_the_lossy_formats_are_opened(format, tmp_path):
    if format == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    (tmp_path / "x").write_bytes(file_bytes(format))
    assert read_image(tmp_path / "x").size == (32, 24)


@pytest.mark.parametrize("format", OTHERS)
def test_other_formats_are_refused_without_their_decoder(format, tmp_path, monkeypatch):
    try:
        (tmp_path / "x.png").write_bytes(file_bytes(format))
    except (KeyError, OSError):
        pytest.skip(f"this Pillow writes no {format}")
    opened = None if format == "PDF" else Image.open(tmp_path / "x.png")
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("decoded"))
    if opened is not None:
        with pytest.raises(InvalidImageError, match=f"AVIF, PPM, got {opened.format}, whose decoder .* image.copy()"):
            decoded(opened)
    with pytest.raises(
        InvalidImageError, match=r"x\.png: expected an image in one of the formats PNG, JPEG, .* none of"
    ):
        read_image(tmp_path / "x.png")
    assert not is_ciphertext(tmp_path / "x.png")


@pytest.mark.parametrize("error", [MemoryError, RuntimeError, NotImplementedError, SyntaxError, ValueError, OSError])
@pytest.mark.parametrize("step", ["open", "load"])
def test_every_failure_of_a_decoder_is_one_error_that_names_the_file(error, step, tmp_path, monkeypatch):
    (tmp_path / "x.png").write_bytes(file_bytes("PNG"))

    def fail(*_: object, **__: object) -> None:
        raise error("what went wrong")

    monkeypatch.setattr(*((Image, "open") if step == "open" else (ImageFile.ImageFile, "load")), fail)
    with pytest.raises(InvalidImageError, match=rf"x\.png: .*\({error.__name__}: what went wrong\)"):
        read_image(tmp_path / "x.png")
    monkeypatch.undo()
    with pytest.raises(FileNotFoundError):
        read_image(tmp_path / "missing.png")


@pytest.mark.parametrize("format", ["PNG", "GIF", "WEBP", "TIFF"])
def test_of_an_animation_one_frame_is_decoded(format, monkeypatch):
    frames = [Image.fromarray(np.roll(PIXELS, step, axis=1)) for step in range(5)]
    buffer = io.BytesIO()
    frames[0].save(buffer, format, save_all=True, append_images=frames[1:], **LOSSLESS.get(format, {}))
    image = open_image(buffer)
    assert getattr(image, "n_frames", 1) == 5
    seen: list[int] = []
    seek = type(image).seek

    def noted(self, frame):
        seen.append(frame)
        return seek(self, frame)

    monkeypatch.setattr(type(image), "seek", noted)
    first = decoded(image).convert("RGB")
    assert set(seen) <= {0}
    if format != "GIF":
        assert np.array_equal(np.asarray(first), PIXELS)


@pytest.mark.parametrize("family", ["permutation", "orthogonal"])
def test_encrypted_images_are_recognised(family, tmp_path):
    encrypted = SetrImageProcessor(patch_size=8).encrypt(Image.fromarray(PIXELS), make_key(family))
    path = tmp_path / f"x{encrypted.suffix}"
    encrypted.to_file(path)
    assert is_ciphertext(path)
    (tmp_path / "plain.png").write_bytes(file_bytes("PNG"))
    assert not is_ciphertext(tmp_path / "plain.png")
    assert not is_ciphertext(tmp_path / "missing.png")
