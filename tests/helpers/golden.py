"""The tiny reference models of mmsegmentation in the folder PRIVSEG_GOLDEN, converted.

Each of its subfolders naive, pup, mla holds a state dict in mmsegmentation's names, inputs, every intermediate result
and the losses.
"""

import json
import os
from pathlib import Path

import pytest
from safetensors.torch import load_file

from helpers.tiny_setr import DECODERS, Tolerance
from hf_privseg.convert import convert_checkpoint

GOLDEN = Path(os.environ.get("PRIVSEG_GOLDEN", ""))
needs_golden = pytest.mark.skipif(
    Path() == GOLDEN, reason="PRIVSEG_GOLDEN does not name the folder of reference outputs"
)
# The reference's own fp32 results are up to 1.8e-5 away from its fp64 ones.
TOLERANCE: Tolerance = {"rtol": 0.0, "atol": 2e-5}


def golden_model(decoder, image_mean=(0.5, 0.5, 0.5), image_std=(0.5, 0.5, 0.5)):
    """The converted reference model; with these statistics it takes the reference's normalised inputs as they are."""
    return convert_checkpoint(
        GOLDEN / decoder / "state_dict.safetensors",
        num_attention_heads=2,
        out_indices=[0, 1, 2, 3],
        image_mean=image_mean,
        image_std=image_std,
    ).model


def golden_tensors(decoder):
    """Inputs and every result of the reference, `<case>.<name>`."""
    return load_file(GOLDEN / decoder / "io.safetensors")


def golden_description(decoder):
    """Configuration, losses and gradient norms of the reference."""
    return json.loads((GOLDEN / decoder / "config.json").read_text())


@pytest.fixture(scope="module", params=DECODERS)
def reference(request):
    """(our model with the reference's weights, the reference's tensors, its description)"""
    return golden_model(request.param), golden_tensors(request.param), golden_description(request.param)
