"""Models on disk: what loading and saving leave alone."""

import logging

import pytest
from transformers.utils import logging as hf_logging

from helpers.tiny_setr import tiny_model
from hf_privseg import SetrImageProcessor
from hf_privseg.storage.models import load_model, save_model


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
