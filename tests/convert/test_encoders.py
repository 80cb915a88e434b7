"""ViT, DeiT, DINOv2 and timm encoders: features of the converted encoder are those of the source."""

import os
import re

import pytest
import torch
from transformers import (
    DeiTModel,
    Dinov2ForImageClassification,
    Dinov2Model,
    Dinov2WithRegistersModel,
    ViTForImageClassification,
    ViTForMaskedImageModeling,
    ViTImageProcessor,
    ViTModel,
)

from helpers.sources import CONFIGS, HALF, SIZES, named_as, source_model, timm_source
from helpers.tiny_setr import FP32, pixels
from hf_privseg import SetrForSemanticSegmentation
from hf_privseg.convert import Checkpoint, ConversionError, convert_checkpoint, encoders

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def normalized(centred):
    return ((centred + 1) / 2 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def saved(model, folder):
    model.save_pretrained(folder)
    ViTImageProcessor(image_mean=MEAN, image_std=STD).save_pretrained(folder)
    return folder


@torch.no_grad()
def features(converted, centred):
    """What the decoder reads, the class token first."""
    model = converted.model
    return model.decode_head.norm(model.setr(centred).last_hidden_state)


@pytest.mark.parametrize(
    ("cls", "config", "unused"),
    [
        (ViTModel, "vit", {"pooler.dense.weight", "pooler.dense.bias"}),
        (ViTForImageClassification, "vit", {"classifier.weight", "classifier.bias"}),
        (ViTForMaskedImageModeling, "vit", {"vit.embeddings.mask_token", "decoder.0.weight", "decoder.0.bias"}),
        (Dinov2Model, "dinov2", {"embeddings.mask_token"}),
        (
            Dinov2ForImageClassification,
            "dinov2",
            {"dinov2.embeddings.mask_token", "classifier.weight", "classifier.bias"},
        ),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)  # fmt: skip
@pytest.mark.parametrize(("height", "width"), [(16, 16), (24, 20)], ids=str)
def test_features_are_those_of_the_source(cls, config, unused, height, width, tmp_path):
    source = source_model(cls, config)
    converted = convert_checkpoint(saved(source, tmp_path), decoder="pup")
    centred = pixels(2, height, width)
    arguments = {} if config == "dinov2" else {"interpolate_pos_encoding": True}
    with torch.no_grad():
        base = getattr(source, source.base_model_prefix, source)
        expected = base(normalized(centred), **arguments).last_hidden_state
    torch.testing.assert_close(features(converted, centred), expected, **FP32)
    provenance = converted.provenance
    assert set(provenance.unused) == unused
    assert provenance.statistics_from == "as preprocessor_config.json says"
    assert provenance.notes == ([encoders.FOLDED_SCALES] if config == "dinov2" else [])
    assert not provenance.is_trained
    assert converted.model.config.decoder_type == "pup"
    assert converted.model.config.layer_norm_eps == CONFIGS[config].layer_norm_eps
    assert converted.processor.patch_size == 4


@torch.no_grad()
def test_every_layer_of_dinov2_is_folded(tmp_path):
    source = source_model(Dinov2Model, "dinov2")
    model = convert_checkpoint(saved(source, tmp_path)).model
    expected = source(normalized(pixels()), output_hidden_states=True).hidden_states
    found = model.setr(pixels(), output_hidden_states=True).hidden_states
    assert len(found) == len(expected) == 4
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, **FP32)


@torch.no_grad()
def test_features_of_deit_are_those_without_its_distillation_token(tmp_path):
    source = source_model(DeiTModel, "deit")
    converted = convert_checkpoint(saved(source, tmp_path))
    hidden = torch.ones(2, 2 + 16, dtype=torch.long)
    hidden[:, 1] = 0
    expected = source(normalized(pixels()), attention_mask=hidden).last_hidden_state
    expected = torch.cat((expected[:, :1], expected[:, 2:]), dim=1)
    torch.testing.assert_close(features(converted, pixels()), expected, **FP32)
    assert converted.provenance.unused["embeddings.distillation_token"] == encoders.TAKEN_TOKEN


def test_mla_takes_no_class_token(tmp_path):
    source = source_model(ViTModel)
    model = convert_checkpoint(saved(source, tmp_path), decoder="mla").model
    assert model.setr.embeddings.cls_token is None
    assert torch.equal(model.setr.embeddings.position_embeddings, source.embeddings.position_embeddings[:, 1:])
    assert torch.equal(model.get_parameter(f"neck.norm.{model.config.num_levels - 1}.weight"), source.layernorm.weight)


@pytest.mark.parametrize(
    ("cls", "config", "message"),
    [
        (Dinov2WithRegistersModel, "dinov2_with_registers", r"embeddings\.register_tokens: SETR has no register"),
        (Dinov2Model, "dinov2_swiglu", r"encoder\.layer\.0\.mlp\.\w+\.\w+: SETR has no gated MLP"),
    ],
    ids=["registers", "swiglu"],
)  # fmt: skip
def test_variants_that_setr_cannot_represent_are_refused(cls, config, message, tmp_path):
    saved(source_model(cls, config), tmp_path)
    with pytest.raises(ConversionError, match=f"a Hugging Face Dinov2 that SETR can represent, got {message}"):
        convert_checkpoint(tmp_path)


# -------------------------------------------------------------------------------------------------- timm's names


def convert_timm(weights, **kwargs):
    return convert_checkpoint(
        Checkpoint(weights), num_attention_heads=2, image_mean=HALF, image_std=HALF, layer_norm_eps=1e-5, **kwargs
    )


@torch.no_grad()
def test_a_state_dict_in_the_names_of_timm():
    vit, weights = timm_source()
    weights |= {"head.weight": torch.ones(2, 32), "head.bias": torch.ones(2)}
    converted = convert_timm(weights)
    torch.testing.assert_close(features(converted, pixels()), vit(pixels()).last_hidden_state, **FP32)
    config = converted.model.config
    assert (config.hidden_size, config.num_hidden_layers, config.intermediate_size) == (32, 3, 48)
    assert (config.image_size, config.patch_size, config.num_channels, config.qkv_bias) == (16, 4, 3, False)
    assert config.position_interpolation == "bicubic"
    assert set(converted.provenance.unused) == {"head.weight", "head.bias"}


TIMM_NAMES = """
cls_token pos_embed patch_embed.proj.weight patch_embed.proj.bias norm.weight norm.bias
blocks.0.norm1.weight blocks.0.norm1.bias blocks.0.attn.qkv.weight blocks.0.attn.proj.weight blocks.0.attn.proj.bias
blocks.0.norm2.weight blocks.0.norm2.bias blocks.0.mlp.fc1.weight blocks.0.mlp.fc1.bias blocks.0.mlp.fc2.weight
blocks.0.mlp.fc2.bias
"""


def test_the_names_are_those_that_timm_writes():
    _, weights = timm_source()
    assert {name for name in weights if not re.match(r"blocks\.[12]", name)} == set(TIMM_NAMES.split())


def test_statistics_of_a_source_that_does_not_normalise_and_of_timm(tmp_path):
    folder = tmp_path / "vit"
    saved(source_model(ViTModel), folder)
    ViTImageProcessor(do_normalize=False).save_pretrained(folder)
    provenance = convert_checkpoint(folder).provenance
    assert (provenance.mean, provenance.std) == ((0, 0, 0), (1, 1, 1))
    config = {"architecture": "vit", "pretrained_cfg": {"mean": HALF, "std": [0.25, 0.25, 0.25]}}
    provenance = convert_checkpoint(Checkpoint(timm_source()[1], config=config), num_attention_heads=2).provenance
    assert (provenance.mean, provenance.std) == (HALF, (0.25, 0.25, 0.25))
    assert provenance.statistics_from == "as config.json says"
    provenance = convert_checkpoint(folder, image_mean=HALF).provenance
    assert (provenance.mean, provenance.std) == (HALF, (1, 1, 1))
    assert provenance.statistics_from == "as given and as preprocessor_config.json says"


@torch.no_grad()
def test_layer_scale_in_the_names_of_timm():
    dinov2 = source_model(Dinov2Model, "dinov2")
    weights = dinov2.state_dict()
    for pattern, replacement in (  # to the names of ViTModel, from those of transformers 5.16 and of later ones
        (r"^encoder\.layer\.", "layers."),
        (r"attention\.attention\.([qkv])\w+\.", r"attention.\1_proj."),
        (r"attention\.output\.dense\.", "attention.o_proj."),
    ):
        weights = {re.sub(pattern, replacement, name): value for name, value in weights.items()}
    weights = named_as("timm", weights)
    for name in list(weights):
        ours = re.sub(r"\.layer_scale(\d)\.lambda1", r".ls\1.gamma", name.removeprefix("embeddings."))
        weights[ours] = weights.pop(name)
    converted = convert_checkpoint(Checkpoint(weights), num_attention_heads=2, image_mean=HALF, image_std=HALF)
    torch.testing.assert_close(features(converted, pixels()), dinov2(pixels()).last_hidden_state, **FP32)
    assert converted.provenance.notes == [encoders.FOLDED_SCALES]
    assert set(converted.provenance.unused) == {"mask_token"}


@torch.no_grad()
def test_timm_positions_without_a_class_token_and_with_a_distillation_token():
    vit, weights = timm_source()
    with_token = weights | {
        "dist_token": torch.full((1, 1, 32), 5.0),
        "pos_embed": torch.cat(
            (weights["pos_embed"][:, :1], torch.full((1, 1, 32), 9.0), weights["pos_embed"][:, 1:]), dim=1
        ),
    }
    expected = vit(pixels()).last_hidden_state
    torch.testing.assert_close(features(convert_timm(with_token), pixels()), expected, **FP32)
    vit.embeddings.position_embeddings[:, 0] = 0
    expected = vit(pixels()).last_hidden_state
    converted = convert_timm(weights | {"pos_embed": weights["pos_embed"][:, 1:]})
    torch.testing.assert_close(features(converted, pixels()), expected, **FP32)
    assert converted.provenance.notes == [encoders.ADDED_POSITION]


@pytest.mark.parametrize("layer_scale", [None, 0.3], ids=["plain", "layer_scale"])
@torch.no_grad()
def test_a_model_of_timm(layer_scale):
    vision_transformer = pytest.importorskip("timm.models.vision_transformer", reason="timm is not installed")
    torch.manual_seed(0)
    source = vision_transformer.VisionTransformer(
        img_size=16, patch_size=4, embed_dim=32, depth=3, num_heads=2, num_classes=5, init_values=layer_scale
    ).eval()  # fmt: skip
    converted = convert_checkpoint(Checkpoint(source.state_dict()), num_attention_heads=2)
    torch.testing.assert_close(features(converted, pixels()), source.forward_features(normalized(pixels())), **FP32)


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("reg_token", "SETR has no register tokens"),
        ("blocks.0.mlp.w12.weight", "SETR has no gated MLP"),
        ("blocks.0.mlp.fc1.weight", "SETR has no gated MLP"),  # twice as wide as what fc2 takes
        ("fc_norm.weight", "averages the patches"),
        ("blocks.1.attn.q_norm.weight", "does not normalise queries"),
    ],
)
def test_variants_of_timm_are_refused(key, reason):
    _, weights = timm_source()
    with pytest.raises(ConversionError, match=f"timm's VisionTransformer that SETR .*{re.escape(key)}: .*{reason}"):
        convert_timm(weights | {key: torch.ones(96, 32)})


