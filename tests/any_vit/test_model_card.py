"""The model card of models of other classes: what it says of the encryption, and whose words it leaves alone."""

import re

import pytest
import transformers as hf

from helpers.leaks import assert_no_secret
from helpers.tiny_setr import make_key
from hf_privseg import decrypt_model, encrypt_model
from hf_privseg.any_vit.model_card import write_model_card
from hf_privseg.storage.models import save_model
from tiny_vision import CASES, randomize

pytestmark = pytest.mark.filterwarnings("ignore:the blocks of:UserWarning")


def card(model, folder):
    write_model_card(model, folder)
    return (folder / "README.md").read_text(encoding="utf-8")


def test_it_follows_the_encryption_and_leaves_the_owner_s_words(tmp_path):
    model, key = encrypt_model(randomize(CASES["dinov2"]().model), make_key()), make_key()
    text = card(model, tmp_path)
    assert "| patch embedding | `embeddings.patch_embeddings.projection`, 588 numbers a block |" in text
    assert f"| encryption | orthogonal, key `{key.fingerprint}` |" in text
    assert "(1/14 of the size)" in text
    assert "small" not in text
    assert_no_secret(text, key)
    (tmp_path / "README.md").write_text(text.replace("# Dinov2Model\n", "# Ours\n") + "Our words.\n", encoding="utf-8")
    after = card(decrypt_model(model, key), tmp_path)
    assert "This checkpoint is **plain**" in after
    assert key.fingerprint not in after
    assert "# Ours\n" in after
    assert after.endswith("Our words.\n")


@pytest.mark.parametrize(
    ("name", "side", "seen"), [("swin", 4, "the scene"), ("siglip2", 8, "most of the scene"), ("vit", 8, "most of")]
)
def test_small_blocks_are_said_also_of_flattened_patches(name, side, seen, tmp_path):
    text = card(encrypt_model(randomize(CASES[name]().model), make_key()), tmp_path)
    assert f"a single ciphertext shows {seen}" in text
    assert f"(1/{side} of the size)" in text


def test_a_saved_model_has_a_card_whose_class_and_imports_exist(tmp_path):
    model = encrypt_model(randomize(CASES["beit"]().model), make_key())
    processor = hf.BeitImageProcessor(size={"height": 32, "width": 32}, do_center_crop=False)
    save_model(model, processor, tmp_path / "model", licence_from=tmp_path)
    text = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    for line in re.findall(r"^from .* import .*$", text, re.MULTILINE):
        exec(line, {})  # noqa: S102
    assert "from transformers import BeitForSemanticSegmentation" in text
