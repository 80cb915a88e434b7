"""The image processor: pixels in [-1, 1] on the patch grid, encrypted last; keys leave no trace."""

import base64
import importlib
import io
import json
import logging
import pickle
import re
import sys
import types
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from PIL import Image
from transformers import AutoImageProcessor
from transformers.modeling_outputs import SemanticSegmenterOutput

from helpers.leaks import assert_no_secret
from helpers.paths import ROOT
from hf_privseg import (
    CiphertextError,
    EncryptedImage,
    EncryptionStateError,
    InvalidImageError,
    InvalidKeyError,
    KeyMismatchError,
    SecretKey,
    SetrImageProcessor,
)
from hf_privseg.setr.ciphers import CIPHERS, cipher_for
from hf_privseg.setr.image_encrypter import AnyImage
from hf_privseg.setr.keys import FAMILIES

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]  # of ImageNet
RNG = np.random.default_rng(3)
PIXELS = RNG.integers(0, 256, (37, 50, 3), dtype=np.uint8)  # height 37, width 50: on no grid
IMAGE = Image.fromarray(PIXELS)
LABELS = RNG.integers(0, 12, (37, 50), dtype=np.uint8)


@pytest.fixture(scope="module")
def keys() -> dict[str, SecretKey]:
    return {family: SecretKey.generate(family) for family in FAMILIES}


def pixel_values(processor: SetrImageProcessor, images: Any, **options: Any) -> torch.Tensor:
    return processor(images, return_tensors="pt", **options).pixel_values


def test_plain_images_become_centred_pixels_on_the_grid():
    values = pixel_values(SetrImageProcessor(), IMAGE)
    assert values.shape == (1, 3, 32, 48)
    assert values.dtype == torch.float32
    resized = F.interpolate(
        torch.from_numpy(PIXELS).permute(2, 0, 1)[None].float(), (32, 48), mode="bilinear", antialias=True
    )
    assert (values - (resized / 127.5 - 1)).abs().max() <= 1.01 / 127.5  # resized in 8 bits
    assert ((values + 1) * 127.5 - ((values + 1) * 127.5).round()).abs().max() < 1e-4


@pytest.mark.parametrize("patch_size", [4, 8, 14, 16])
def test_every_patch_size_has_its_grid(patch_size):
    height, width = pixel_values(SetrImageProcessor(patch_size=patch_size), IMAGE).shape[-2:]
    assert (height, width) == {4: (36, 52), 8: (40, 48), 14: (42, 56), 16: (32, 48)}[patch_size]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"size": {"height": 64, "width": 70}}, (64, 64)),
        ({"size": 64}, (64, 64)),
        ({"size": {"shortest_edge": 74}}, (80, 96)),
        ({"resize_factor": 2}, (80, 96)),
        ({"resize_factor": 0.5, "do_pad": True, "pad_value": 1}, (32, 32)),
        ({"do_pad": True}, (48, 64)),
        ({"do_resize": False}, (37, 50)),
    ],
    ids=str,
)
@pytest.mark.parametrize("when", ["in the call", "in the constructor"])
def test_sizes_can_be_set(settings, expected, when):
    processor = SetrImageProcessor(**(settings if when == "in the constructor" else {}))
    values = pixel_values(processor, IMAGE, **(settings if when == "in the call" else {}))
    assert tuple(values.shape[-2:]) == expected


def test_every_level_and_its_negative_are_centred_symmetrically():
    levels = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16).expand(3, 16, 16)
    up, down = pixel_values(SetrImageProcessor(), levels), pixel_values(SetrImageProcessor(), 255 - levels)
    assert torch.equal(up, -down)
    assert torch.equal(up[0, 0].flatten()[[0, 255]], torch.tensor([-1.0, 1.0]))


def test_padding_lies_at_the_bottom_and_right_and_has_its_value():
    plain = pixel_values(SetrImageProcessor(do_pad=True, pad_value=[-1.0, 0.0, 1.0]), IMAGE)
    assert plain.shape == (1, 3, 48, 64)
    torch.testing.assert_close(plain[0, :, :37, :50], torch.from_numpy(PIXELS).permute(2, 0, 1) / 127.5 - 1)
    for part in (plain[0, :, 37:], plain[0, :, :, 50:]):
        for channel, value in enumerate([-1.0, 128 / 127.5 - 1, 1.0]):
            assert (part[channel] - value).abs().max() < 1e-6


