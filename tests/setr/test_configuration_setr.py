"""SetrConfig: defaults of the published models, refusals that show what came, and no way in for a key."""

import json

import pytest
from huggingface_hub.errors import StrictDataclassError

from hf_privseg import SecretKey, SetrConfig
from hf_privseg.setr.public_facts import KeyFacts

KEY_FACTS = KeyFacts("orthogonal", 1, "0123456789abcdef")
FACTS = KEY_FACTS.to_dict()
SECRET_NAMES = ["secret_key", "key", "private_key", "passphrase"]


def tiny(**kwargs):
    sizes = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "image_size": 64}
    return SetrConfig(**(sizes | kwargs))


@pytest.mark.parametrize(
    ("decoder", "out_indices", "use_cls_token", "stages"),
    [("naive", [9, 14, 19, 23], True, 1), ("pup", [9, 14, 19, 23], True, 2), ("mla", [5, 11, 17, 23], False, 1)],
    ids=["naive", "pup", "mla"],
)
def test_defaults_are_those_of_the_published_models(decoder, out_indices, use_cls_token, stages):
    config = SetrConfig(decoder_type=decoder)
    assert config.out_indices == out_indices
    assert config.use_cls_token is use_cls_token
    assert config.auxiliary_num_stages == stages
    assert config.layer_norm_eps == 1e-6
    assert config.semantic_loss_ignore_index == 255
    assert SetrConfig(num_labels=255).semantic_loss_ignore_index == 255
    assert SetrConfig(num_labels=256).semantic_loss_ignore_index == -100


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 12, 24])
@pytest.mark.parametrize("decoder", ["naive", "pup", "mla"])
def test_default_layers_exist_at_every_depth_and_end_with_the_last(decoder, depth):
    indices = SetrConfig(decoder_type=decoder, num_hidden_layers=depth).out_indices
    assert indices is not None
    assert indices == sorted(set(indices))
    assert indices[0] >= 0
    assert indices[-1] == depth - 1


def test_an_explicit_choice_wins_over_the_published_one():
    config = tiny(decoder_type="mla", use_cls_token=True, out_indices=(0, 3), auxiliary_num_stages=3)
    assert (config.use_cls_token, config.out_indices, config.auxiliary_num_stages) == (True, [0, 3], 3)


@pytest.mark.parametrize(
    ("image_size", "grid"), [(64, (4, 4)), ([64, 96], (4, 6)), ((96, 64), (6, 4))], ids=["square", "list", "tuple"]
)
def test_the_grid_is_rows_times_columns(image_size, grid):
    assert SetrConfig(image_size=image_size).grid_size == grid


def test_a_config_survives_saving_and_loading(tmp_path):
    config = tiny(decoder_type="pup", id2label={0: "road", 1: "sky"}, encryption=FACTS, image_size=[64, 96])
    config.save_pretrained(tmp_path)
    loaded = SetrConfig.from_pretrained(tmp_path)
    assert loaded.to_dict() == config.to_dict()
    assert loaded.id2label == {0: "road", 1: "sky"}
    assert loaded.encryption == FACTS


@pytest.mark.parametrize("value", ["unet", None], ids=["unknown", "none"])
def test_an_unknown_decoder_is_refused_and_the_choices_named(value):
    with pytest.raises(StrictDataclassError, match=r"decoder_type.*\n.*naive.*pup.*mla") as error:
        tiny(decoder_type=value)
    assert f"got {value}" in str(error.value)


def test_decoder_is_short_for_decoder_type_and_is_no_attribute():
    config = tiny(decoder="pup")
    assert config.decoder_type == "pup"
    assert config.auxiliary_num_stages == 2
    assert not hasattr(config, "decoder")
    assert config.get_text_config(decoder=True) is config


def test_a_wrong_type_is_refused():
    with pytest.raises(ValueError, match=r"^num_hidden_layers must be an int from 1 to 1024, got 'four'$"):
        SetrConfig(num_hidden_layers="four")  # type: ignore[arg-type]  # the mistake under test


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"patch_size": 0}, r"patch_size must be an int from 1 to 4096, got 0$"),
        ({"hidden_size": True}, r"hidden_size must be an int from 1 to 65536, got True$"),
        ({"num_attention_heads": 0}, r"num_attention_heads must be an int from 1 to 65536, got 0$"),
        ({"num_labels": 10**8}, r"num_labels must be an int from 1 to 65536, got 100000000$"),
        ({"image_size": [64]}, r"image_size must be an int from 1 to 1048576, or two, got \[64\]$"),
        ({"image_size": 2**20, "patch_size": 1}, r"make at most 16777216 patches, got 1048576 and 1$"),
        ({"out_indices": 3}, r"out_indices must be a list of layer numbers, got 3$"),
        ({"id2label": {"a": 1}}, r"id2label must be a dictionary from at most 65536 integers to names, got"),
        ({"label2id": {"a": "b"}}, r"label2id must be .* names to integers, got \{'a': 'b'\}$"),
        ({"layer_norm_eps": float("nan")}, r"layer_norm_eps must be a positive number up to 1, got nan$"),
        ({"drop_path_rate": 1.0}, r"drop_path_rate must be a number of 0 or more and below 1, got 1\.0$"),
        ({"hidden_act": "unknown"}, r"hidden_act must be an activation of transformers, got 'unknown'$"),
        ({"dtype": "Tensor"}, r"dtype must be a dtype of torch, got 'Tensor'$"),
        ({"to_dict": 1}, r"expected settings of a SETR model, got one with the name 'to_dict'$"),
        ({"__class__": 1}, r"expected settings of a SETR model, got one with the name '__class__'$"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)  # fmt: skip
