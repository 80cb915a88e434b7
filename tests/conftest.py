"""Inputs that several test files share, generated once a session."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ViTConfig, ViTImageProcessor, ViTModel


@pytest.fixture(scope="session")
def inputs(tmp_path_factory) -> Path:
    """A data set of 16 + 3 small pictures and a tiny random ViT."""
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
    sizes = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 32}
    ViTModel(ViTConfig(**sizes, image_size=32), add_pooling_layer=False).save_pretrained(root / "vit")
    ViTImageProcessor().save_pretrained(root / "vit")
    return root