# ------------------------------------------------------------------------------------------ what stops a conversion


def test_layer_scales_must_be_complete():
    _, weights = timm_source()
    weights |= {f"blocks.{layer}.ls{index}.gamma": torch.ones(32) for layer in range(3) for index in (1, 2)}
    del weights["blocks.1.ls2.gamma"]
    with pytest.raises(ConversionError, match=r"1 missing \(blocks\.1\.ls2\.gamma\)"):
        convert_timm(weights)
    weights["blocks.1.ls2.gamma"] = torch.ones(31)
    with pytest.raises(ConversionError, match=r"1 misshapen \(blocks\.1\.ls2\.gamma \[31\] instead of \[32\]\)"):
        convert_timm(weights)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch_embed.proj.weight": None}, r"expected patch_embed\.proj\.weight, which tells a size .* got \d+ keys"),
        ({"blocks.0.mlp.fc1.weight": torch.ones(4)}, r"expected blocks\.0\.mlp\.fc1\.weight, .* shape \[4\]"),
        ({"pos_embed": torch.ones(1, 16, 31)}, r"1 misshapen \(pos_embed \[1, 17, 31\] instead of \[1, 17, 32\]\)"),
        ({"pos_embed": torch.ones(1, 15, 32)}, "a class token and a square grid, got 15 of them"),
        ({"norm.weight": None, "norm.bias": None}, r"2 missing \(norm\.bias, norm\.weight\)"),
        ({"blocks.0.attn.qkv.weight": torch.ones(95, 32)}, r"qkv\.weight \[95, 32\] instead of \[96, 32\]"),
        ({"rope.inv_freq": torch.ones(8)}, r"1 unexpected \(rope\.inv_freq\)"),
        ({f"extra.{i}": torch.ones(1) for i in range(9)}, r"9 unexpected \(extra\.0, .*extra\.5 and 3 more\)"),
    ],
)
def test_a_wrong_weight_stops_the_conversion_and_is_named(changes, message):
    _, weights = timm_source()
    weights = {name: value for name, value in (weights | changes).items() if value is not None}
    with pytest.raises(ConversionError, match=message):
        convert_timm(weights)


