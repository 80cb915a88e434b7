"""The model against mmsegmentation's own outputs, on the tiny reference models in the folder PRIVSEG_GOLDEN.

Each of its subfolders naive, pup, mla holds a state dict in mmsegmentation's names, inputs, every intermediate result
and the losses.
"""

import json
import os
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_setr import DECODERS
from torch.nn import functional as F

from hf_privseg import SetrConfig, SetrForSemanticSegmentation

GOLDEN = os.environ.get("PRIVSEG_GOLDEN")
TOLERANCE = {"rtol": 0.0, "atol": 2e-5}  # the reference's own fp32 results are up to 1.8e-5 away from its fp64 ones

pytestmark = pytest.mark.skipif(not GOLDEN, reason="PRIVSEG_GOLDEN does not name the folder of reference outputs")

RENAMED = [
    (r"^backbone\.patch_embed\.", "setr.embeddings.patch_embeddings."),
    (r"^backbone\.pos_embed$", "setr.embeddings.position_embeddings"),
    (r"^backbone\.cls_token$", "setr.embeddings.cls_token"),
    (r"^backbone\.", "setr."),
    (r"\.ln1\.", ".layernorm_before."),
    (r"\.ln2\.", ".layernorm_after."),
    (r"\.attn\.attn\.out_proj\.", ".attention.o_proj."),
    (r"\.ffn\.layers\.0\.0\.", ".mlp.fc1."),
    (r"\.ffn\.layers\.1\.", ".mlp.fc2."),
]


def renamed(name):
    for pattern, replacement in RENAMED:
        name = re.sub(pattern, replacement, name)
    return name


def our_state_dict(theirs, decoder):
    ours = {}
    for name, value in theirs.items():
        if "in_proj" in name:
            prefix, kind = renamed(name).split(".attn.attn.in_proj_")
            for target, part in zip("qkv", value.chunk(3), strict=True):
                ours[f"{prefix}.attention.{target}_proj.{kind}"] = part
        else:
            ours[renamed(name)] = value
    if decoder == "mla":  # the reference keeps a class token that it drops before the first layer
        del ours["setr.embeddings.cls_token"]
        ours["setr.embeddings.position_embeddings"] = ours["setr.embeddings.position_embeddings"][:, 1:]
    return ours


@pytest.fixture(scope="module", params=DECODERS)
def reference(request):
    """(our model with the reference's weights, the reference's tensors, its description)"""
    folder = Path(GOLDEN) / request.param
    config = SetrConfig(
        decoder_type=request.param, hidden_size=32, num_hidden_layers=4, num_attention_heads=2, intermediate_size=128,
        image_size=64, num_labels=7, decoder_hidden_size=16, mla_hidden_size=8, out_indices=[0, 1, 2, 3],
    )  # fmt: skip
    model = SetrForSemanticSegmentation(config)
    model.load_state_dict(our_state_dict(load_file(folder / "state_dict.safetensors"), request.param))
    return model.eval(), load_file(folder / "io.safetensors"), json.loads((folder / "config.json").read_text())


@pytest.mark.parametrize("case", ["sq64", "rect64x96", "same_tokens32x128"])
@torch.no_grad()
def test_every_intermediate_result_is_that_of_mmsegmentation(reference, case):
    model, expected, _ = reference
    pixel_values = expected[f"{case}.input"]
    levels = model.setr(pixel_values).feature_maps
    outputs = model(pixel_values, output_auxiliary_logits=True)
    resized = F.interpolate(outputs.logits, size=pixel_values.shape[-2:], mode="bilinear", align_corners=False)
    found = {"logits": outputs.logits, "resized": resized}
    found |= {f"backbone.{index}": level for index, level in enumerate(levels)}
    found |= {f"aux.{index}": logits for index, logits in enumerate(outputs.auxiliary_logits)}
    if model.neck is not None:
        found |= {f"neck.{index}": level for index, level in enumerate(model.neck(levels))}
    names = {name.removeprefix(f"{case}.") for name in expected if name.startswith(f"{case}.")} - {"input"}
    assert {"logits"} <= names <= set(found)
    for name in names:
        torch.testing.assert_close(
            found[name], expected[f"{case}.{name}"], **TOLERANCE, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_losses_are_those_of_mmsegmentation_up_to_its_denominator(reference, mode):
    model, tensors, description = reference
    labels = tensors["loss.labels"].long()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    model.train(mode == "train")
    model.zero_grad()
    outputs = model(tensors["sq64.input"], labels=labels)
    outputs.loss.backward()
    model.eval()
    model.load_state_dict(state)  # training moved the running statistics
    # mmsegmentation divides by all pixels, ignored ones included
    share = ((labels != 255).sum() / labels.numel()).item()
    assert 0.7 < share < 0.9
    assert outputs.loss.item() * share == pytest.approx(description[f"total_{mode}"], abs=2e-5)
    if mode == "train":
        norms = description["grad_norms_train"]
        for name, parameter in model.named_parameters():
            theirs = [their for their in norms if renamed(their) == name and "pos_embed" not in their]
            if theirs:
                assert parameter.grad.norm().item() * share == pytest.approx(norms[theirs[0]], rel=1e-3, abs=1e-6), (
                    name
                )
