"""encrypt_model, decrypt_model and rekey_model: eq. 3 of the paper, its cost of nothing, and every refusal."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModel, AutoModelForSemanticSegmentation

from helpers.leaks import assert_no_secret
from helpers.tiny_setr import (
    DECODERS,
    FP32,
    FP64,
    SECRET,
    labels,
    make_key,
    pixels,
    projection,
    tiny_config,
    tiny_model,
)
from hf_privseg import (
    EncryptionStateError,
    InvalidKeyError,
    KeyMismatchError,
    SecretKey,
    SetrConfig,
    SetrForSemanticSegmentation,
    SetrModel,
)
from hf_privseg.setr.ciphers import cipher_for
from hf_privseg.setr.keys import FAMILIES

EXACT_FAMILIES = ["permutation", "signed_permutation"]
HALVES = [torch.float16, torch.bfloat16]


def encrypted_pixels(secret_key, **kwargs):
    return cipher_for(secret_key, patch_size=4).encrypt(pixels(**kwargs))


def weight_of(model):
    return projection(model).weight.detach().clone()


# -------------------------------------------------------------------------------------------------------- exactness


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("family", FAMILIES)
def test_encrypted_model_on_encrypted_pixels_is_plain_model_on_plain_pixels(family, decoder):
    model = tiny_model(decoder)
    plain = model(pixels()).logits
    model.encrypt_model(make_key(family))
    torch.testing.assert_close(model(encrypted_pixels(make_key(family))).logits, plain, **FP32)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_left_in_fp32_is_rounding(family):
    # In float64 the difference shrinks by nine digits, to the rounding of float64: eq. 3 is exact.
    model = tiny_model().double()
    plain = model(pixels().double()).logits
    model.encrypt_model(make_key(family))
    ciphertext = cipher_for(make_key(family), patch_size=4).encrypt(pixels().double())
    torch.testing.assert_close(model(ciphertext).logits, plain, **FP64)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_wrong_key_and_no_key_ruin_the_embeddings(family):
    model = tiny_model(cls=SetrModel)
    embed = model.embeddings.patch_embeddings
    plain = embed(pixels())
    model.encrypt_model(make_key(family))
    for wrong in (pixels(), encrypted_pixels(make_key(family, first_byte=1))):
        error = (embed(wrong) - plain).square().mean().sqrt()
        assert error > 0.5 * plain.square().mean().sqrt()


@pytest.mark.parametrize("family", FAMILIES)
def test_only_the_projection_weight_changes(family):
    model = tiny_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.encrypt_model(make_key(family))
    changed = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
    assert changed == ["setr.embeddings.patch_embeddings.projection.weight"]


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES], ids=str)
@pytest.mark.parametrize("family", EXACT_FAMILIES)
def test_permutation_families_are_undone_bit_for_bit_in_every_dtype(family, dtype):
    model = tiny_model()
    projection(model).to(dtype)
    before = weight_of(model)
    model.encrypt_model(make_key(family))
    assert weight_of(model).dtype == dtype
    assert not torch.equal(weight_of(model), before)
    model.decrypt_model(make_key(family))
    assert torch.equal(weight_of(model), before)


@pytest.mark.parametrize("family", ["orthogonal", "matrix"])
def test_float_families_are_undone_up_to_rounding(family):
    model = tiny_model()
    before = weight_of(model)
    model.encrypt_model(make_key(family)).decrypt_model(make_key(family))
    # float32 rounds once in E_hat by 6e-8; the matrix family's condition of 10 can enlarge that tenfold
    assert (weight_of(model) - before).norm() < 6e-7 * before.norm()
    assert not torch.equal(weight_of(model), before) or family == "orthogonal"


@pytest.mark.parametrize("old", FAMILIES)
@pytest.mark.parametrize("new", ["permutation", "orthogonal"])
def test_rekeying_is_decrypting_and_encrypting(old, new):
    model, expected = tiny_model(), tiny_model()
    model.encrypt_model(make_key(old)).rekey_model(make_key(old), make_key(new, first_byte=9))
    expected.encrypt_model(make_key(new, first_byte=9))
    torch.testing.assert_close(weight_of(model), weight_of(expected), rtol=1e-4, atol=1e-6)
    assert model.config.encryption == expected.config.encryption


@pytest.mark.parametrize("decoder", DECODERS)
def test_parameters_modules_and_flops_stay_the_same(decoder):
    def description(model, input_pixels):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(input_pixels)
        modules = [(name, type(module)) for name, module in model.named_modules()]
        tensors = [(name, value.shape, value.dtype) for name, value in model.state_dict().items()]
        return modules, tensors, counter.get_flop_counts()

    model = tiny_model(decoder)
    before = description(model, pixels())
    model.encrypt_model(make_key())
    after = description(model, encrypted_pixels(make_key()))
    assert before == after
    assert before[2]["Global"]


def test_an_encrypted_model_can_be_trained_on_and_stays_encrypted():
    model = tiny_model().encrypt_model(make_key()).train()
    model(encrypted_pixels(make_key()), labels=labels()).loss.backward()
    assert projection(model).weight.grad.abs().max() > 0
    assert model.config.encryption is not None


# ------------------------------------------------------------------------------------------------ state and refusals


@pytest.mark.parametrize("family", FAMILIES)
def test_the_public_facts_are_in_the_config_and_decrypting_removes_them(family):
    model, secret_key = tiny_model(), make_key(family)
    assert model.encrypt_model(secret_key) is model
    assert model.config.encryption == {"family": family, "version": 1, "fingerprint": secret_key.fingerprint}
    assert model.setr.config.encryption == model.config.encryption
    assert model.decrypt_model(secret_key) is model
    assert model.config.encryption is None


def test_the_encoder_alone_is_encrypted_in_the_same_way():
    model, encoder = tiny_model(), tiny_model(cls=SetrModel)
    encoder.load_state_dict(model.setr.state_dict())
    model.encrypt_model(make_key())
    encoder.encrypt_model(make_key())
    assert torch.equal(weight_of(model), weight_of(encoder))


def test_32_bytes_are_a_key_of_the_default_family():
    model = tiny_model().encrypt_model(SECRET)
    assert model.config.encryption["fingerprint"] == SecretKey(SECRET).fingerprint
    assert model.config.encryption["family"] == "orthogonal"


def assert_refused(model, error, message, action):
    """`action` raises, the message fits, and neither the weight nor the public facts have changed."""
    weight, facts = weight_of(model), model.config.encryption
    with pytest.raises(error, match=message):
        action()
    assert torch.equal(weight_of(model), weight)
    assert model.config.encryption == facts


def test_encrypting_twice_is_refused():
    model, secret_key = tiny_model().encrypt_model(make_key("permutation")), make_key()
    message = rf"plain model, .* \(key fingerprint {make_key('permutation').fingerprint}, family permutation, .*rekey"
    assert_refused(model, EncryptionStateError, message, lambda: model.encrypt_model(secret_key))
    assert_refused(model, EncryptionStateError, message, lambda: model.encrypt_model(make_key("permutation")))


@pytest.mark.parametrize("action", ["decrypt_model", "rekey_model"])
def test_a_plain_model_is_neither_decrypted_nor_rekeyed(action):
    model = tiny_model()
    keys = [make_key()] * (2 if action == "rekey_model" else 1)
    message = rf"the secret key \(key fingerprint {make_key().fingerprint}.* the model is plain; encrypt it"
    assert_refused(model, EncryptionStateError, message, lambda: getattr(model, action)(*keys))


@pytest.mark.parametrize("action", ["decrypt_model", "rekey_model"])
@pytest.mark.parametrize(
    ("family", "first_byte"), [("orthogonal", 1), ("matrix", 0)], ids=["other_bytes", "other_family"]
)
def test_another_key_is_refused_and_both_fingerprints_named(action, family, first_byte):
    model, wrong = tiny_model().encrypt_model(make_key()), make_key(family, first_byte)
    keys = [wrong, make_key()][: 2 if action == "rekey_model" else 1]
    message = rf"{wrong.fingerprint}, family {family}.*{make_key().fingerprint}, family orthogonal.*Nothing was"
    assert_refused(model, KeyMismatchError, message, lambda: getattr(model, action)(*keys))


@pytest.mark.parametrize("value", [7, "secret", b"short", None], ids=["int", "str", "bytes", "none"])
@pytest.mark.parametrize("action", ["encrypt_model", "decrypt_model", "rekey_model"])
def test_what_is_no_key_is_refused(action, value):
    model = tiny_model() if action == "encrypt_model" else tiny_model().encrypt_model(make_key())
    arguments = [make_key(), value] if action == "rekey_model" else [value]
    expected = "5 bytes" if value == b"short" else type(value).__name__
    assert_refused(model, InvalidKeyError, f"got {expected}", lambda: getattr(model, action)(*arguments))


# ------------------------------------------------------------------------------------------------ saving and loading


@pytest.mark.parametrize("family", FAMILIES)
def test_saving_keeps_the_encryption_and_no_trace_of_the_key(family, tmp_path):
    model, secret_key = tiny_model("pup"), SecretKey.generate(family)
    before = weight_of(model)
    model.encrypt_model(secret_key).save_pretrained(tmp_path)
    loaded = AutoModelForSemanticSegmentation.from_pretrained(tmp_path)
    assert loaded.config.encryption == model.config.encryption
    assert torch.equal(weight_of(loaded), weight_of(model))
    loaded.decrypt_model(secret_key)
    torch.testing.assert_close(weight_of(loaded), before, **FP32)
    for path in tmp_path.iterdir():
        assert_no_secret(path.read_bytes(), secret_key)
    assert_no_secret(f"{model} {model.config} {vars(model)}", secret_key)


def test_the_encoder_of_an_encrypted_checkpoint_is_encrypted(tmp_path):
    tiny_model().encrypt_model(make_key()).save_pretrained(tmp_path)
    encoder = AutoModel.from_pretrained(tmp_path)
    assert isinstance(encoder, SetrModel)
    encoder.decrypt_model(make_key())
    torch.testing.assert_close(weight_of(encoder), weight_of(tiny_model()), **FP32)


@pytest.mark.parametrize(
    "load", [SetrForSemanticSegmentation, SetrModel, AutoModelForSemanticSegmentation, SetrConfig]
)
@pytest.mark.parametrize("name", ["secret_key", "key", "passphrase"])
def test_from_pretrained_takes_no_key(load, name, tmp_path):
    tiny_model().save_pretrained(tmp_path)
    text = make_key().to_text()
    with pytest.raises(ValueError, match=f"got `{name}`: a configuration is public") as error:
        load.from_pretrained(tmp_path, **{name: text})
    assert text not in str(error.value)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_half_precision_keeps_the_projection_in_fp32(family, dtype, tmp_path):
    model = tiny_model("mla")
    model.save_pretrained(tmp_path / "plain")
    model.encrypt_model(make_key(family)).save_pretrained(tmp_path / "encrypted")
    plain, encrypted = (
        SetrForSemanticSegmentation.from_pretrained(tmp_path / name, dtype=dtype) for name in ("plain", "encrypted")
    )
    for loaded in (plain, encrypted):
        kept = {name for name, parameter in loaded.named_parameters() if parameter.dtype == torch.float32}
        assert kept == {f"setr.embeddings.patch_embeddings.projection.{name}" for name in ("weight", "bias")}
        assert loaded.setr.layers[0].mlp.fc1.weight.dtype == dtype
    with torch.no_grad():
        expected = plain(pixels()).logits
        found = encrypted(encrypted_pixels(make_key(family))).logits
    assert found.dtype == dtype
    # one rounding of the embeddings may fall differently; the network then carries that at half precision
    tolerance = 16 * torch.finfo(dtype).eps * expected.abs().max().item()
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_a_model_built_in_half_precision_has_the_projection_in_fp32(dtype):
    model = SetrForSemanticSegmentation._from_config(tiny_model().config, dtype=dtype)
    assert model.setr.embeddings.patch_embeddings.projection.weight.dtype == torch.float32
    assert next(model.decode_head.parameters()).dtype == dtype


def test_autocast_keeps_the_projection_in_fp32():
    model = tiny_model()
    outputs = {}
    for name, module in (("projection", projection(model)), ("mlp", model.setr.layers[0].mlp)):
        module.register_forward_hook(lambda module, inputs, output, name=name: outputs.update({name: output}))
    expected = projection(model)(pixels())
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        model(pixels())
    assert outputs["mlp"].dtype == torch.bfloat16
    assert torch.equal(outputs["projection"], expected)


def test_the_configuration_is_not_shared_between_models():
    config = tiny_config()
    first, second = SetrForSemanticSegmentation(config), SetrForSemanticSegmentation(config)
    first.encrypt_model(make_key())
    assert second.config.encryption is None


def test_a_pickled_checkpoint_is_refused(tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        SetrForSemanticSegmentation.from_pretrained(tmp_path)