def test_unknown_head_counts_and_configurations_that_contradict_the_weights(tmp_path):
    _, weights = timm_source()
    with pytest.raises(ConversionError, match=r"hidden size 32 is not among .*768.*--num-attention-heads"):
        convert_checkpoint(Checkpoint(weights))
    source = source_model(ViTModel)
    source.config.intermediate_size = 64
    with pytest.raises(ConversionError, match=r"intermediate\.dense\.weight \[48, 32\] instead of \[64, 32\]"):
        convert_checkpoint(saved(source, tmp_path))


# ----------------------------------------------------------------------------------------------------- real weights


@pytest.mark.skipif("PRIVSEG_VIT" not in os.environ, reason="PRIVSEG_VIT does not name the folder of a pretrained ViT")
def test_the_real_vit_becomes_what_from_vit_makes_of_it():
    folder = os.environ["PRIVSEG_VIT"]
    expected = SetrForSemanticSegmentation.from_vit(folder, decoder="mla", num_labels=19)
    converted = convert_checkpoint(folder, decoder="mla", num_labels=19)
    assert converted.model.config.to_dict() == expected.config.to_dict()
    weights = expected.state_dict()
    for name, value in converted.model.state_dict().items():
        assert value.dtype == weights[name].dtype
        assert value.shape == weights[name].shape
        if name.startswith(("setr.", "neck.norm.")):
            assert torch.equal(value, weights[name]), name
    assert SIZES["hidden_size"] != converted.model.config.hidden_size == 384