@pytest.mark.parametrize("family", FAMILIES)
def test_encryption_acts_on_the_finished_pixels(family, keys):
    processor = SetrImageProcessor(patch_size=8)
    plain = pixel_values(processor, IMAGE)
    encrypted = pixel_values(processor, IMAGE, secret_key=keys[family])
    cipher = cipher_for(keys[family], patch_size=8)
    assert torch.equal(encrypted, cipher.encrypt(plain))
    assert torch.equal(encrypted, processor.encrypt_pixels(plain, keys[family]))
    assert (encrypted - plain).abs().mean() > 0.3
    torch.testing.assert_close(cipher.decrypt(encrypted), plain, rtol=0, atol=1e-5)
    other = pixel_values(processor, IMAGE, secret_key=SecretKey.generate(family))
    assert (encrypted - other).abs().mean() > 0.3


@pytest.mark.parametrize("do_pad", [False, True], ids=["resized", "padded"])
@pytest.mark.parametrize("patch_size", [4, 8, 14, 16])
@pytest.mark.parametrize("family", ["signed_permutation", "orthogonal"])
def test_encrypted_images_give_the_same_pixel_values_without_a_key(family, patch_size, do_pad, keys):
    processor = SetrImageProcessor(patch_size=patch_size, do_pad=do_pad)
    expected = pixel_values(processor, IMAGE, secret_key=keys[family])
    encrypted = processor.encrypt(IMAGE, keys[family])
    assert torch.equal(pixel_values(SetrImageProcessor(patch_size=patch_size), encrypted), expected)
    received = pixel_values(processor, EncryptedImage.from_bytes(encrypted.to_bytes()))
    if CIPHERS[family].acts_on_uint8:
        assert torch.equal(received, expected)
    else:
        assert (received - expected).abs().max() <= expected.abs().max() / 65534 * 1.01  # float32 is rounded, too


@pytest.mark.parametrize("family", FAMILIES)
def test_encrypted_images_carry_the_facts(family, keys):
    encrypted = SetrImageProcessor(do_pad=True, resize_factor=0.5, patch_size=8).encrypt(IMAGE, keys[family])
    assert (encrypted.family, encrypted.fingerprint) == (family, keys[family].fingerprint)
    assert (encrypted.original_size, encrypted.valid_region, encrypted.patch_size) == ((37, 50), (19, 25), 8)
    assert encrypted.pixels.shape == (3, 24, 32)
    assert encrypted.pixels.dtype == (np.uint8 if CIPHERS[family].acts_on_uint8 else np.float32)


@pytest.mark.parametrize("family", FAMILIES)
def test_decrypt_is_the_inverse_of_encrypt(family, keys):
    processor = SetrImageProcessor(patch_size=8, do_pad=True)
    encrypted = EncryptedImage.from_bytes(processor.encrypt(IMAGE, keys[family]).to_bytes())
    assert np.array_equal(np.array(processor.decrypt(encrypted, keys[family])), PIXELS)
    assert [image.size for image in processor.decrypt([encrypted] * 2, keys[family])] == [(50, 37)] * 2


def test_decrypt_refuses_another_key(keys):
    encrypted = SetrImageProcessor(patch_size=8).encrypt(IMAGE, keys["permutation"])
    wrong = SecretKey.generate("orthogonal")
    message = (
        rf"the secret key \(key fingerprint {wrong.fingerprint}, family orthogonal.* and the encrypted image "
        rf"\(key fingerprint {encrypted.fingerprint}, family permutation"
    )
    with pytest.raises(KeyMismatchError, match=message):
        SetrImageProcessor().decrypt(encrypted, wrong)


def test_bare_bytes_are_a_key_of_the_default_family(keys):
    secret = base64.urlsafe_b64decode(keys["orthogonal"].to_text().rpartition(".")[2] + "=")
    processor = SetrImageProcessor(patch_size=4)
    expected = pixel_values(processor, IMAGE, secret_key=keys["orthogonal"])
    assert torch.equal(pixel_values(processor, IMAGE, secret_key=secret), expected)


@pytest.mark.parametrize("not_a_key", ["a string", 7, b"short"], ids=str)
def test_what_is_no_key_is_refused(not_a_key):
    with pytest.raises(InvalidKeyError):
        SetrImageProcessor()(IMAGE, secret_key=not_a_key)
    with pytest.raises(InvalidKeyError):
        SetrImageProcessor().encrypt(IMAGE, not_a_key)


