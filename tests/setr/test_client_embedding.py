"""ClientEmbedding: exact whatever the shape and rank of the patch embedding, taken like a key, and out of sight."""

import copy
import hashlib
import hmac
import json
import pickle
import stat
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from helpers.leaks import assert_no_client_embedding, assert_no_numbers, assert_no_secret
from helpers.second_copy import second_copy
from helpers.tiny_setr import DECODERS, FP32, FP64, make_key, pixels, projection, tiny_model
from hf_privseg import (
    CiphertextError,
    ClientEmbedding,
    EncryptedImage,
    EncryptionStateError,
    InvalidKeyError,
    KeyMismatchError,
    RekeyUpdate,
    SecretKey,
    SetrForSemanticSegmentation,
    SetrImageProcessor,
    SetrModel,
    SetrSegmentationPipeline,
)
from hf_privseg.setr.ciphers import EmbeddingCipher, cipher_for
from hf_privseg.setr.encryption_key import as_encryption_key, key_from_file
from hf_privseg.setr.keys import FAMILIES, as_key

# name -> the settings of a model, and the rank r of its patch embedding of L x hidden_size = 32 numbers
GEOMETRIES = {
    "hidden_size < L": ({}, 32),  # L = 48
    "hidden_size > L": ({"patch_size": 2, "image_size": 8}, 12),  # L = 12
    "rank 7": ({}, 7),
}
every_geometry = pytest.mark.parametrize("geometry", GEOMETRIES)


def plain_model(geometry="hidden_size < L", **kwargs):
    settings, rank = GEOMETRIES[geometry]
    model = tiny_model(**settings, **kwargs)
    weight = projection(model).weight
    with torch.no_grad():
        u, s, v = torch.linalg.svd(weight.reshape(len(weight), -1).double(), full_matrices=False)
        weight.copy_(((u[:, :rank] * s[:rank]) @ v[:rank]).reshape(weight.shape))
    return model


def weight_of(model):
    return projection(model).weight.detach().clone()


def encrypted(embedding, images):
    return cipher_for(embedding, patch_size=embedding.patch_size).encrypt(images)


def relative(found, expected):
    return ((found - expected).double().norm() / expected.double().norm()).item()


@pytest.fixture(scope="module")
def embedding():
    return ClientEmbedding.generate(plain_model())


@pytest.fixture
def plain_image():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (21, 30, 3)).astype(np.uint8))


# -------------------------------------------------------------------------------------------------------- exactness


@every_geometry
def test_the_two_parts_are_the_patch_embedding_and_the_servers_is_orthonormal(geometry):
    model = plain_model(geometry).double()
    plain = weight_of(model).flatten(1).T  # E
    embedding = ClientEmbedding.generate(model)
    rank = GEOMETRIES[geometry][1]
    assert embedding.shape == (len(plain), rank)
    server = weight_of(model.encrypt_model(embedding)).flatten(1).T
    assert server.shape == plain.shape
    assert torch.equal(server[rank:], torch.zeros_like(server[rank:]))
    torch.testing.assert_close(server[:rank] @ server[:rank].T, torch.eye(rank, dtype=torch.float64), **FP64)
    # a rank of 7 is one up to float32 alone
    torch.testing.assert_close(
        torch.from_numpy(embedding.matrix) @ server[:rank], plain, rtol=0, atol=1e-7 if rank == 7 else 1e-12
    )


@every_geometry
@pytest.mark.parametrize("decoder", DECODERS)
def test_encrypted_model_on_encrypted_pixels_is_plain_model_on_plain_pixels(geometry, decoder):
    model = plain_model(geometry, decoder=decoder)
    plain = model(pixels()).logits
    embedding = ClientEmbedding.generate(model)
    model.encrypt_model(embedding)
    logits = model(encrypted(embedding, pixels())).logits
    torch.testing.assert_close(logits, plain, **FP32)
    assert (logits.argmax(1) == plain.argmax(1)).float().mean() > 0.99  # but for near-ties


