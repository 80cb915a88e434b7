"""The functions that encrypt any model: what they refuse, what they record, and the proof with example inputs."""

import copy
import re
import warnings

import pytest
import torch
import transformers as hf
from torch import nn

from helpers.tiny_setr import make_key, tiny_model
from hf_privseg import (
    ClientEmbedding,
    EncryptionStateError,
    KeyMismatchError,
    RekeyUpdate,
    apply_rekey_update,
    decrypt_model,
    encrypt_model,
    rekey_model,
)
from hf_privseg.any_vit.model_encryption import generate_client_embedding
from hf_privseg.any_vit.model_facts import ModelFacts, key_facts
from hf_privseg.any_vit.projection import find_projection
from hf_privseg.any_vit.proof import difference, outputs_of
from hf_privseg.setr.public_facts import FAMILIES
from tiny_vision import CASES, randomize
from tiny_vision.measuring import encrypted_inputs
from tiny_vision.parts import ENCODER, PATCHES, Case, pixels

pytestmark = pytest.mark.filterwarnings("ignore:the blocks of:UserWarning")

KEY, OTHER_KEY = make_key(), make_key("permutation", first_byte=9)
FACTS = {"family": "orthogonal", "version": 1, "fingerprint": KEY.fingerprint}


def vit(**kwargs):
    return randomize(hf.ViTModel(hf.ViTConfig(**{**PATCHES, **kwargs})))


def weight_of(model):
    return find_projection(model).weight.detach().clone()


def built(name):
    case = CASES[name]()
    randomize(case.model)
    return case


# ---------------------------------------------------------------------------------------------------- what it records


def test_the_facts_stand_in_the_configuration_of_the_backbone_that_owns_the_layer():
    model = encrypt_model(built("mask2former_on_swin").model, KEY)
    assert model.config.backbone_config.encryption == FACTS | {"patch_size": 4, "num_channels": 3}
    assert not hasattr(model.config, "encryption")
    assert ModelFacts.of(model.config) == ModelFacts(KEY.facts, 4, 3, pads=True)
    assert ModelFacts(KEY.facts, 4, 3).block_length == 48


def test_frames_count_as_channels_and_flattened_patches_as_one_pixel():
    assert find_projection(built("qwen2_vl").model).num_channels == 6
    siglip2 = find_projection(built("siglip2").model)
    assert (siglip2.patch_size, siglip2.num_channels) == (1, 192)
    llama = find_projection(built("llama4_vision").model)  # a Linear behind Unfold
    assert (llama.patch_size, llama.num_channels) == (14, 3)


def test_setr_records_what_its_own_method_records():
    by_function, by_method = tiny_model(), tiny_model()
    encrypt_model(by_function, KEY)
    by_method.encrypt_model(KEY)
    assert by_function.config.encryption == by_method.config.encryption == FACTS
    assert torch.equal(weight_of(by_function), weight_of(by_method))
    assert ModelFacts.of(by_function) == ModelFacts(KEY.facts, 4, 3)


def test_two_models_from_one_configuration_do_not_share_what_is_recorded():
    config = hf.ViTConfig(**PATCHES)
    first, second = hf.ViTModel(config), hf.ViTModel(config)
    encrypt_model(first, KEY)
    assert key_facts(first) == KEY.facts
    assert key_facts(second) is None
    assert all(getattr(module, "config", first.config) is first.config for module in first.modules())


def test_the_key_is_nowhere_in_the_model_or_its_configuration(tmp_path):
    model = encrypt_model(vit(), KEY)
    model.save_pretrained(tmp_path)
    everything = (tmp_path / "config.json").read_text() + repr(model) + repr(model.config)
    assert KEY.fingerprint in everything
    assert KEY.to_text() not in everything
    assert bytes(range(32)).hex() not in everything


