"""A key family and an attack of somebody else's, as docs/how-to/extend.md adds them."""

import numpy as np
import pytest
import torch

pytest.importorskip("skimage", reason="the attacks extra is not installed")

from helpers.paths import ROOT
from helpers.tiny_setr import tiny_model
from hf_privseg import BlockCipher, DenseCipher, SecretKey, SetrConfig, SetrImageProcessor, register_cipher
from hf_privseg.audit.audit import audit
from hf_privseg.catalog.sample_images import sample_image
from hf_privseg.setr import public_facts
from hf_privseg.setr.ciphers import CIPHERS

PAGE = ROOT / "docs/how-to/extend.md"
pytestmark = pytest.mark.usefixtures("small_samples", "nothing_stays")


@pytest.fixture
def nothing_stays(monkeypatch):
    """No family that a test registers is there afterwards."""
    kept = dict(CIPHERS)
    monkeypatch.setattr(public_facts, "_registered", [])
    yield
    CIPHERS.clear()
    CIPHERS.update(kept)


@pytest.fixture
def images():
    image = sample_image("china").resize((320, 240))
    return [image.crop((64 * n, 64, 64 * n + 64, 128)) for n in range(3)]


@pytest.fixture
def processor():
    return SetrImageProcessor(do_resize=False, patch_size=4)


def program():
    return PAGE.read_text().partition("```python\n")[2].partition("```")[0]


class Doubling(DenseCipher):
    """A scaling, which is no cipher that hides anything, but cancels."""

    family = "doubling"

    def _derive(self, key):
        self._set_matrix(np.eye(self.block_length) / 2, 2 * np.eye(self.block_length))


def test_the_page_adds_both_in_forty_lines_and_its_attack_breaks_its_family(images, processor, tmp_path):
    names = {"model": tiny_model(hidden_size=64, patch_size=4), "processor": processor, "images": images}
    assert len([line for line in program().splitlines() if line.strip()]) < 40
    exec(program(), names)  # noqa: S102 # the page's own program
    report = names["report"]
    on_roll = {f.attack: f for f in report.findings if f.family == "roll"}
    assert on_roll["shifts"].metrics["hp"] > 0.9
    general = {"ciphertext as it is", "first component", "alignment", "canonical correlations", "one known image"}
    assert general | {"one chosen image"} <= set(on_roll)
    assert not {"matching", "row matching"} & set(on_roll)  # those on permutations
    assert report.advice.family is None
    assert any("roll is a family of your own" in reason for reason in report.advice.reasons)
    assert any("What roll leaks here" in reason and "by shifts" in reason for reason in report.advice.reasons)
    report.to_html(tmp_path / "audit.html")
    assert "shifts" in (tmp_path / "audit.html").read_text()


def test_a_registered_family_serves_as_the_others_do(images, processor, tmp_path):
    register_cipher(Doubling)
    key = SecretKey.from_text(SecretKey.generate("doubling").to_text())
    plain, encrypted = (tiny_model(patch_size=4, num_channels=3) for _ in range(2))
    encrypted.encrypt_model(key)
    sent = processor.encrypt(images[0], key)
    inputs = processor(sent, return_tensors="pt")
    expected = plain(**processor(images[0], return_tensors="pt")).logits
    torch.testing.assert_close(encrypted(**inputs).logits, expected, rtol=1e-3, atol=1e-3)
    encrypted.save_pretrained(tmp_path)
    assert SetrConfig.from_pretrained(tmp_path).key_facts == key.facts
    new = SecretKey.generate("orthogonal")
    torch.testing.assert_close(
        encrypted.rekey_model(key, new).decrypt_model(new).patch_projection.weight, plain.patch_projection.weight
    )
    public_facts._registered.clear()  # as in a process that has not registered it
    with pytest.raises(ValueError, match=r"got 'doubling'; see register_cipher"):
        SetrConfig.from_pretrained(tmp_path)


def test_its_attacks_are_tried_in_an_audit_that_names_no_attack(images, processor):
    register_cipher(Doubling)
    report = audit(
        tiny_model(patch_size=4), images, processor=processor, families=["doubling", "orthogonal"], progress=False
    )
    shown = {f.attack: f.metrics["hp"] for f in report.findings if f.family == "doubling" and "hp" in f.metrics}
    assert shown["ciphertext as it is"] > 0.95  # it hides nothing
    assert report.advice.family == "orthogonal"


class NotUndone(DenseCipher):
    family = "not_undone"

    def _derive(self, key):
        self._set_matrix(np.eye(self.block_length), 2 * np.eye(self.block_length))


class Unnamed(DenseCipher):
    def _derive(self, key):
        raise AssertionError


class Capital(Unnamed):
    family = "Capital"


class Taken(Doubling):
    family = "orthogonal"


class Rounded(Doubling):
    """Claims an 8-bit form that it has not."""

    family = "rounded"
    acts_on_uint8 = True


@pytest.mark.parametrize(
    ("cipher", "error", "message"),
    [
        (NotUndone, ValueError, "NotUndone is no cipher of a patch embedding: b_hat E_hat = b E does not hold"),
        (Unnamed, ValueError, "the attribute family of Unnamed is a name of 1 to 20 letters"),
        (Capital, ValueError, "the attribute family of Capital is a name .* got 'Capital'"),
        (Taken, ValueError, "the family 'orthogonal' is that of OrthogonalCipher; choose another name"),
        (Rounded, ValueError, "Rounded is no cipher of a patch embedding: encrypt"),
        (SecretKey, TypeError, "expected a subclass of DenseCipher or BlockCipher"),
        ("roll", TypeError, "expected a subclass of DenseCipher or BlockCipher, got 'roll'"),
    ],
)
def test_what_is_no_family_is_refused_and_leaves_nothing(cipher, error, message):
    before = dict(CIPHERS)
    with pytest.raises(error, match=message):
        register_cipher(cipher)
    assert before == CIPHERS
    assert public_facts.key_families() == public_facts.FAMILIES


def test_a_class_may_be_registered_again_as_a_notebook_does():
    register_cipher(Doubling)
    assert register_cipher(Doubling) is Doubling
    assert public_facts.key_families().count("doubling") == 1
    assert issubclass(Doubling, BlockCipher)