@pytest.mark.parametrize("geometry", ["hidden_size < L", "hidden_size > L"])
def test_what_is_left_in_fp32_is_rounding(geometry):
    model = plain_model(geometry).double()
    plain = model(pixels().double()).logits
    embedding = ClientEmbedding.generate(model)
    model.encrypt_model(embedding)
    torch.testing.assert_close(model(encrypted(embedding, pixels().double())).logits, plain, **FP64)


@every_geometry
def test_an_ill_conditioned_patch_embedding_costs_no_precision(geometry):
    model = plain_model(geometry, cls=SetrModel)
    weight = projection(model).weight
    with torch.no_grad():  # singular values that fall by six digits
        u, s, v = torch.linalg.svd(weight.flatten(1), full_matrices=False)
        weight.copy_(((u * s * torch.logspace(0, -6, len(s))) @ v).reshape(weight.shape))
        embed = model.embeddings.patch_embeddings
        plain = embed(pixels())
        embedding = ClientEmbedding.generate(model)
        for _ in range(3):  # each decryption rounds to float32
            model.encrypt_model(embedding)
            assert relative(embed(encrypted(embedding, pixels())), plain) < 1e-6
            model.decrypt_model(embedding)


@every_geometry
def test_another_client_embedding_and_none_ruin_the_embeddings(geometry):
    model = plain_model(geometry, cls=SetrModel)
    embed = model.embeddings.patch_embeddings
    plain = embed(pixels())
    right, wrong = ClientEmbedding.generate(model), ClientEmbedding.generate(model)
    model.encrypt_model(right)
    for images in (pixels(), encrypted(wrong, pixels())):
        assert relative(embed(images), plain) > 0.5


@every_geometry
def test_decrypt_model_undoes_it_up_to_rounding_and_only_the_projection_ever_changes(geometry):
    model = plain_model(geometry)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    embedding = ClientEmbedding.generate(model)
    assert model.encrypt_model(embedding) is model
    assert model.config.encryption == {"family": "embedding", "version": 1, "fingerprint": embedding.fingerprint}
    changed = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
    assert changed == ["setr.embeddings.patch_embeddings.projection.weight"]
    model.decrypt_model(embedding)
    assert model.config.encryption is None
    assert relative(weight_of(model), before[changed[0]]) < 2e-7  # float32 rounds by 6e-8, twice


@pytest.mark.parametrize("family", FAMILIES)
def test_keys_and_client_embeddings_replace_each_other(family):
    model, key = plain_model(), make_key(family)
    plain, before = model(pixels()).logits, weight_of(model)
    first, second = ClientEmbedding.generate(model), ClientEmbedding.generate(model)
    model.encrypt_model(key).rekey_model(key, first).rekey_model(first, second)
    assert model.config.encryption["fingerprint"] == second.fingerprint
    torch.testing.assert_close(model(encrypted(second, pixels())).logits, plain, **FP32)
    model.rekey_model(second, key).decrypt_model(key)
    assert relative(weight_of(model), before) < 2e-6  # four roundings to float32; the matrix family enlarges one


def test_the_block_ends_in_zeros_and_the_rest_is_b_a(embedding):
    images = pixels().double()
    blocks = images.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5).reshape(2, 4, 4, 48)
    sent = encrypted(embedding, images).unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5).reshape(2, 4, 4, 48)
    torch.testing.assert_close(sent[..., :32], blocks @ torch.from_numpy(embedding.matrix), **FP64)
    assert torch.equal(sent[..., 32:], torch.zeros(2, 4, 4, 16, dtype=torch.float64))


