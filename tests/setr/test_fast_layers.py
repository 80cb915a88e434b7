"""Layers in evaluation mode give what their modules give, read the parameters as they are, and see who watches."""

import copy
import time
import warnings

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils import parametrizations
from torch.utils.flop_counter import FlopCounterMode

from helpers.tiny_setr import DECODERS, FP64, make_key, pixels, projection, tiny_model
from hf_privseg import SetrForSemanticSegmentation
from hf_privseg.setr import fast_layers
from hf_privseg.setr.ciphers import cipher_for

LAYERS = (nn.Linear, nn.Conv2d, nn.BatchNorm2d)
TOLERANCE = 2e-5


measures = [fast_layers.onednn_is_faster.__wrapped__, fast_layers.head_by_head_is_faster.__wrapped__]


@pytest.fixture(params=["MKL", "oneDNN"], autouse=True)
def kernel(request, monkeypatch):
    """Products by either library, however this machine would have them."""
    for choice in ("onednn_is_faster", "head_by_head_is_faster"):
        monkeypatch.setattr(fast_layers, choice, lambda: request.param == "oneDNN")
    monkeypatch.setattr(fast_layers, "_MIN_WIDTH", 1)
    return request.param


def watched(model):
    """A copy whose every layer is called as it is, since something watches it."""
    duplicate = copy.deepcopy(model)
    for module in duplicate.modules():
        if isinstance(module, LAYERS):
            module.register_forward_hook(lambda *_: None)
    return duplicate


@torch.inference_mode()
def logits_of(model, pixel_values):
    return model(pixel_values=pixel_values).logits


@pytest.mark.parametrize("decoder", DECODERS)
def test_logits_are_those_of_the_modules(decoder):
    model = tiny_model(decoder)
    for size in ((16, 16), (24, 16)):
        batch = pixels(3, *size)
        found, expected = logits_of(model, batch), logits_of(watched(model), batch)
        assert found.shape == expected.shape
        assert (found - expected).abs().max() < TOLERANCE


@pytest.mark.parametrize("decoder", DECODERS)
def test_no_batch_norm_runs_on_its_own_and_linear_layers_run_by_the_faster_kernel(decoder, kernel, monkeypatch):
    def refuse(*_):
        raise AssertionError("called")

    monkeypatch.setattr(nn.BatchNorm2d, "forward", refuse)
    if kernel == "oneDNN":
        monkeypatch.setattr(nn.Linear, "forward", refuse)
    model = tiny_model(decoder)
    logits_of(model, pixels())
    with pytest.raises(AssertionError, match="called"):
        model.train()(pixel_values=pixels())


def test_nothing_is_kept_from_one_forward_pass_to_the_next():
    model = tiny_model("mla")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first = logits_of(model, pixels())
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    model.train()(pixel_values=pixels())  # moves the running statistics
    second = logits_of(model.eval(), pixels())
    assert (second - first).abs().max() > 1e-3
    assert (second - logits_of(watched(model), pixels())).abs().max() < TOLERANCE
    model.load_state_dict(before)
    assert torch.equal(logits_of(model, pixels()), first)


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_model_is_encrypted_saved_loaded_and_decrypted_between_forward_passes(decoder, tmp_path):
    model, key = tiny_model(decoder), make_key("orthogonal")
    plain = logits_of(model, pixels())
    ciphertext = cipher_for(key, patch_size=4).encrypt(pixels())
    model.encrypt_model(key)
    assert (logits_of(model, ciphertext) - plain).abs().max() < TOLERANCE
    assert (logits_of(model, pixels()) - plain).abs().max() > 1e-2
    model.save_pretrained(tmp_path)
    loaded = SetrForSemanticSegmentation.from_pretrained(tmp_path).eval()
    assert torch.equal(logits_of(loaded, ciphertext), logits_of(model, ciphertext))
    model.decrypt_model(key)
    assert (logits_of(model, pixels()) - plain).abs().max() < TOLERANCE
    with torch.no_grad():
        projection(model).weight.zero_()
    assert (logits_of(model, pixels()) - plain).abs().max() > 1e-2


def test_gradients_in_evaluation_mode_are_those_of_the_modules():
    model = tiny_model("mla").double()
    gradients = []
    for each in (model, watched(model)):
        batch = pixels().double().requires_grad_()
        each(pixel_values=batch).logits.square().sum().backward()
        named = {name: parameter.grad for name, parameter in each.named_parameters() if "auxiliary" not in name}
        gradients.append(named | {"pixels": batch.grad})
    for name, expected in gradients[1].items():
        torch.testing.assert_close(gradients[0][name], expected, **FP64)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("mixed", [False, True], ids=["bf16 weights", "autocast"])
def test_half_precision_is_as_near_to_full_as_with_the_modules(decoder, mixed):
    model = tiny_model(decoder)
    exact = logits_of(copy.deepcopy(model).double(), pixels(32).double())
    half = model if mixed else copy.deepcopy(model).bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        found, expected = logits_of(half, pixels(32)), logits_of(watched(half), pixels(32))
    assert found.dtype == expected.dtype == torch.bfloat16
    error, usual = ((each - exact).square().mean().sqrt() for each in (found, expected))
    assert 1e-4 < error < 1.5 * usual


