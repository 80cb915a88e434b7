"""Inputs that several test files share, generated once a session.

What takes long to import is imported where it is used: the process that distributes tests to workers needs none of it.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def pytest_addoption(parser):
    parser.addoption(
        "--fuzz-inputs", type=int, default=0, help="how many mutated inputs the tests of parsers try in all (0: a few)"
    )


@pytest.fixture(scope="session", autouse=True)
def _one_authority(tmp_path_factory):
    """Have HTTP clients trust one authority: each loads all that it trusts, and no test leaves this machine."""
    import certifi

    end = "-----END CERTIFICATE-----\n"
    file = tmp_path_factory.mktemp("authority") / "one.pem"
    file.write_text(certifi.contents().partition(end)[0] + end)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(file))
        yield


@pytest.fixture(scope="session")
def inputs(tmp_path_factory) -> Path:
    """A data set of 16 + 3 small images and a tiny random ViT."""
    import torch
    from transformers import ViTConfig, ViTImageProcessor, ViTModel

    root = tmp_path_factory.mktemp("inputs")
    rng = np.random.default_rng(0)
    for split, count in (("train", 16), ("val", 3)):
        for kind in ("images", "annotations"):
            (root / "data" / kind / split).mkdir(parents=True)
        for index in range(count):
            labels = np.kron(rng.integers(0, 3, (3, 4)), np.ones((16, 16))).astype(np.uint8)
            pixels = np.stack([labels * 100, 255 - labels * 100, rng.integers(0, 255, labels.shape)], -1)
            Image.fromarray(pixels.astype(np.uint8)).save(root / "data/images" / split / f"{index}.png")
            Image.fromarray(labels).save(root / "data/annotations" / split / f"{index}.png")
    (root / "data" / "classes.json").write_text('{"classes": ["a", "b", "c"]}')
    torch.manual_seed(0)
    config = ViTConfig(hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=32, image_size=32)
    ViTModel(config, add_pooling_layer=False).save_pretrained(root / "vit")
    ViTImageProcessor().save_pretrained(root / "vit")
    return root


@pytest.fixture(scope="session")
def materials(tmp_path_factory):
    """A folder with a plain tiny model and a image, which nobody changes."""
    from helpers import workplace
    from helpers.tiny_setr import tiny_model

    folder = tmp_path_factory.mktemp("materials")
    tiny_model(num_labels=3, id2label={0: "sky", 1: "road", 2: "tree"}).save_pretrained(folder / "model")
    workplace.processor().save_pretrained(folder / "model")
    (folder / "model" / "LICENSE.md").write_text("terms")
    ramp = np.add.outer(np.arange(workplace.IMAGE_SIZE[0]) * 5, np.arange(workplace.IMAGE_SIZE[1]) * 3)
    Image.fromarray(np.stack([ramp, ramp[::-1], 200 - ramp], axis=-1).clip(0, 255).astype(np.uint8)).save(
        folder / "image.png"
    )
    return folder


@pytest.fixture(scope="session")
def small_default_folder(tmp_path_factory) -> Path:
    """The embedded checkpoint, but for the size that it scales images to: a shorter side of 176 pixels, not of 720."""
    from hf_privseg.checkpoints import default_checkpoint

    folder = tmp_path_factory.mktemp("default") / "model"
    folder.mkdir()
    for path in default_checkpoint().iterdir():
        (folder / path.name).symlink_to(path)
    settings = json.loads((default_checkpoint() / "preprocessor_config.json").read_text())
    assert settings["size"]["shortest_edge"] == 720
    settings["size"] = {"shortest_edge": 176, "longest_edge": 352}
    (folder / "preprocessor_config.json").unlink()
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture
def small_default(small_default_folder, monkeypatch) -> None:
    """Have that checkpoint in place of the embedded one: what is computed is the same, in less time."""
    monkeypatch.setattr("hf_privseg.checkpoints._DEFAULT", small_default_folder)


@pytest.fixture(scope="module")
def small_samples():
    """Have attackers who know unrelated images know them at a third of their size: moments take less time."""
    from dataclasses import replace

    from hf_privseg.catalog.sample_images import SAMPLE_IMAGES

    def smaller(sample):
        return lambda: np.array(Image.fromarray(sample.load()).reduce(3))

    small = {name: replace(sample, load=smaller(sample)) for name, sample in SAMPLE_IMAGES.items()}
    with pytest.MonkeyPatch.context() as patch:
        for module in ("hf_privseg.audit.priors", "hf_privseg.attacks.tools.priors"):
            patch.setattr(f"{module}.SAMPLE_IMAGES", small)
        yield


@pytest.fixture(params=["orthogonal"])
def place(request, materials, tmp_path, capsys, monkeypatch):
    """A `Workplace`: the materials, a new key, and the command line."""
    from helpers import workplace
    from hf_privseg import SecretKey

    monkeypatch.delenv("PRIVSEG_KEY", raising=False)
    shutil.copytree(materials, tmp_path, dirs_exist_ok=True)
    return workplace.Workplace(tmp_path, capsys, SecretKey.generate(request.param))