def test_the_null_space_of_the_patch_embedding_does_not_leave_the_client(embedding):
    matrix = torch.from_numpy(embedding.matrix)
    invisible = torch.eye(48, dtype=torch.float64) - matrix @ torch.linalg.pinv(matrix)
    noise = (torch.randn(16, 48, dtype=torch.float64) @ invisible).reshape(4, 4, 3, 4, 4)
    noise = noise.permute(2, 0, 3, 1, 4).reshape(3, 16, 16)
    assert noise.norm() > 1
    torch.testing.assert_close(encrypted(embedding, noise), torch.zeros_like(noise), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_in_half_precision_the_projection_stays_in_fp32(dtype, tmp_path):
    model = plain_model()
    embedding = ClientEmbedding.generate(model)
    model.save_pretrained(tmp_path / "plain")
    model.encrypt_model(embedding).save_pretrained(tmp_path / "encrypted")
    half = {name: SetrForSemanticSegmentation.from_pretrained(tmp_path / name, dtype=dtype) for name in
            ("plain", "encrypted")}  # fmt: skip
    assert projection(half["encrypted"]).weight.dtype == torch.float32
    embed = [half[name].setr.embeddings.patch_embeddings.projection for name in half]
    assert relative(embed[1](encrypted(embedding, pixels())), embed[0](pixels())) < 1e-6
    again = ClientEmbedding.generate(half["plain"])
    assert half["plain"].encrypt_model(again).decrypt_model(again).config.encryption is None


# ---------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("geometry", ["hidden_size < L", "hidden_size > L"])
@pytest.mark.parametrize("drift", [1e-3, 1.0, None], ids=["trained a little", "other weights", "turned"])
def test_a_model_that_it_was_not_made_from_is_refused_and_left_alone(geometry, drift):
    model = plain_model(geometry)
    embedding, key = ClientEmbedding.generate(model), make_key()
    weight = projection(model).weight
    with torch.no_grad():
        if drift is None:  # the same columns and the same size, and another patch embedding
            weight.copy_(weight.flip(1, 2))
        else:
            weight.add_(drift * weight.norm() / weight.numel() ** 0.5 * torch.randn_like(weight))
    before = weight_of(model)
    message = f"fingerprint {embedding.fingerprint} was made from another patch embedding .*generate\\(model\\)"
    with pytest.raises(KeyMismatchError, match=message):
        model.encrypt_model(embedding)
    assert torch.equal(weight_of(model), before)
    assert model.config.encryption is None
    model.encrypt_model(key)
    before = weight_of(model)
    with pytest.raises(KeyMismatchError, match=message):
        model.rekey_model(key, embedding)
    assert torch.equal(weight_of(model), before)
    assert model.config.key_facts == key.facts


def test_it_is_made_from_a_plain_model_alone():
    model, key = plain_model(), make_key()
    model.encrypt_model(key)
    with pytest.raises(EncryptionStateError, match=f"key fingerprint {key.fingerprint}, family orthogonal.*decrypt"):
        ClientEmbedding.generate(model)


@pytest.mark.parametrize(("value", "came"), [(0.0, "zeros"), (float("nan"), "infinite numbers or NaN")], ids=str)
def test_a_patch_embedding_without_information_is_refused(value, came):
    model = plain_model()
    with torch.no_grad():
        projection(model).weight.fill_(value)
    with pytest.raises(ValueError, match=f"finite numbers that are not all zero, got {came}"):
        ClientEmbedding.generate(model)


def test_state_and_pair_are_checked_as_with_a_key(embedding):
    model = plain_model()
    other, key = ClientEmbedding.generate(model), make_key()
    with pytest.raises(
        EncryptionStateError, match=rf"the client embedding \(key fingerprint {other.fingerprint}, fam"
    ):
        model.decrypt_model(other)
    model.encrypt_model(other)
    with pytest.raises(EncryptionStateError, match=f"plain model.*fingerprint {other.fingerprint}, family embedding"):
        model.encrypt_model(other)
    with pytest.raises(KeyMismatchError, match=rf"the client embedding .*{embedding.fingerprint}.*do not belong"):
        model.decrypt_model(embedding)
    with pytest.raises(KeyMismatchError, match=r"the secret key .*family orthogonal.*do not belong together"):
        model.decrypt_model(key)


def test_another_geometry_is_refused(embedding, plain_image):
    message = (
        f"fingerprint {embedding.fingerprint} is for patches of 4 pixels and 3 channels, got patches of 16 and 3 chan"
    )
    with pytest.raises(KeyMismatchError, match=message):
        SetrImageProcessor()(plain_image, secret_key=embedding, return_tensors="pt")
    with pytest.raises(KeyMismatchError, match=message.replace("16 and 3", "4 and 1")):
        EmbeddingCipher(embedding, patch_size=4, num_channels=1)


def test_where_a_secret_key_is_needed_it_is_refused_with_the_reason(embedding):
    assert not isinstance(embedding, SecretKey)
    with pytest.raises(
        InvalidKeyError, match=r"expected a SecretKey or 32 bytes, got ClientEmbedding; .*place of a k"
    ):
        as_key(embedding)
    with pytest.raises(InvalidKeyError, match="got ClientEmbedding"):
        RekeyUpdate.between(make_key(), embedding, patch_size=4)
    with pytest.raises(TypeError, match=r"a matrix of 48 x 32 numbers and has no text form.*to_file"):
        embedding.to_text()
    with pytest.raises(KeyMismatchError, match="EmbeddingCipher needs a key of family 'embedding', got one of family"):
        EmbeddingCipher(make_key(), patch_size=4)


def test_no_secret_key_is_of_its_family():
    assert "embedding" not in FAMILIES
    with pytest.raises(InvalidKeyError, match="unknown key family 'embedding'"):
        SecretKey.generate("embedding")


@pytest.mark.parametrize("value", ["text", 7, None, 1.5, b"short"], ids=repr)
def test_what_is_no_key_is_refused_as_ever(value):
    with pytest.raises(InvalidKeyError, match=r"expected a SecretKey or 32 bytes|exactly 32 bytes, got 5 bytes"):
        as_encryption_key(value)


def test_keys_pass_as_they_are(embedding):
    key = make_key("matrix")
    assert as_encryption_key(key) is key
    assert as_encryption_key(embedding) is embedding
    assert as_encryption_key(bytes(32)) == SecretKey(bytes(32))


def test_one_of_another_copy_of_the_module_is_rebuilt_once(embedding):
    foreign = second_copy("client_embedding").ClientEmbedding
    other = foreign.from_bytes(embedding.to_bytes())
    assert not isinstance(other, ClientEmbedding)
    rebuilt = as_encryption_key(other)
    assert type(rebuilt) is ClientEmbedding
    assert rebuilt == embedding
    assert as_encryption_key(other) is rebuilt
    assert as_encryption_key(foreign.from_bytes(embedding.to_bytes())) is not rebuilt


# -------------------------------------------------------------------------------------- identity, files, and secrecy


def test_every_one_is_another_and_none_tells_of_the_model():
    model = plain_model()
    first, second = ClientEmbedding.generate(model), ClientEmbedding.generate(model)
    assert first != second
    assert first.fingerprint != second.fingerprint
    one, other = torch.from_numpy(first.matrix), torch.from_numpy(second.matrix)
    assert relative(one, other) > 0.5
    torch.testing.assert_close(one @ one.T, other @ other.T, **FP64)  # both are E up to a rotation


def test_the_fingerprint_covers_the_numbers_and_cannot_be_tested_without_the_random_bytes(embedding):
    stored = safetensors.torch.load(embedding.to_bytes())
    secret, matrix = stored["fingerprint_key"].numpy().tobytes(), stored["matrix"]
    digest = hashlib.sha256(b"4,3,32," + matrix.numpy().astype("<f8").tobytes()).hexdigest()
    prk = hmac.digest(b"hf-privseg/v1", secret, "sha256")
    label = f"hf-privseg/v1/embedding/fingerprint/{digest}".encode() + (1).to_bytes(4, "big")
    assert embedding.fingerprint == hmac.digest(prk, label, "sha256")[:8].hex()
    geometry: dict[str, Any] = {"patch_size": 4, "num_channels": 3}
    same = ClientEmbedding(matrix, secret, **geometry)
    assert same == embedding
    assert hash(same) == hash(embedding)
    others = [ClientEmbedding(matrix, bytes(32), **geometry), ClientEmbedding(matrix + 1e-9, secret, **geometry)]
    others += [ClientEmbedding(matrix[:, :31], secret, **geometry)]
    others += [ClientEmbedding(matrix, secret, patch_size=2, num_channels=12)]
    assert len({embedding.fingerprint, *(other.fingerprint for other in others)}) == 5
    assert all(other != embedding for other in others)
    assert embedding != make_key()


def test_a_file_is_private_whole_and_never_overwritten_by_accident(embedding, tmp_path):
    path = tmp_path / "client.embedding"
    embedding.to_file(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    back = ClientEmbedding.from_file(path)
    assert back == embedding
    assert np.array_equal(back.matrix, embedding.matrix)
    assert (back.patch_size, back.num_channels, back.shape, back.version) == (4, 3, (48, 32), 1)
    other = ClientEmbedding.generate(plain_model())
    with pytest.raises(
        FileExistsError, match=r"client\.embedding exists, and whatever was encrypted with a client emb"
    ):
        other.to_file(path)
    assert ClientEmbedding.from_file(path) == embedding
    other.to_file(path, overwrite=True)
    assert ClientEmbedding.from_file(path) == other
    path.chmod(0o644)
    with pytest.warns(UserWarning, match="other users can reach the client embedding file .*chmod 600"):
        ClientEmbedding.from_file(path)


def test_the_kind_of_a_key_file_is_seen_in_its_content(embedding, tmp_path):
    key = SecretKey.generate("matrix")
    key.to_file(tmp_path / "a")
    embedding.to_file(tmp_path / "b")
    (tmp_path / "c").write_bytes(b"")
    for name in "abc":
        (tmp_path / name).chmod(0o600)
    assert key_from_file(tmp_path / "a") == key
    assert key_from_file(tmp_path / "b") == embedding
    with pytest.raises(InvalidKeyError, match=r"key file .*c: a key's text form is"):
        key_from_file(tmp_path / "c")
    with pytest.raises(
        InvalidKeyError, match=r"/b: the file is no text; if it is a client embedding, ClientEmbedding\.from_file"
    ):
        SecretKey.from_file(tmp_path / "b")
    with pytest.raises(
        InvalidKeyError, match=r"/a: expected a client embedding, got a key's text form; SecretKey\.fr"
    ):
        ClientEmbedding.from_file(tmp_path / "a")
    for read in (key_from_file, SecretKey.from_file, ClientEmbedding.from_file, RekeyUpdate.from_file):
        with pytest.raises(InvalidKeyError, match=f"{read.__name__} expects a path, got a key's text") as caught:
            read(f" {key.to_text()}")
        assert_no_secret(str(caught.value), key)


@pytest.mark.parametrize("kept", [0, 4, 8, 12, 40, 200, 0.5, 0.999])
def test_a_truncated_file_is_refused(embedding, tmp_path, kept):
    data = embedding.to_bytes()
    path = tmp_path / "cut"
    path.write_bytes(data[: kept if isinstance(kept, int) else int(kept * len(data))])
    path.chmod(0o600)
    with pytest.raises(
        InvalidKeyError, match=r"cut: expected a file that ClientEmbedding\.to_file wrote, got .* part"
    ):
        ClientEmbedding.from_file(path)


@pytest.mark.parametrize("tensor", ["matrix", "fingerprint_key"])
def test_changed_numbers_are_found(embedding, tensor):
    stored = safetensors.torch.load(embedding.to_bytes())
    stored[tensor].view(torch.uint8)[..., -1:] ^= 1
    with pytest.raises(InvalidKeyError, match=r"are not those that were written \(its fingerprint differs\)"):
        ClientEmbedding.from_bytes(rebuilt(embedding, stored))


def header_of(embedding):
    data = embedding.to_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return json.loads(header["__metadata__"]["privseg_client_embedding"])


def rebuilt(embedding, tensors=None, **changes):
    """The file form with other tensors or header entries; None removes an entry."""
    tensors = tensors or safetensors.torch.load(embedding.to_bytes())
    header = {name: value for name, value in (header_of(embedding) | changes).items() if value is not None}
    return safetensors.torch.save(tensors, {"privseg_client_embedding": json.dumps(header)})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "of format 1, .*got {'format': 2, 'family': 'embedding', 'version': 1}; a later version"),
        ({"family": "orthogonal"}, "got {'format': 1, 'family': 'orthogonal'"),
        ({"version": 9}, "'version': 9}"),
        ({"fingerprint": None}, r"with the entries \['family', .*, got entries \['family', 'format', 'num_channels'"),
        ({"note": 1}, "got entries .*'note'"),
        ({"fingerprint": "0" * 16}, "not those that were written"),
        ({"patch_size": 2}, r"float64 of shape \(12, r\), r from 1 to 12, got float64 of shape \(48, 32\)"),
        ({"patch_size": 4.0}, "patch_size of a client embedding is an int >= 1, got 4.0"),
        ({"num_channels": -3}, "num_channels of a client embedding is an int >= 1, got -3"),
    ],
    ids=str,
)
def test_a_changed_header_is_refused(embedding, changes, message):
    assert ClientEmbedding.from_bytes(rebuilt(embedding)) == embedding
    with pytest.raises(InvalidKeyError, match=message):
        ClientEmbedding.from_bytes(rebuilt(embedding, **changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"matrix": torch.zeros(48, 32)}, r"float64 of shape \(48, r\), r from 1 to 48, got float32"),
        ({"matrix": torch.zeros(48, 49, dtype=torch.float64)}, r"got float64 of shape \(48, 49\)"),
        ({"matrix": torch.zeros(48, 0, dtype=torch.float64)}, r"\(48, 0\)"),
        ({"matrix": torch.full((48, 2), torch.inf, dtype=torch.float64)}, "infinite numbers or NaN"),
        ({"fingerprint_key": torch.zeros(31, dtype=torch.uint8)}, "fingerprint_key is 32 bytes, got 31"),
        ({"fingerprint_key": torch.zeros(32)}, r"got the tensors \['fingerprint_key', 'matrix'\]"),
        ({"more": torch.zeros(1)}, r"got the tensors \['fingerprint_key', 'matrix', 'more'\]"),
    ],
    ids=["dtype", "too wide", "empty", "infinite", "short", "floats", "more"],
)
def test_other_tensors_are_refused(embedding, changes, message):
    tensors = safetensors.torch.load(embedding.to_bytes()) | changes
    with pytest.raises(InvalidKeyError, match=message):
        ClientEmbedding.from_bytes(rebuilt(embedding, tensors))


