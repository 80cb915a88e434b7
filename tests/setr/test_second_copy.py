"""With remote code each file may be loaded as a module of its own: what another copy made is taken for what it is."""

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.second_copy import second_copy
from helpers.tiny_setr import make_key, tiny_model
from hf_privseg import (
    ClientEmbedding,
    EncryptedImage,
    EncryptionStateError,
    KeyMismatchError,
    RekeyUpdate,
    SecretKey,
    SetrImageProcessor,
)
from hf_privseg.setr.client_embedding import is_client_embedding
from hf_privseg.setr.encrypted_image import is_encrypted_image
from hf_privseg.setr.keys import FAMILIES

KINDS = [*FAMILIES, "embedding"]
each_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def image():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 32, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def processor():
    return SetrImageProcessor(patch_size=4)


def key_of(kind):
    return ClientEmbedding.generate(tiny_model()) if kind == "embedding" else make_key(kind)


def foreign_key(key):
    """The same key, as another copy of the modules has it."""
    if isinstance(key, SecretKey):
        return second_copy("keys").SecretKey.from_text(key.to_text())
    return second_copy("client_embedding").ClientEmbedding.from_bytes(key.to_bytes())


def foreign_image(image):
    return second_copy("encrypted_image").EncryptedImage.from_bytes(image.to_bytes())


@each_kind
def test_a_copy_is_really_another_class(kind, processor, image):
    key = key_of(kind)
    assert not isinstance(foreign_key(key), SecretKey | ClientEmbedding)
    encrypted = foreign_image(processor.encrypt(image, key))
    assert not isinstance(encrypted, EncryptedImage)
    assert is_encrypted_image(encrypted)
    assert not is_encrypted_image(image)
    assert is_client_embedding(foreign_key(key)) == (kind == "embedding")


def test_a_class_of_that_name_that_is_not_ours_is_not_taken_for_one(image):
    other = type("EncryptedImage", (), {"pixels": torch.zeros(3, 8, 8)})()
    assert not is_encrypted_image(other)


@each_kind
def test_a_model_takes_the_key_of_a_copy(kind):
    model, key = tiny_model(), key_of(kind)
    plain = model.setr.embeddings.patch_embeddings.projection.weight.clone()
    model.encrypt_model(foreign_key(key))
    assert model.config.encryption == key.facts.to_dict()
    other = key_of("matrix")
    model.rekey_model(foreign_key(key), foreign_key(other)).decrypt_model(foreign_key(other))
    torch.testing.assert_close(model.setr.embeddings.patch_embeddings.projection.weight, plain, rtol=1e-4, atol=1e-5)
    with pytest.raises(KeyMismatchError, match=f"{make_key('matrix', 9).fingerprint}.*{other.fingerprint}"):
        model.encrypt_model(other).decrypt_model(foreign_key(make_key("matrix", 9)))


@each_kind
def test_the_processor_takes_key_and_image_of_a_copy(kind, processor, image):
    key = key_of(kind)
    expected = processor(image, secret_key=key, return_tensors="pt").pixel_values
    assert torch.equal(processor(image, secret_key=foreign_key(key), return_tensors="pt").pixel_values, expected)
    encrypted = processor.encrypt(image, foreign_key(key))
    received = processor(foreign_image(encrypted), return_tensors="pt").pixel_values
    torch.testing.assert_close(received, expected, rtol=0, atol=1e-3)  # a file rounds floats to 16 bits
    with pytest.raises(EncryptionStateError, match="encrypting twice would ruin it"):
        processor.encrypt(foreign_image(encrypted), key)


def test_the_processor_decrypts_the_image_of_a_copy_with_the_key_of_a_copy(processor, image):
    key = make_key("permutation")
    encrypted = foreign_image(processor.encrypt(image, key))
    assert np.array_equal(processor.decrypt(encrypted, foreign_key(key)), image)
    with pytest.raises(KeyMismatchError, match=f"{make_key().fingerprint}.* the encrypted image .*{key.fingerprint}"):
        processor.decrypt(encrypted, foreign_key(make_key()))


def test_a_rekey_update_of_a_copy_and_between_keys_of_a_copy():
    old, new = make_key("permutation"), make_key("matrix")
    update = RekeyUpdate.between(foreign_key(old), foreign_key(new), patch_size=4)
    assert (update.old, update.new) == (old.facts, new.facts)
    foreign = second_copy("rekey_update").RekeyUpdate.from_bytes(update.to_bytes())
    model = tiny_model().encrypt_model(old).apply_rekey_update(foreign)
    assert model.config.encryption == new.facts.to_dict()