def test_facts_of_another_form_are_refused():
    config = encrypt_model(vit(), KEY).config
    for name, value, message in (
        ("patch_size", "8", "patch_size of an encrypted model is an int from 1 to 65536, got '8'"),
        ("projection", 3, "projection of an encrypted model is a name, got 3"),
        ("fingerprint", "x", "16 hexadecimal characters"),
    ):
        config.encryption = FACTS | {"patch_size": 8, "num_channels": 3, name: value}
        with pytest.raises(ValueError, match=re.escape(message)):
            ModelFacts.of(config)
    config.encryption = [1]
    with pytest.raises(ValueError, match="is a dictionary, got list"):
        ModelFacts.of(config)


def test_two_encrypted_parts_are_refused():
    model = encrypt_model(built("clip").model, KEY)
    model.config.text_config.encryption = model.config.vision_config.encryption
    with pytest.raises(EncryptionStateError, match="got 2 in CLIPConfig: CLIPTextConfig, CLIPVisionConfig"):
        decrypt_model(model, KEY)


def test_a_configuration_with_other_blocks_than_the_layer_is_refused():
    model = encrypt_model(vit(), KEY)
    model.config.encryption["patch_size"] = 16
    with pytest.raises(ValueError, match="says blocks of 16 pixels and 3 channels, the layer has 8 and 3"):
        decrypt_model(model, KEY)


# ------------------------------------------------------------------------------------------- states and other verbs


def test_each_verb_refuses_the_wrong_state_and_the_wrong_key():
    model, update = vit(), RekeyUpdate.between(KEY, OTHER_KEY, patch_size=8)
    for act in (
        lambda: decrypt_model(model, KEY),
        lambda: rekey_model(model, KEY, OTHER_KEY),
        lambda: apply_rekey_update(model, update),
    ):
        with pytest.raises(EncryptionStateError, match="the model is plain"):
            act()
    encrypt_model(model, OTHER_KEY)
    encrypted = weight_of(model)
    with pytest.raises(EncryptionStateError, match=f"is encrypted .*{OTHER_KEY.fingerprint}.*rekey_model"):
        encrypt_model(model, KEY)
    for act in (
        lambda: decrypt_model(model, KEY),
        lambda: rekey_model(model, KEY, OTHER_KEY),
        lambda: apply_rekey_update(model, update),
    ):
        with pytest.raises(KeyMismatchError, match=KEY.fingerprint):
            act()
    assert torch.equal(weight_of(model), encrypted)


@pytest.mark.parametrize("name", ["vit", "siglip2", "qwen2_vl", "llama4_vision", "mask2former_on_swin"])
def test_rekeying_by_either_way_gives_the_model_encrypted_with_the_new_key(name):
    direct, rekeyed, updated = (built(name).model for _ in range(3))
    encrypt_model(direct, OTHER_KEY)
    rekey_model(encrypt_model(rekeyed, KEY), KEY, OTHER_KEY)
    found = find_projection(updated)
    geometry = {"patch_size": found.patch_size, "num_channels": found.num_channels}
    apply_rekey_update(encrypt_model(updated, KEY), RekeyUpdate.between(KEY, OTHER_KEY, **geometry))
    for model in (rekeyed, updated):
        torch.testing.assert_close(weight_of(model), weight_of(direct), rtol=1e-5, atol=1e-6)
        assert ModelFacts.of(model) == ModelFacts.of(direct)


@pytest.mark.parametrize("family", [family for family in FAMILIES if "permutation" in family])
def test_decryption_undoes_permutations_bit_for_bit(family):
    model = vit()
    plain = weight_of(model)
    encrypt_model(model, make_key(family))
    assert not torch.equal(weight_of(model), plain)
    assert torch.equal(weight_of(decrypt_model(model, make_key(family))), plain)


