"""`privseg segment` with a model on this machine: the maps that it writes, and what it refuses."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from helpers.tiny_setr import tiny_config, tiny_model
from helpers.workplace import IMAGE_SIZE, processor
from hf_privseg import SecretKey, SetrImageProcessor, SetrModel
from hf_privseg import checkpoints as checkpoints_module
from hf_privseg.inference.pictures import palette_for
from hf_privseg.setr.keys import FAMILIES

every_family = pytest.mark.parametrize("place", FAMILIES, ids=FAMILIES, indirect=True)


@every_family
def test_segmenting_a_ciphertext_without_a_key_gives_the_plain_model_s_map(place):
    image = place.folder / "image.png"
    place.succeed("segment", "--model", place.folder / "model", image, "-o", place.folder / "plain.png")
    model, ciphertext = place.encrypted_model(), place.encrypted_image()
    place.key_file.unlink()
    out = place.succeed("segment", "--model", model, ciphertext, "-o", place.folder / "out")
    assert "sky" in out
    assert "share of pixels" in out
    plain, found = place.label_map("plain.png"), place.label_map("out/image.segmentation.png")
    assert found.shape == IMAGE_SIZE
    assert len(np.unique(plain)) > 1
    assert (found == plain).mean() > 0.99  # a tie may fall the other way


def test_photos_for_an_encrypted_model_are_encrypted_here_first(place):
    model = place.encrypted_model()
    place.succeed("segment", "--model", model, place.encrypted_image(), "-o", place.folder / "a.png")
    place.succeed(
        "segment", "--model", model, place.folder / "image.png", "-o", place.folder / "b.png", "-k", place.key_file
    )
    assert (place.label_map("a.png") == place.label_map("b.png")).mean() > 0.99


def test_a_plain_photo_for_an_encrypted_model_needs_a_key(place):
    message = place.fail(
        "segment", "--model", place.encrypted_model(), place.folder / "image.png", "-o", place.folder / "out"
    )
    assert f"{place.folder / 'image.png'} is plain, but the model" in message
    assert f"key fingerprint {place.key.fingerprint}" in message


def test_a_ciphertext_for_a_plain_model_is_refused(place):
    message = place.fail(
        "segment", "--model", place.folder / "model", place.encrypted_image(), "-o", place.folder / "out"
    )
    assert "needs a model encrypted with the same key" in message
    assert "is plain; encrypt it" in message


def test_a_key_for_a_plain_model_is_refused(place):
    message = place.fail(
        "segment",
        "--model",
        place.folder / "model",
        place.folder / "image.png",
        "-o",
        place.folder / "x",
        "-k",
        place.key_file,
    )
    assert f"the secret key (key fingerprint {place.key.fingerprint}" in message
    assert "is plain" in message


@pytest.mark.parametrize("family", ["orthogonal", "matrix", "permutation"])
def test_a_ciphertext_of_another_key_is_refused_and_both_are_named(place, family):
    model, mine = place.encrypted_model(), place.key
    place.key = SecretKey.generate(family)
    message = place.fail("segment", "--model", model, place.encrypted_image("foreign"), "-o", place.folder / "out")
    assert f"(key fingerprint {place.key.fingerprint}, family {family}, version 1)" in message
    assert f"(key fingerprint {mine.fingerprint}, family orthogonal, version 1)" in message


def test_a_ciphertext_in_other_blocks_is_refused(place):
    SetrImageProcessor(patch_size=8).encrypt(place.folder / "image.png", place.key).to_file(
        place.folder / "coarse.safetensors"
    )
    message = place.fail(
        "segment", "--model", place.encrypted_model(), place.folder / "coarse.safetensors", "-o", place.folder / "out"
    )
    assert "encrypted in blocks of 8 pixels" in message
    assert "have 4;" in message


def test_a_damaged_ciphertext_is_refused(place):
    model, ciphertext = place.encrypted_model(), place.encrypted_image()
    ciphertext.write_bytes(ciphertext.read_bytes()[:-9])
    assert "damaged" in place.fail("segment", "--model", model, ciphertext, "-o", place.folder / "out")


def test_an_overlay_tints_the_photo(place):
    place.succeed("segment", "--model", place.folder / "model", place.folder / "image.png", "-o", place.folder / "o")
    image, tinted = (place.label_map(name).astype(int) for name in ("image.png", "o/image.overlay.png"))
    above, legend = tinted[: image.shape[0], : image.shape[1]], tinted[image.shape[0] :]
    assert np.corrcoef(above.ravel(), image.ravel())[0, 1] > 0.3
    labels = np.unique(place.label_map("o/image.segmentation.png"))
    for index, colour in enumerate(palette_for(tiny_config(num_labels=3))):
        assert (legend == colour).all(axis=-1).any() == (index in labels)


@pytest.mark.parametrize(
    ("what", "options", "expected"),
    [
        ("plain", [], True),
        ("plain", ["--no-overlay"], False),
        ("encrypted", [], False),
        ("encrypted", ["--key-file"], True),
        ("encrypted", ["--key-file", "--no-overlay"], False),
    ],
)
def test_an_overlay_is_made_where_the_image_or_its_key_is_at_hand(place, what, options, expected):
    model = place.encrypted_model() if what == "encrypted" else place.folder / "model"
    image = place.encrypted_image("image") if what == "encrypted" else place.folder / "image.png"
    given = [part for each in options for part in ([each, place.key_file] if each == "--key-file" else [each])]
    place.succeed("segment", image, "--model", model, "-o", place.folder / "out", *given)
    written = {path.name for path in (place.folder / "out").iterdir()}
    assert written == {"image.segmentation.png"} | ({"image.overlay.png"} if expected else set())


def test_an_overlay_of_a_ciphertext_needs_the_key(place):
    model, ciphertext = place.encrypted_model(), place.encrypted_image()
    arguments = ("segment", "--model", model, ciphertext, "-o", place.folder / "out", "--overlay")
    assert f"{ciphertext} is encrypted; to show the image itself, give the key" in place.fail(*arguments)
    assert not list((place.folder / "out").iterdir())
    place.succeed(*arguments, "-k", place.key_file)
    height, width, channels = place.label_map("out/image.overlay.png").shape
    assert (height > IMAGE_SIZE[0], width >= IMAGE_SIZE[1], channels) == (True, True, 3)


@pytest.mark.parametrize("existing", ["image.segmentation.png", "image.overlay.png"])
def test_segment_replaces_results_only_if_forced(place, existing):
    output = place.folder / "out"
    output.mkdir()
    (output / existing).touch()
    arguments = ("segment", "--model", place.folder / "model", place.folder / "image.png", "-o", output, "--overlay")
    assert f"{output / existing} exists; choose another --output" in place.fail(*arguments)
    assert (output / existing).stat().st_size == 0
    place.succeed(*arguments, "--force")
    assert (output / existing).stat().st_size > 0


def test_a_model_that_names_no_class_is_refused(place):
    other = place.folder / "vit"
    other.mkdir()
    (other / "config.json").write_text('{"model_type": "vit"}')
    message = place.fail("segment", "--model", other, place.folder / "image.png", "-o", place.folder / "out")
    assert f"names a class of transformers under 'architectures', got {other}, which names 'none'" in message


def test_an_encoder_without_its_head_is_refused(place):
    encoder = place.folder / "encoder"
    SetrModel(tiny_config()).save_pretrained(encoder)
    processor().save_pretrained(encoder)
    message = place.fail("segment", "--model", encoder, place.folder / "image.png", "-o", place.folder / "out")
    assert "which lacks" in message
    assert "decode_head.conv_seg" in message


def test_default_is_the_embedded_checkpoint(place, monkeypatch):
    monkeypatch.setattr(checkpoints_module, "_DEFAULT", place.folder / "model")
    place.succeed("segment", "--model", "default", place.folder / "image.png", "-o", place.folder / "out.png")
    assert place.label_map("out.png").shape == IMAGE_SIZE


def test_a_missing_embedded_checkpoint_is_said(place, monkeypatch):
    monkeypatch.setattr(checkpoints_module, "_DEFAULT", place.folder / "gone")
    message = place.fail("segment", "--model", "default", place.folder / "image.png", "-o", place.folder / "out")
    assert f"the embedded checkpoint is not at {place.folder / 'gone'}" in message


@pytest.mark.parametrize("place", ["permutation", "orthogonal"], indirect=True)
def test_images_of_thirteen_channels_are_encrypted_and_segmented(place):
    folder = place.folder / "model13"
    tiny_model(num_channels=13, num_labels=3, id2label={0: "sky", 1: "road", 2: "tree"}).save_pretrained(folder)
    SetrImageProcessor(patch_size=4, num_channels=13).save_pretrained(folder)
    levels = np.random.default_rng(0).integers(0, 256, (13, *IMAGE_SIZE), dtype=np.uint8)
    first, *others = [Image.fromarray(page) for page in levels]
    first.save(place.folder / "x.tif", save_all=True, append_images=others)
    key = ["-k", place.key_file]
    place.succeed("segment", place.folder / "x.tif", "--model", folder, "-o", place.folder / "plain.png")
    place.succeed("encrypt-model", folder, place.folder / "secret13", *key)
    place.succeed("encrypt", place.folder / "x.tif", "--model", place.folder / "secret13", "-o", place.folder, *key)
    ciphertext = place.folder / "x.encrypted.safetensors"
    place.succeed(
        "segment", ciphertext, "--model", place.folder / "secret13", "-o", place.folder / "out", "--overlay", *key
    )
    assert (place.label_map("out/x.segmentation.png") == place.label_map("plain.png")).mean() > 0.99
    assert Image.open(place.folder / "out" / "x.overlay.png").height > IMAGE_SIZE[0]
    message = place.fail("segment", place.folder / "image.png", "--model", folder, "-o", place.folder / "rgb.png")
    assert "image.png: expected an image of 13 channels, the processor's num_channels, got 3" in message


def test_a_ciphertext_that_claims_a_huge_image_is_refused_unless_allowed(place):
    model, plain = place.encrypted_model(), Image.open(place.folder / "image.png")
    claiming = dataclasses.replace(processor().encrypt(plain, place.key), original_size=(6000, 6000))
    claiming.to_file(place.folder / "huge.safetensors")
    small = dataclasses.replace(claiming, original_size=(40, 50))
    small.to_file(place.folder / "small.safetensors")
    message = place.fail(
        "segment", place.folder / "huge.safetensors", "--model", model, "-o", place.folder / "huge.png"
    )
    assert f"at most {2**25} pixels, got one with an original size of 6000 x 6000" in message
    assert "--max-pixels" in message
    arguments = ("segment", place.folder / "small.safetensors", "--model", model, "-o", place.folder / "small.png")
    assert "at most 1999 pixels" in place.fail(*arguments, "--max-pixels", 1999)
    place.succeed(*arguments, "--max-pixels", 2000)
    assert place.label_map("small.png").shape == (40, 50)


@pytest.mark.parametrize("command", ["segment", "audit", "serve"])
def test_each_command_that_runs_a_model_names_a_device_that_is_not_there(place, command):
    arguments = {
        "segment": [place.folder / "image.png", "--model", place.folder / "model", "-o", place.folder / "out"],
        "audit": [place.folder / "model", place.folder / "image.png", "-o", place.folder / "out"],
        "serve": [place.folder / "model", "--public-demo", "--no-page"],
    }
    message = place.fail(command, *arguments[command], "--device", "abacus")
    assert "expected a device that torch has on this machine, such as cpu, got 'abacus'" in message


def test_a_model_in_half_precision_segments_nearly_the_same(place):
    arguments = ("segment", place.folder / "image.png", "--model", place.encrypted_model(), "-k", place.key_file)
    place.succeed(*arguments, "-o", place.folder / "full.png")
    place.succeed(*arguments, "-o", place.folder / "half.png", "--dtype", "bfloat16")
    same = (place.label_map("half.png") == place.label_map("full.png")).mean()
    assert 0.95 < same < 1
    message = place.fail(*arguments, "-o", place.folder / "x.png", "--dtype", "bfloat", code=2)
    assert "did you mean 'bfloat16'?" in " ".join(message.replace("│", " ").split())


def test_a_device_that_is_not_there_is_named_and_the_cpu_is(place):
    image, model = place.folder / "image.png", place.folder / "model"
    message = place.fail("segment", image, "--model", model, "-o", place.folder / "a", "--device", "abacus")
    assert "expected a device that torch has on this machine, such as cpu, got 'abacus'" in message
    place.succeed("segment", image, "--model", model, "-o", place.folder / "a", "--device", "cpu")
    refused = place.fail("segment", image, "--server", "http://x", "-o", "b", "--device", "cpu", code=2)
    assert "--max-pixels, --device and --dtype belong to --model" in " ".join(refused.replace("│", " ").split())


class TestWindows:
    @every_family
    def test_windows_of_a_ciphertext_give_the_map_of_the_same_windows_of_the_image(self, place):
        windows = ("--window", 16, "--stride", 8)
        for name, options in (("whole", ()), ("plain", windows)):
            place.succeed(
                "segment", place.folder / "image.png", "--model", place.folder / "model", *options,
                "-o", place.folder / f"{name}.png", "--no-overlay",
            )  # fmt: skip
        model = place.encrypted_model()
        for name, image in (("encrypted", place.encrypted_image()), ("key", place.folder / "image.png")):
            key = ("-k", place.key_file) if name == "key" else ()
            place.succeed("segment", image, "--model", model, *windows, *key, "-o", place.folder / f"{name}.png")
        whole, plain, *encrypted = map(place.label_map, ("whole.png", "plain.png", "encrypted.png", "key.png"))
        assert (whole != plain).any()
        assert all((found == plain).mean() > 0.99 for found in encrypted)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (("--stride", 8), "expected --stride together with --window, got --stride 8 alone"),
            (("--window", 8, "--stride", 12), "expected --stride of at most --window 8"),
            (("--window", 8, "--server", "http://localhost"), "a service cuts windows itself"),
        ],
        ids=["stride alone", "gaps", "server"],
    )
    def test_wrong_usage(self, place, options, message):
        model = () if "--server" in options else ("--model", place.folder / "model")
        found = place.fail("segment", place.folder / "image.png", *model, *options, "-o", "out", code=2)
        assert message in " ".join(found.replace("│", " ").split())

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (
                ("--window", 6),
                "must be a multiple of the patch size 4, got 6; the nearest is 8",
            ),
            (("--window", 16), "the stride must be a multiple of the patch size 4, got 10; the nearest is 12"),
        ],
        ids=["window", "published stride"],
    )
    def test_windows_off_the_grid_of_a_ciphertext_are_refused_with_the_nearest(self, place, options, message):
        found = place.fail(
            "segment", place.encrypted_image(), "--model", place.encrypted_model(), *options, "-o", place.folder / "o"
        )
        assert message in found
