"""The container of a processed batch: what it keeps, and what it refuses to write and to read."""

import json

import numpy as np
import pytest
import torch
import transformers as hf

from helpers import preloaded
from helpers.tiny_setr import make_key
from hf_privseg import (
    CiphertextError,
    EncryptedImage,
    EncryptedInputs,
    EncryptingProcessor,
    EncryptionStateError,
    KeyMismatchError,
    SetrImageProcessor,
    encrypt_model,
)
from hf_privseg.any_vit.model_encryption import generate_client_embedding
from hf_privseg.any_vit.model_facts import ModelFacts
from hf_privseg.any_vit.pixel_inputs import PIXEL_INPUTS
from hf_privseg.any_vit.proof import difference, outputs_of
from hf_privseg.setr.ciphers import cipher_for
from hf_privseg.setr.tensor_files import header_from_bytes, tensors_from_bytes, tensors_to_bytes
from tiny_vision import CASES, randomize
from tiny_vision.measuring import encrypted_inputs
from tiny_vision.parts import PATCHES, pixels

pytestmark = pytest.mark.filterwarnings("ignore:the blocks of:UserWarning")

KEY = make_key()
ENTRY = "privseg_inputs"


def inputs(**more):
    return EncryptedInputs({"pixel_values": pixels(2, 3, 16, 24), **more}, KEY.facts, 8, 3)


def rewritten(data, change=None, **tensors):
    """A file with another header or other tensors."""
    header = json.loads(header_from_bytes(data).metadata[ENTRY])
    return tensors_to_bytes({**tensors_from_bytes(data), **tensors}, {ENTRY: json.dumps({**header, **(change or {})})})


@pytest.mark.parametrize(
    "name", ["mask2former_on_swin", "seggpt", "clipseg", "siglip2", "qwen2_vl", "vit_interpolated"]
)
def test_every_kind_of_input_comes_back_and_gives_the_same_outputs(name, tmp_path):
    case = CASES[name]()
    plain = outputs_of(randomize(case.model), case.inputs)
    model = encrypt_model(case.model, KEY)
    facts = EncryptedInputs(encrypted_inputs(case, KEY), KEY.facts, 8, 3)
    facts.to_file(tmp_path / "batch.safetensors")
    found = EncryptedInputs.from_file(tmp_path / "batch.safetensors")
    assert found.facts == KEY.facts
    for name, value in facts.inputs.items():
        if "pixel_values" in name or name == "prompt_masks":
            assert found.inputs[name].dtype == torch.float32
            step = value.abs().max() / 32767
            assert (found.inputs[name] - value).abs().max() <= step / 2 * 1.01  # and the rounding of float32
            assert not found.inputs[name][value == 0].any()
        elif isinstance(value, torch.Tensor):
            assert torch.equal(found.inputs[name], value)
        else:
            assert found.inputs[name] == value
    after = outputs_of(model, found.inputs)
    assert max(difference(*pair) for pair in zip(after, plain, strict=True)) < 2e-2  # 16 bits a number


def test_a_further_round_trip_changes_nothing_and_half_precision_becomes_single():
    once = EncryptedInputs.from_bytes(inputs(pixel_mask=torch.ones(2, 16, 24, dtype=torch.bool)).to_bytes())
    twice = EncryptedInputs.from_bytes(once.to_bytes())
    torch.testing.assert_close(twice.inputs["pixel_values"], once.inputs["pixel_values"], rtol=1e-6, atol=0)
    half = EncryptedInputs({"pixel_values": pixels(1, 3, 8, 8).to(torch.bfloat16)}, KEY.facts, 8, 3)
    assert EncryptedInputs.from_bytes(half.to_bytes()).inputs["pixel_values"].dtype == torch.float32