@pytest.mark.parametrize("name", ["dinov2", "upernet_on_swin", "qwen2_vl"])
def test_a_client_embedding_encrypts_the_model_that_it_was_made_from(name):
    case = built(name)
    plain = outputs_of(*case)
    embedding = generate_client_embedding(case.model)
    assert isinstance(embedding, ClientEmbedding)
    encrypt_model(case.model, embedding)
    after = outputs_of(case.model, encrypted_inputs(case, embedding))
    assert max(difference(*pair) for pair in zip(after, plain, strict=True)) < 1e-4
    with pytest.raises(EncryptionStateError, match="is encrypted"):
        generate_client_embedding(case.model)


# --------------------------------------------------------------------------------------- proofs, and models unproven


class Watched(hf.ViTModel):
    """A model that reads the mean of the pixels beside its patch embedding."""

    def forward(self, pixel_values=None, **kwargs):
        output = super().forward(pixel_values=pixel_values, **kwargs)
        output.pooler_output = (
            output.pooler_output + pixel_values.std(dim=(1, 2, 3))[:, None] + pixel_values[0, 0, 0, 0]
        )
        return output


class Deaf(hf.ViTModel):
    """A model whose output does not depend on its patch embedding."""

    def forward(self, pixel_values=None, **kwargs):
        return hf.modeling_outputs.BaseModelOutput(
            last_hidden_state=self.layernorm(pixel_values.flatten(2)[..., :32] * 0)
        )


class Masked(Watched):
    """A model that reads pixels elsewhere, and returns that beside an infinite number alone."""

    def forward(self, pixel_values=None, **kwargs):
        read = super().forward(pixel_values=pixel_values, **kwargs).pooler_output
        output = hf.ViTModel.forward(self, pixel_values=pixel_values, **kwargs)
        scores = torch.cat([read, torch.full_like(read, -torch.inf)])
        return {"last_hidden_state": output.last_hidden_state, "scores": scores}


class Growing(hf.ViTModel):
    """A model that returns one more output each time."""

    calls = 0

    def forward(self, pixel_values=None, **kwargs):
        self.calls += 1
        output = super().forward(pixel_values=pixel_values, **kwargs).last_hidden_state
        return {str(index): output for index in range(self.calls)}


class Classes(hf.ViTModel):
    """A model that returns class numbers."""

    def forward(self, pixel_values=None, **kwargs):
        return {"classes": super().forward(pixel_values=pixel_values, **kwargs).last_hidden_state.argmax(-1)}


class Overflowing(hf.ViTModel):
    """A model whose outputs are NaN."""

    def forward(self, pixel_values=None, **kwargs):
        return {"scores": super().forward(pixel_values=pixel_values, **kwargs).last_hidden_state * torch.nan}


class Unknown(hf.ViTModel):
    """A sound model that no test of the package has encrypted."""


def test_a_class_that_no_test_has_encrypted_needs_a_proof_or_a_risk():
    model = randomize(Unknown(hf.ViTConfig(**PATCHES)))
    plain = weight_of(model)
    with pytest.raises(ValueError, match=r"Unknown is not encrypted unproven.*are, not Unknown. .*example_inputs"):
        encrypt_model(model, KEY)
    assert torch.equal(weight_of(model), plain)
    assert key_facts(model) is None
    encrypt_model(model, KEY, unverified=True)
    assert key_facts(decrypt_model(model, KEY)) is None
    encrypt_model(model, KEY, example_inputs={"pixel_values": pixels(2, 3, 32, 32)})
    assert key_facts(model) == KEY.facts


def test_the_proof_leaves_the_model_in_the_mode_and_with_the_random_numbers_that_it_found():
    model = vit(hidden_dropout_prob=0.5).train()
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    encrypt_model(model, KEY, example_inputs={"pixel_values": pixels(2, 3, 32, 32)})
    assert model.training
    assert torch.equal(torch.rand(4), expected)


