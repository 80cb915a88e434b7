"""SETR: shapes, published orders and rules, loss and gradients, and encoders from pretrained ViTs."""

import re

import pytest
import torch
from torch.nn import functional as F
from transformers import ViTConfig, ViTImageProcessor, ViTModel

from helpers.tiny_setr import DECODERS, FP32, FP64, labels, pixels, projection, randomize, tiny_model
from hf_privseg import SetrForSemanticSegmentation, SetrModel
from hf_privseg.setr.modeling_setr import fold_statistics, with_channels

# ---------------------------------------------------------------------------------------------------------- shapes


@pytest.mark.parametrize(("height", "width"), [(16, 16), (12, 20), (4, 28), (4, 4)], ids=lambda side: str(side))
@pytest.mark.parametrize("decoder", DECODERS)
def test_logits_cover_any_grid(decoder, height, width):
    model = tiny_model(decoder)
    with torch.no_grad():
        outputs = model(pixels(3, height, width), output_auxiliary_logits=True)
    rows, columns = height // 4, width // 4
    scale = {"naive": 4, "pup": 16, "mla": 4}[decoder]
    auxiliary_scale = {"naive": 4, "pup": 16, "mla": 1}[decoder]
    assert outputs.logits.shape == (3, 5, rows * scale, columns * scale)
    assert len(outputs.auxiliary_logits) == (4 if decoder == "mla" else len(model.config.out_indices) - 1)
    for auxiliary in outputs.auxiliary_logits:
        assert auxiliary.shape == (3, 5, rows * auxiliary_scale, columns * auxiliary_scale)


def test_auxiliary_logits_are_computed_only_where_they_are_of_use():
    model = tiny_model()
    assert model(pixels()).auxiliary_logits is None
    assert model(pixels(), labels=labels()).auxiliary_logits is not None
    without = tiny_model(use_auxiliary_head=False)
    assert without(pixels(), labels=labels(), output_auxiliary_logits=True).auxiliary_logits is None


@pytest.mark.parametrize(
    ("height", "width", "nearest"), [(17, 16, "16 x 16"), (16, 1, "16 x 4"), (15, 22, "16 x 24")], ids=lambda v: str(v)
)
def test_a_size_off_the_grid_is_refused_and_the_nearest_named(height, width, nearest):
    message = f"a multiple of the patch size 4, got {height} x {width}; the nearest is {nearest}: SetrImage"
    with pytest.raises(ValueError, match=message):
        tiny_model()(pixels(1, height, width))


@pytest.mark.parametrize("channels", [1, 4])
def test_other_channels_are_refused(channels):
    with pytest.raises(ValueError, match=rf"must have 3 channels \(config.num_channels\), got {channels}"):
        tiny_model()(torch.zeros(1, channels, 16, 16))


def test_the_class_token_is_in_the_hidden_state_and_in_no_feature_map():
    outputs = tiny_model("naive", cls=SetrModel)(pixels(2, 12, 20))
    assert outputs.last_hidden_state.shape == (2, 1 + 15, 32)
    assert outputs.feature_maps[-1].shape == (2, 32, 3, 5)
    rebuilt = outputs.feature_maps[-1].flatten(2).transpose(1, 2)
    assert torch.equal(rebuilt, outputs.last_hidden_state[:, 1:])


def test_mla_has_no_class_token():
    model = tiny_model("mla", cls=SetrModel)
    assert model.embeddings.cls_token is None
    assert model.embeddings.position_embeddings.shape == (1, 16, 32)
    assert model(pixels()).last_hidden_state.shape == (2, 16, 32)


def test_feature_maps_are_those_of_the_layers_in_out_indices():
    model = tiny_model("mla", cls=SetrModel, out_indices=[0, 2, 3])
    outputs = model(pixels(), output_hidden_states=True)
    for index, feature_map in zip([0, 2, 3], outputs.feature_maps, strict=True):
        assert torch.equal(feature_map.flatten(2).transpose(1, 2), outputs.hidden_states[index + 1])


@pytest.mark.parametrize("decoder", DECODERS)
def test_hidden_states_and_attentions_are_returned_when_asked_for(decoder):
    model = tiny_model(decoder)
    model.set_attn_implementation("eager")
    outputs = model(pixels(), output_hidden_states=True, output_attentions=True)
    tokens = 16 if decoder == "mla" else 17
    assert [tuple(state.shape) for state in outputs.hidden_states] == [(2, tokens, 32)] * 5
    assert [tuple(weights.shape) for weights in outputs.attentions] == [(2, 2, tokens, tokens)] * 4
    torch.testing.assert_close(outputs.attentions[1].sum(-1), torch.ones(2, 2, tokens))
    plain = model(pixels())
    assert plain.hidden_states is None
    assert plain.attentions is None
    assert isinstance(model(pixels(), return_dict=False), tuple)