def test_encrypting_without_a_key_never_gives_plain_pixels():
    with pytest.raises(InvalidKeyError, match="got NoneType"):
        SetrImageProcessor().encrypt(IMAGE, None)  # type: ignore[call-overload]  # the mistake under test
    with pytest.raises(TypeError, match="unexpected keyword argument 'key'"):
        SetrImageProcessor()(IMAGE, key=SecretKey.generate())
    with pytest.raises(TypeError, match="positional argument"):
        SetrImageProcessor()(IMAGE, None, SecretKey.generate())  # type: ignore[call-arg]  # the mistake under test


def test_one_in_one_out_many_in_many_out(keys):
    processor, key = SetrImageProcessor(patch_size=4), keys["permutation"]
    for single in (IMAGE, PIXELS, PIXELS[..., 0]):
        assert isinstance(processor.encrypt(single, key), EncryptedImage)
    several: list[Any] = [[IMAGE], (PIXELS,), PIXELS[None]]
    for many in several:
        assert [type(image) for image in processor.encrypt(many, key)] == [EncryptedImage]
    images = processor.encrypt([IMAGE, IMAGE.resize((20, 30))], key)
    assert [image.original_size for image in images] == [(37, 50), (30, 20)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_mean": MEAN, "image_std": STD}, r"image_mean=0\.5, got \(0\.485, 0\.456, 0\.406\)"),
        ({"image_std": [0.5, 0.5, 0.4]}, r"image_std=0\.5, got \(0\.5, 0\.5, 0\.4\)"),
        ({"image_mean": 0.4}, r"image_mean=0\.5, got 0\.4"),
        ({"do_normalize": False}, "do_normalize=True, got False"),
        ({"do_rescale": False}, "do_rescale=True, got False"),
        ({"rescale_factor": 1 / 256}, r"rescale_factor=0\.00392156862745098, got 0\.00390625"),
    ],
    ids=["ImageNet", "std", "one mean", "do_normalize", "do_rescale", "rescale_factor"],
)
def test_other_statistics_are_refused_where_encryption_is_concerned(settings, message, keys):
    processor, key = SetrImageProcessor(**settings), keys["permutation"]
    encrypted = SetrImageProcessor().encrypt(IMAGE, key)
    for use in (
        lambda: processor(IMAGE, secret_key=key),
        lambda: processor.encrypt(IMAGE, key),
        lambda: processor.encrypt_pixels(torch.zeros(1, 3, 32, 48), key),
        lambda: processor(encrypted),
        lambda: SetrImageProcessor()(IMAGE, secret_key=key, **settings),
    ):
        with pytest.raises(ValueError, match=message + r".*SetrForSemanticSegmentation\.from_vit"):
            use()
    assert processor(IMAGE)["pixel_values"][0].shape == (3, 32, 48)


def test_one_number_for_mean_and_deviation_will_do(keys):
    processor = SetrImageProcessor(image_mean=0.5, image_std=0.5)
    expected = pixel_values(SetrImageProcessor(), IMAGE, secret_key=keys["permutation"])
    assert torch.equal(pixel_values(processor, IMAGE, secret_key=keys["permutation"]), expected)


def test_plain_images_may_have_other_statistics():
    values = pixel_values(SetrImageProcessor(image_mean=MEAN, image_std=STD, do_resize=False), PIXELS)[0]
    mean, std = (torch.tensor(numbers)[:, None, None] for numbers in (MEAN, STD))
    torch.testing.assert_close(values, (torch.from_numpy(PIXELS).permute(2, 0, 1) / 255 - mean) / std)


def test_floats_are_taken_as_they_are_where_rescaling_is_off():
    values = pixel_values(SetrImageProcessor(), PIXELS / 255, do_rescale=False)
    assert (values - pixel_values(SetrImageProcessor(), PIXELS)).abs().max() < 1.01 / 127.5


def test_encryption_off_the_grid_is_refused_with_the_nearest_size(keys):
    with pytest.raises(
        InvalidImageError, match="a multiple of the patch size 16, got 37 x 50; the nearest is 32 x 48"
    ):
        SetrImageProcessor(do_resize=False).encrypt(IMAGE, keys["permutation"])
    with pytest.raises(
        InvalidImageError, match="a multiple of the patch size 16, got 32 x 41; the nearest is 32 x 48"
    ):
        SetrImageProcessor().encrypt_pixels(torch.zeros(1, 3, 32, 41), keys["permutation"])


