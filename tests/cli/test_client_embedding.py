"""A client embedding on the command line: made from a plain model, then given as a key file wherever one is."""

import stat

import numpy as np
import pytest
from PIL import Image

from helpers.leaks import assert_no_client_embedding
from helpers.tiny_setr import tiny_model
from hf_privseg import ClientEmbedding, EncryptedImage, SecretKey, SetrForSemanticSegmentation, SetrImageProcessor
from hf_privseg.cli.app import main


class Place:
    """A folder with a tiny plain model, a image and a client embedding, and the command line run in it."""

    def __init__(self, folder, capsys):
        self.folder, self.capsys = folder, capsys

    def run(self, *arguments):
        """Run `privseg`; names of files are taken in the folder -> exit code and all that was printed, on one line."""
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        printed = " ".join("".join(self.capsys.readouterr()).split())
        assert "Traceback" not in printed
        if (self.folder / "client.embedding").exists():
            assert_no_client_embedding(printed, self.embedding())
        return ended.value.code or 0, printed

    def embedding(self):
        return ClientEmbedding.from_file(self.folder / "client.embedding")

    def pixels(self, name):
        with Image.open(self.folder / name) as picture:
            return np.array(picture)


@pytest.fixture
def place(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PRIVSEG_KEY", raising=False)
    tiny_model(num_labels=3).save_pretrained("model")
    SetrImageProcessor(patch_size=4).save_pretrained("model")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (22, 31, 3)).astype(np.uint8)).save("image.png")
    return Place(tmp_path, capsys)


@pytest.fixture
def encrypted(place):
    assert place.run("make-client-embedding", "model", "client.embedding")[0] == 0
    assert place.run("encrypt-model", "model", "encrypted_model", "--key-file", "client.embedding")[0] == 0
    return place


def test_it_is_written_privately_and_never_over_another(place):
    code, printed = place.run("make-client-embedding", "model", "client.embedding")
    embedding = place.embedding()
    assert code == 0
    assert f"32 numbers for the 48 of a block, fingerprint {embedding.fingerprint}" in printed
    assert "privseg encrypt-model model encrypted_model --key-file client.embedding" in printed
    assert stat.S_IMODE((place.folder / "client.embedding").stat().st_mode) == 0o600
    code, printed = place.run("make-client-embedding", "model", "client.embedding")
    assert code == 1
    assert "error: client.embedding exists" in printed
    assert "--force" in printed
    assert place.embedding() == embedding
    assert place.run("make-client-embedding", "model", "client.embedding", "--force")[0] == 0
    assert place.embedding() != embedding


def test_keygen_does_not_make_one(place):
    code, printed = place.run("keygen", "new.key", "--family", "embedding")
    assert code != 0
    unboxed = " ".join(printed.replace("│", " ").split())
    assert "one of permutation, signed_permutation, orthogonal, matrix" in unboxed
    assert not (place.folder / "new.key").exists()


def test_the_whole_way(encrypted):
    facts = {"family": "embedding", "version": 1, "fingerprint": encrypted.embedding().fingerprint}
    assert SetrForSemanticSegmentation.from_pretrained("encrypted_model").config.encryption == facts
    arguments = ["encrypt", "image.png", "--model", "encrypted_model", "-o", "sent", "-k", "client.embedding"]
    assert encrypted.run(*arguments)[0] == 0
    sent = EncryptedImage.from_file("sent/image.encrypted.safetensors")
    assert (sent.family, sent.fingerprint) == ("embedding", facts["fingerprint"])
    assert encrypted.run("segment", "--model", "model", "image.png", "-o", "plain.png")[0] == 0
    assert (
        encrypted.run(
            "segment", "--model", "encrypted_model", "sent/image.encrypted.safetensors", "-o", "received.png"
        )[0]
        == 0
    )
    image_with_key = [
        "segment",
        "--model",
        "encrypted_model",
        "image.png",
        "-o",
        "with_key.png",
        "-k",
        "client.embedding",
    ]
    assert encrypted.run(*image_with_key)[0] == 0
    for name in ("received.png", "with_key.png"):
        assert (encrypted.pixels(name) == encrypted.pixels("plain.png")).mean() > 0.98  # but for near-ties


def test_one_of_another_model_or_client_embedding_is_refused(encrypted):
    assert encrypted.run("make-client-embedding", "model", "other.embedding")[0] == 0
    code, printed = encrypted.run(
        "encrypt", "image.png", "--model", "encrypted_model", "-o", "x", "-k", "other.embedding"
    )
    assert code == 1
    assert "error: the client embedding (key fingerprint" in printed
    assert "do not belong together" in printed
    tiny_model(hidden_size=48).save_pretrained("another")
    SetrImageProcessor(patch_size=4).save_pretrained("another")
    code, printed = encrypted.run("encrypt-model", "another", "y", "--key-file", "client.embedding")
    assert code == 1
    assert "was made from another patch embedding" in printed
    assert not (encrypted.folder / "y").exists()
    code, printed = encrypted.run("make-client-embedding", "encrypted_model", "x.embedding")
    assert code == 1
    assert "expected a plain model" in printed


def test_an_overlay_of_a_ciphertext_is_refused_since_it_is_not_decrypted(encrypted):
    arguments = ["encrypt", "image.png", "--model", "encrypted_model", "-o", "sent", "-k", "client.embedding"]
    assert encrypted.run(*arguments)[0] == 0
    arguments = ["segment", "--model", "encrypted_model", "sent/image.encrypted.safetensors", "-o", "out"]
    assert encrypted.run(*arguments, "-k", "client.embedding")[0] == 0
    assert [path.name for path in (encrypted.folder / "out").iterdir()] == ["image.segmentation.png"]
    code, printed = encrypted.run(*arguments, "-k", "client.embedding", "--overlay", "--force")
    assert code == 1
    assert "is not decrypted: of the 48 numbers of a block it holds 32" in printed


def test_a_key_file_is_read_as_ever_and_a_damaged_one_of_either_kind_is_said(encrypted):
    SecretKey.generate().to_file("secret.key")
    assert encrypted.run("encrypt-model", "model", "by_key", "--key-file", "secret.key")[0] == 0
    assert SetrForSemanticSegmentation.from_pretrained("by_key").config.encryption["family"] == "orthogonal"
    path = encrypted.folder / "cut.embedding"
    path.write_bytes((encrypted.folder / "client.embedding").read_bytes()[:999])
    path.chmod(0o600)
    code, printed = encrypted.run("encrypt-model", "model", "x", "--key-file", path)
    assert code == 1
    assert "cut.embedding: expected a file that ClientEmbedding.to_file wrote" in printed
    code, printed = encrypted.run("encrypt-model", "model", "x", "--key-file", "nowhere")
    assert code == 1
    assert "nowhere" in printed