# --------------------------------------------------------------------------------------------- position embeddings


@pytest.mark.parametrize(
    ("mode", "rows", "columns", "changes"),
    [
        ("bilinear", 4, 4, False),
        ("bilinear", 2, 8, False),
        ("bilinear", 3, 5, True),
        ("bicubic", 4, 4, False),
        ("bicubic", 2, 8, True),
        ("bicubic", 3, 5, True),
    ],
    ids=lambda value: str(value),
)
def test_position_embeddings_are_resized_by_the_rule_of_the_mode(mode, rows, columns, changes):
    embeddings = tiny_model(position_interpolation=mode).setr.embeddings
    resized = embeddings.resized_position_embeddings(rows, columns)
    assert resized.shape == (1, 1 + rows * columns, 32)
    assert torch.equal(resized[:, 0], embeddings.position_embeddings[:, 0])
    if not changes:
        assert resized is embeddings.position_embeddings
        return
    grid = embeddings.position_embeddings[0, 1:].T.reshape(1, 32, 4, 4)
    expected = F.interpolate(grid, size=(rows, columns), mode=mode, align_corners=False)
    assert torch.equal(resized[0, 1:].T.reshape(1, 32, rows, columns), expected)


@pytest.mark.parametrize(("rows", "columns"), [(4, 4), (2, 8), (3, 5), (8, 6)], ids=lambda side: str(side))
def test_bicubic_position_embeddings_are_those_of_vit(rows, columns):
    embeddings = tiny_model(position_interpolation="bicubic").setr.embeddings
    vit = ViTModel(ViTConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=4))
    vit.embeddings.position_embeddings = embeddings.position_embeddings
    tokens = torch.zeros(1, 1 + rows * columns, 32)
    expected = vit.embeddings.interpolate_pos_encoding(tokens, rows * 4, columns * 4)
    assert torch.equal(embeddings.resized_position_embeddings(rows, columns), expected)


def test_a_training_size_that_is_not_square_has_a_grid_of_its_own():
    embeddings = tiny_model(image_size=[8, 24]).setr.embeddings
    assert embeddings.resized_position_embeddings(2, 6) is embeddings.position_embeddings
    resized = embeddings.resized_position_embeddings(4, 6)
    grid = embeddings.position_embeddings[0, 1:].T.reshape(1, 32, 2, 6)
    expected = F.interpolate(grid, size=(4, 6), mode="bilinear", align_corners=False)
    assert torch.equal(resized[0, 1:].T.reshape(1, 32, 4, 6), expected)


# -------------------------------------------------------------------------------------------------------- decoders


def convolve(state, name, feature_map):
    """Convolution, batch norm in evaluation mode and ReLU from the state dict, written out."""
    weight = state[f"{name}.conv.weight"]
    feature_map = F.conv2d(feature_map, weight, padding=weight.shape[-1] // 2)
    mean, variance, gain, bias = (
        state[f"{name}.bn.{entry}"].view(1, -1, 1, 1) for entry in ("running_mean", "running_var", "weight", "bias")
    )
    return F.relu((feature_map - mean) / (variance + 1e-5).sqrt() * gain + bias)


def layer_norm(state, name, feature_map):
    mean = feature_map.mean(1, keepdim=True)
    variance = feature_map.var(1, keepdim=True, unbiased=False)
    gain, bias = (state[f"{name}.{entry}"].view(1, -1, 1, 1) for entry in ("weight", "bias"))
    return (feature_map - mean) / (variance + 1e-6).sqrt() * gain + bias


def classify(state, name, feature_map):
    return F.conv2d(feature_map, state[f"{name}.conv_seg.weight"], state[f"{name}.conv_seg.bias"])


def enlarge(feature_map, scale):
    return F.interpolate(feature_map, scale_factor=scale, mode="bilinear", align_corners=False)


def up_head(state, name, stages, scale, feature_map):
    """Naive and PUP heads in the papers' order: the classifier after the last up-sampling."""
    feature_map = layer_norm(state, f"{name}.norm", feature_map)
    for stage in range(stages):
        feature_map = enlarge(convolve(state, f"{name}.up_convs.{stage}.0", feature_map), scale)
    return classify(state, name, feature_map)


def random_levels(count, seed=3):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(2, 32, 3, 5, generator=generator) for _ in range(count))


