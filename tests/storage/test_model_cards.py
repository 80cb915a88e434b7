"""The owner's part of a card: what the Hub reads in its front matter, and that saves and encryptions keep it."""

from typing import Any

import numpy as np
import pytest
import transformers as hf
from huggingface_hub import ModelCard
from PIL import Image

from helpers.tiny_setr import make_key, tiny_model
from hf_privseg import SetrImageProcessor, encrypt_model
from hf_privseg.any_vit.model_card import write_model_card
from hf_privseg.checkpoints import default_checkpoint
from hf_privseg.storage.model_cards import describe_model
from hf_privseg.storage.models import save_model
from tiny_vision import CASES, randomize

GIVEN: dict[str, Any] = {
    "license": "other",
    "license_name": "research",
    "license_link": "LICENSE.md",
    "dataset": "CamVid",
}


def data_of(folder) -> Any:
    return ModelCard.load(folder / "README.md").data


def check_front_matter(folder):
    data = data_of(folder)
    assert (data.license, data.license_name, data.license_link) == ("other", "research", "LICENSE.md")
    assert (data.library_name, data.datasets, data.metrics) == ("transformers", ["CamVid"], ["mean_iou"])
    (result,) = data.eval_results
    assert (result.task_type, result.dataset_name, result.dataset_split) == ("image-segmentation", "CamVid", "test")
    assert (result.metric_type, result.metric_value) == ("mean_iou", 0.5)


@pytest.fixture(params=["setr", "beit"])
def described(request, tmp_path):
    """A plain model of either kind, its processor, and its folder with a described card."""
    processor: Any
    if request.param == "setr":
        model, processor = tiny_model(), SetrImageProcessor(patch_size=4)
    else:
        model, processor = randomize(CASES["beit"]().model), hf.BeitImageProcessor(size={"height": 32, "width": 32})
    folder = tmp_path / "plain"
    model.save_pretrained(folder)
    if request.param == "beit":
        write_model_card(model, folder)
    describe_model(folder, **GIVEN, split="test", metrics={"mean_iou": 0.5})
    return model, processor, folder


@pytest.mark.filterwarnings("ignore:the blocks of:UserWarning")
def test_licence_data_set_and_metric_stay_through_saves_and_encryption(described, tmp_path):
    model, processor, folder = described
    check_front_matter(folder)
    model.save_pretrained(folder)
    check_front_matter(folder)
    assert "**plain**" in (folder / "README.md").read_text()
    save_model(encrypt_model(model, make_key()), processor, tmp_path / "encrypted", licence_from=folder)
    check_front_matter(tmp_path / "encrypted")
    text = (tmp_path / "encrypted" / "README.md").read_text()
    assert f"key `{make_key().fingerprint}`" in text
    assert "**plain**" not in text


def test_the_picture_lies_below_the_title_once(described):
    _, _, folder = described
    for colour, caption in (((9, 9, 9), "a first"), ((200, 0, 0), "an [overlay]")):
        describe_model(folder, picture=Image.new("RGB", (32, 20), colour), caption=caption)
    text = (folder / "README.md").read_text()
    title, line = text.partition("\n# ")[2].split("\n")[0:3:2]
    assert line == "![an (overlay)](picture.jpg)"
    assert text.count("picture.jpg") == 1
    assert title
    with Image.open(folder / "picture.jpg") as picture:
        assert np.array(picture)[5, 5] == pytest.approx([200, 0, 0], abs=8)
    check_front_matter(folder)


def test_the_base_of_an_encrypted_model_is_not_carried(described, tmp_path):
    model, processor, folder = described
    card = ModelCard.load(folder / "README.md")
    card.data.base_model = "owner/public"
    card.save(folder / "README.md")
    save_model(model, processor, tmp_path / "other", licence_from=folder)
    assert data_of(tmp_path / "other").base_model is None
    check_front_matter(tmp_path / "other")


def test_what_cannot_be_said_is_refused(described, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no README\.md; save it first"):
        describe_model(tmp_path, license="mit")
    with pytest.raises(ValueError, match="expected the data set that the metrics are of"):
        describe_model(described[2], metrics={"mean_iou": 1.0})


def test_the_embedded_checkpoint_says_all_of_it():
    data = data_of(default_checkpoint())
    assert (data.license, data.license_link, data.datasets) == ("other", "LICENSE.md", ["CamVid"])
    assert [(each.dataset_split, each.metric_value) for each in data.eval_results] == [("test", 0.6856)]
    assert (default_checkpoint() / "picture.jpg").is_file()
