"""The page about other models does what it says on a tiny one, and its table holds tested classes alone."""

import re

import numpy as np
import pytest
import transformers as hf
from PIL import Image

from helpers.paths import ROOT
from hf_privseg import SecretKey
from hf_privseg.any_vit.model_facts import key_facts
from hf_privseg.any_vit.tested_classes import TESTED_CLASSES
from tiny_vision import CASES, randomize

pytestmark = pytest.mark.filterwarnings("ignore:the blocks of:UserWarning")


@pytest.fixture
def blocks(tmp_path, monkeypatch):
    """The Python of the page, block by block, for a tiny BEiT in the folder `model`."""
    randomize(CASES["beit"]().model).save_pretrained(tmp_path / "model")
    hf.BeitImageProcessor(size={"height": 32, "width": 32}, do_center_crop=False).save_pretrained(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs/how-to/any-model.md").read_text(encoding="utf-8")
    return [block.replace("your/model", "model") for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL)]


def scene():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8))


def test_owner_client_pipeline_and_server_of_the_page(blocks):
    owner, proof, client, pipeline, file, server = blocks
    names = {"image": scene()}
    for block in (owner, client, pipeline, file, server):
        exec(block, names)  # noqa: S102
    assert names["maps"][0].shape == (40, 50)
    assert names["segments"]
    assert SecretKey.from_file("secret.key").facts == key_facts(names["model"])
    plain = hf.BeitForSemanticSegmentation.from_pretrained("model").eval()
    inputs = hf.BeitImageProcessor.from_pretrained("model")(scene(), return_tensors="pt")
    assert (names["outputs"].logits - plain(**inputs).logits).abs().max() < 1e-2
    names["model"] = plain
    exec(proof, names)  # noqa: S102
    assert key_facts(plain) == names["key"].facts


def test_the_table_holds_tested_classes_alone():
    table = (ROOT / "docs/reference/encryptable-models.md").read_text(encoding="utf-8").partition("## Refused")[0]
    rows = [line.split(" | ") for line in table.splitlines() if line.startswith("| ") and "`" in line]
    assert len(rows) > 100
    assert {row[0].removeprefix("| ") for row in rows} <= TESTED_CLASSES
    assert all(float(row[5]) < 1e-4 for row in rows)