def test_pixels_are_cut_before_they_are_encrypted(keys):
    processor, key = SetrImageProcessor(patch_size=8), keys["orthogonal"]
    plain = pixel_values(processor, IMAGE)
    window = processor.encrypt_pixels(plain[..., 5:21, 3:27], key)
    torch.testing.assert_close(cipher_for(key, patch_size=8).decrypt(window), plain[..., 5:21, 3:27])
    whole = processor.encrypt_pixels(plain, key)
    # of fewer blocks at once, so that sums may run in another order
    torch.testing.assert_close(processor.encrypt_pixels(plain[..., 8:24, 16:], key), whole[..., 8:24, 16:])
    assert (window - whole[..., 5:21, 3:27]).abs().mean() > 0.3


def test_channels_have_to_fit_the_statistics_where_conversion_is_off():
    with pytest.raises(InvalidImageError, match="an image of 3 channels, the processor's num_channels, got 1; "):
        SetrImageProcessor(do_convert_rgb=False)(IMAGE.convert("L"))


def test_encrypted_and_plain_images_do_not_mix(keys):
    encrypted = SetrImageProcessor().encrypt(IMAGE, keys["permutation"])
    with pytest.raises(InvalidImageError, match="either plain images or EncryptedImages, got both"):
        SetrImageProcessor()([IMAGE, encrypted])
    with pytest.raises(EncryptionStateError, match="encrypting twice"):
        SetrImageProcessor()(encrypted, secret_key=keys["permutation"])
    mistakes: list[Any] = [encrypted, [IMAGE, encrypted]]
    for images in mistakes:
        with pytest.raises(
            EncryptionStateError, match="expected plain images, got an EncryptedImage: encrypting twice"
        ):
            SetrImageProcessor().encrypt(images, keys["permutation"])


@pytest.mark.parametrize(
    ("options", "named"),
    [({"size": 64, "do_pad": True}, "do_pad, size"), ({"segmentation_maps": LABELS}, "segmentation_maps")],
    ids=["settings", "labels"],
)
def test_a_ciphertext_is_never_resampled(options, named, keys):
    encrypted = SetrImageProcessor().encrypt(IMAGE, keys["permutation"])
    with pytest.raises(CiphertextError, match=f"got {named} for an EncryptedImage, whose pixels are never resampled"):
        SetrImageProcessor()(encrypted, **options)
    assert pixel_values(SetrImageProcessor(size=64), encrypted).shape == (1, 3, 32, 48)


def test_a_ciphertext_of_another_patch_size_is_refused(keys):
    encrypted = SetrImageProcessor(patch_size=8).encrypt(IMAGE, keys["permutation"])
    with pytest.raises(CiphertextError, match="blocks of 16 pixels, the processor's patch_size, got blocks of 8"):
        SetrImageProcessor()(encrypted)


def test_encrypted_images_are_batched(keys):
    processor = SetrImageProcessor(patch_size=4)
    encrypted = processor.encrypt([IMAGE, IMAGE.rotate(180)], keys["orthogonal"])
    expected = pixel_values(processor, [IMAGE, IMAGE.rotate(180)], secret_key=keys["orthogonal"])
    assert torch.equal(pixel_values(processor, encrypted), expected)
    assert isinstance(processor(encrypted, return_tensors="np").pixel_values, np.ndarray)
    with pytest.raises(InvalidImageError, match=r"one size .* got \[\(36, 52\), \(52, 36\)\]"):
        pixel_values(processor, [encrypted[0], processor.encrypt(IMAGE.rotate(90, expand=True), keys["orthogonal"])])


def test_images_of_several_sizes_need_a_size_for_one_tensor():
    images: list[AnyImage] = [IMAGE, IMAGE.rotate(90, expand=True), PIXELS]
    with pytest.raises(
        InvalidImageError, match=r"got \[\(32, 48\), \(48, 32\)\] .* pass size=.*or process the images one by one"
    ):
        SetrImageProcessor()(images, return_tensors="pt")
    assert [tuple(v.shape) for v in SetrImageProcessor()(images).pixel_values] == [
        (3, 32, 48),
        (3, 48, 32),
        (3, 32, 48),
    ]
    assert pixel_values(SetrImageProcessor(), images, size={"height": 32, "width": 32}).shape == (3, 3, 32, 32)