def test_who_watches_or_replaces_a_layer_is_heard(kernel):
    model = tiny_model("naive")
    expected, heard = logits_of(model, pixels()), []
    stage, linear = model.decode_head.up_convs[0][0], model.setr.layers[0].mlp.fc1
    hooks = [each.register_forward_hook(lambda module, *_: heard.append(module)) for each in (stage.bn, linear)]
    assert (logits_of(model, pixels()) - expected).abs().max() < TOLERANCE
    assert heard == [linear, stage.bn]
    for hook in hooks:
        hook.remove()
    everywhere = nn.modules.module.register_module_forward_hook(lambda module, *_: heard.append(module))
    logits_of(model, pixels())
    everywhere.remove()
    assert {stage.conv, stage.bn, linear} < set(heard)
    for layer in (stage.bn, linear):  # as accelerate's hooks do
        forward = layer.forward
        layer.forward = lambda inputs, forward=forward: 2 * forward(inputs)
        assert (logits_of(model, pixels()) - expected).abs().max() > 1e-2
        del layer.forward
    assert torch.equal(logits_of(model, pixels()), expected)


def test_layers_that_are_more_than_their_weights_are_called():
    model = tiny_model("naive")
    expected = logits_of(model, pixels())
    parametrizations.weight_norm(model.setr.layers[0].mlp.fc1)
    parametrizations.weight_norm(model.decode_head.up_convs[0][0].conv)
    assert (logits_of(model, pixels()) - expected).abs().max() < TOLERANCE
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.ao tells its successor
        quantized = torch.ao.quantization.quantize_dynamic(tiny_model("naive"), {nn.Linear}, dtype=torch.qint8)
    difference = (logits_of(quantized, pixels()) - expected).abs().max()
    assert 1e-4 < difference < 0.3


def test_a_compiled_and_an_exported_program_hold_the_modules(kernel):
    model = tiny_model("mla")
    program = torch.export.export(model, (), {"pixel_values": pixels()})
    assert "batch_norm" in str(program.graph)
    torch.testing.assert_close(program.module()(pixel_values=pixels()).logits, logits_of(model, pixels()))


@pytest.mark.parametrize("measure", measures)
@pytest.mark.parametrize(("seconds", "expected"), [((1.0, 2.0), True), ((1.0, 1.05), False), ((2.0, 1.0), False)])
def test_a_kernel_is_taken_where_it_is_clearly_faster(monkeypatch, measure, seconds, expected):
    ticks = iter([tick for _ in range(6) for second in seconds for tick in (0.0, second)])
    monkeypatch.setattr(time, "perf_counter", lambda: next(ticks))
    assert measure() is expected


@pytest.mark.parametrize("measure", measures)
def test_the_measurement_computes_where_others_only_count(measure):
    with FlopCounterMode(display=False) as counter:
        measure()
    assert counter.get_total_flops() == 0


def test_the_measurement_is_of_real_tensors_in_its_own_dtype_wherever_it_is_asked_for():
    seen: list[torch.Tensor] = []
    torch.set_default_dtype(torch.float64)
    try:
        with FakeTensorMode():
            fast_layers._is_clearly_faster(seen.append, seen.append, [(2, 3)], torch.float32)
    finally:
        torch.set_default_dtype(torch.float32)
    assert {(type(tensor), tensor.dtype, tensor.device.type) for tensor in seen} == {
        (torch.Tensor, torch.float32, "cpu")
    }


@pytest.mark.parametrize("shape", [(1, 2, 9, 8), (3, 1, 5, 16)])
def test_attention_head_by_head_is_attention(shape, kernel):
    query, key, value = (torch.randn(shape).bfloat16() for _ in range(3))
    exact = nn.functional.scaled_dot_product_attention(query.double(), key.double(), value.double(), scale=0.3)
    with torch.inference_mode():
        found = fast_layers.attention(query, key, value, 0.3)
        assert fast_layers.attention(query.float(), key.float(), value.float(), 0.3) is None
    assert fast_layers.attention(query, key, value, 0.3) is None  # gradients may be asked for
    if kernel == "MKL":
        assert found is None
    else:
        assert found is not None
        assert found.shape == exact.transpose(1, 2).shape
        assert (found - exact.transpose(1, 2)).abs().max() < 2e-2


def test_layers_whose_tensors_are_not_in_order_are_called(kernel, monkeypatch):
    called = []
    monkeypatch.setattr(fast_layers, "_by_onednn", lambda *_: called.append(True))
    layer, inputs = nn.Linear(4, 6), torch.randn(1, 4, 4)
    with torch.inference_mode():
        expected = layer(inputs.transpose(1, 2))
        assert torch.equal(fast_layers.linear(layer, inputs.transpose(1, 2)), expected)
        layer.weight = nn.Parameter(layer.weight.T.contiguous().T)
        torch.testing.assert_close(fast_layers.linear(layer, inputs.transpose(1, 2).contiguous()), expected)
        assert not called
        fast_layers.linear(nn.Linear(4, 6), inputs)
    assert bool(called) == (kernel == "oneDNN")
