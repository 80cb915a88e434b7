"""The compact form: integers that come back bit for bit, a basis that costs the task least, and nothing but z sent."""

import base64
import json
import struct
import zlib
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch

from helpers.paths import VECTORS_FOLDER
from helpers.tiny_setr import FP32, make_key, pixels, projection, tiny_model
from hf_privseg import CiphertextError, ClientEmbedding, EncryptedImage, InvalidKeyError, SetrImageProcessor
from hf_privseg.setr.block_cipher import to_blocks
from hf_privseg.setr.ciphers import cipher_for
from hf_privseg.setr.image_encrypter import ImageEncrypter
from hf_privseg.setr.packed_integers import packed, unpacked
from hf_privseg.setr.transform_code import TransformCode, task_transform

RANK = 32
STEPS, BITS = np.array([0.25, 0.5, 1.0]), np.array([100.0, 60.0, 20.0])


def random_code(seed=0):
    rng = np.random.default_rng(seed)
    return TransformCode(rng.normal(size=(RANK, RANK)), STEPS, BITS)


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def embedding(model):
    return ClientEmbedding.generate(model).with_code(random_code())


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).integers(0, 256, (21, 30, 3), np.uint8)


# ------------------------------------------------------------------------------------------------------- the integers


def test_every_int16_comes_back_and_small_numbers_are_small():
    values = np.arange(-(2**15), 2**15).astype(np.int16).reshape(4, -1, 8)
    assert np.array_equal(unpacked(packed(values), values.shape), values)
    small = np.random.default_rng(0).integers(-1, 2, (30, 40, 50)).astype(np.int16)  # 1.58 bits each
    assert len(packed(small)) * 8 / small.size < 2.1
    # the layout that the documentation gives: zigzag, low bytes, high bytes, raw deflate
    assert zlib.decompress(packed(np.array([-1, 1, 300], np.int16)).tobytes(), -15) == bytes([1, 2, 88, 0, 0, 2])
    vector = json.loads((VECTORS_FOLDER / "packed_integers.json").read_text())
    assert unpacked(np.frombuffer(bytes.fromhex(vector["packed"]), np.uint8), (12,)).tolist() == vector["values"]
    assert zlib.decompress(packed(np.array(vector["values"], np.int16)).tobytes(), -15).hex() == vector["planes"]


def test_other_content_than_so_many_integers_is_refused():
    values = np.arange(24).astype(np.int16)
    good = packed(values).tobytes()
    deflated = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = deflated.compress(bytes(2**24)) + deflated.flush()
    for content in (good[:-1], good + b"x", bomb, b"", b"\xff" * 9, packed(values[:-1]).tobytes()):
        with pytest.raises(CiphertextError, match="packed numbers"):
            unpacked(np.frombuffer(content, np.uint8), (2, 3, 4))


# ---------------------------------------------------------------------------------------------------------- the basis


def test_the_basis_makes_directions_uncorrelated_and_equally_dear():
    rng = np.random.default_rng(0)
    moments, information = (part @ part.T for part in rng.normal(size=(2, 6, 20)))
    transform = task_transform(moments, information)
    coded = transform.T @ moments @ transform
    assert np.abs(coded - np.diag(np.diag(coded))).max() < 1e-9 * coded.max()
    assert (np.diff(np.diag(coded)) < 0).all()
    assert np.trace(coded) == pytest.approx(np.trace(moments))
    back = np.linalg.inv(transform)  # an error e of y T is e T^-1 of y, and costs e T^-1 F T^-T e^T
    regular = information + 1e-2 * np.trace(information) / 6 * np.eye(6)
    cost = back @ regular @ back.T
    assert np.abs(cost / cost[0, 0] - np.eye(6)).max() < 1e-9


def test_bits_become_a_step_between_those_that_were_tried():
    code = random_code()
    assert code.step_for(60) == pytest.approx(0.5)
    assert code.step_for(80) == pytest.approx(0.5 / 2**0.5)
    for bits in (101, 19.9, float("nan")):
        with pytest.raises(ValueError, match=f"bits_per_block from 20 to 100, .* got {bits:g}"):
            code.step_for(bits)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"transform": np.eye(3, dtype=np.float32)}, "finite float64"),
        ({"transform": np.full((3, 3), np.nan)}, "finite float64"),
        ({"transform": np.ones((3, 2))}, r"square, got \(3, 2\)"),
        ({"transform": np.ones((3, 3))}, "full rank, got less"),
        ({"steps": STEPS[:2]}, "as many bits"),
        ({"steps": STEPS[::-1].copy()}, "positive and increase"),
        ({"bits": BITS[::-1].copy()}, "its bits fall"),
    ],
)
def test_parts_that_are_no_transform_code_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        TransformCode(**({"transform": np.eye(3), "steps": STEPS, "bits": BITS} | change))