@pytest.mark.parametrize(
    ("cls", "message"),
    [
        (
            Watched,
            "Watched cannot be encrypted: with encrypted inputs its outputs differ by .* reads pixel_values else",
        ),
        (Masked, "Masked cannot be encrypted: with encrypted inputs its outputs differ by "),
        (Deaf, "Deaf gives the same outputs for plain inputs .* they do not depend on the layer that was found"),
        (Growing, "Growing cannot be proven: it returns 1 float tensors for plain inputs, 2 for encrypted ones"),
        (Classes, "Classes cannot be proven: it returns 0 float tensors for plain inputs, 0 for encrypted ones"),
        (Overflowing, r"Overflowing gives NaN for the example inputs, .* dtype=torch\.float32"),
    ],
)
def test_a_failed_proof_restores_the_model(cls, message):
    model = randomize(cls(hf.ViTConfig(**PATCHES)))
    plain = weight_of(model)
    with pytest.raises(ValueError, match=message):
        encrypt_model(model, KEY, example_inputs={"pixel_values": pixels(2, 3, 32, 32)})
    assert torch.equal(weight_of(model), plain)
    assert key_facts(model) is None


def test_inputs_that_the_model_cannot_take_restore_it_as_well():
    model = vit()
    plain = weight_of(model)
    with pytest.raises(ValueError, match="expected pixels under one of the names"):
        encrypt_model(model, KEY, example_inputs={"input_ids": torch.ones(1, 3)})
    with pytest.raises(ValueError, match=r"32\*32"):  # transformers' own words
        encrypt_model(model, KEY, example_inputs={"pixel_values": pixels(2, 3, 48, 32)})
    with pytest.raises(TypeError, match=r"example_inputs are what the model takes by name, .* got Tensor"):
        encrypt_model(model, KEY, example_inputs=pixels(2, 3, 32, 32))  # type: ignore[arg-type]
    assert torch.equal(weight_of(model), plain)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_a_half_precision_model_is_proven_within_its_own_rounding(dtype):
    model = built("dinov2").model.to(torch.bfloat16)
    encrypt_model(model, KEY, example_inputs={"pixel_values": pixels(2, 3, 42, 56).to(dtype)})
    assert weight_of(model).dtype == torch.bfloat16
    decrypt_model(model, KEY)


def test_outputs_with_infinite_numbers_differ_where_the_finite_ones_or_the_places_do():
    masked = torch.tensor([1.0, -torch.inf, torch.nan])
    assert difference(masked.clone(), masked) == 0
    assert difference(torch.tensor([1.5, -torch.inf, torch.nan]), masked) == 0.5
    for other in ([1.0, 2.0, torch.nan], [1.0, torch.inf, torch.nan], [1.0, -torch.inf, 0.0]):
        assert difference(torch.tensor(other), masked) == float("inf")


# ------------------------------------------------------------------------------------------------ finding the layer


class TwoTowers(hf.ViTModel):
    """A model with a second convolution that takes images."""

    def __init__(self, config):
        super().__init__(config)
        self.thumbnail = nn.Conv2d(3, 4, 8, 8)


def test_of_several_layers_one_is_named_and_the_name_survives_in_another_class(tmp_path):
    model = randomize(TwoTowers(hf.ViTConfig(**PATCHES)))
    with pytest.raises(ValueError, match=r"several layers .* embeddings.patch_embeddings.projection, thumbnail: pass"):
        encrypt_model(model, KEY, unverified=True)
    name, plain = "embeddings.patch_embeddings.projection", outputs_of(model, {"pixel_values": pixels(2, 3, 32, 32)})
    with pytest.raises(ValueError, match="TwoTowers is not encrypted unproven"):
        encrypt_model(model, KEY, projection=name)
    encrypt_model(model, KEY, projection=name, unverified=True)
    assert model.config.encryption["projection"] == name
    model.save_pretrained(tmp_path)

    class WithHead(hf.ViTPreTrainedModel):
        def __init__(self, config):
            super().__init__(config)
            self.vit = TwoTowers(config)
            self.post_init()

        def forward(self, pixel_values):
            return self.vit(pixel_values)

    other = WithHead.from_pretrained(tmp_path)
    decrypt_model(other, KEY)
    after = outputs_of(other, {"pixel_values": pixels(2, 3, 32, 32)})
    assert difference(after[0], plain[0]) < 1e-4


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", "got 'nowhere'; layers that may read pixels: embeddings.patch_embeddings.projection"),
        ("layernorm", "projection names a Conv2d, Conv3d or Linear of ViTModel, got 'layernorm'"),
    ],
)
def test_a_name_of_no_layer_is_refused(name, message):
    with pytest.raises(ValueError, match=message):
        encrypt_model(vit(), KEY, projection=name)


