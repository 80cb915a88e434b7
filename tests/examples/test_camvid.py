"""The embedded checkpoint on real street scenes: encrypted equals plain, and without the right key it is useless."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("evaluate", reason="the train extra is not installed")

from hf_privseg import SecretKey, SetrForSemanticSegmentation, SetrImageProcessor
from hf_privseg.checkpoints import default_checkpoint
from hf_privseg.setr.keys import FAMILIES
from hf_privseg.training.data import load_segmentation_dataset
from hf_privseg.training.evaluation import predict_maps
from hf_privseg.training.label_map import LabelMap
from hf_privseg.training.metrics import MeanIoU

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("PRIVSEG_CAMVID" not in os.environ, reason="PRIVSEG_CAMVID does not name the CamVid folder"),
]


@pytest.fixture(scope="module")
def frames():
    dataset = load_segmentation_dataset(Path(os.environ["PRIVSEG_CAMVID"]), split="test")
    return dataset.select([0])


@pytest.fixture
def model():
    return SetrForSemanticSegmentation.from_pretrained(default_checkpoint()).eval()


@pytest.fixture(scope="module")
def processor():
    return SetrImageProcessor.from_pretrained(default_checkpoint())


def segment(model, processor, frames, secret_key=None):
    maps = list(predict_maps(model, processor, frames["image"], secret_key=secret_key, disable=True))
    metric = MeanIoU(11)
    label_map = LabelMap(11, ignore_labels=(11,))
    metric.add_batch(predictions=maps, references=[label_map(annotation) for annotation in frames["annotation"]])
    return np.stack(maps), metric.compute()["mean_iou"]


@pytest.fixture(scope="module")
def plain(processor, frames):
    return segment(SetrForSemanticSegmentation.from_pretrained(default_checkpoint()).eval(), processor, frames)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_right_key_costs_nothing(model, processor, frames, plain, family):
    image, key = frames[0]["image"], SecretKey.generate(family)
    embed = model.setr.embeddings.patch_embeddings
    with torch.inference_mode():
        expected = embed(processor(image, return_tensors="pt").pixel_values)
        model.encrypt_model(key)
        found = embed(processor(image, secret_key=key, return_tensors="pt").pixel_values)
    assert (found - expected).abs().max() < 1e-5
    maps, mean_iou = segment(model, processor, frames, key)
    # rounding decides between classes whose scores are nearly equal, and nowhere else
    assert (maps == plain[0]).mean() >= 0.9999
    assert mean_iou == pytest.approx(plain[1], abs=5e-5)


@pytest.mark.parametrize("family", ["permutation", "orthogonal"])
def test_no_key_and_a_wrong_key_ruin_it(model, processor, frames, plain, family):
    model.encrypt_model(SecretKey.generate(family))
    assert segment(model, processor, frames)[1] < plain[1] / 3
    assert segment(model, processor, frames, SecretKey.generate(family))[1] < plain[1] / 3


def test_it_is_plain_and_computes_in_fp32(model):
    assert model.config.encryption is None
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
