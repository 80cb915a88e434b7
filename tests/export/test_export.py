"""Exported models: the file computes what the model does, at sizes and batches that the export did not see."""

import json
import shutil

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import transformers as hf
from PIL import Image

from helpers.paths import ROOT
from helpers.tiny_setr import make_key, tiny_model
from hf_privseg import EncryptedImage, SetrImageProcessor
from hf_privseg.cli import export as command
from hf_privseg.export import FORMATS, example_inputs, export_model
from hf_privseg.export.runtimes import TorchProgram
from tiny_vision import CASES, randomize


def noise(*shape):
    return torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, shape)).float()


def example(model):
    return example_inputs(model, SetrImageProcessor(patch_size=model.config.patch_size))


def encrypted(**kwargs):
    return tiny_model(num_hidden_layers=2, out_indices=(0, 1), **kwargs).encrypt_model(make_key("orthogonal"))


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """An encrypted model, and its ONNX file."""
    model = encrypted()
    return model, export_model(model, tmp_path_factory.mktemp("onnx"), example(model))


def test_an_onnx_file_segments_images_of_any_size_as_the_encrypted_model_does(served):
    model, exported = served
    assert (exported.outputs, exported.varies, exported.num_checked) == (["logits"], "batch and size", 4)
    assert exported.difference < 1e-5
    session = onnxruntime.InferenceSession(exported.path)
    for shape in ((1, 3, 16, 16), (3, 3, 40, 24), (2, 3, 20, 28)):  # the native grid is the first
        pixels = noise(*shape)
        (found,) = session.run(["logits"], {"pixel_values": pixels.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), model(pixel_values=pixels).logits, rtol=1e-4, atol=1e-5)


def test_the_file_names_the_key_that_it_is_encrypted_with_and_holds_none(served):
    path = served[1].path
    (entry,) = (each for each in onnx.load(path).metadata_props if each.key == "privseg")
    assert json.loads(entry.value) == make_key("orthogonal").facts.to_dict()
    assert b"privseg1." not in path.read_bytes()


def test_the_program_of_the_page_runs_it(served, tmp_path, monkeypatch):
    model, exported = served
    processor = SetrImageProcessor(patch_size=model.config.patch_size)
    (tmp_path / "exported").mkdir()
    shutil.copy(exported.path, tmp_path / "exported")
    processor.save_pretrained(tmp_path / "exported")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8))
    sent = processor.encrypt(image, make_key("orthogonal"))
    sent.to_file(tmp_path / "image.encrypted.safetensors")
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs/how-to/export.md").read_text()
    found: dict[str, np.ndarray] = {}
    exec(page.partition("```python\n")[2].partition("```")[0], found)  # noqa: S102 # the page's own program
    expected = model(**processor(sent, return_tensors="pt")).logits.argmax(dim=1).numpy()
    assert found["classes"].shape == (1, 24, 32)
    assert (found["classes"] == expected).mean() > 0.99


@pytest.mark.slow
@pytest.mark.parametrize("decoder", ["naive", "pup"])
def test_the_other_decoders(tmp_path, decoder):
    model = encrypted(decoder_type=decoder)
    exported = export_model(model, tmp_path, example(model))
    assert exported.varies == "batch and size"
    assert exported.difference < 1e-5


def test_a_torch_program_runs_without_the_package(tmp_path):
    model = encrypted()
    exported = export_model(model, tmp_path, example(model), format="torch")
    assert exported.varies == "batch and size"
    assert exported.difference < 1e-5  # the program holds the plain modules, evaluation computes them in fewer steps
    pixels = noise(3, 3, 40, 24)
    (found,) = torch.export.load(exported.path).module()(pixel_values=pixels)
    torch.testing.assert_close(found, model(pixel_values=pixels).logits)


@pytest.mark.slow
def test_eight_bits_are_smaller_and_nearly_equal(tmp_path):
    model = encrypted(hidden_size=64, intermediate_size=256)
    whole = export_model(model, tmp_path, example(model)).path.stat().st_size
    exported = export_model(model, tmp_path, example(model), format="onnx-int8")
    assert exported.path.stat().st_size < 0.8 * whole
    assert 1e-4 < exported.difference < 0.1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "because"), [("dpt", "is invalid for input of size"), ("swin", "torch.export took longer than 15 s")]
)
def test_models_of_other_classes(tmp_path, name, because):
    case = CASES[name]()
    randomize(case.model)
    exported = export_model(case.model, tmp_path, case.inputs, size_seconds=15.0)  # Swin never ends for any size
    assert exported.varies == "batch"
    assert because in exported.fixed_because
    assert exported.difference < 1e-4


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan"), float("inf"), 1e6])
def test_seconds_out_of_range(tmp_path, seconds):
    model = encrypted()
    with pytest.raises(ValueError, match=r"size_seconds above 0 and at most 86400, got"):
        export_model(model, tmp_path, example(model), size_seconds=seconds)


