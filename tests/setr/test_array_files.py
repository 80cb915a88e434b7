"""Arrays from .npy files: images and segmentation maps of any kind that NumPy writes, nothing from a pickle."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.tiny_setr import make_key
from hf_privseg import InvalidImageError, SetrImageProcessor
from hf_privseg.setr.array_files import array_from_file
from hf_privseg.setr.image_encrypter import ImageEncrypter
from hf_privseg.setr.image_inputs import image_to_levels
from hf_privseg.setr.segmentation_map_inputs import segmentation_map_to_indices
from hf_privseg.storage.images import is_ciphertext, read_image

LEVELS = np.random.default_rng(0).integers(0, 256, (13, 8, 12), dtype=np.uint8)


@pytest.mark.parametrize(
    "array",
    [
        LEVELS,
        LEVELS[0],
        LEVELS.transpose(1, 2, 0),
        np.asfortranarray(LEVELS),
        (LEVELS / 255).astype(">f4"),
        LEVELS.astype(np.int64),
        LEVELS > 127,
    ],
    ids=["CHW", "HW", "HWC", "Fortran", "big-endian", "int64", "bool"],
)
@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
def test_what_numpy_writes_is_read(tmp_path, array, version):
    with (tmp_path / "x.NPY").open("wb") as file:
        np.lib.format.write_array(file, array, version=version)
    found = array_from_file(tmp_path / "x.NPY")
    assert found.dtype == array.dtype
    assert np.array_equal(found, array)


def test_a_file_is_an_image_of_all_its_channels_wherever_an_image_is_taken(tmp_path):
    np.save(tmp_path / "x.npy", LEVELS)
    process, key = SetrImageProcessor(patch_size=4, num_channels=13), make_key()
    for path in (tmp_path / "x.npy", str(tmp_path / "x.npy")):
        assert np.array_equal(image_to_levels(path, num_channels=13), LEVELS)
        assert np.array_equal(process.to_levels(path), LEVELS)
        assert np.array_equal(ImageEncrypter.of({"num_channels": 13}).to_levels(path), LEVELS)
        torch.testing.assert_close(
            process([path], return_tensors="pt").pixel_values[0], torch.from_numpy(LEVELS) / 127.5 - 1
        )
        assert np.array_equal(process.decrypt_levels(process.encrypt(path, key), key), LEVELS)
    assert not is_ciphertext(tmp_path / "x.npy")
    with pytest.raises(InvalidImageError, match="expected 1, 3 or 4 channels, first or last"):
        read_image(tmp_path / "x.npy")
    np.save(tmp_path / "rgb.npy", LEVELS[:3])
    assert np.array_equal(np.array(read_image(tmp_path / "rgb.npy")), LEVELS[:3].transpose(1, 2, 0))


def test_a_file_is_a_segmentation_map_too(tmp_path):
    labels = LEVELS[0].astype(np.int32) * 300
    np.save(tmp_path / "map.npy", labels)
    assert np.array_equal(segmentation_map_to_indices(tmp_path / "map.npy"), labels)
    inputs = SetrImageProcessor(patch_size=4)(LEVELS[:3], str(tmp_path / "map.npy"), return_tensors="pt")
    assert np.array_equal(inputs.labels[0], labels)


def npy(array, **options):
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def header(text):
    return b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little") + text.encode()


HUGE = "{'descr': '<f8', 'fortran_order': False, 'shape': (3, 4000000000, 4000000000), }"
REFUSED = {
    "nothing": (b"", "numpy.save writes it, got another or a damaged file"),
    "text": (b"no array", "numpy.save writes it, got another or a damaged file"),
    "pickle": (
        npy(np.array([[None]]), allow_pickle=True),
        r"array of numbers .* of object and shape \(1, 1\)",
    ),
    "records": (npy(np.zeros((2, 2), "i1,i1")), r"array of numbers .* got one of .* and shape \(2, 2\)"),
    "dates": (npy(np.zeros((2, 2), "M8[s]")), "array of numbers .* got one of datetime64"),
    "huge": (
        header(HUGE),
        r"expected 384000000000000000000 bytes for an array of shape \(3, .*, got 0; the file",
    ),
    "negative": (header(HUGE.replace("(3,", "(-3,")), "sides of 1 or more"),
    "code": (header("{'descr': __import__('os'), 'fortran_order': False, 'shape': (2, 2), }"), "damaged file"),
    "deep": (header("(" * 900 + ")" * 900), "damaged file"),
    "truncated": (npy(LEVELS)[:-1], r"expected 1248 bytes for an array of shape \(13, 8, 12\), got 1247"),
    "longer": (npy(LEVELS) + b"x", "expected 1248 bytes .* got 1249"),
    "row": (npy(np.zeros(5)), "two or three sides"),
    "batch": (npy(np.zeros((1, 3, 4, 4))), "two or three sides"),
    "empty": (npy(np.zeros((0, 4))), "sides of 1 or more"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_everything_else_is_refused(tmp_path, case):
    content, message = REFUSED[case]
    (tmp_path / "x.npy").write_bytes(content)
    with pytest.raises(InvalidImageError, match=message):
        array_from_file(tmp_path / "x.npy")
    with pytest.raises(InvalidImageError, match=message):
        SetrImageProcessor()(tmp_path / "x.npy")


def test_more_numbers_than_an_image_may_have_are_refused_before_they_are_read(tmp_path, monkeypatch):
    np.save(tmp_path / "x.npy", LEVELS)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", LEVELS.size // 3 - 1)
    monkeypatch.setattr(np, "fromfile", lambda *_: pytest.fail("read"))
    with pytest.raises(InvalidImageError, match=f"at most {3 * (LEVELS.size // 3 - 1)} numbers, got {LEVELS.size}"):
        array_from_file(tmp_path / "x.npy")
