"""Models on disk: what loading and saving leave alone."""

import logging

import pytest
import torch
from transformers.utils import logging as hf_logging

from helpers.tiny_setr import tiny_model
from hf_privseg import SetrImageProcessor
from hf_privseg.storage.models import load_model, save_model
from hf_privseg.storage.vision_models import load_any_model


@pytest.fixture
def folder(tmp_path):
    save_model(tiny_model(), SetrImageProcessor(patch_size=4), tmp_path / "model", licence_from="default")
    return tmp_path / "model"


def test_loading_leaves_verbosity_and_progress_bars_of_transformers_alone(folder):
    before = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_info()
    hf_logging.enable_progress_bar()
    try:
        load_model(folder)
        assert (hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()) == (logging.INFO, True)
    finally:
        hf_logging.set_verbosity(before[0])
        (hf_logging.enable_progress_bar if before[1] else hf_logging.disable_progress_bar)()


def test_a_model_that_somebody_wrote_meanwhile_stays(folder):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(FileExistsError, match=r"model exists \(.*\); choose another folder or pass overwrite=True"):
        save_model(tiny_model("mla"), SetrImageProcessor(patch_size=4), folder, licence_from="default")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert list(folder.parent.iterdir()) == [folder]
    save_model(tiny_model("mla"), SetrImageProcessor(patch_size=4), folder, licence_from="default", overwrite=True)
    assert load_model(folder)[0].config.decoder_type == "mla"


@pytest.mark.parametrize("load", [load_model, load_any_model])
def test_a_model_has_the_device_and_the_numbers_that_are_asked_for(folder, load):
    assert load(folder)[0].dtype == torch.float32
    model, _ = load(folder, device="cpu", dtype="bfloat16")
    dtypes = {name: weight.dtype for name, weight in model.named_parameters()}
    assert {name for name, dtype in dtypes.items() if dtype == torch.float32} == {
        f"setr.embeddings.patch_embeddings.projection.{kind}" for kind in ("weight", "bias")
    }
    assert set(dtypes.values()) == {torch.float32, torch.bfloat16}
    assert model.device.type == "cpu"


@pytest.mark.parametrize("device", ["abacus", "cuda:99", "meta"])
def test_a_device_that_is_not_there_is_said_before_the_weights_are_read(folder, device):
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=f"a device that torch has on this machine, such as cpu, got '{device}'"):
        load_any_model(folder, device=device)