@pytest.mark.parametrize(
    ("decoder", "stages", "scale", "auxiliary_stages"), [("naive", 1, 4, 1), ("pup", 4, 2, 2)], ids=["naive", "pup"]
)
def test_classifying_before_the_last_up_sampling_changes_nothing(decoder, stages, scale, auxiliary_stages):
    model = tiny_model(decoder).double()
    state, levels = model.state_dict(), tuple(level.double() for level in random_levels(4))
    torch.testing.assert_close(
        model.decode_head(levels), up_head(state, "decode_head", stages, scale, levels[-1]), **FP64
    )
    for index, head in enumerate(model.auxiliary_head):
        expected = up_head(state, f"auxiliary_head.{index}", auxiliary_stages, 4, levels[index])
        torch.testing.assert_close(head((levels[index],)), expected, **FP64)


def test_mla_aggregates_from_the_deepest_level_and_classifies_all():
    model = tiny_model("mla").double()
    state, levels = model.state_dict(), tuple(level.double() for level in random_levels(4))
    projected = [
        convolve(state, f"neck.mla.channel_proj.{i}", layer_norm(state, f"neck.norm.{i}", levels[i])) for i in range(4)
    ]
    sums = [
        projected[3],
        projected[3] + projected[2],
        projected[3] + projected[2] + projected[1],
        projected[3] + projected[2] + projected[1] + projected[0],
    ]
    aggregated = [convolve(state, f"neck.mla.feat_extract.{j}", sums[j]) for j in range(4)]
    for found, expected in zip(model.neck(levels), aggregated, strict=True):
        torch.testing.assert_close(found, expected, **FP64)
    streams = []
    for j in range(4):
        stream = convolve(state, f"decode_head.up_convs.{j}.0", aggregated[j])
        streams.append(enlarge(convolve(state, f"decode_head.up_convs.{j}.1", stream), 4))
    expected = classify(state, "decode_head", torch.cat(streams, dim=1))
    torch.testing.assert_close(model.decode_head(model.neck(levels)), expected, **FP64)


def test_each_auxiliary_head_reads_its_own_level():
    model = tiny_model("mla")
    with torch.no_grad():
        outputs = model(pixels(), output_auxiliary_logits=True)
        aggregated = model.neck(model.setr(pixels()).feature_maps)
    for index, auxiliary in enumerate(outputs.auxiliary_logits):
        expected = classify(model.state_dict(), f"auxiliary_head.{index}", aggregated[index])
        torch.testing.assert_close(auxiliary, expected, **FP32)


# ------------------------------------------------------------------------------------------------- loss and gradients


def cross_entropy(logits, target):
    resized = F.interpolate(logits, size=target.shape[-2:], mode="bilinear", align_corners=False)
    log_probabilities = resized.log_softmax(1).permute(0, 2, 3, 1)[target != 255]
    return -log_probabilities.gather(1, target[target != 255][:, None]).mean()


@pytest.mark.parametrize("weight", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("decoder", DECODERS)
def test_the_loss_is_the_mean_over_valid_pixels_plus_weighted_auxiliaries(decoder, weight):
    model = tiny_model(decoder, auxiliary_loss_weight=weight)
    outputs = model(pixels(), labels=labels())
    expected = cross_entropy(outputs.logits, labels())
    expected = expected + weight * sum(cross_entropy(logits, labels()) for logits in outputs.auxiliary_logits)
    torch.testing.assert_close(outputs.loss, expected, **FP32)


def test_ignored_pixels_do_not_count():
    model = tiny_model(semantic_loss_ignore_index=3)
    target = labels().clamp(max=3)
    half = torch.where(torch.arange(16)[:, None] < 8, target, 3)
    loss = model.segmentation_loss(model(pixels()).logits, half)
    renamed = torch.where(half == 3, 255, half)
    torch.testing.assert_close(loss, cross_entropy(model(pixels()).logits, renamed), **FP32)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (
            torch.zeros(2, 1, 16, 16, dtype=torch.long),
            r"\(2, height, width\), got \(2, 1, 16, 16\); labels.squeeze",
        ),
        (torch.zeros(16, 16, dtype=torch.long), r"shape \(2, height, width\), got \(16, 16\)$"),
        (torch.zeros(1, 16, 16, dtype=torch.long), r"shape \(2, height, width\), got \(1, 16, 16\)$"),
        (torch.zeros(2, 16, 16), r"class indices, int64, got torch\.float32; labels\.long\(\) converts"),
        (torch.full((2, 16, 16), 300), r"labels in 0 \.\. 4, or 255 where a pixel has no class, got \[300\]"),
        (torch.full((2, 16, 16), -1), r"got \[-1\]"),
    ],
    ids=["channel", "no batch", "other batch", "float", "beyond", "negative"],
)
def test_labels_that_do_not_fit_are_refused(target, message):
    with pytest.raises(ValueError, match=message):
        tiny_model(num_labels=5)(pixels(), labels=target)


