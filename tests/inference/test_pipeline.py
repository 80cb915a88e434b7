"""SetrSegmentationPipeline: the stock pipeline's results, encryption on the way in, and pairs that do not fit."""

import logging

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import pipeline
from transformers.pipelines.image_segmentation import ImageSegmentationPipeline

from helpers.leaks import assert_no_secret
from helpers.second_copy import second_copy
from helpers.tiny_setr import make_key, tiny_model
from hf_privseg import (
    CiphertextError,
    EncryptionStateError,
    InvalidKeyError,
    KeyMismatchError,
    SecretKey,
    SetrForSemanticSegmentation,
    SetrImageProcessor,
    SetrSegmentationPipeline,
)
from hf_privseg.inference.segmentation import segment_image
from hf_privseg.setr.keys import FAMILIES

LABELS = {0: "road", 1: "sky", 2: "car", 3: "tree", 4: "person"}


def image(width=30, height=21, seed=0):
    values = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(values).resize((width, height))


def model_and_processor(**settings):
    """A model whose maps show several classes: each class wins over the others on average equally."""
    model = tiny_model(id2label=LABELS, label2id={label: index for index, label in LABELS.items()})
    processor = SetrImageProcessor(patch_size=4, **settings)
    with torch.no_grad():
        logits = model(**processor(image(), return_tensors="pt")).logits
        model.decode_head.conv_seg.bias -= logits.mean(dim=(0, 2, 3))
    return model, processor


def make_pipeline(model, processor):
    return SetrSegmentationPipeline(model=model, image_processor=processor, device="cpu")


def as_map(result):
    """[{label, mask, score}] -> (height, width) array of class indices."""
    index_of = {label: index for index, label in LABELS.items()}
    return sum(np.array(entry["mask"], dtype=int) // 255 * (index_of[entry["label"]] + 1) for entry in result) - 1


def assert_same(result, expected):
    assert [entry["label"] for entry in result] == [entry["label"] for entry in expected]
    assert np.array_equal(as_map(result), as_map(expected))


def assert_almost_same(result, expected):
    # float rounding decides about near-ties alone
    assert as_map(result).shape == as_map(expected).shape
    assert (as_map(result) == as_map(expected)).mean() > 0.99


# ----------------------------------------------------------------------------------------------------- plain models


@pytest.mark.parametrize("settings", [{}, {"do_pad": True}, {"size": {"height": 16, "width": 24}}], ids=str)
def test_a_plain_model_gives_what_the_stock_pipeline_gives(settings):
    model, processor = model_and_processor(**settings)
    expected = ImageSegmentationPipeline(model=model, image_processor=processor, device="cpu")(image())
    result = make_pipeline(model, processor)(image())
    assert len(result) > 1
    assert_same(result, expected)
    for entry in result:
        assert set(entry) == {"label", "mask", "score"}
        assert (entry["mask"].mode, entry["mask"].size, entry["score"]) == ("L", (30, 21), None)


def test_several_photos_give_as_many_results_batched_or_not(tmp_path):
    segment = make_pipeline(*model_and_processor())
    images = [image(seed=seed) for seed in range(3)]
    images[1].save(tmp_path / "image.png")
    singles = [segment(image) for image in images]
    for results in (segment([images[0], str(tmp_path / "image.png"), images[2]]), segment(images, batch_size=2)):
        assert len(results) == 3
        for result, expected in zip(results, singles, strict=True):
            assert_almost_same(result, expected)


def test_another_subtask_is_refused():
    with pytest.raises(ValueError, match="semantic segmentation, got subtask='panoptic'"):
        make_pipeline(*model_and_processor())(image(), subtask="panoptic")
    assert make_pipeline(*model_and_processor())(image(), subtask="semantic")


@pytest.fixture
def folder(tmp_path):
    model, processor = model_and_processor()
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("pipeline_class", [None, SetrSegmentationPipeline], ids=["stock", "ours"])
def test_the_pipeline_function_loads_a_folder_without_an_error_in_the_log(folder, pipeline_class, caplog):
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)  # the library's loggers do not propagate
    try:
        loaded = pipeline("image-segmentation", model=str(folder), pipeline_class=pipeline_class, device="cpu")
        result = loaded(image())
    finally:
        logger.removeHandler(caplog.handler)
    assert isinstance(loaded, pipeline_class or ImageSegmentationPipeline)
    assert_same(result, make_pipeline(*model_and_processor())(image()))
    assert [record.message for record in caplog.records if record.levelno >= logging.ERROR] == []


# ------------------------------------------------------------------------------------------------- encrypted models


@pytest.mark.parametrize("settings", [{}, {"do_pad": True}], ids=["resized", "padded"])
@pytest.mark.parametrize("family", FAMILIES)
def test_photos_with_the_key_and_encrypted_images_without_it_give_the_plain_result(family, settings):
    model, processor = model_and_processor(**settings)
    segment = make_pipeline(model, processor)
    expected = segment(image())
    secret_key = make_key(family)
    model.encrypt_model(secret_key)
    assert_almost_same(segment(image(), secret_key=secret_key), expected)
    ciphertext = processor.encrypt(image(), secret_key)
    assert_almost_same(segment(ciphertext), expected)
    for result in segment([ciphertext, ciphertext]):
        assert_almost_same(result, expected)


def test_the_valid_region_comes_from_the_encrypted_image_not_from_the_settings():
    model, processor = model_and_processor()
    model.encrypt_model(make_key())
    padded = SetrImageProcessor(patch_size=4, do_pad=True)
    ciphertext = padded.encrypt(image(), make_key())
    assert ciphertext.valid_region == (21, 30)
    expected = make_pipeline(model, padded)(ciphertext)
    assert_same(make_pipeline(model, processor)(ciphertext), expected)