@pytest.mark.parametrize("family", [None, "permutation", "orthogonal"])
def test_grouping_by_size_changes_nothing(family, keys):
    images: list[AnyImage] = [IMAGE, IMAGE.rotate(90, expand=True), PIXELS, IMAGE.rotate(180)]
    processor = SetrImageProcessor(patch_size=4)
    key = keys.get(family)
    one_by_one = processor(images, secret_key=key, disable_grouping=True).pixel_values
    grouped = processor(images, secret_key=key, disable_grouping=False).pixel_values
    for left, right in zip(one_by_one, grouped, strict=True):
        torch.testing.assert_close(left, right, rtol=0, atol=1e-5 if family == "orthogonal" else 0)


def test_an_empty_list_is_refused():
    with pytest.raises(InvalidImageError, match="at least one image, got an empty list"):
        SetrImageProcessor()([])


def test_the_sizes_of_a_turned_image_are_those_of_the_upright_one(keys):
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    IMAGE.save(buffer, "PNG", exif=exif)
    encrypted = SetrImageProcessor().encrypt(Image.open(buffer), keys["permutation"])
    assert encrypted.original_size == (50, 37)


@pytest.mark.parametrize("secret", [False, True], ids=["plain", "encrypted"])
def test_labels_are_resized_to_the_nearest_and_never_encrypted(secret, keys):
    key = keys["permutation"] if secret else None
    labels = SetrImageProcessor()(IMAGE, LABELS, secret_key=key, return_tensors="pt").labels
    assert labels.shape == (1, 32, 48)
    assert labels.dtype == torch.int64
    expected = F.interpolate(torch.from_numpy(LABELS)[None, None].float(), (32, 48), mode="nearest-exact")
    assert torch.equal(labels, expected[0].long())


def test_labels_are_padded_with_the_ignored_index():
    labels = SetrImageProcessor(do_pad=True, pad_value=1.0)(IMAGE, LABELS, return_tensors="pt").labels[0]
    assert np.array_equal(labels[:37, :50], LABELS)
    assert (labels[37:] == 255).all()
    assert (labels[:, 50:] == 255).all()


def test_reduced_labels():
    labels = np.array([[0, 1, 2, 254, 255, 0]] * 4, np.uint8)
    image = np.zeros((4, 6, 3), np.uint8)
    processor = SetrImageProcessor(patch_size=2, do_reduce_labels=True)
    reduced = processor(image, labels, return_tensors="pt", input_data_format="channels_last").labels
    assert reduced[0, 0].tolist() == [255, 0, 1, 253, 255, 255]


def test_label_maps_of_a_batch_and_of_every_kind():
    for maps in ([LABELS, Image.fromarray(LABELS)], np.stack([LABELS] * 2), torch.from_numpy(LABELS).repeat(2, 1, 1)):
        labels = SetrImageProcessor()([IMAGE, PIXELS], maps, return_tensors="pt").labels
        assert labels.shape == (2, 32, 48)
        assert torch.equal(labels[0], labels[1])


@pytest.mark.parametrize(
    ("label_maps", "message"),
    [
        (IMAGE, "of a PIL image of mode 'RGB'"),
        ([PIXELS], r"got the shape \(37, 50, 3\)"),
        (PIXELS, r"got the shape \(37, 50, 3\); if it shows classes as colours"),
        ([IMAGE, IMAGE], "of a PIL image of mode 'RGB'"),
        (PIXELS.transpose(2, 0, 1), "got 3 of"),
        (LABELS.T, r"which are \[\(37, 50\)\], got 1 of \[\(50, 37\)\]; a map in colours .*EXIF"),
        ([LABELS, LABELS], "got 2 of"),
    ],
    ids=["RGB", "in list", "HW3", "two RGB", "3HW", "turned", "too many"],
)
def test_label_maps_that_do_not_fit_are_refused(label_maps, message):
    with pytest.raises(InvalidImageError, match=message):
        SetrImageProcessor()(IMAGE, label_maps)


def outputs(*logits: torch.Tensor) -> SemanticSegmenterOutput:
    return SemanticSegmenterOutput(logits=torch.stack(logits))


