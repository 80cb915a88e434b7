"""The commands on models of other classes than SETR: encrypt, segment, rekey, decrypt, and what they refuse."""

import json
import shutil

import pytest
import torch
import transformers as hf

from helpers.workplace import IMAGE_SIZE
from hf_privseg import EncryptedInputs, SecretKey
from hf_privseg.any_vit.projection import find_projection
from tiny_vision import CASES, randomize

MODELS = {
    "beit": lambda: hf.BeitImageProcessor(size={"height": 32, "width": 32}, do_center_crop=False),
    "mask2former_on_swin": lambda: hf.Mask2FormerImageProcessor(size={"height": 64, "width": 62}, size_divisor=1),
    "dpt": lambda: hf.DPTImageProcessor(size={"height": 32, "width": 32}),
}


@pytest.fixture(params=MODELS)
def vision(request, place):
    """The folder of a plain model of another class, with its processor."""
    folder = place.folder / "vision"
    randomize(CASES[request.param]().model).save_pretrained(folder)
    MODELS[request.param]().save_pretrained(folder)
    return folder


@pytest.fixture
def encrypted(vision, place):
    output = place.folder / "vision_encrypted"
    place.succeed("encrypt-model", vision, output, "-k", place.key_file)
    return output


def weight(folder):
    config = hf.AutoConfig.from_pretrained(folder)
    return find_projection(getattr(hf, config.architectures[0]).from_pretrained(folder)).weight.detach()


def test_a_ciphertext_is_segmented_without_a_key_as_the_plain_image_is_by_the_plain_model(vision, encrypted, place):
    place.succeed("segment", place.folder / "image.png", "--model", vision, "-o", place.folder / "plain.png")
    arguments = (place.folder / "image.png", "--model", encrypted)
    place.succeed("encrypt", *arguments, "-o", place.folder / "sent.safetensors", "-k", place.key_file)
    sent = place.folder / "sent.safetensors"
    assert EncryptedInputs.from_file(sent).target_sizes == (IMAGE_SIZE,)
    place.succeed("segment", sent, "--model", encrypted, "-o", place.folder / "found.png")
    place.succeed("segment", *arguments, "-k", place.key_file, "--overlay", "-o", place.folder / "here.png")
    expected = place.label_map("plain.png")
    assert expected.shape == IMAGE_SIZE
    for name in ("found.png", "here.png"):
        assert (place.label_map(name) == expected).mean() > 0.99
    assert place.label_map("here.overlay.png").shape[0] > IMAGE_SIZE[0]  # with a legend


def test_a_model_in_half_precision_segments_nearly_the_same(vision, encrypted, place):
    image = place.folder / "image.png"
    place.succeed("segment", image, "--model", vision, "-o", place.folder / "plain.png")
    options = ("--dtype", "bfloat16", "--device", "cpu")
    place.succeed("segment", image, "--model", vision, "-o", place.folder / "half.png", *options)
    place.succeed("segment", image, "--model", encrypted, "-k", place.key_file, "-o", place.folder / "e.png", *options)
    for name in ("half.png", "e.png"):
        assert (place.label_map(name) == place.label_map("plain.png")).mean() > 0.97


@pytest.mark.parametrize("vision", ["dpt"], indirect=True)
def test_a_job_goes_on_where_it_stopped(vision, encrypted, place):
    images = [place.folder / "image.png", place.folder / "again.png"]
    shutil.copy(*images)
    encrypt = ("encrypt", *images, "--model", encrypted, "-k", place.key_file, "-o", place.folder / "sent")
    place.succeed(*encrypt)
    sent = sorted((place.folder / "sent").iterdir())
    whole = [path.read_bytes() for path in sent]
    sent[0].unlink()
    assert f"Wrote {sent[0]}. Skipped 1 image whose result exists." in place.succeed(*encrypt, "--skip-existing")
    assert [path.read_bytes() for path in sent] == whole
    segment = ("segment", *sent, "--model", encrypted, "-o", place.folder / "maps")
    place.succeed(*segment)
    assert "Skipped 2 images whose results exist." in place.succeed(*segment, "--skip-existing")