@pytest.mark.parametrize("name", ["dinov2", "videomae", "qwen2_vl", "mask2former_on_swin"])
def test_of_a_client_embedding_only_the_numbers_that_the_model_sees_are_stored(name):
    case = CASES[name]()
    plain = outputs_of(randomize(case.model), case.inputs)
    embedding = generate_client_embedding(case.model)
    encrypt_model(case.model, embedding, example_inputs=case.inputs)
    facts, given = ModelFacts.of(case.model), encrypted_inputs(case, embedding)
    assert facts is not None
    made = EncryptedInputs(given, facts.key, facts.patch_size, facts.num_channels)
    found, (pixel_input,) = EncryptedInputs.from_bytes(made.to_bytes()), PIXEL_INPUTS & set(given)
    values = tensors_from_bytes(made.to_bytes())[f"{pixel_input}/values"]
    assert values.shape == (given[pixel_input].numel() // facts.block_length, embedding.shape[1])
    assert embedding.shape[1] < facts.block_length / 1.4
    step = given[pixel_input].abs().max() / 32767
    torch.testing.assert_close(found.inputs[pixel_input], given[pixel_input], rtol=0, atol=float(step))
    after = outputs_of(case.model, found.inputs)
    assert max(difference(*pair) for pair in zip(after, plain, strict=True)) < 2e-2


def test_blocks_and_a_shape_that_do_not_belong_together_are_refused():
    embedding = generate_client_embedding(randomize(CASES["dinov2"]().model))
    block = torch.randn(2, 3, 14, 14)
    pixels_ = cipher_for(embedding, patch_size=14).encrypt(block)
    data = EncryptedInputs({"pixel_values": pixels_}, embedding.facts, 14, 3).to_bytes()
    for shape in (
        [2, 3, 14, 15],
        [3, 2, 14, 14],
        [2, 3, 28, 7],
        [588, 2],
        [1176],
        5,
        [2, 3, 14, -14],
        [2, 3, 14, 14.0],
    ):
        with pytest.raises(CiphertextError, match="does not fit its tensors"):
            EncryptedInputs.from_bytes(rewritten(data, {"shapes": {"pixel_values": shape}}))
    rows = torch.ones(2, 589, dtype=torch.int16)
    with pytest.raises(CiphertextError, match="SHA-256"):
        EncryptedInputs.from_bytes(rewritten(data, **{"pixel_values/values": rows}))


def test_lists_settings_and_other_tensors_are_kept_as_they_are():
    scores = torch.tensor([1.5, -2.0], dtype=torch.bfloat16)
    given = {
        "pixel_values": [pixels(3, 16, 24), pixels(3, 8, 8)],
        "mask_labels": [torch.tensor([[1, 2]]), torch.tensor([3])],
        "scores": scores,
        "interpolate_pos_encoding": True,
        "labels": None,
        "patch_offsets": [],
    }
    found = EncryptedInputs.from_bytes(EncryptedInputs(given, KEY.facts, 8, 3).to_bytes()).inputs
    assert set(found) == set(given) - {"labels", "patch_offsets"}
    assert [item.shape for item in found["pixel_values"]] == [(3, 16, 24), (3, 8, 8)]
    assert torch.equal(found["mask_labels"][1], torch.tensor([3]))
    assert torch.equal(found["scores"], scores)
    assert found["interpolate_pos_encoding"] is True


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"input_ids": torch.ones(1, 2)}, "expected encrypted pixels among the inputs, got input_ids"),
        ({"pixel_values": torch.zeros(1, 3, 8, 8, dtype=torch.uint8)}, "expected finite float pixels in pixel_values"),
        ({"pixel_values": torch.full((1, 3, 8, 8), torch.nan)}, "expected finite float pixels in pixel_values"),
        ({"pixel_values": [[1.0]]}, "expected a tensor in pixel_values, got a list of list; process the images with"),
        ({"pixel_values": pixels(1, 3, 8, 8), "rows": [[1]]}, "expected a tensor, a list of tensors, .* in rows"),
    ],
)
def test_inputs_that_no_file_holds_are_refused(given, message):
    with pytest.raises(CiphertextError, match=message):
        EncryptedInputs(given, KEY.facts, 8, 3)