def test_files_and_values_of_another_kind_are_refused(embedding):
    foreign = safetensors.torch.save({"weight": torch.zeros(2, 2)})
    for data in (foreign, foreign.replace(b"{", b"[", 1), bytes(100), b"\x08" + bytes(7) + b'{"a": 1}'):
        with pytest.raises(InvalidKeyError, match="got something else or a part of one"):
            ClientEmbedding.from_bytes(data)
    with pytest.raises(InvalidKeyError, match="from_bytes expects bytes, got str"):
        ClientEmbedding.from_bytes("client.embedding")  # type: ignore[arg-type]  # the mistake under test
    headed = safetensors.torch.save({"a": torch.zeros(1)}, {"privseg_client_embedding": "[]"})
    with pytest.raises(InvalidKeyError, match="got entries 'list'"):
        ClientEmbedding.from_bytes(headed)
    with pytest.raises(InvalidKeyError, match="fingerprint_key is 32 bytes, got str"):
        ClientEmbedding(embedding.matrix, "0" * 32, patch_size=4, num_channels=3)  # type: ignore[arg-type]  # the mistake under test


@pytest.mark.parametrize("attempt", [pickle.dumps, copy.copy, copy.deepcopy], ids=lambda call: call.__name__)
def test_it_is_neither_pickled_nor_copied(embedding, attempt):
    with pytest.raises(TypeError, match=r"neither pickled nor copied.*ClientEmbedding.from_file"):
        attempt(embedding)
    with pytest.raises(TypeError, match="neither pickled nor copied"):
        attempt(cipher_for(embedding, patch_size=4))


