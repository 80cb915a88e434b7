"""Inputs that several test files share, generated once a session.

What takes long to import is imported where it is used: the process that distributes tests to workers needs none of it.
"""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def pytest_addoption(parser):
    parser.addoption(
        "--fuzz-inputs", type=int, default=0, help="how many mutated inputs the tests of parsers try in all (0: a few)"
    )


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
    """A folder with a plain tiny model and a photo, which nobody changes."""
    from helpers import workplace
    from helpers.tiny_setr import tiny_model

    folder = tmp_path_factory.mktemp("materials")
    tiny_model(num_labels=3, id2label={0: "sky", 1: "road", 2: "tree"}).save_pretrained(folder / "model")
    workplace.processor().save_pretrained(folder / "model")
    (folder / "model" / "LICENSE.md").write_text("terms")
    ramp = np.add.outer(np.arange(workplace.IMAGE_SIZE[0]) * 5, np.arange(workplace.IMAGE_SIZE[1]) * 3)
    Image.fromarray(np.stack([ramp, ramp[::-1], 200 - ramp], axis=-1).clip(0, 255).astype(np.uint8)).save(
        folder / "photo.png"
    )
    return folder


@pytest.fixture(params=["orthogonal"])
def place(request, materials, tmp_path, capsys, monkeypatch):
    """A `Workplace`: the materials, a new key, and the command line."""
    from helpers import workplace
    from hf_privseg import SecretKey

    monkeypatch.delenv("PRIVSEG_KEY", raising=False)
    shutil.copytree(materials, tmp_path, dirs_exist_ok=True)
    return workplace.Workplace(tmp_path, capsys, SecretKey.generate(request.param))
