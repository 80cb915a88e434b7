"""The example of rekeying, run for real: what it measures agrees with what the families promise."""

import json

import numpy as np
import pytest
from PIL import Image

from helpers.example_runs import run_here
from helpers.tiny_setr import tiny_model

pytest.importorskip("accelerate", reason="the train extra is not installed")

from hf_privseg import SetrImageProcessor

FAMILIES = ("permutation", "signed_permutation", "orthogonal", "matrix")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny_model(num_labels=3).save_pretrained(folder)
    SetrImageProcessor(patch_size=4).save_pretrained(folder)
    return folder


def rekey(output, *options):
    done = run_here("rekey.py", *options, "--cpu", "--output", output)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(output.read_text()), done.stdout


def test_every_pair_keeps_predictions_and_many_keys_do_not_drift(model, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    result, printed = rekey(
        tmp_path / "out.json", "--images", tmp_path / "image.png", "--model", model, "--rekeyings", 8
    )
    assert {(row["old"], row["new"]) for row in result["pairs"]} == {(a, b) for a in FAMILIES for b in FAMILIES}
    for row in result["pairs"]:
        exact = {row["old"], row["new"]} <= set(FAMILIES[:2])
        assert row["equal_pixels"] > 0.999
        assert row["weight_difference"] == 0 if exact else row["weight_difference"] < 1e-6
        assert row["update_bytes"] < 2000 if exact else row["update_bytes"] > 48 * 48 * 8
        assert min(row["rekey_seconds"], row["update_seconds"], row["apply_seconds"]) > 0
        assert row["mean_iou_before"] is None
    assert [row["families"] for row in result["drift"]] == [*FAMILIES, " -> ".join(FAMILIES)]
    for row in result["drift"]:
        errors = (row["rekey_model"], row["updates"])
        assert row["rekeyings"] == 8
        # of the matrices of condition 10, each of eight roundings of 6e-8 is enlarged at most tenfold
        assert max(errors) == 0 if row["families"] in FAMILIES[:2] else 0 < max(errors) < 8 * 6e-7
    assert "A new key, no training, 1 image " in printed
    assert "mIoU" not in printed


def test_with_a_data_set_the_accuracy_is_compared(inputs, model, tmp_path):
    data = ("--dataset", inputs / "data", "--split", "val", "--model", model)
    result, printed = rekey(tmp_path / "out.json", *data, "--families", "orthogonal", "--rekeyings", 1)
    (row,) = result["pairs"]
    assert row["mean_iou_after"] == pytest.approx(row["mean_iou_before"], abs=1e-3)
    assert row["mean_iou_before"] > 0
    assert printed.count("mIoU") == 2
    assert len(result["drift"]) == 1