def test_its_representation_says_what_is_public(embedding):
    expected = f"ClientEmbedding(family='embedding', shape=(48, 32), fingerprint='{embedding.fingerprint}')"
    assert repr(embedding) == str(embedding) == expected
    assert not hasattr(embedding, "__dict__")


def test_nothing_that_leaves_the_owner_holds_its_numbers_or_the_plain_embedding(plain_image, tmp_path):
    model, processor = plain_model(), SetrImageProcessor(patch_size=4)
    plain = weight_of(model).flatten(1)
    embedding = ClientEmbedding.generate(model)
    with pytest.raises(AssertionError):  # the guard sees what it should
        assert_no_client_embedding(repr(embedding.matrix.tolist()), embedding)
    with pytest.raises(AssertionError):
        assert_no_client_embedding(embedding.to_bytes(), embedding)
    model.encrypt_model(embedding).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    sent = processor.encrypt(plain_image, embedding)
    sent.to_file(tmp_path / "image.safetensors")
    inputs = processor(plain_image, secret_key=embedding, return_tensors="pt")
    shown = [embedding, model, model.config, processor, inputs, sent, cipher_for(embedding, patch_size=4)]
    for thing in shown:
        assert_no_client_embedding(f"{thing!r} {thing}", embedding)
    for thing in (model.config, dict(inputs), sent, model.state_dict()):
        assert_no_client_embedding(pickle.dumps(thing), embedding)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"config.json", "README.md", "model.safetensors", "image.safetensors"} <= {path.name for path in files}
    for path in files:
        assert_no_client_embedding(path.read_bytes(), embedding)
        for row in plain:
            assert_no_numbers(path.read_bytes(), row)