def test_a_file_that_computes_something_else_is_not_kept(tmp_path, monkeypatch):
    load = TorchProgram.load

    def load_another(self, path):
        run = load(self, path)
        return lambda inputs: [values * 1.01 for values in run(inputs)]

    model = encrypted()
    monkeypatch.setattr(TorchProgram, "load", load_another)
    with pytest.raises(ValueError, match=r"largest difference from the model is 0.0\d+ of the largest number"):
        export_model(model, tmp_path, example(model), format="torch")
    assert not list(tmp_path.iterdir())


def test_an_unknown_format(tmp_path):
    with pytest.raises(ValueError, match="expected one of the formats onnx, onnx-int8, torch, got 'tflite'"):
        export_model(tiny_model(), tmp_path, {}, format="tflite")
    assert tuple(FORMATS) == command.FORMATS


def test_the_command_and_what_a_server_does_with_its_file(place):
    encrypted_folder = place.encrypted_model()
    told = place.succeed("export", encrypted_folder, place.folder / "exported", "--format", "torch")
    assert "logits for any batch, sides that are multiples of 4 pixels" in told
    files = {path.name for path in (place.folder / "exported").iterdir()}
    assert {"model.pt2", "config.json", "preprocessor_config.json"} <= files
    assert not any("safetensors" in name for name in files)
    sent = place.encrypted_image()
    processor = SetrImageProcessor.from_pretrained(place.folder / "exported")
    inputs = processor(EncryptedImage.from_file(sent), return_tensors="pt")
    (logits,) = torch.export.load(place.folder / "exported/model.pt2").module()(pixel_values=inputs["pixel_values"])
    model = hf.AutoModelForSemanticSegmentation.from_pretrained(encrypted_folder)
    torch.testing.assert_close(logits, model(**inputs).logits)


def test_a_folder_that_exists_is_kept(place):
    folder = place.encrypted_model()
    assert "choose another folder" in place.fail("export", folder, folder)


def test_names_of_outputs_in_tuples_and_settings_that_are_no_tensors(tmp_path):
    config = hf.ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
                          image_size=16, patch_size=8, output_hidden_states=True)  # fmt: skip
    model = hf.ViTModel(config, add_pooling_layer=False).eval()
    inputs = {"pixel_values": noise(2, 3, 24, 40), "interpolate_pos_encoding": True}
    exported = export_model(model, tmp_path, inputs, format="torch")
    assert exported.outputs == ["last_hidden_state", "hidden_states.0", "hidden_states.1"]
    assert exported.varies == "batch and size"
    found = torch.export.load(exported.path).module()(pixel_values=inputs["pixel_values"])
    torch.testing.assert_close(found[2], model(**inputs).hidden_states[1])


def test_a_model_that_draws_random_numbers_is_refused_with_a_reason(tmp_path):
    case = CASES["vit_mae"]()
    with pytest.raises(ValueError, match="ViTMAEModel cannot be exported as onnx: it gives other outputs each time"):
        export_model(case.model, tmp_path, case.inputs)
    exported = export_model(case.model, tmp_path, {**case.inputs, "noise": noise(2, 16)}, format="torch")
    assert exported.difference < 1e-5


def test_a_model_that_computes_by_the_numbers_in_its_inputs_is_refused_with_a_reason_alone(tmp_path, capsys):
    case = CASES["pixtral"]()
    with pytest.raises(ValueError, match="PixtralVisionModel cannot be exported as torch: its computation depends on"):
        export_model(case.model, tmp_path, case.inputs, format="torch")
    assert not list(tmp_path.iterdir())
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_a_plain_model_has_the_graph_of_the_encrypted_one(tmp_path):
    graphs = []
    for name, model in (("plain", tiny_model()), ("encrypted", tiny_model().encrypt_model(make_key("orthogonal")))):
        (tmp_path / name).mkdir()
        graph = onnx.load(export_model(model, tmp_path / name, example(model)).path).graph
        graphs.append([[node.op_type, *node.input, *node.output] for node in graph.node])
    assert graphs[0] == graphs[1]