def test_bytes_are_a_key_and_a_key_of_another_copy_of_the_module_too():
    other = second_copy("keys").SecretKey.from_text(make_key().to_text())
    model, processor = model_and_processor()
    segment = make_pipeline(model.encrypt_model(make_key()), processor)
    expected = segment(image(), secret_key=make_key())
    assert_same(segment(image(), secret_key=bytes(range(32))), expected)
    assert_same(segment(image(), secret_key=other), expected)


def test_an_encrypted_image_of_another_copy_of_the_module_is_one():
    model, processor = model_and_processor()
    key = make_key("permutation")
    encrypted = processor.encrypt(image(), key)
    foreign = second_copy("encrypted_image").EncryptedImage.from_bytes(encrypted.to_bytes())
    plain = make_pipeline(model, processor)
    with pytest.raises(EncryptionStateError, match=r"the encrypted image .* but the model is plain"):
        plain(foreign)
    segment = make_pipeline(model.encrypt_model(key), processor)
    assert_same(segment(foreign), segment(encrypted))
    assert np.array_equal(segment_image(model, processor, foreign), segment_image(model, processor, encrypted))


@pytest.mark.parametrize("family", ["permutation", "orthogonal"])
def test_half_precision_does_not_round_the_ciphertext(family, tmp_path):
    model, processor = model_and_processor()
    secret_key = make_key(family)
    model.encrypt_model(secret_key).save_pretrained(tmp_path)
    half = SetrForSemanticSegmentation.from_pretrained(tmp_path, dtype=torch.bfloat16).eval()
    ciphertext = processor.encrypt(image(), secret_key)
    seen = []
    half.register_forward_pre_hook(lambda _, args, kwargs: seen.append(kwargs["pixel_values"]), with_kwargs=True)
    make_pipeline(half, processor)(ciphertext)
    assert torch.equal(seen[0], processor(ciphertext, return_tensors="pt")["pixel_values"])


def test_the_key_is_not_kept():
    secret_key = SecretKey.generate()
    model, processor = model_and_processor()
    segment = make_pipeline(model.encrypt_model(secret_key), processor)
    result = segment([image(), image()], secret_key=secret_key)
    state = {name: value for name, value in vars(segment).items() if name != "model"}
    assert_no_secret(f"{state} {segment} {model.config} {processor} {result}", secret_key)
    with pytest.raises(EncryptionStateError, match="the image is plain, but the model is encrypted"):
        segment(image())


# -------------------------------------------------------------------------------------------------------- refusals


def test_a_key_at_construction_is_refused(folder):
    model, processor = model_and_processor()
    message = r"pass it to the call: pipeline\(images, secret_key=key\)"
    with pytest.raises(TypeError, match=message):
        SetrSegmentationPipeline(model=model, image_processor=processor, secret_key=make_key())
    with pytest.raises(TypeError, match=message):
        pipeline(
            "image-segmentation", model=str(folder), pipeline_class=SetrSegmentationPipeline, secret_key=make_key()
        )


def test_a_plain_photo_for_an_encrypted_model_is_refused():
    model, processor = model_and_processor()
    segment = make_pipeline(model.encrypt_model(make_key("permutation")), processor)
    fingerprint = make_key("permutation").fingerprint
    with pytest.raises(
        EncryptionStateError, match=rf"\(key fingerprint {fingerprint}, family permutation, .*secret_key"
    ):
        segment(image())


def test_a_key_or_an_encrypted_image_for_a_plain_model_is_refused():
    model, processor = model_and_processor()
    segment = make_pipeline(model, processor)
    found = rf"\(key fingerprint {make_key().fingerprint}, family orthogonal, version 1\) .* the model is plain"
    with pytest.raises(EncryptionStateError, match=f"the secret key {found}"):
        segment(image(), secret_key=make_key())
    with pytest.raises(EncryptionStateError, match=f"the encrypted image {found}"):
        segment(processor.encrypt(image(), make_key()))


@pytest.mark.parametrize(("family", "first_byte"), [("orthogonal", 1), ("matrix", 0)], ids=["key", "family"])
def test_another_key_is_refused_and_both_are_named(family, first_byte):
    model, processor = model_and_processor()
    other = make_key(family, first_byte)
    segment = make_pipeline(model.encrypt_model(make_key()), processor)
    message = (
        rf"\(key fingerprint {other.fingerprint}, family {family}, version 1\) and the model "
        rf"\(key fingerprint {make_key().fingerprint}, family orthogonal, version 1\)"
    )
    with pytest.raises(KeyMismatchError, match=f"the secret key {message}"):
        segment(image(), secret_key=other)
    with pytest.raises(KeyMismatchError, match=f"the encrypted image {message}"):
        segment(processor.encrypt(image(), other))


def test_an_image_in_blocks_of_another_size_is_refused():
    model, processor = model_and_processor()
    segment = make_pipeline(model.encrypt_model(make_key()), processor)
    ciphertext = SetrImageProcessor(patch_size=8).encrypt(image(), make_key())
    with pytest.raises(CiphertextError, match="in blocks of 8 pixels, but the patches of the model have 4"):
        segment(ciphertext)


def test_a_key_for_an_encrypted_image_is_refused():
    model, processor = model_and_processor()
    segment = make_pipeline(model.encrypt_model(make_key()), processor)
    with pytest.raises(EncryptionStateError, match="encrypting twice"):
        segment(processor.encrypt(image(), make_key()), secret_key=make_key())


def test_what_is_no_key_is_refused():
    with pytest.raises(InvalidKeyError, match="got str"):
        make_pipeline(*model_and_processor())(image(), secret_key="secret")