def test_a_layer_that_is_quantised_or_not_in_memory_is_refused():
    model = vit()
    with torch.device("meta"):
        empty = hf.ViTModel(hf.ViTConfig(**PATCHES))
    with pytest.raises(ValueError, match=r"is not in memory \(meta device\)"):
        encrypt_model(empty, KEY)
    layer = model.embeddings.patch_embeddings.projection
    layer.weight = nn.Parameter(layer.weight.to(torch.int8), requires_grad=False)
    with pytest.raises(ValueError, match=r"got torch.int8; encrypt the model before it is quantised"):
        encrypt_model(model, KEY)


class Normalising(nn.Conv2d):
    """A convolution that is not linear in its weight."""

    def forward(self, values):
        return nn.functional.conv2d(values, self.weight / self.weight.norm(), self.bias, self.stride)


@pytest.mark.parametrize("thing", [None, "default", nn.Linear(2, 2), nn.DataParallel(tiny_model())], ids=type)
def test_what_is_no_model_of_transformers_is_refused(thing) -> None:
    with pytest.raises(TypeError, match=f"model of transformers or its configuration, got {type(thing).__name__}"):
        encrypt_model(thing, make_key())


def test_a_subclass_of_a_convolution_is_refused():
    model = vit()
    model.embeddings.patch_embeddings.projection = Normalising(3, 32, 8, 8)
    with pytest.raises(ValueError, match=r"because of embeddings.patch_embeddings.projection = Normalising\(3, 32"):
        encrypt_model(model, KEY)


# ------------------------------------------------------------------------------------------------------ warnings


@pytest.mark.filterwarnings("default")
def test_small_blocks_and_public_weights_warn_and_others_do_not(tmp_path):
    with pytest.warns(
        UserWarning, match="have 48 numbers, as patches of 4 x 4 pixels have: one ciphertext shows the sce"
    ):
        encrypt_model(built("swin").model, KEY)
    with pytest.warns(UserWarning, match="192 numbers, as patches of 8 x 8 pixels have: one ciphertext shows most"):
        encrypt_model(vit(), KEY)
    narrow = Case(vit(patch_size=16), {})
    narrow.model.save_pretrained(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encrypt_model(hf.ViTModel.from_pretrained(tmp_path), KEY)  # from a folder, and with hidden_size < L
        wide = hf.ViTModel(hf.ViTConfig(**ENCODER | {"hidden_size": 800}, image_size=32, patch_size=16))
        encrypt_model(wide, KEY)
    public = hf.ViTModel(hf.ViTConfig(**ENCODER | {"hidden_size": 800}, image_size=32, patch_size=16))
    public.config.name_or_path = "some/vit"
    public.name_or_path = "some/vit"
    with pytest.warns(UserWarning, match="the weights come from 'some/vit': if that checkpoint is public"):
        encrypt_model(public, KEY)


def test_weights_that_were_made_in_inference_mode_are_encrypted_as_any():
    expected = CASES["vit"]().model
    with torch.inference_mode():
        model = copy.deepcopy(expected)
    weight, key = find_projection(model).weight, make_key("orthogonal")
    assert weight.is_inference()
    encrypt_model(model, key)
    encrypt_model(expected, key)
    assert torch.equal(weight, find_projection(expected).weight)
    decrypt_model(model, key)
    decrypt_model(expected, key)
    assert torch.equal(weight, find_projection(expected).weight)