# ------------------------------------------------------------------------------------- images, pipeline, checkpoints


@every_geometry
def test_a_container_holds_r_numbers_a_block(geometry, plain_image):
    model = plain_model(geometry)
    embedding = ClientEmbedding.generate(model)
    length, rank = embedding.shape
    processor = SetrImageProcessor(patch_size=embedding.patch_size)
    large = plain_image.resize((256, 192))
    image = processor.encrypt(large, embedding)
    assert image.pixels.shape == (3, 192, 256)
    data, full = image.to_bytes(), processor.encrypt(large, make_key()).to_bytes()
    assert len(data) / len(full) == pytest.approx(rank / length, abs=0.01)
    back = EncryptedImage.from_bytes(data)
    assert (back.family, back.fingerprint, back.suffix) == ("embedding", embedding.fingerprint, ".safetensors")
    assert np.abs(back.pixels - image.pixels).max() <= np.abs(image.pixels).max() / 65534 * 1.01
    expected = processor(large, secret_key=embedding, return_tensors="pt").pixel_values
    assert np.array_equal(image.pixels, expected[0].numpy())
    again = EncryptedImage.from_bytes(back.to_bytes())
    np.testing.assert_allclose(again.pixels, back.pixels, rtol=3e-7, atol=0)


def test_a_server_without_the_client_embedding_segments_what_it_is_sent(plain_image, tmp_path):
    model, processor = plain_model(), SetrImageProcessor(patch_size=4)
    with torch.no_grad():
        plain = model(**processor(plain_image, return_tensors="pt")).logits
    embedding = ClientEmbedding.generate(model)
    model.encrypt_model(embedding).save_pretrained(tmp_path / "model")
    processor.encrypt(plain_image, embedding).to_file(tmp_path / "image.safetensors")
    server = SetrForSemanticSegmentation.from_pretrained(tmp_path / "model")
    assert server.config.encryption == {"family": "embedding", "version": 1, "fingerprint": embedding.fingerprint}
    received = EncryptedImage.from_file(tmp_path / "image.safetensors")
    with torch.no_grad():
        logits = server(**processor(received, return_tensors="pt")).logits
    assert relative(logits, plain) < 1e-3  # the file has 16 bits
    assert (logits.argmax(1) == plain.argmax(1)).float().mean() > 0.98
    card = (tmp_path / "model" / "README.md").read_text()
    assert "from hf_privseg import ClientEmbedding, SetrForSemanticSegmentation" in card
    assert 'secret_key = ClientEmbedding.from_file("my.key")' in card