def test_rekeyed_updated_and_decrypted_it_has_the_weight_that_it_should_have(vision, encrypted, place):
    new_key = SecretKey(bytes(range(1, 33)), "permutation")
    new_key.to_file(place.folder / "new.key")
    keys = ("-k", place.key_file, "-n", place.folder / "new.key")
    place.succeed("rekey", encrypted, place.folder / "rekeyed", *keys)
    place.succeed("make-rekey-update", place.folder / "next.rekey", *keys, "--model", encrypted)
    place.succeed("apply-rekey-update", encrypted, place.folder / "next.rekey", place.folder / "updated")
    place.succeed("encrypt-model", vision, place.folder / "direct", "-k", place.folder / "new.key")
    place.succeed("decrypt-model", place.folder / "rekeyed", place.folder / "plain", "-k", place.folder / "new.key")
    for name in ("rekeyed", "updated"):
        torch.testing.assert_close(weight(place.folder / name), weight(place.folder / "direct"), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(weight(place.folder / "plain"), weight(vision), rtol=1e-4, atol=1e-5)
    assert (place.folder / "plain" / "preprocessor_config.json").exists()


def test_info_says_what_the_model_and_its_file_are(vision, encrypted, place):
    assert place.run_json("info", vision)["encryption"] is None
    facts = place.run_json("info", encrypted)
    assert facts["encryption"] == place.key.facts.to_dict()
    assert facts["class"] == json.loads((encrypted / "config.json").read_text())["architectures"][0]
    assert facts["num_parameters"] > 1000
    sent = place.folder / "sent.safetensors"
    place.succeed("encrypt", place.folder / "image.png", "--model", encrypted, "-o", sent, "-k", place.key_file)
    found = place.run_json("info", sent)
    assert found["kind"] == "encrypted inputs"
    assert found["fingerprint"] == place.key.fingerprint
    assert found["original_sizes"] == [list(IMAGE_SIZE)]
    assert found["inputs"]["pixel_values"][:2] == [1, 3]


@pytest.mark.parametrize("vision", ["beit"], indirect=True)
def test_what_does_not_belong_together_is_refused(vision, encrypted, place):
    image, other_key = place.folder / "image.png", place.folder / "other.key"
    SecretKey(bytes(range(2, 34))).to_file(other_key)
    out = ("-o", place.folder / "out.png")
    assert "is plain, but the model is encrypted" in place.fail("segment", image, "--model", encrypted, *out)
    assert "do not belong together" in place.fail("segment", image, "--model", encrypted, "-k", other_key, *out)
    message = place.fail(
        "encrypt", image, "--model", vision, "-k", place.key_file, "-o", place.folder / "x.safetensors"
    )
    assert f"the model {vision} is plain" in message
    sent = place.folder / "sent.safetensors"
    place.succeed("encrypt", image, "--model", encrypted, "-o", sent, "-k", place.key_file)
    assert "the model is plain" in place.fail("segment", sent, "--model", vision, *out)
    message = place.fail("segment", sent, "--model", encrypted, "--overlay", "-k", place.key_file, *out)
    assert "an overlay shows the plain image" in message
    message = place.fail("segment", sent, "--model", encrypted, "--max-pixels", 100, *out)
    assert "expected one image of at most 100 pixels, got the sizes [(22, 31)]" in message


def test_a_model_without_segmentation_maps_and_one_that_cannot_be_encrypted_are_refused(place):
    vit = place.folder / "vit"
    randomize(CASES["vit"]().model).save_pretrained(vit)
    hf.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(vit)
    message = place.fail("segment", place.folder / "image.png", "--model", vit, "-o", place.folder / "out.png")
    assert "ViTImageProcessor has no method post_process_semantic_segmentation" in message
    segformer = place.folder / "segformer"
    hf.SegformerForSemanticSegmentation(
        hf.SegformerConfig(hidden_sizes=[8, 8, 16, 16], depths=[1] * 4, num_attention_heads=[1] * 4)
    ).save_pretrained(segformer)
    hf.SegformerImageProcessor().save_pretrained(segformer)
    message = place.fail("encrypt-model", segformer, place.folder / "out", "-k", place.key_file)
    assert "SegformerForSemanticSegmentation cannot be encrypted, because of segformer" in message
    assert not (place.folder / "out").exists()
    assert not list(place.folder.glob(".*"))


def test_a_class_that_no_test_has_encrypted_is_proven_on_an_image(place):
    config = hf.IJepaConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=32
    )
    source, image = place.folder / "ijepa", place.folder / "image.png"
    randomize(hf.IJepaModel(config)).save_pretrained(source)
    hf.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(source)
    arguments = ("encrypt-model", source, place.folder / "proven", "-k", place.key_file)
    message = place.fail(*arguments)
    assert "IJepaModel is not encrypted unproven" in message
    assert "--example IMAGE" in message
    place.succeed(*arguments, "--example", image)
    assert place.run_json("info", place.folder / "proven")["encryption"] == place.key.facts.to_dict()
    message = place.fail(
        "encrypt-model", source, place.folder / "other", "-k", place.key_file, "--example", place.key_file
    )
    assert "secret.key" in message
    assert "image" in message.partition("secret.key")[2]
    message = place.fail("encrypt-model", place.folder / "proven", place.folder / "other", "-k", place.key_file)
    assert f"expected a plain model, but the model {place.folder / 'proven'} is encrypted" in message
    assert "privseg rekey" in message


