"""The README's Python runs as it stands, on a photo that scikit-learn ships."""

import re

import torch
from PIL import Image
from sklearn.datasets import load_sample_image

from helpers.loopback import running
from helpers.paths import ROOT
from hf_privseg import SecretKey
from hf_privseg.service import SegmentationService

README = ROOT / "README.md"


def test_the_examples_run_one_after_the_other_and_agree(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(load_sample_image("china.jpg")).save("photo.jpg")
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 4
    names: dict = {}
    exec(blocks[0], names)  # noqa: S102 - our own README
    from_pixels = names["maps"][0]
    assert from_pixels.shape == (427, 640)
    exec(blocks[1], names)  # noqa: S102 - our own README
    # the file holds 16-bit numbers, which decide between classes whose scores are nearly equal
    assert (names["maps"][0] == from_pixels).float().mean() > 0.999
    with running(SegmentationService(names["model"], names["processor"])) as url:
        exec(blocks[2].replace("http://127.0.0.1:7860", url), names)  # noqa: S102 - our own README
    assert (torch.from_numpy(names["label_map"]) == from_pixels).float().mean() > 0.999
    names |= {"old_key": names["key"], "new_key": SecretKey.generate("permutation")}
    exec(blocks[3], names)  # noqa: S102 - our own README
    assert names["model"].config.encryption["fingerprint"] == names["new_key"].fingerprint