def changed_container(image, values=None, **facts):
    """The container's bytes with other values or header entries."""
    data = image.to_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    facts = json.loads(header["__metadata__"]["privseg"]) | facts
    tensors = safetensors.torch.load(data)
    tensors["values"] = tensors["values"] if values is None else values
    return safetensors.torch.save(tensors, {"privseg": json.dumps(facts)})


@pytest.mark.parametrize(
    ("values", "facts", "message"),
    [
        ((5, 8, 49), {}, "expected at most 48 numbers for a block of 4 x 4 pixels, got 49"),
        ((5, 8, 31), {}, "SHA-256"),
        ((8, 5, 32), {}, r"expected pixels of shape \(3, 20, 32\)"),
        ((3, 20, 32), {}, r"expected pixels of shape \(3, 20, 32\).*got \(3, 12, 80\)"),
        ((0, 8, 32), {}, "expected an image of 1 to 67108864 pixels, got 0 x 32"),
        (None, {"patch_size": 10**6}, "expected an image of 1 to 67108864 pixels, got 5000000 x 8000000"),
        (None, {"patch_size": 2}, "expected at most 12 numbers for a block of 2 x 2 pixels, got 32"),
        (None, {"patch_size": 0}, "patch_size of an encrypted image is a positive int, got 0"),
        (None, {"patch_size": 5}, r"expected pixels of shape \(3, 20, 35\)"),
        (None, {"family": "orthogonal"}, "pixels of 3 channels, as the header .* says, got 5"),
    ],
    ids=str,
)
def test_a_container_that_does_not_fit_its_header_is_refused(embedding, plain_image, values, facts, message):
    image = SetrImageProcessor(patch_size=4).encrypt(plain_image, embedding)
    stored = None if values is None else torch.ones(values, dtype=torch.int16)
    with pytest.raises(CiphertextError, match=message):
        EncryptedImage.from_bytes(changed_container(image, stored, **facts))