def test_a_model_of_videos_is_encrypted_and_takes_no_images(place):
    for name, build in (("vjepa2", hf.VJEPA2VideoProcessor), ("videomt", hf.VideomtVideoProcessor)):
        plain, encrypted = place.folder / name, place.folder / f"{name}_encrypted"
        randomize(CASES[name]().model).save_pretrained(plain)
        build().save_pretrained(plain)
        place.succeed("encrypt-model", plain, encrypted, "-k", place.key_file)
        image, out = place.folder / "image.png", ("-o", place.folder / "out")
        message = place.fail("encrypt", image, "--model", encrypted, "-k", place.key_file, *out)
        assert f"expected a model of images, got the model {encrypted}, whose {build.__name__} takes videos" in message
        assert "takes videos" in place.fail("segment", image, "--model", plain, *out)


def test_what_comes_next_is_a_command_that_the_model_has(place):
    build = {
        "siglip2": hf.Siglip2ImageProcessor(patch_size=8),
        "dpt": hf.DPTImageProcessor(size={"height": 32, "width": 32}),
    }
    said = {}
    for name, processor in build.items():
        plain, encrypted = place.folder / name, place.folder / f"{name}_encrypted"
        randomize(CASES[name]().model).save_pretrained(plain)
        processor.save_pretrained(plain)
        place.succeed("encrypt-model", plain, encrypted, "-k", place.key_file)
        out = place.folder / f"{name}.safetensors"
        image = place.folder / "image.png"
        said[name] = place.succeed("encrypt", image, "--model", encrypted, "-k", place.key_file, "-o", out)
    assert "Next: privseg segment" in said["dpt"]
    assert "Next, in Python: model(**EncryptedInputs.from_file(" in said["siglip2"]
    assert "privseg segment" not in said["siglip2"]


@pytest.mark.parametrize("vision", ["dpt"], indirect=True)
def test_a_client_embedding_is_used_like_a_key(vision, place):
    embedding, encrypted, sent = (place.folder / name for name in ("client.embedding", "e", "sent.safetensors"))
    said = place.succeed("make-client-embedding", vision, embedding)
    assert "32 numbers for the 192 of a block" in said
    place.succeed("encrypt-model", vision, encrypted, "-k", embedding)
    image = place.folder / "image.png"
    place.succeed("encrypt", image, "--model", encrypted, "-k", embedding, "-o", sent)
    place.succeed("segment", sent, "--model", encrypted, "-o", place.folder / "found.png")
    place.succeed("segment", image, "--model", vision, "-o", place.folder / "plain.png")
    assert (place.label_map("found.png") == place.label_map("plain.png")).mean() > 0.99