def test_maps_are_the_best_class_of_the_resized_logits():
    logits = torch.randn(2, 5, 8, 12)
    processor = SetrImageProcessor()
    assert [m.shape for m in processor.post_process_semantic_segmentation(outputs(*logits))] == [(8, 12)] * 2
    sizes = [(37, 50), (20, 30)]
    for target_sizes in (sizes, torch.tensor(sizes), np.array(sizes)):
        maps = processor.post_process_semantic_segmentation(outputs(*logits), target_sizes)
        for one, result, size in zip(logits, maps, sizes, strict=True):
            assert result.dtype == torch.int64
            assert torch.equal(result, F.interpolate(one[None], size=size, mode="bilinear")[0].argmax(0))
    with_scores = processor.post_process_semantic_segmentation(
        outputs(*logits), sizes, return_segmentation_scores=True
    )
    scores = with_scores[1].segmentation_scores
    assert scores is not None
    assert scores.shape == (5, 20, 30)
    assert torch.equal(scores.argmax(0), with_scores[1].segmentation)


def test_target_sizes_and_regions_are_one_for_each_image():
    for sizes, regions, got in (([(4, 4)] * 3, None, r"3 \(and 3\)"), ([(4, 4)] * 2, [(4, 4)], r"2 \(and 1\)")):
        with pytest.raises(ValueError, match=rf"each of the 2 images of the batch, got {got}"):
            SetrImageProcessor().post_process_semantic_segmentation(
                outputs(*torch.randn(2, 5, 8, 12)), sizes, valid_regions=regions
            )