def test_an_image_is_not_decrypted(embedding, plain_image):
    processor = SetrImageProcessor(patch_size=4)
    image = processor.encrypt(plain_image, embedding)
    with pytest.raises(EncryptionStateError, match=r"of the 48 numbers .* it holds 32, .*keep the plain image"):
        processor.decrypt(image, embedding)
    with pytest.raises(KeyMismatchError, match=f"the secret key .* and the encrypted image .*{embedding.fingerprint}"):
        processor.decrypt(image, make_key())


def test_an_image_shows_and_survives_where_all_is_zero(embedding, plain_image):
    image = SetrImageProcessor(patch_size=4).encrypt(plain_image, embedding)
    assert image.to_picture().size == (32, 20)
    facts = {"fingerprint": embedding.fingerprint, "patch_size": 4, "original_size": (8, 8), "valid_region": (8, 8)}
    grey = EncryptedImage(np.zeros((3, 8, 8), np.float32), "embedding", **facts)
    assert np.array_equal(EncryptedImage.from_bytes(grey.to_bytes()).pixels, grey.pixels)


def test_the_pipeline_takes_it_for_a_key(plain_image):
    model, processor = plain_model(), SetrImageProcessor(patch_size=4)
    segment = SetrSegmentationPipeline(model=model, image_processor=processor, device="cpu")
    plain = segment(plain_image)
    embedding, other = ClientEmbedding.generate(model), ClientEmbedding.generate(model)
    model.encrypt_model(embedding)
    for result in (segment(plain_image, secret_key=embedding), segment(processor.encrypt(plain_image, embedding))):
        assert [entry["label"] for entry in result] == [entry["label"] for entry in plain]
        masks = zip(result, plain, strict=True)
        assert all((np.array(a["mask"]) == np.array(b["mask"])).mean() > 0.99 for a, b in masks)
    with pytest.raises(KeyMismatchError, match=r"the client embedding .*do not belong together"):
        segment(plain_image, secret_key=other)
    with pytest.raises(KeyMismatchError, match=r"the encrypted image .*do not belong together"):
        segment(processor.encrypt(plain_image, other))
    with pytest.raises(InvalidKeyError, match="got str"):
        segment(plain_image, secret_key="client.embedding")