def test_a_setting_out_of_range_is_refused_wherever_it_comes_from(settings, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        SetrConfig(**settings)
    tiny().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings).replace("NaN", "1e-40"))
    with pytest.raises(ValueError, match=message.split(", got")[0]):
        SetrConfig.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"encryption": []}, "expected the settings of a SETR model, got others .*'encryption'")],
)
def test_what_the_library_finds_wrong_in_a_file_is_a_value_error(settings, message):
    with pytest.raises(ValueError, match=message):
        SetrConfig.from_dict(settings)


def test_a_config_file_that_is_a_number_in_disguise_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"__float__": "NaN"}')
    with pytest.raises(ValueError, match="expected settings of a SETR model, got one with the name '__float__'"):
        SetrConfig.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 50000, "expected JSON nested at most 16 deep"),
        ('{"hidden_size": NaN}', "expected finite numbers, got NaN"),
        ('{"hidden_size": ' + "9" * 5000 + "}", "expected integers of at most 64 bits"),
        ('{"hidden_size": 32, "hidden_size": 64}', "expected every name once in a JSON object, got 'hidden_size'"),
        ("[1]", r"expected a JSON object, got \[1\]"),
        ("{", "expected JSON, got something else"),
    ],
    ids=["nested", "nan", "digits", "twice", "list", "no JSON"],
)
def test_a_config_file_is_read_within_bounds(text, message, tmp_path):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=rf"config\.json: {message}"):
        SetrConfig.from_pretrained(tmp_path)


def test_heads_that_do_not_divide_the_hidden_size_are_refused():
    with pytest.raises(StrictDataclassError, match="multiple of num_attention_heads, got 30 and 4"):
        SetrConfig(hidden_size=30, num_attention_heads=4)


@pytest.mark.parametrize("image_size", [15, [64, 8]], ids=["square", "one_side"])
def test_an_image_smaller_than_a_patch_is_refused(image_size):
    with pytest.raises(StrictDataclassError, match="at least patch_size 16") as error:
        tiny(image_size=image_size)
    assert f"got {image_size}" in str(error.value)


@pytest.mark.parametrize(
    "indices", [[], [3, 1], [1, 1, 3], [-1, 3], [0, 2], [0, 4]],
    ids=["empty", "unordered", "repeated", "negative", "last_missing", "beyond"],
)  # fmt: skip
def test_layers_that_do_not_exist_or_stay_unused_are_refused(indices):
    with pytest.raises(StrictDataclassError, match=r"end with the last layer \(3\), got \[") as error:
        tiny(out_indices=indices)
    assert f"got {indices}" in str(error.value)


@pytest.mark.parametrize(
    ("facts", "came"),
    [
        ({}, "the fields []"),
        ({"family": "orthogonal"}, "the fields ['family']"),
        ({**FACTS, "version": "1"}, "the number 1, got a str of 1 characters"),
        ({**FACTS, "version": True}, "the number 1, got True"),
        ({**FACTS, "fingerprint": "c2VjcmV0"}, "16 hexadecimal characters, got a str of 8 characters"),
        ({**FACTS, "secret_key": "c2VjcmV0"}, "the fields ['family', 'fingerprint', 'secret_key', 'version']"),
    ],
    ids=["empty", "incomplete", "wrong_type", "bool", "not_hexadecimal", "additional"],
)
def test_encryption_facts_are_exactly_three_and_a_stray_value_is_not_shown(facts, came):
    with pytest.raises(StrictDataclassError, match="encryption must be None or exactly") as error:
        tiny(encryption=facts)
    assert came in str(error.value)
    assert "c2VjcmV0" not in str(error.value)


def test_the_facts_of_a_config_are_those_of_its_key():
    assert tiny().key_facts is None
    assert tiny(encryption=FACTS).key_facts == KEY_FACTS


@pytest.mark.parametrize("name", SECRET_NAMES)
def test_a_key_is_refused_by_name_and_never_shown(name):
    text = SecretKey.generate().to_text()
    with pytest.raises(ValueError, match=f"got `{name}`: a configuration is public") as error:
        tiny(**{name: text})
    assert text not in str(error.value)


@pytest.mark.parametrize("name", SECRET_NAMES)
def test_a_key_in_a_config_file_is_refused(name, tmp_path):
    tiny().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: "c2VjcmV0"}))
    with pytest.raises(ValueError, match=f"got `{name}`"):
        SetrConfig.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"id2label": {0: "a", 255: "b"}}, r"got 0, 255 .*label map, --label-map FILE with {\"0\": 0, \"255\": 1}"),
        ({"id2label": {0: "a", 1: "b", 3: "c"}}, r"got 0, 1, 3 \(2 missing\)"),
        ({"id2label": {"1": "a", "2": "b"}}, r"got 1, 2 \(0 missing\)"),
        ({"num_labels": 1}, "two or more classes, got one, 'LABEL_0'.*background be a class"),
        ({"id2label": {0: "a", 1: 7}}, "class 1 to be a text, got 7|must be|Invalid key or value in dict 'id2label'"),
    ],
    ids=["0 and 255", "0, 1 and 3", "from 1", "one", "number"],
)
def test_classes_that_are_not_numbered_from_0_or_alone_are_refused(settings, message):
    with pytest.raises(Exception, match=message) as caught:
        SetrConfig(**settings)
    assert isinstance(caught.value.__cause__ or caught.value, ValueError | TypeError)  # the library wraps its own


def test_label2id_follows_from_id2label():
    assert SetrConfig(id2label={0: "a", 1: "b"}).label2id == {"a": 0, "b": 1}