# -------------------------------------------------------------------------------------------- the client embedding


def test_without_bits_an_embedding_with_a_code_is_exact(model, embedding):
    plain = model(pixels()).logits
    encrypted = tiny_model().encrypt_model(embedding)
    sent = cipher_for(embedding, patch_size=4).encrypt(pixels())
    torch.testing.assert_close(encrypted(sent).logits, plain, **FP32)
    assert encrypted.config.encryption["fingerprint"] == embedding.fingerprint
    weight = projection(model).weight
    torch.testing.assert_close(projection(encrypted.decrypt_model(embedding)).weight, weight, rtol=0, atol=1e-5)


def test_a_code_makes_another_client_embedding_and_lies_in_its_file(model, embedding, tmp_path):
    embedding.to_file(tmp_path / "client.embedding")
    back = ClientEmbedding.from_file(tmp_path / "client.embedding")
    assert back == embedding
    assert back.code is not None
    assert all(np.array_equal(vars(back.code)[name], value) for name, value in vars(random_code()).items())
    without = ClientEmbedding.generate(model)
    others = [without, without.with_code(random_code()), without.with_code(random_code(1)), embedding]
    assert len({other.fingerprint for other in others}) == 4
    assert others[1] != without
    with pytest.raises(InvalidKeyError, match="is for its 32 numbers, got one for 3"):
        without.with_code(TransformCode(np.eye(3), STEPS, BITS))


@pytest.mark.parametrize("part", ["transform", "steps", "bits"])
def test_a_damaged_code_is_refused(embedding, part):
    stored = safetensors.numpy.load(embedding.to_bytes())
    data = embedding.to_bytes()
    metadata = json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])["__metadata__"]
    for change, message in ((None, f"lacks 'code_{part}'"), (-1.0, "is damaged"), (1 + 1e-9, "fingerprint differs")):
        arrays = dict(stored)
        if change is None:
            del arrays[f"code_{part}"]
        else:
            arrays[f"code_{part}"] = stored[f"code_{part}"] * change
            if (part, change) == ("transform", -1.0):
                arrays["code_transform"][:] = 1.0
        with pytest.raises(InvalidKeyError, match=message):
            ClientEmbedding.from_bytes(safetensors.numpy.save(arrays, metadata=metadata))


# ------------------------------------------------------------------------------------------------ the compact form


def encrypt(image, key, bits=None):
    return ImageEncrypter(patch_size=4).encrypt(image, key, bits_per_block=bits)


def test_the_compact_form_is_small_and_comes_back_bit_for_bit(embedding, image, tmp_path):
    exact, compact = encrypt(image, embedding), encrypt(image, embedding, 60)
    assert exact.step is None
    assert compact.step == np.float32(0.5)
    assert np.abs(compact.pixels - exact.pixels).max() <= 0.2501
    whole = compact.pixels.astype(np.float64) / compact.step
    assert np.array_equal(whole, np.rint(whole))
    assert len(compact.to_bytes()) < len(exact.to_bytes())
    compact.to_file(tmp_path / "x.safetensors")
    back = EncryptedImage.from_file(tmp_path / "x.safetensors")
    assert np.array_equal(back.pixels, compact.pixels)
    assert back.step == compact.step
    assert back.to_bytes() == compact.to_bytes()


def test_the_processor_makes_what_a_client_without_torch_makes(embedding, image):
    sent = SetrImageProcessor(patch_size=4).encrypt([image, image], embedding, bits_per_block=80)
    assert [each.to_bytes() for each in sent] == [encrypt(image, embedding, 80).to_bytes()] * 2


def test_what_is_sent_is_a_function_of_z_alone(model, embedding):
    """Blocks that differ where the patch embedding is blind become the same bytes."""
    plain = np.random.default_rng(0).normal(size=(1, RANK)) @ np.linalg.pinv(embedding.matrix)
    blind = np.linalg.svd(embedding.matrix.T)[2][-1:]  # of the null space
    weight = projection(model).weight.detach().double().numpy().reshape(32, -1)
    assert np.abs(blind @ weight.T).max() < 1e-9
    sent = []
    for blocks in (plain, plain + blind):
        rows = cipher_for(embedding, patch_size=4).encrypt(blocks.reshape(3, 4, 4))
        sent.append(np.rint(rows / 0.25))
    assert np.array_equal(sent[0], sent[1])
    assert sent[0].any()


