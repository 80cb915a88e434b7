"""The benchmarks of speed run from end to end on tiny models, and print what they found."""

import importlib

import numpy as np
import pytest
import torch
from costs import flops_of, peak_bytes
from interleaved import interleaved, ratio
from PIL import Image
from torch import nn

from helpers.paths import ROOT
from helpers.tiny_setr import randomize, tiny_model
from hf_privseg import SetrImageProcessor

PEER, OPENVINO = (ROOT / "build" / name / "bin/python" for name in ("mmseg", "openvino"))
PRIVATE = {name: ROOT / "build" / name / "bin/python" for name in ("tenseal", "crypten", "concrete")}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs a benchmark with options -> the table that it wrote, as lines of cells."""

    def run(name, *options):
        output = tmp_path / "out" / "table.md"
        monkeypatch.setattr("sys.argv", [f"{name}.py", *map(str, options), "--output", str(output)])
        importlib.import_module(name).main()
        text = output.read_text()
        return [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")], text

    return run


def test_what_is_compared_runs_in_turns_and_a_first_turn_does_not_count():
    order = []

    def taking(name, *seconds):
        left = iter(seconds)

        def run():
            order.append(name)
            return next(left)

        return run

    found = interleaved({"a": taking("a", 9.0, 1.0, 2.0, 4.0), "b": taking("b", 9.0, 2.0, 6.0, 8.0)}, 3)
    assert order == ["a", "b", "b", "a"] * 2
    assert found == {"a": [1.0, 2.0, 4.0], "b": [2.0, 6.0, 8.0]}
    assert ratio(found["a"], found["b"]) == 2.0


@pytest.mark.slow
def test_without_mmsegmentation_ours_is_timed_alone_and_each_means_by_itself(run):
    rows, text = run("mmseg", "--encoders", "tiny", "--size", 64, "--rounds", 1, "--peer", "nowhere/python", "--means")
    assert "mmsegmentation is skipped: there is no nowhere/python" in text
    times = [row for row in rows if row[0] == "tiny" and len(row) == 13]
    assert [row[1] for row in times] == ["naive", "pup", "mla"]
    assert all(row[2] == row[4] == "-" and float(row[3]) > 0 for row in times)
    means = [row for row in rows if row[0] == "tiny" and len(row) == 10]
    assert len(means) == 6
    assert all(float(cell) > 0 for row in means for cell in row[3:])


@pytest.mark.slow
@pytest.mark.skipif(not PEER.exists(), reason="benchmarks/mmseg.py says how to make build/mmseg")
def test_mmsegmentation_gives_the_same_logits(run):
    rows, text = run("mmseg", "--encoders", "tiny", "--size", 64, "--rounds", 1, "--peer", PEER)
    assert "mmseg 1.2.2" in text
    assert all(float(row[9]) < 2e-5 for row in rows if row[0] == "tiny")


def test_operations_count_products_by_onednn_and_attention_on_a_cpu():
    tokens, weight, heads = torch.ones(1, 6, 8), torch.ones(4, 8), torch.ones(1, 2, 10, 16)

    @torch.inference_mode()
    def product():
        return torch.ops.mkldnn._linear_pointwise(tokens, weight, None, "none", [], "")

    assert flops_of(product) == 2 * 6 * 8 * 4
    assert flops_of(lambda: nn.functional.scaled_dot_product_attention(heads, heads, heads)) == 4 * 2 * 10 * 10 * 16


def test_peak_memory_and_operations_are_those_of_what_runs():
    ones = torch.ones(256, 128)

    def run():
        (ones + 1).relu_().sum()
        return ones @ ones.T

    assert flops_of(run) == 2 * 256 * 128 * 256
    assert 256 * 256 * 4 <= peak_bytes(run) < 256 * 256 * 4 + 1024


@pytest.mark.slow
def test_overhead_of_encryption(run):
    rows, _ = run("overhead", "--encoder", "tiny", "--size", 64, "--rounds", 2, "--families", "orthogonal", "matrix")
    assert [row[:2] for row in rows[2:]] == [
        [decoder, family] for decoder in ("naive", "pup", "mla") for family in ("orthogonal", "matrix")
    ]
    assert all(0.2 < float(row[-1]) < 5 for row in rows[2:])


@pytest.mark.slow
def test_exported_files_give_the_classes_of_the_model(run, tmp_path):
    randomize(tiny_model("mla", image_size=32), seed=3).save_pretrained(tmp_path / "model")
    SetrImageProcessor(patch_size=4).save_pretrained(tmp_path / "model")
    for kind in ("images", "annotations"):
        (tmp_path / "data" / kind / "test").mkdir(parents=True)
    for index in range(2):
        image = Image.fromarray(np.random.default_rng(index).integers(0, 256, (32, 48, 3), np.uint8))
        image.save(tmp_path / f"data/images/test/{index}.png")
        image.convert("L").point(lambda level: level // 52).save(tmp_path / f"data/annotations/test/{index}.png")
    (tmp_path / "data/classes.json").write_text('{"classes": ["a", "b", "c", "d", "e"]}')
    options = ["--dataset", tmp_path / "data", "--model", tmp_path / "model", "--height", 32, "--rounds", 1]
    rows, text = run("exported", *options, *(["--openvino", OPENVINO] if OPENVINO.exists() else []))
    found = {row[0]: row for row in rows[2:]}
    assert list(found)[:5] == [
        "PyTorch, float32", "PyTorch, bfloat16", "torch.compile, float32", "onnxruntime, float32",
        "onnxruntime, int8 products",
    ]  # fmt: skip
    assert ("OpenVINO, float32" in found) == ("is skipped" not in text)
    same = [name for name in found if name.endswith("float32")]
    assert all(found[name][2] == "0.00%" and found[name][1] == found["PyTorch, float32"][1] for name in same)
    assert all(float(found[name][2].rstrip("%")) < 20 for name in found)
    assert float(found["onnxruntime, int8 products"][3]) < float(found["onnxruntime, float32"][3])
    assert all(float(row[5]) > 0 for row in found.values())  # the seconds may round to 0.000


@pytest.mark.slow
def test_cost_by_size(run, tmp_path):
    options = ["--encoders", "tiny", "--sizes", 32, 64, "--batches", 1, 2, "--plot", tmp_path / "cost.png"]
    rows, _ = run("cost_by_size", *options)
    assert [row[1:3] for row in rows[2:]] == [["32", "1"], ["32", "2"], ["64", "1"], ["64", "2"]]
    flops, memory = ([float(row[column]) for row in rows[2:]] for column in (3, 7))
    assert flops[1] == pytest.approx(2 * flops[0], abs=0.1)
    assert flops[2] > 4 * flops[0]
    assert memory[3] >= memory[2] >= memory[0]
    assert Image.open(tmp_path / "cost.png").width > 500
    rows, _ = run("cost_by_size", *options, "--minutes", 0)
    assert [row[4] for row in rows[2:]] == ["left out: time"] * 4


@pytest.mark.slow
def test_everything_on_a_gpu_runs_on_the_cpu_in_small(run):
    options = ["--encoders", "tiny", "--sizes", 64, "--batches", 1, 2, "--tenants", 2, 4, "--cipher_images", 2]
    rows, text = run("gpu", *options, "--train_batches", 2, "--rounds", 2, "--compile", "False")
    assert [line for line in text.splitlines() if line.endswith(":")] == [
        "Inference:", "Encryption of 2 images, 64 x 64, float32:", "Batches of mixed keys in bfloat16, 64 x 64:",
        "Training with AdamW, memory beside weights and optimizer:",
    ]  # fmt: skip
    assert sum(row[0] == "tiny" for row in rows) == 4 + 2 + 1
    training = rows[-1]
    assert 0 < float(training[6].rstrip("%")) < 100
    assert float(training[7]) > 0.1


@pytest.mark.slow
def test_every_way_of_private_inference_finds_the_same_embedding(run):
    there = [option for name, python in PRIVATE.items() if python.exists() for option in (f"--{name}", python)]
    rows, text = run("private_inference", "--size", 32, "--rounds", 1, *there)
    found = {row[0]: row for row in rows[2:]}
    assert list(found)[:3] == ["ours, permutation", "ours, orthogonal", "ours, matrix"]
    assert text.count("is skipped: no environment is given") == 3 - len(there) // 2
    assert len(found) == 3 + len(there) // 2
    assert all(float(row[5]) < 0.02 for row in found.values())
    assert float(found["ours, permutation"][5]) < 1e-5


@pytest.mark.slow
def test_every_command_runs_in_a_process_of_its_own(run):
    rows, _ = run("start_up", "--rounds", 1)
    assert [row[0] for row in rows[2:4]] == ["`import hf_privseg`", "`from transformers import PreTrainedModel`"]
    assert len(rows) == 9
    assert all(0 < float(cell) < 60 for row in rows[2:] for cell in row[1:])