def test_labels_of_any_integer_type_give_one_loss():
    model = tiny_model(num_labels=5)
    losses = {
        dtype: model(pixels(), labels=labels().clamp(max=4).to(dtype)).loss for dtype in (torch.uint8, torch.int32)
    }
    for loss in losses.values():
        torch.testing.assert_close(loss, model(pixels(), labels=labels().clamp(max=4)).loss)


def test_integer_pixels_are_refused():
    levels = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"floats in \[-1, 1\], got torch\.uint8; SetrImageProcessor .* 127\.5 - 1"):
        tiny_model()(levels)


@pytest.mark.parametrize("decoder", DECODERS)
def test_with_all_pixels_ignored_the_loss_is_zero_and_gradients_are_finite(decoder):
    model = tiny_model(decoder).train()
    loss = model(pixels(), labels=torch.full((2, 16, 16), 255)).loss
    loss.backward()
    assert loss.item() == 0.0
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


@pytest.mark.parametrize("auxiliary", [True, False], ids=["auxiliary", "no_auxiliary"])
@pytest.mark.parametrize("decoder", DECODERS)
def test_every_parameter_is_used(decoder, auxiliary):
    model = tiny_model(decoder, use_auxiliary_head=auxiliary).train()
    model(pixels(), labels=labels()).loss.backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    # the bias of the keys shifts all scores of a query alike, which the softmax ignores; batch norm undoes nothing
    zero = [name for name, parameter in model.named_parameters() if not parameter.grad.abs().max() > 0]
    assert [name for name in zero if "k_proj.bias" not in name] == []


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable:FutureWarning")
@pytest.mark.parametrize("use_reentrant", [False, True], ids=["", "reentrant"])
@pytest.mark.parametrize("decoder", DECODERS)
def test_gradient_checkpointing_changes_no_gradient(decoder, use_reentrant):
    model = tiny_model(decoder).train()
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
        model.zero_grad()
        model(pixels(), labels=labels()).loss.backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("decoder", DECODERS)
def test_eager_attention_and_sdpa_agree(decoder):
    model = tiny_model(decoder)
    results = []
    for implementation in ("sdpa", "eager"):
        model.set_attn_implementation(implementation)
        results.append(model(pixels(2, 12, 20)).logits)
    torch.testing.assert_close(*results, **FP32)


def test_drop_path_grows_with_depth_drops_whole_rows_and_only_in_training():
    model = tiny_model(cls=SetrModel, drop_path_rate=0.6)
    assert [layer.drop_path.p for layer in model.layers] == pytest.approx([0.0, 0.2, 0.4, 0.6])
    torch.testing.assert_close(
        model(pixels()).last_hidden_state, tiny_model(cls=SetrModel)(pixels()).last_hidden_state
    )
    layer = model.layers[-1].train()
    layer.drop_path.p = 1.0
    tokens = torch.randn(2, 17, 32)
    assert torch.equal(layer(tokens), tokens)


def test_torch_compile_in_one_graph_gives_the_same_logits():
    model = tiny_model("mla")
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(pixels()).logits, model(pixels()).logits, **FP32)


# -------------------------------------------------------------------------------------------------- pretrained ViTs


MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


@pytest.fixture(scope="module")
def vit_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vit")
    config = ViTConfig(
        hidden_size=32, num_hidden_layers=4, num_attention_heads=2, intermediate_size=48, image_size=16, patch_size=4,
        layer_norm_eps=1e-5, qkv_bias=False,
    )  # fmt: skip
    randomize(ViTModel(config, add_pooling_layer=False)).save_pretrained(folder)
    ViTImageProcessor(image_mean=MEAN, image_std=STD).save_pretrained(folder)
    return folder


