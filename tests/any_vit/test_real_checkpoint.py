"""A pretrained ViT-S/16, encrypted as an encoder, as the encoder of a DPT, and with its patch embedding in a SAM."""

import copy
import os
import re

import numpy as np
import pytest
import torch
import transformers as hf
from PIL import Image

from helpers import preloaded
from hf_privseg import EncryptedInputs, EncryptingProcessor, SecretKey, encrypt_model
from hf_privseg.any_vit.projection import find_projection
from hf_privseg.any_vit.proof import difference, outputs_of

pytestmark = [
    pytest.mark.skipif("PRIVSEG_VIT" not in os.environ, reason="PRIVSEG_VIT does not name a pretrained ViT"),
    pytest.mark.filterwarnings("ignore:the weights come from:UserWarning"),
]  # fmt: skip

SIDE = 224
_NAMES = {  # of ViT's layers -> of DPT's
    r"^layers": "encoder.layer",
    r"attention\.q_proj": "attention.attention.query",
    r"attention\.k_proj": "attention.attention.key",
    r"attention\.v_proj": "attention.attention.value",
    r"attention\.o_proj": "attention.output.dense",
    r"mlp\.fc1": "intermediate.dense",
    r"mlp\.fc2": "output.dense",
}


@pytest.fixture(scope="module")
def vit():
    return hf.ViTModel.from_pretrained(os.environ["PRIVSEG_VIT"], dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def processor():
    size = {"height": SIDE, "width": SIDE}
    return hf.ViTImageProcessor.from_pretrained(os.environ["PRIVSEG_VIT"], size=size)


@pytest.fixture(scope="module")
def image():
    """A scene of soft shapes, as an image has them, from a formula."""
    rows, columns = np.mgrid[0:300, 0:400] / 40
    waves = [np.sin(rows * a + 0.3) * np.cos(columns * b) for a, b in ((1, 0.5), (0.7, 1.3), (1.9, 0.2))]
    return Image.fromarray(((np.stack(waves, -1) + 1) * 127.5).astype(np.uint8))


@pytest.fixture(scope="module")
def dpt(vit):
    """A DPT with the weights of the ViT; its decoder is random."""
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "image_size")
    sizes = {name: getattr(vit.config, name) for name in (*names, "patch_size", "layer_norm_eps")}
    torch.manual_seed(0)
    head = {"num_labels": 11, "fusion_hidden_size": 32, "neck_hidden_sizes": [16, 32, 64, 64]}
    config = hf.DPTConfig.from_dict({**sizes, **head, "auxiliary_loss_weight": 0.0})
    model = hf.DPTForSemanticSegmentation(config)
    renamed = {}
    for name, tensor in vit.state_dict().items():
        for found, becomes in _NAMES.items():
            name = re.sub(found, becomes, name)
        renamed[name] = tensor
    report = model.dpt.load_state_dict(renamed, strict=False)
    assert not report.missing_keys
    return model.eval()


@pytest.fixture(scope="module")
def key():
    return SecretKey(bytes(range(32)))


def test_the_encoder_computes_the_same(vit, processor, image, key):
    model = encrypt_model(copy.deepcopy(vit), key)
    inputs = {"interpolate_pos_encoding": True}
    plain = outputs_of(vit, dict(processor(image, return_tensors="pt")) | inputs)
    encrypted = dict(EncryptingProcessor(processor, model)(image, secret_key=key))
    after = outputs_of(model, encrypted | inputs)
    assert max(difference(*pair) for pair in zip(after, plain, strict=True)) < 1e-3
    without_key = outputs_of(model, dict(processor(image, return_tensors="pt")) | inputs)
    assert difference(without_key[0], plain[0]) > 0.1


def test_the_image_encoder_of_a_sam_with_its_patch_embedding_computes_the_same(vit, key):
    torch.manual_seed(0)
    config = hf.SamVisionConfig(
        hidden_size=384, output_channels=32, num_hidden_layers=2, num_attention_heads=6, image_size=SIDE,
        patch_size=16, mlp_dim=768, window_size=7, global_attn_indexes=[1],
    )  # fmt: skip
    sam = hf.SamVisionModel(config).eval()
    with torch.no_grad():
        find_projection(sam).weight.copy_(find_projection(vit).weight)
    inner = hf.SamImageProcessor(size={"longest_edge": SIDE}, pad_size={"height": SIDE, "width": SIDE})
    scene = torch.randint(256, (3, 200, 150), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    pixels = inner(scene, return_tensors="pt")["pixel_values"]
    plain = outputs_of(sam, {"pixel_values": pixels})
    encrypt_model(sam, key, example_inputs={"pixel_values": pixels})
    encrypted = EncryptingProcessor(inner, sam)(scene, secret_key=key)["pixel_values"]
    assert difference(outputs_of(sam, {"pixel_values": encrypted})[0], plain[0]) < 1e-3


SERVER = """
import sys, torch
from transformers import AutoModelForSemanticSegmentation
from hf_privseg import EncryptedInputs
model = AutoModelForSemanticSegmentation.from_pretrained(sys.argv[1])
with torch.no_grad():
    outputs = model(**EncryptedInputs.from_file(sys.argv[2]).inputs_for(model))
torch.save(outputs.logits, sys.argv[3])
"""


def test_one_ciphertext_file_serves_the_encoder_here_and_a_dpt_in_another_process(
    vit, dpt, processor, image, key, tmp_path
):
    encoder, server = encrypt_model(copy.deepcopy(vit), key), encrypt_model(copy.deepcopy(dpt), key)
    server.save_pretrained(tmp_path / "dpt")
    client = EncryptingProcessor(processor, server.config)
    client.encrypt(image, secret_key=key).to_file(tmp_path / "image.safetensors")

    arguments = [tmp_path / "dpt", tmp_path / "image.safetensors", tmp_path / "logits.pt"]
    done = preloaded.run("hf_privseg", "-c", SERVER, *arguments)
    assert done.returncode == 0, done.stderr
    with torch.no_grad():
        pixels = processor(image, return_tensors="pt")
        plain = dpt(**pixels)
    found = torch.load(tmp_path / "logits.pt", weights_only=True)
    sizes = [image.size[::-1]]
    maps = [
        hf.DPTImageProcessor().post_process_semantic_segmentation(
            hf.modeling_outputs.SemanticSegmenterOutput(logits=logits), target_sizes=sizes
        )[0]
        for logits in (found, plain.logits)
    ]
    ours, theirs = map(torch.as_tensor, maps)
    assert torch.eq(ours, theirs).float().mean() > 0.99
    assert theirs.unique().numel() > 1

    inputs = EncryptedInputs.from_file(tmp_path / "image.safetensors").inputs_for(encoder)
    after = outputs_of(encoder, inputs | {"interpolate_pos_encoding": True})
    plain_encoder = outputs_of(vit, dict(pixels) | {"interpolate_pos_encoding": True})
    assert difference(after[0], plain_encoder[0]) < 2e-2