def test_files_that_were_changed_or_are_others_are_refused(tmp_path):
    data = inputs(pixel_mask=torch.ones(2, 4)).to_bytes()
    values = tensors_from_bytes(data)["pixel_values/values"]
    for changed, message in (
        (b"", "expected a file that EncryptedInputs.to_file wrote"),
        (data[:-5], "it is truncated|expected .* bytes"),
        (tensors_to_bytes({"a": torch.ones(2)}), "expected a metadata entry 'privseg_inputs'"),
        (rewritten(data, {"format": 2}), "expected a header of format 1 with exactly the entries"),
        (rewritten(data, {"more": 2}), "exactly the entries .*'more'"),
        (rewritten(data, {"lengths": {"pixel_mask": 0}}), "header of the encrypted inputs is damaged: lengths"),
        (rewritten(data, {"encrypted": "pixel_values"}), "is damaged: encrypted"),
        (rewritten(data, {"encrypted": []}), "does not fit its tensors: 'pixel_values'"),
        (rewritten(data, {"encrypted": ["pixel_mask"]}), r"it names \['pixel_mask'\]"),
        (rewritten(data, {"fingerprint": "zz"}), "the fingerprint of a key is 16 hexadecimal"),
        (rewritten(data, {"patch_size": 0}), "patch_size of an encrypted model is an int from 1 to 65536, got 0"),
        (rewritten(data, **{"pixel_values/values": values + 1}), "their SHA-256 is not the one in the header"),
        (rewritten(data, **{"pixel_mask": torch.zeros(2, 4)}), "their SHA-256 is not"),
    ):
        with pytest.raises(CiphertextError, match=message):
            EncryptedInputs.from_bytes(changed)
    (tmp_path / "x.safetensors").write_bytes(data[:40])
    with pytest.raises(CiphertextError, match=r"^x\.safetensors: expected a file"):
        EncryptedInputs.from_file(tmp_path / "x.safetensors")


def test_an_encrypted_image_for_a_setr_and_encrypted_inputs_are_told_apart():
    (image,) = SetrImageProcessor().encrypt([np.zeros((16, 16, 3), np.uint8)], KEY)
    with pytest.raises(
        CiphertextError, match="got an encrypted image for a SETR, which EncryptedImage reads; encrypt"
    ):
        EncryptedInputs.from_bytes(image.to_bytes())
    with pytest.raises(CiphertextError, match="got encrypted inputs of a model of another class than SETR, which"):
        EncryptedImage.from_bytes(inputs().to_bytes())


def test_a_path_of_another_ending_and_an_existing_file_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"is a \.safetensors file, got 'x\.png'; use 'x\.safetensors'"):
        inputs().to_file(tmp_path / "x.png")
    inputs().to_file(tmp_path / "x.safetensors")
    with pytest.raises(FileExistsError, match="exists; choose another path or pass overwrite=True"):
        inputs().to_file(tmp_path / "x.safetensors")
    inputs().to_file(tmp_path / "x.safetensors", overwrite=True)


def test_inputs_of_another_key_or_other_blocks_are_refused_by_a_model():
    model = randomize(hf.ViTModel(hf.ViTConfig(**PATCHES)))
    with pytest.raises(EncryptionStateError, match=r"the encrypted inputs .* but the model is plain"):
        inputs().inputs_for(model)
    encrypt_model(model, KEY)
    assert set(inputs().inputs_for(model.config)) == {"pixel_values"}
    with pytest.raises(KeyMismatchError, match=r"the encrypted inputs .* do not belong together"):
        EncryptedInputs({"pixel_values": pixels(1, 3, 8, 8)}, make_key(first_byte=3).facts, 8, 3).inputs_for(model)
    with pytest.raises(CiphertextError, match="encrypted in blocks of 16 pixels, but the patches of the model have 8"):
        EncryptedInputs({"pixel_values": pixels(1, 3, 16, 16)}, KEY.facts, 16, 3).inputs_for(model)


SERVER = """
import sys, torch
from transformers import AutoModelForSemanticSegmentation
from hf_privseg import EncryptedInputs
model = AutoModelForSemanticSegmentation.from_pretrained(sys.argv[1])
inputs = EncryptedInputs.from_file(sys.argv[2]).inputs_for(model)
with torch.no_grad():
    torch.save(model(**inputs).logits, sys.argv[3])
"""


def test_another_process_segments_the_file_without_a_key(tmp_path):
    model = randomize(CASES["beit"]().model)
    processor = hf.BeitImageProcessor(size={"height": 32, "width": 32}, do_center_crop=False)
    image = torch.randint(256, (3, 40, 50), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    with torch.no_grad():
        plain = model(**processor(image, return_tensors="pt")).logits
    encrypt_model(model, KEY).save_pretrained(tmp_path / "model")
    EncryptingProcessor(processor, model).encrypt(image, secret_key=KEY).to_file(tmp_path / "image.safetensors")
    arguments = [tmp_path / "model", tmp_path / "image.safetensors", tmp_path / "logits.pt"]
    done = preloaded.run("hf_privseg", "-c", SERVER, *arguments)
    assert done.returncode == 0, done.stderr
    found = torch.load(tmp_path / "logits.pt", weights_only=True)
    assert difference(found, plain) < 1e-3
    assert (found.argmax(1) == plain.argmax(1)).float().mean() > 0.99