def imagenet_normalized(centred):
    return ((centred + 1) / 2 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (8, 32), (24, 20)], ids=lambda side: str(side))
@pytest.mark.parametrize("decoder", ["naive", "pup"])
def test_from_vit_gives_the_features_of_the_vit_for_centred_pixels(vit_folder, decoder, height, width):
    model = SetrForSemanticSegmentation.from_vit(vit_folder, decoder_type=decoder, num_labels=5).eval()
    vit = ViTModel.from_pretrained(vit_folder, add_pooling_layer=False).eval()
    centred = pixels(2, height, width)
    with torch.no_grad():
        found = model.decode_head.norm(model.setr(centred).last_hidden_state)
        expected = vit(imagenet_normalized(centred), interpolate_pos_encoding=True).last_hidden_state
    torch.testing.assert_close(found, expected, **FP32)
    assert model.config.decoder_type == decoder
    assert model.config.num_labels == 5
    assert model.config.position_interpolation == "bicubic"


def test_from_vit_for_mla_leaves_the_class_token_out(vit_folder):
    model = SetrForSemanticSegmentation.from_vit(vit_folder, decoder_type="mla", num_labels=5)
    vit = ViTModel.from_pretrained(vit_folder, add_pooling_layer=False)
    assert torch.equal(model.setr.embeddings.position_embeddings, vit.embeddings.position_embeddings[:, 1:])
    ours, theirs = model.state_dict(), vit.state_dict()
    for name, source in (("neck.norm.3.weight", "layernorm.weight"), ("setr.layers.2.mlp.fc1.weight",) * 2):
        assert torch.equal(ours[name], theirs[source.removeprefix("setr.")])


def test_from_vit_takes_statistics_and_upcasts(vit_folder, tmp_path):
    ViTModel.from_pretrained(vit_folder, dtype=torch.float16).save_pretrained(tmp_path)
    model = SetrForSemanticSegmentation.from_vit(tmp_path, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    half = ViTModel.from_pretrained(tmp_path, add_pooling_layer=False, dtype=torch.float32)
    torch.testing.assert_close(projection(model).weight, projection(half).weight, **FP32)


def test_from_vit_without_statistics_says_what_is_missing(vit_folder, tmp_path):
    ViTModel.from_pretrained(vit_folder).save_pretrained(tmp_path)
    with pytest.raises(OSError, match=r"preprocessor_config\.json"):
        SetrForSemanticSegmentation.from_vit(tmp_path)


def test_fold_statistics_is_the_same_map():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(8, 3, 4, 4, generator=generator, dtype=torch.float64)
    bias = torch.randn(8, generator=generator, dtype=torch.float64)
    folded = fold_statistics(weight, bias, torch.tensor(MEAN), torch.tensor(STD))
    centred = pixels(2, 8, 8).double()
    expected = F.conv2d(imagenet_normalized(centred), weight, bias, stride=4)
    torch.testing.assert_close(F.conv2d(centred, *folded, stride=4), expected, rtol=1e-6, atol=1e-6)
    assert all(tensor.dtype == torch.float64 for tensor in folded)


@pytest.mark.parametrize("num_channels", [1, 2, 3, 4, 13])
def test_a_patch_embedding_for_other_channels_sums_or_repeats_and_scales(num_channels):
    weight = torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    found = with_channels(weight, num_channels)
    assert found.shape == (8, num_channels, 4, 4)
    for channel in range(num_channels):
        scale = 1 if num_channels == 3 else 3 / num_channels
        expected = weight.sum(dim=1) if num_channels == 1 else weight[:, channel % 3] * scale
        torch.testing.assert_close(found[:, channel], expected)


def test_a_vit_starts_a_model_of_other_channels(inputs):
    three = SetrForSemanticSegmentation.from_vit(inputs / "vit", num_labels=3).eval()
    one = SetrForSemanticSegmentation.from_vit(inputs / "vit", num_labels=3, num_channels=1).eval()
    grey = pixels(2, 32, 32)[:, :1]
    embed = [model.setr.embeddings.patch_embeddings for model in (one, three)]
    torch.testing.assert_close(embed[0](grey), embed[1](grey.expand(-1, 3, -1, -1)), **FP32)


@pytest.mark.parametrize("shape", [(3, 16, 16), (0, 3, 16, 16), (1, 1, 3, 16, 16)], ids=str)
def test_pixels_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=rf"\(batch, channels, height, width\) .*, got {re.escape(str(shape))}\."):
        tiny_model()(torch.zeros(shape))
