"""A model can be pickled, copied and shared with other processes, and records hidden states there as here."""

import copy
import io
import pickle
from multiprocessing import current_process
from multiprocessing.reduction import ForkingPickler

import pytest
import torch

from helpers import preloaded
from helpers.leaks import assert_no_secret
from helpers.tiny_setr import DECODERS, pixels, tiny_model
from hf_privseg import SecretKey


def saved_and_loaded(model):
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


COPIES = {
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),  # noqa: S301 - written a moment ago
    "torch.save": saved_and_loaded,
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
    "share_memory": lambda model: copy.deepcopy(model).share_memory(),
}


def a_hook(module, inputs, outputs):
    """Any function that can be pickled."""


def encrypted_model(decoder="naive"):
    key = SecretKey.generate()
    model = tiny_model(decoder).eval()
    model.set_attn_implementation("eager")  # which records attentions
    return model.encrypt_model(key), key


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("decoder", DECODERS)
def test_a_copy_computes_and_records_the_same(decoder, how):
    model, _ = encrypted_model(decoder)
    expected = model(pixels(), output_hidden_states=True, output_attentions=True)
    twice = COPIES[how](COPIES[how](model))
    for each in (twice, model):  # copying leaves the original as it was
        found = each(pixels(), output_hidden_states=True, output_attentions=True)
        assert torch.equal(found.logits, expected.logits)
        assert len(found.hidden_states) == len(expected.hidden_states) == model.config.num_hidden_layers + 1
        assert all(map(torch.equal, found.hidden_states, expected.hidden_states))
        assert len(found.attentions) == len(expected.attentions) == model.config.num_hidden_layers
    assert twice.config.encryption == model.config.encryption
    assert twice.config.encryption is not None


def test_hooks_of_a_user_are_kept():
    model = tiny_model()
    model.setr.layers[0].register_forward_hook(a_hook)
    hooks = pickle.loads(pickle.dumps(model)).setr.layers[0]._forward_hooks  # noqa: S301
    assert a_hook in hooks.values()
    assert len(hooks) == 2


def test_a_pickled_model_holds_no_key():
    model, key = encrypted_model()
    assert_no_secret(pickle.dumps(model), key)


ELSEWHERE = """
import sys
from multiprocessing import current_process, reduction
import torch

current_process().authkey = bytes.fromhex(sys.argv[2])  # for the memory that is shared
with open(sys.argv[1], "rb") as file, torch.no_grad():
    model, inputs = reduction.ForkingPickler.loads(file.read())
outputs = model(inputs, output_hidden_states=True)
assert model.setr.embeddings.patch_embeddings.projection.weight.is_shared()
torch.save((outputs.logits.detach(), len(outputs.hidden_states)), sys.argv[3])
"""


def test_another_process_takes_a_model(tmp_path):
    """What torch.multiprocessing does to the arguments of a process that it spawns."""
    model, _ = encrypted_model()
    model.share_memory()
    (tmp_path / "given").write_bytes(bytes(ForkingPickler.dumps((model, pixels()))))
    authkey = current_process().authkey.hex()
    done = preloaded.run("hf_privseg", "-c", ELSEWHERE, tmp_path / "given", authkey, tmp_path / "answer")
    assert done.returncode == 0, done.stderr
    logits, num_hidden_states = torch.load(tmp_path / "answer")
    torch.testing.assert_close(logits, model(pixels()).logits)
    assert num_hidden_states == model.config.num_hidden_layers + 1