def test_bits_without_a_transform_code_are_refused(model, embedding, image):
    for key in (make_key(), ClientEmbedding.generate(model)):
        with pytest.raises(ValueError, match="bits_per_block needs a client embedding with a transform code"):
            encrypt(image, key, 60)
    with pytest.raises(ValueError, match="from 20 to 100"):
        SetrImageProcessor(patch_size=4).encrypt(image, embedding, bits_per_block=5)


def test_numbers_that_would_need_more_than_16_bits_get_a_larger_step(model, image):
    fine = TransformCode(random_code().transform, np.array([1e-9, 1.0]), np.array([900.0, 20.0]))
    embedding = ClientEmbedding.generate(model).with_code(fine)
    exact, compact = encrypt(image, embedding), encrypt(image, embedding, 900)
    assert compact.step == pytest.approx(np.abs(exact.pixels).max() / 32767)
    assert np.array_equal(EncryptedImage.from_bytes(compact.to_bytes()).pixels, compact.pixels)


def with_header(data: bytes, **entries: Any) -> bytes:
    """A safetensors file of an encrypted image with other entries in its header; None removes one."""
    header = json.loads(json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])["__metadata__"]["privseg"])
    text = json.dumps({name: value for name, value in (header | entries).items() if value is not None})
    return safetensors.numpy.save(safetensors.numpy.load(data), metadata={"privseg": text})


def test_a_shape_that_does_not_fit_is_refused_before_anything_is_unpacked(embedding, image):
    data = encrypt(image, embedding, 60).to_bytes()
    rows, columns, numbers = 5, 8, 32
    assert EncryptedImage.from_bytes(with_header(data, packed=[rows, columns, numbers])).step == 0.5
    for shape, message in (
        (None, "shape of packed numbers in the header"),
        ([rows, columns], "three positive ints"),
        ([rows, columns, True], "three positive ints"),
        ([rows, -columns, -numbers], "three positive ints"),
        ([2**20, 2**20, 48], "at most 201326592 packed numbers"),
        ([rows, columns, 31], "got more or fewer"),
        ([columns, rows, numbers], "expected pixels of shape"),
    ):
        with pytest.raises(CiphertextError, match=message):
            EncryptedImage.from_bytes(with_header(data, packed=shape))
    with pytest.raises(CiphertextError, match="shape of packed numbers in the header, and of no others"):
        EncryptedImage.from_bytes(with_header(encrypt(image, embedding).to_bytes(), packed=[rows, columns, numbers]))
    with pytest.raises(CiphertextError, match="at most 1200 packed numbers"):
        EncryptedImage.from_bytes(data, max_pixels=400)


@pytest.mark.parametrize("step", [0.0, -1.0, float("nan"), float("inf"), 1, "x", True])
def test_a_step_is_a_positive_float_of_float_pixels(embedding, image, step):
    found = encrypt(image, embedding)
    facts = {name: value for name, value in vars(found).items() if name != "step"}
    with pytest.raises(CiphertextError, match="the step of an encrypted image is a positive float"):
        EncryptedImage(**facts, step=step)
    levels = vars(encrypt(image, make_key("permutation"))) | {"step": 1.0}
    with pytest.raises(CiphertextError, match=r"only float pixels have one, got 1\.0 and uint8 pixels"):
        EncryptedImage(**levels)


@pytest.mark.parametrize("index", [0, 1], ids=["plain", "with a transform code"])
def test_the_files_of_the_vectors_are_read_and_encrypt_as_they_did(index):
    vector = json.loads((VECTORS_FOLDER / "client_embeddings.json").read_text())[index]
    content = base64.b64decode(vector["file"])
    embedding = ClientEmbedding.from_bytes(content)
    assert embedding.fingerprint == vector["fingerprint"]
    assert embedding.to_bytes() == content
    blocks = np.array(vector["rows"]).reshape(1, 4, 3, 2, 2).transpose(0, 2, 3, 1, 4).reshape(1, 3, 2, 8)
    sent = to_blocks(cipher_for(embedding, patch_size=2).encrypt(blocks), 2)[0, 0]
    np.testing.assert_allclose(sent[:, :5], vector["sent"], rtol=0, atol=1e-13)
    for bits, step in vector.get("steps", {}).items():
        assert embedding.code is not None
        assert embedding.code.step_for(float(bits)) == pytest.approx(step, rel=1e-14)