@pytest.mark.parametrize("factor", [1.0, 2.0])
@pytest.mark.parametrize("told", ["by the settings", "by the encrypted image"])
def test_what_is_padded_is_cut_off_again(factor, told, keys):
    padding = SetrImageProcessor(do_pad=True, resize_factor=factor)
    blocks = np.kron(RNG.integers(0, 4, (5, 7)), np.ones((8, 8), int))[:37, :50]  # coarse: no thin regions
    labels = padding(IMAGE, blocks, return_tensors="pt").labels[0]
    logits = F.one_hot(labels.clamp(max=4), 5).permute(2, 0, 1).float()  # a perfect model: padding is class 4
    if told == "by the settings":
        maps = padding.post_process_semantic_segmentation(outputs(logits), [(37, 50)])
    else:
        encrypted = padding.encrypt(IMAGE, keys["permutation"])
        maps = SetrImageProcessor().post_process_semantic_segmentation(
            outputs(logits), [encrypted.original_size], valid_regions=[encrypted.valid_region]
        )
    assert np.array_equal(maps[0], blocks)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"patch_size": 0}, "patch_size is an int from 1 to 4096, got 0"),
        ({"resize_factor": -1.0}, "resize_factor is a positive number, got -1.0"),
        ({"size": {"longest_edge": 10}}, "got {'longest_edge': 10}"),
        ({"do_center_crop": True, "crop_size": 8}, "neither crops nor pads to a fixed size"),
        ({"pad_size": {"height": 64, "width": 64}}, "neither crops nor pads to a fixed size"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_settings_are_checked_at_once_and_in_the_call(settings, message):
    for use in (lambda: SetrImageProcessor(**settings), lambda: SetrImageProcessor()(IMAGE, **settings)):
        with pytest.raises(ValueError, match=message):
            use()


def test_a_key_is_no_setting(tmp_path, keys):
    key = keys["permutation"]
    SetrImageProcessor().save_pretrained(tmp_path)
    file = tmp_path / "preprocessor_config.json"
    for use in (
        lambda: SetrImageProcessor(**{"secret_key": key}),
        lambda: SetrImageProcessor.from_dict({}, secret_key=key),
        lambda: SetrImageProcessor.from_dict({"secret_key": key.to_text()}),
        lambda: SetrImageProcessor.from_pretrained(tmp_path, secret_key=key),
        lambda: AutoImageProcessor.from_pretrained(tmp_path, secret_key=key),
    ):
        with pytest.raises(
            TypeError, match=r"secret_key is no setting .*processor\(images, secret_key=key\)"
        ) as caught:
            use()
        assert_no_secret(str(caught.value), key)
    file.write_text(json.dumps({**json.loads(file.read_text()), "secret_key": "x"}))
    with pytest.raises(TypeError, match="secret_key is no setting"):
        SetrImageProcessor.from_pretrained(tmp_path)


def test_settings_survive_saving(tmp_path):
    processor = SetrImageProcessor(
        patch_size=8, resize_factor=1.5, do_pad=True, pad_value=[0.1, 0.2, 0.3], size={"shortest_edge": 30}
    )
    processor.save_pretrained(tmp_path)
    for loaded in (SetrImageProcessor.from_pretrained(tmp_path), AutoImageProcessor.from_pretrained(tmp_path)):
        assert type(loaded) is SetrImageProcessor
        assert loaded.to_dict() == processor.to_dict()
        assert torch.equal(pixel_values(loaded, IMAGE), pixel_values(processor, IMAGE))
    assert SetrImageProcessor.from_pretrained(tmp_path, resize_factor=2.0).resize_factor == 2.0


@pytest.fixture
def every_log_line(caplog):
    """All log records, those of transformers included, down to DEBUG."""
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.enable_propagation()
    transformers.logging.set_verbosity_debug()
    with caplog.at_level(logging.DEBUG):
        yield caplog
    transformers.logging.set_verbosity(verbosity)
    transformers.logging.disable_propagation()


@pytest.mark.parametrize("family", FAMILIES)
def test_no_output_file_or_log_holds_the_key(family, tmp_path, every_log_line):
    key = SecretKey.generate(family)
    processor = SetrImageProcessor(patch_size=4)
    batch = processor([IMAGE], LABELS, secret_key=key, return_tensors="pt")
    encrypted = processor.encrypt(IMAGE, key)
    processor.decrypt(encrypted, key)
    again = processor(encrypted)
    processor.save_pretrained(tmp_path)
    AutoImageProcessor.from_pretrained(tmp_path)
    encrypted.to_file(tmp_path / f"x{encrypted.suffix}")
    assert set(batch) == {"pixel_values", "labels"}
    assert set(again) == {"pixel_values"}
    seen: list[str | bytes] = [
        repr(batch),
        pickle.dumps(batch.data),
        repr(processor),
        processor.to_json_string(),
        str(vars(processor)),
    ]
    seen += [
        repr(encrypted),
        encrypted.to_bytes(),
        encrypted._repr_png_(),
        pickle.dumps(processor),
        str(vars(encrypted)),
    ]
    seen += [file.read_bytes() for file in tmp_path.iterdir()]
    seen += [record.getMessage() + repr(vars(record)) for record in every_log_line.records]
    assert len(every_log_line.records) >= 2
    for text_or_bytes in seen:
        assert_no_secret(text_or_bytes, key)


@pytest.mark.parametrize("form", ["key", "bytes", "text"])
def test_no_exception_holds_the_key(form):
    key = SecretKey.generate()
    secret = base64.urlsafe_b64decode(key.to_text().rpartition(".")[2] + "=")
    forms: dict[str, Any] = {"key": key, "bytes": secret, "text": key.to_text()}
    value = forms[form]
    processor: Any = SetrImageProcessor(patch_size=4)  # types would refuse most of these mistakes
    encrypted = processor.encrypt(IMAGE, key)
    mistakes = [
        lambda: processor(IMAGE, value),
        lambda: processor(IMAGE, None, value),
        lambda: processor(value),
        lambda: processor([IMAGE, value], secret_key=key),
        lambda: processor(IMAGE, key=value),
        lambda: processor(IMAGE, secret_key=[value]),
        lambda: processor(encrypted, secret_key=value),
        lambda: processor.encrypt(encrypted, value),
        lambda: processor.encrypt(value, key),
        lambda: processor.encrypt(np.full((4, 6, 3), np.nan), key),
        lambda: processor(np.zeros((5, 6, 7)), secret_key=key),
        lambda: processor(IMAGE, secret_key=key, do_normalize=False),
        lambda: processor(IMAGE, secret_key=key, do_resize=False),
        lambda: processor([IMAGE, IMAGE.resize((10, 90))], secret_key=key, return_tensors="pt"),
        lambda: processor.decrypt(encrypted, SecretKey.generate()),
        lambda: SetrImageProcessor(**{"secret_key": value}),
        lambda: EncryptedImage.from_bytes(secret * 10),
    ]
    for mistake in mistakes:
        with pytest.raises((ValueError, TypeError, RuntimeError)) as caught:
            mistake()
        error: BaseException | None = caught.value
        while error is not None:
            assert_no_secret(f"{error!r} {error}", key)
            error = error.__cause__ or error.__context__


def test_another_copy_of_the_modules_understands_keys_and_images(monkeypatch, keys):
    """With remote code the classes of processor, key and encrypted image may come from different copies."""
    copy = types.ModuleType("privseg_copy")
    copy.__path__ = [str(ROOT / "hf_privseg" / "setr")]
    monkeypatch.setitem(sys.modules, "privseg_copy", copy)
    other = importlib.import_module("privseg_copy.image_processing_setr").SetrImageProcessor(patch_size=4)
    assert not isinstance(other, SetrImageProcessor)
    processor, key = SetrImageProcessor(patch_size=4), keys["orthogonal"]
    encrypted = processor.encrypt(IMAGE, key)
    assert torch.equal(pixel_values(other, encrypted), pixel_values(other, IMAGE, secret_key=key))
    assert other.decrypt(encrypted, key).size == (52, 36)
    with pytest.raises(RuntimeError, match="encrypting twice"):
        other.encrypt(encrypted, key)
    for name in [name for name in sys.modules if name.startswith("privseg_copy.")]:
        monkeypatch.delitem(sys.modules, name)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("preprocessor_config.json", '{"patch_size": 4, "patch_size": 8}', "every name once .*'patch_size' twice"),
        ("preprocessor_config.json", '{"rescale_factor": NaN}', "expected finite numbers, got NaN"),
        ("preprocessor_config.json", f'{{"patch_size": {"9" * 5000}}}', "integers of at most 64 bits"),
        ("preprocessor_config.json", f'{{"x": {"[" * 9999}{"]" * 9999}}}', "JSON nested at most 16 deep"),
        ("preprocessor_config.json", f'{{"x": "{"a" * 2**24}"}}', "JSON of at most 16777216 bytes"),
        ("processor_config.json", '{"image_processor": {"size": Infinity}}', "expected finite numbers, got Infinity"),
        ("mine.json", "[1]", "expected a JSON object"),
    ],
    ids=["twice", "NaN", "digits", "deep", "long", "nested", "named file"],
)
def test_the_file_of_settings_is_read_within_bounds(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    options = {"image_processor_filename": name} if name == "mine.json" else {}
    with pytest.raises(ValueError, match=rf"{re.escape(str(tmp_path / name))}: .*{message}"):
        SetrImageProcessor.from_pretrained(tmp_path, **options)
    with pytest.raises(ValueError, match=message):
        SetrImageProcessor.from_pretrained(tmp_path / name)


def test_class_255_is_kept_apart_from_padding_and_background(tmp_path):
    labels = np.arange(290, 230, -1, dtype=np.int32).reshape(6, 10)  # 231 to 290, class 255 among them
    pad: Any = {"patch_size": 4, "do_pad": True}
    processor = SetrImageProcessor(**pad, ignore_index=-100)
    processor.save_pretrained(tmp_path)
    for each in (processor, SetrImageProcessor.from_pretrained(tmp_path)):
        found = each(Image.new("RGB", (10, 6)), labels, return_tensors="pt").labels[0].numpy()
        assert found.shape == (8, 12)
        assert np.array_equal(found[:6, :10], labels)
        assert (found[6:] == -100).all()
        assert (found[:6, 10:] == -100).all()
    reduced = processor(Image.new("RGB", (10, 6)), labels - 231, do_reduce_labels=True, return_tensors="pt").labels[0]
    assert np.array_equal(reduced[:6, :10], np.where(labels == 231, -100, labels - 232))
    assert (reduced == -100).sum() == 8 * 12 - 60 + 1
    with pytest.raises(InvalidImageError, match=r"labels up to 255, which padding gets, got 290: 255 is a class then"):
        SetrImageProcessor(**pad)(Image.new("RGB", (10, 6)), labels)
    unpadded = SetrImageProcessor(patch_size=2)(Image.new("RGB", (10, 6)), labels, return_tensors="pt").labels[0]
    assert np.array_equal(unpadded, labels)
    wrong: Any = (None, 2.0, 2**31, True)
    for value in wrong:
        with pytest.raises(ValueError, match="ignore_index is an int of 32 bits, got"):
            SetrImageProcessor(ignore_index=value)
