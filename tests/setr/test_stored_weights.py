"""The weights in a checkpoint's files against its configuration: what differs is refused before it is allocated."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers.tiny_setr import pixels, tiny_config, tiny_model
from hf_privseg import SetrConfig, SetrForSemanticSegmentation, SetrImageProcessor, SetrModel
from hf_privseg.setr.stored_weights import missing_weights
from hf_privseg.storage.models import load_model


@pytest.fixture
def folder(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    SetrImageProcessor(patch_size=4).save_pretrained(tmp_path)
    return tmp_path


def change(folder, **settings):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


@pytest.fixture
def nothing_is_allocated(monkeypatch):
    monkeypatch.setattr(SetrForSemanticSegmentation, "_load_pretrained_model", lambda *_, **__: pytest.fail("loaded"))


HUGE = [
    ({"hidden_size": 2**16}, r"73 of other shapes .*cls_token \(1, 1, 32\), not \(1, 1, 65536\); .*; \.\.\.\."),
    ({"image_size": 16000}, r"1 of other shapes .*position_embeddings \(1, 17, 32\), not \(1, 16000001, 32\)\."),
    ({"intermediate_size": 2**16}, r"12 of other shapes .*fc1\.weight \(48, 32\), not \(65536, 32\)"),
    ({"decoder_hidden_size": 2**16}, r"18 of other shapes .*conv\.weight \(12, 32, 1, 1\), not \(65536, 32, 1, 1\)"),
]


@pytest.mark.parametrize("load", [SetrForSemanticSegmentation.from_pretrained, load_model])
@pytest.mark.parametrize(
    ("settings", "message"), HUGE, ids=lambda case: "" if isinstance(case, str) else next(iter(case))
)
@pytest.mark.usefixtures("nothing_is_allocated")
def test_a_configuration_of_another_size_is_refused_before_anything_is_allocated(folder, load, settings, message):
    change(folder, **settings)
    with pytest.raises(ValueError, match=message):
        load(folder)


@pytest.mark.usefixtures("nothing_is_allocated")
def test_weights_that_are_not_there_are_refused_before_anything_is_allocated(folder):
    change(folder, num_hidden_layers=9, out_indices=None, use_auxiliary_head=False)
    with pytest.raises(ValueError, match=r"lacks 80 weights \(setr\.layers\.4\.attention\.k_proj\.bias, \.\.\.\)"):
        load_model(folder)
    save_file({"other": torch.ones(1)}, folder / "model.safetensors")
    change(folder, hidden_size=2**16)
    with pytest.raises(ValueError, match=r"which lacks \d+ weights"):
        load_model(folder)


def test_what_belongs_together_loads_as_before(folder):
    kept, x = tiny_model(), pixels()
    found = SetrForSemanticSegmentation.from_pretrained(folder).eval()
    torch.testing.assert_close(found(x).logits, kept(x).logits, rtol=0, atol=0)
    encoder = SetrModel.from_pretrained(folder).eval()
    torch.testing.assert_close(encoder(x).last_hidden_state, kept.setr(x).last_hidden_state, rtol=0, atol=0)
    other = SetrForSemanticSegmentation.from_pretrained(folder, num_labels=3, ignore_mismatched_sizes=True)
    assert other(x).logits.shape[1] == 3
    with pytest.raises(ValueError, match=r"conv_seg\.weight \(5, 12, 1, 1\), not \(3, 12, 1, 1\)"):
        SetrForSemanticSegmentation.from_pretrained(folder, num_labels=3)


def test_shards_and_the_names_of_a_bare_encoder_are_understood(tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    assert missing_weights(SetrForSemanticSegmentation, model.config, tmp_path / "shards") == []
    with pytest.raises(ValueError, match="73 of other shapes"):
        missing_weights(SetrForSemanticSegmentation, tiny_config(hidden_size=64), tmp_path / "shards")
    model.setr.save_pretrained(tmp_path / "encoder")
    missing = missing_weights(SetrForSemanticSegmentation, model.config, tmp_path / "encoder")
    assert missing == [name for name in model.state_dict() if not name.startswith("setr.")]
    with pytest.raises(ValueError, match="of other shapes"):
        missing_weights(SetrModel, tiny_config(hidden_size=64), tmp_path / "encoder")
    index = tmp_path / "shards" / "model.safetensors.index.json"
    index.write_text('{"weight_map": [1]}')
    with pytest.raises(ValueError, match=r"index\.json: expected a weight_map of names, got \[1\]"):
        SetrForSemanticSegmentation.from_pretrained(tmp_path / "shards")


def test_a_damaged_file_is_refused_by_name(folder):
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"model\.safetensors: expected \d+ bytes of numbers after the header, got"):
        SetrForSemanticSegmentation.from_pretrained(folder)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert isinstance(SetrForSemanticSegmentation.from_pretrained(folder).config, SetrConfig)
