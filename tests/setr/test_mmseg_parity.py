"""Converted models against mmsegmentation's own outputs, on the tiny reference models in the folder PRIVSEG_GOLDEN."""

import pytest
import torch
from torch.nn import functional as F

from helpers.golden import TOLERANCE, golden_model, golden_tensors, needs_golden, reference
from helpers.tiny_setr import DECODERS
from hf_privseg.convert import mmseg

__all__ = ["reference"]  # the fixture, for pytest to find

pytestmark = needs_golden

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


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
        torch.testing.assert_close(found[name], expected[f"{case}.{name}"], **TOLERANCE, msg=f"{{}}, in {name}".format)


@pytest.mark.parametrize("decoder", DECODERS)
@torch.no_grad()
def test_with_folded_statistics_centred_pixels_give_the_same_logits(decoder):
    expected = golden_tensors(decoder)
    normalized = expected["rect64x96.input"].double()
    levels = normalized * torch.tensor(STD).double().view(3, 1, 1) + torch.tensor(MEAN).double().view(3, 1, 1)
    model = golden_model(decoder, image_mean=MEAN, image_std=STD)
    logits = model((2 * levels - 1).float()).logits
    torch.testing.assert_close(logits, expected["rect64x96.logits"], **TOLERANCE)
    assert (model(expected["rect64x96.input"]).logits - logits).abs().max() > 0.1


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_losses_and_gradients_are_those_of_mmsegmentation_up_to_its_denominator(reference, mode):
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
        squares = dict.fromkeys(description["grad_norms_train"], 0.0)
        for name, parameter in model.named_parameters():
            squares[mmseg.FORMAT.source_key(name)[0]] += (parameter.grad.double().norm().item() * share) ** 2
        # all of them: query, key and value together are one weight there, and what is unused has no gradient
        norms = {name: square**0.5 for name, square in squares.items()}
        assert norms == pytest.approx(description["grad_norms_train"], rel=0, abs=2e-5)
