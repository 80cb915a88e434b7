"""The fit of a transform code: it spares the directions that the task needs, and what its rates cost is measured."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("datasets", reason="the train extra is not installed")

from helpers.tiny_setr import randomize
from helpers.tiny_setr import tiny_model as random_model
from hf_privseg import ClientEmbedding, EncryptionStateError, SecretKey, SetrImageProcessor
from hf_privseg.cli.app import main
from hf_privseg.setr.block_cipher import to_blocks
from hf_privseg.setr.ciphers import cipher_for
from hf_privseg.training.data import load_segmentation_dataset
from hf_privseg.training.label_map import LabelMap
from hf_privseg.training.transform_fit import fit_transform_code, measure_rates


def tiny_model():
    """A model whose segmentation maps hold several classes."""
    return randomize(random_model("mla"), seed=3)


def street(seed):
    """A smooth image with some noise, of 32 x 48 pixels."""
    rng = np.random.default_rng(seed)
    levels = np.kron(rng.integers(0, 200, (4, 6, 3)), np.ones((8, 8, 1), int)) + rng.integers(0, 56, (32, 48, 3))
    return Image.fromarray(levels.astype(np.uint8))


@pytest.fixture(scope="module")
def processor():
    return SetrImageProcessor(patch_size=4)


@pytest.fixture(scope="module")
def embedding(processor):
    return fit_transform_code(tiny_model(), processor, map(street, range(4)))


@torch.no_grad()
def damage(embedding, processor, bits):
    """Mean square error of log probabilities, where noise takes the place of rounding to so many bits a block."""
    model, generator = tiny_model(), torch.Generator().manual_seed(0)
    images = torch.cat([processor(street(seed), return_tensors="pt").pixel_values for seed in range(4)])
    plain = model(images).logits.log_softmax(1)
    sent = cipher_for(embedding, patch_size=4).encrypt(images)
    blocks = to_blocks(sent, 4)[..., : embedding.shape[1]].flatten(0, 2)
    spread, (low, high) = blocks.square().mean(0), (1e-12, 1e3)
    for _ in range(99):  # the variance of noise at which Gaussian numbers take so many bits
        noise = (low * high) ** 0.5
        is_fine = (spread / noise).clamp_min(1).log2().sum() / 2 > bits
        low, high = (noise, high) if is_fine else (low, noise)
    sent = sent + noise**0.5 * torch.randn(sent.shape, generator=generator)
    found = model.encrypt_model(embedding)(sent).logits.log_softmax(1)
    return float((found - plain).square().mean())


def test_bits_go_further_in_its_basis_than_in_a_random_one(embedding, processor):
    random = [ClientEmbedding.generate(tiny_model()) for _ in range(3)]
    for bits in (100, 30):
        found = damage(embedding, processor, bits)
        others = [damage(other, processor, bits) for other in random]
        assert found < 0.5 * min(others)


def test_bits_are_those_of_the_uploads(embedding, processor):
    code = embedding.code
    for place in (0, len(code.bits) // 2, -1):
        bits = code.bits[place]
        sent = [processor.encrypt(street(seed), embedding, bits_per_block=float(bits)) for seed in range(4)]
        assert sent[0].step == pytest.approx(code.steps[place], rel=1e-6)
        blocks, header = 8 * 12, 700
        assert np.mean([len(each.to_bytes()) for each in sent]) == pytest.approx(bits * blocks / 8, abs=header)
    assert code.bits[0] > 4 * code.bits[-1]


def test_what_it_cannot_be_fitted_on_is_refused(processor):
    with pytest.raises(ValueError, match="expected calibration images, got none"):
        fit_transform_code(tiny_model(), processor, [])
    with pytest.raises(EncryptionStateError, match="plain model"):
        fit_transform_code(tiny_model().encrypt_model(SecretKey(bytes(32))), processor, [street(0)])


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for split in ("train", "test"):
        for kind in ("images", "annotations"):
            (folder / kind / split).mkdir(parents=True)
        for seed in range(3):
            street(seed).save(folder / f"images/{split}/{seed}.png")
            labels = np.random.default_rng(seed).integers(0, 5, (32, 48), np.uint8)
            Image.fromarray(labels).save(folder / f"annotations/{split}/{seed}.png")
    (folder / "classes.json").write_text(json.dumps(list("abcde")))
    return folder


def test_rates_are_measured_on_the_whole_way(embedding, processor, data):
    rows, bits = load_segmentation_dataset(data, split="test"), embedding.code.bits
    rates = [float(bits[2]), float(bits[-1])]
    *_, (plain, found) = measure_rates(tiny_model(), processor, embedding, rows, LabelMap(5), rates)
    exact, fine, coarse = found
    assert [each.bits_per_block for each in found] == [None, *rates]
    assert exact.equal_pixels > 0.99 > coarse.equal_pixels
    assert exact.equal_pixels >= fine.equal_pixels > coarse.equal_pixels
    assert abs(exact.mean_iou - plain) < 0.01
    assert exact.num_bytes > fine.num_bytes > coarse.num_bytes


def test_the_command_line(data, tmp_path, monkeypatch, capsys):
    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return ended.value.code or 0, printed.out, " ".join(printed.err.split())

    monkeypatch.chdir(tmp_path)
    tiny_model().save_pretrained("model")
    SetrImageProcessor(patch_size=4).save_pretrained("model")
    fit = ["fit-transform-code", "model", data, "client.embedding", "--limit", 2, "--test-limit", 2, "--json"]
    code, out, err = run(*fit)
    assert code == 0, err
    facts, embedding = json.loads(out), ClientEmbedding.from_file("client.embedding")
    assert facts["fingerprint"] == embedding.fingerprint
    assert len(facts["rates"]) == 5
    code, _, err = run(*fit)
    assert code == 1
    assert "client.embedding exists" in err
    assert run("encrypt-model", "model", "encrypted_model", "--key-file", "client.embedding")[0] == 0
    bits = facts["rates"][2]["bits_per_block"]
    sent = ["encrypt", data / "images/test/0.png", "--model", "encrypted_model", "-k", "client.embedding", "-o"]
    assert run(*sent, "exact")[0] == run(*sent, "compact", "--bits-per-block", bits)[0] == 0
    sizes = [(tmp_path / name / "0.encrypted.safetensors").stat().st_size for name in ("exact", "compact")]
    assert sizes[0] > 1.5 * sizes[1]
    arguments = ["segment", "compact/0.encrypted.safetensors", "--model", "encrypted_model", "-o", "map.png"]
    assert run(*arguments)[0] == 0
    code, _, err = run(*sent, "x", "--bits-per-block", 1e6)
    assert code == 1
    assert "expected bits_per_block from" in err
    assert not (tmp_path / "x").exists()
    code, _, err = run("segment", data / "images/test/0.png", "--model", "model", "-o", "y", "--bits-per-block", 99)
    assert code == 2
    assert "--bits and --bits-per-block make uploads small" in err
