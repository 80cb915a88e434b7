"""A data set of ciphertexts: what its files hold, going on after a stop, and what it refuses to mix."""

import json

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("datasets", reason="the train extra is not installed")

from hf_privseg import CiphertextError, EncryptedImage, EncryptionStateError, KeyMismatchError, SecretKey
from hf_privseg.catalog.class_files import class_names_of
from hf_privseg.setr.image_encrypter import ImageEncrypter
from hf_privseg.training.data import load_segmentation_dataset
from hf_privseg.training.encrypted_dataset import EncryptedDataset
from hf_privseg.training.label_map import LabelMap
from hf_privseg.training.rows import check_encryption, read_row

COUNT, SIZE = 5, (41, 52)  # height, width; not on the patch grid
NAMES = {0: "sky", 1: "road", 2: "tree"}
STORED = LabelMap(3, mapping={7: 0, 8: 1, 33: 2})  # 0 is void
KEY = SecretKey.generate(family="permutation")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Five images and segmentation maps with the labels 7, 8, 33 and 0."""
    folder, rng = tmp_path_factory.mktemp("source"), np.random.default_rng(0)
    for kind in ("images", "annotations"):
        (folder / kind / "train").mkdir(parents=True)
    for index in range(COUNT):
        Image.fromarray(rng.integers(0, 256, (*SIZE, 3), np.uint8)).save(folder / f"images/train/anna_{index}.png")
        stored = rng.choice(np.array([0, 7, 8, 33], np.uint8), SIZE)
        Image.fromarray(stored).save(folder / f"annotations/train/anna_{index}.png")
    return folder


def rows_of(folder):
    return load_segmentation_dataset(folder, split="train")


def write(folder, source, *, key=KEY, encrypter=None, label_map=STORED, names=NAMES, **given):
    target = EncryptedDataset(folder, names, encrypter or ImageEncrypter())
    return list(target.write_split("train", rows_of(source), label_map, key, **given))


def inodes(folder):
    return {path.relative_to(folder): path.stat().st_ino for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("family", ["permutation", "signed_permutation", "orthogonal", "matrix"])
def test_rows_are_the_ciphertexts_of_the_images_and_their_classes(source, tmp_path, family):
    key = SecretKey.generate(family=family)
    assert write(tmp_path, source, key=key) == [1] * COUNT
    found, plain = rows_of(tmp_path), rows_of(source)
    assert len(found) == COUNT
    assert class_names_of(tmp_path) == NAMES
    for index in range(COUNT):
        ciphertext, classes = read_row(found, index, LabelMap(3), key=key.facts)
        levels, expected = read_row(plain, index, STORED)
        encrypted = ImageEncrypter().encrypt(levels.numpy(), key, input_data_format="channels_first")
        assert isinstance(ciphertext, EncryptedImage)
        assert ciphertext.original_size == SIZE
        assert ciphertext.facts == key.facts
        assert np.abs(ciphertext.pixels.astype(float) - encrypted.pixels).max() < 1e-3  # stored as 16 bits
        assert np.array_equal(classes, expected)
        assert set(np.unique(classes)) == {0, 1, 2, 255}


def test_names_of_files_stay_with_the_owner(source, tmp_path):
    write(tmp_path, source, mirrored=True)
    assert not [path for path in tmp_path.rglob("*") if "anna" in path.name]


def test_mirrored_ciphertexts_are_those_of_mirrored_images(source, tmp_path):
    assert write(tmp_path, source, mirrored=True) == [2] * COUNT
    found = rows_of(tmp_path)
    assert len(found) == 2 * COUNT
    image = Image.open(source / "images/train/anna_3.png").transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    stored = np.array(Image.open(source / "annotations/train/anna_3.png"))[:, ::-1]
    ciphertext, classes = read_row(found, 6, LabelMap(3), key=KEY.facts)  # mirrored comes before its image
    assert isinstance(ciphertext, EncryptedImage)
    assert np.array_equal(ciphertext.pixels, ImageEncrypter().encrypt(image, KEY).pixels)
    assert np.array_equal(classes, STORED(stored))


def test_a_split_that_was_stopped_is_gone_on_with(source, tmp_path):
    parts = EncryptedDataset(tmp_path, NAMES, ImageEncrypter()).write_split("train", rows_of(source), STORED, KEY)
    assert [next(parts), next(parts)] == [1, 1]
    (tmp_path / "images/train/.000002.png.0123.tmp").write_bytes(b"half")  # what a killed process leaves
    (tmp_path / "images/train/000000.png").unlink()  # stopped between a segmentation map and its ciphertext
    before = inodes(tmp_path)
    assert write(tmp_path, source) == [1, 0, 1, 1, 1]
    after = inodes(tmp_path)
    assert {path: after[path] for path in before} == before
    assert write(tmp_path, source) == [0] * COUNT
    assert inodes(tmp_path) == after


def test_a_broken_image_names_itself_and_those_before_it_stay(source, tmp_path):
    broken = tmp_path / "broken"
    for kind in ("images", "annotations"):
        (broken / kind / "train").mkdir(parents=True)
        for path in (source / kind / "train").iterdir():
            (broken / kind / "train" / path.name).write_bytes(path.read_bytes())
    path = broken / "images/train/anna_2.png"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(ValueError, match=r"anna_2\.png"):
        write(tmp_path / "out", broken)
    assert sorted(each.name for each in (tmp_path / "out/images/train").iterdir()) == ["000000.png", "000001.png"]


def test_what_is_there_must_be_of_the_same_key_source_and_model(source, tmp_path):
    write(tmp_path, source, mirrored=True)
    before = inodes(tmp_path)
    with pytest.raises(KeyMismatchError, match=r"000000\.png to be encrypted with the key at hand"):
        write(tmp_path, source, key=SecretKey.generate(family="permutation"), mirrored=True)
    with pytest.raises(FileExistsError, match="another segmentation map than the source has"):
        write(tmp_path, source, label_map=LabelMap(3, mapping={7: 1, 8: 0, 33: 2}), mirrored=True)
    with pytest.raises(FileExistsError, match="or for another processor"):
        write(tmp_path, source, encrypter=ImageEncrypter(resize_factor=2.0), mirrored=True)
    with pytest.raises(
        FileExistsError, match=r"holds files that do not come from this split, as 000000\.mirrored\.png"
    ):
        write(tmp_path, source)
    with pytest.raises(FileExistsError, match="names other classes"):
        write(tmp_path, source, names={0: "sky", 1: "road", 2: "house"}, mirrored=True)
    assert inodes(tmp_path) == before
    path = tmp_path / "images/train/000001.png"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(CiphertextError, match=r"000001\.png: .*remove the file"):
        write(tmp_path, source, mirrored=True)


def test_void_has_a_number_of_its_own_where_255_is_a_class(source, tmp_path):
    names = {label: f"class {label}" for label in range(300)}
    many = LabelMap(300, mapping={7: 0, 8: 255, 33: 299})
    write(tmp_path, source, names=names, label_map=many)
    assert len(json.loads((tmp_path / "classes.json").read_text())) == 300
    _, classes = read_row(rows_of(tmp_path), 0, LabelMap(300, (65535,)), key=KEY.facts)
    assert np.array_equal(classes, read_row(rows_of(source), 0, many)[1])
    assert set(np.unique(classes)) == {-100, 0, 255, 299}


def test_plain_images_and_ciphertexts_are_never_taken_for_each_other(source, tmp_path):
    write(tmp_path, source)
    plain, encrypted, other = rows_of(source), rows_of(tmp_path), SecretKey.generate(family="permutation")
    check_encryption(plain, None)
    check_encryption(encrypted, KEY.facts)
    for check in (check_encryption, lambda rows, key: read_row(rows, 0, STORED, key=key)):
        with pytest.raises(EncryptionStateError, match="plain, but the model is encrypted"):
            check(plain, KEY.facts)
    for check in (check_encryption, lambda rows, key: read_row(rows, 0, LabelMap(3), key=key)):
        with pytest.raises(EncryptionStateError, match=r"000000\.png .*but the model is plain"):
            check(encrypted, None)
        with pytest.raises(KeyMismatchError, match=f"{KEY.fingerprint}.*{other.fingerprint}"):
            check(encrypted, other.facts)


def test_one_image_of_the_other_kind_in_a_folder_is_refused_by_name(source, tmp_path):
    write(tmp_path, source)
    image = Image.open(source / "images/train/anna_2.png")
    image.save(tmp_path / "images/train/000002.png")
    with pytest.raises(EncryptionStateError, match=r"000002\.png is plain"):
        read_row(rows_of(tmp_path), 2, LabelMap(3), key=KEY.facts)
    image.save(tmp_path / "images/train/000000.png")  # the first image says what the folder holds
    with pytest.raises(CiphertextError, match=r"000001\.png: expected a plain image"):
        read_row(rows_of(tmp_path), 1, LabelMap(3))


def test_a_ciphertext_of_another_size_than_its_map_is_refused(source, tmp_path):
    write(tmp_path, source)
    path = tmp_path / "images/train/000000.png"
    small = Image.open(source / "images/train/anna_0.png").resize((32, 32))
    ImageEncrypter().encrypt(small, KEY).to_file(path, overwrite=True)
    assert EncryptedImage.from_file(path).original_size == (32, 32)
    with pytest.raises(ValueError, match="expected an image and a segmentation map of one size, got 32 x 32"):
        read_row(rows_of(tmp_path), 0, LabelMap(3), key=KEY.facts)
