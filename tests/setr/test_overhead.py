"""A server computes for ciphertexts what it computes for plain images: the same modules, operations and memory."""

import copy

import pytest
import torch
from costs import flops_of, peak_bytes

from helpers.tiny_setr import DECODERS, make_key, pixels, tiny_model
from hf_privseg import ClientEmbedding
from hf_privseg.service.mixed_keys import with_weights
from hf_privseg.setr.ciphers import cipher_for
from hf_privseg.setr.public_facts import FAMILIES


def run_of(model, batch):
    @torch.inference_mode()
    def run():
        return model(pixel_values=batch).logits

    run()  # what PyTorch sets up once
    return run


@pytest.mark.parametrize("family", [*FAMILIES, "embedding"])
@pytest.mark.parametrize("decoder", DECODERS)
def test_modules_operations_and_memory_are_those_of_the_plain_model(decoder, family):
    plain, batch = tiny_model(decoder), pixels()
    key = ClientEmbedding.generate(plain) if family == "embedding" else make_key(family)
    encrypted = copy.deepcopy(plain).encrypt_model(key)
    assert [(name, type(module)) for name, module in plain.named_modules()] == [
        (name, type(module)) for name, module in encrypted.named_modules()
    ]
    ciphertext = cipher_for(key, patch_size=4).encrypt(batch)
    usual, run = run_of(plain, batch), run_of(encrypted, ciphertext)
    assert flops_of(run) == flops_of(usual) > 1e6
    assert peak_bytes(run) == peak_bytes(usual) > 1e4
    weight = encrypted.patch_projection.weight
    served = run_of(with_weights(plain, [weight, weight]), ciphertext)  # as the service has it for a registered key
    assert (flops_of(served), peak_bytes(served)) == (flops_of(usual), peak_bytes(usual))
    torch.testing.assert_close(run(), usual(), rtol=1e-3, atol=1e-4)
