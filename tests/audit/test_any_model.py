"""The audit of a model of another class than SETR, whose processor has its own mean and standard deviation."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from PIL import Image

pytest.importorskip("skimage", reason="the attacks extra is not installed")

from hf_privseg.any_vit.projection import find_projection, projection_name
from hf_privseg.attacks.tools.blocks import to_grid
from hf_privseg.audit.audit import audit
from hf_privseg.audit.findings import as_picture
from hf_privseg.audit.square_blocks import in_square_blocks
from hf_privseg.audit.subject import Subject
from hf_privseg.catalog.sample_images import SAMPLE_IMAGES, sample_image
from hf_privseg.setr.errors import InvalidImageError
from tiny_vision import CASES, randomize
from tiny_vision.parts import ENCODER

FEW = ("permutation", "orthogonal", "embedding")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture(scope="module")
def model():
    return randomize(hf.ViTModel(hf.ViTConfig(**ENCODER, image_size=64, patch_size=4)))


@pytest.fixture(scope="module")
def processor():
    return hf.ViTImageProcessor(size={"height": 64, "width": 64}, image_mean=MEAN, image_std=STD)


@pytest.fixture(scope="module")
def image():
    return sample_image("china").resize((320, 240))


def test_the_subject_sees_what_the_model_computes_and_pixels_of_the_range_of_the_attacks(model, processor, image):
    subject = Subject.of(model, processor)
    pixels = subject.pixels(image)
    assert 0.5 < np.abs(pixels).max() < 1 + 1e-6
    block = pixels[:, 4:8, 8:12].reshape(-1)
    projection = model.embeddings.patch_embeddings.projection
    with torch.no_grad():
        z = projection(processor(image, return_tensors="pt")["pixel_values"])[0, :, 1, 2] - projection.bias
    np.testing.assert_allclose(block @ subject.embedding, z.numpy(), atol=1e-5)


def test_attacks_find_in_it_what_they_find_in_a_setr(model, processor, image):
    victims = [image.crop((80 * n, 60, 80 * n + 64, 124)) for n in range(3)]
    others = [sample_image("coffee").resize((320, 240)).crop((64 * n, 0, 64 * n + 64, 64)) for n in range(4)]
    base = Subject.of(model, processor).embedding
    settings = {
        "processor": processor,
        "prior_images": others,
        "public_base": base,
        "families": FEW,
        "progress": False,
    }
    report = audit(model, victims, **settings)
    assert {found.family for found in report.findings} == {"any", *FEW}
    chosen = [f for f in report.findings if f.attacker == "chosen plaintext" and f.family == "orthogonal"]
    assert chosen[0].metrics["hp"] > 0.99
    broken = [f for f in report.findings if f.attacker == "public base" and f.family == "permutation"]
    assert broken[0].metrics["exact"] == 1.0
    assert not any("agreement" in found.metrics for found in report.findings)
    assert report.subject["patch_size"] == 4


SQUARE: dict[str, Any] = {"height": 32, "width": 32}
QWEN: dict[str, Any] = {
    "patch_size": 8,
    "temporal_patch_size": 2,
    "size": {"shortest_edge": 16 * 16, "longest_edge": 64 * 64},
}
WHOLE: dict[str, Any] = {"do_sample_frames": False, "size": {"shortest_edge": 16 * 16, "longest_edge": 64 * 64 * 4}}
CROPS: dict[str, Any] = {"size": {"shortest_edge": 32}, "crop_size": SQUARE}

# A processor, the channels of a block, and the blocks that it makes of an image and of four frames.
FORMS: dict[str, Any] = {
    "siglip2": (lambda: hf.Siglip2ImageProcessor(patch_size=8, max_num_patches=72), 3, (7, 10), None),
    "qwen2_vl": (lambda: hf.Qwen2VLImageProcessor(**QWEN), 6, (6, 8), None),
    "qwen2_5_vl": (lambda: hf.Qwen2VLImageProcessor(**QWEN), 6, (6, 8), None),
    "qwen3_vl": (lambda: hf.Qwen3VLVideoProcessor(**QWEN | WHOLE), 6, (6, 8), (6, 16)),
    "timesformer": (lambda: hf.VideoMAEVideoProcessor(**CROPS), 3, (4, 4), (4, 16)),
    "videomae": (lambda: hf.VideoMAEImageProcessor(**CROPS), 6, (4, 4), (4, 8)),
    "vivit": (lambda: hf.VivitImageProcessor(**CROPS), 9, (4, 4), (4, 8)),
    "vjepa2": (lambda: hf.VJEPA2VideoProcessor(crop_size=SQUARE), 6, (4, 4), (4, 8)),
    "videoprism": (lambda: hf.VideoMAEVideoProcessor(**CROPS), 3, (4, 4), (4, 16)),
    "videomt": (lambda: hf.VideomtVideoProcessor(size=SQUARE), 3, (4, 4), (4, 16)),
}


@torch.no_grad()
def computed_by_the_layer(model, batch):
    """(n, hidden_size): what the patch embedding makes of a batch, without its bias, in any order of blocks."""
    layer, seen = model.get_submodule(projection_name(model)), []
    layer.register_forward_hook(lambda _layer, _inputs, output: seen.append(output))
    pixels = batch.get("pixel_values", batch.get("pixel_values_videos"))
    if "spatial_shapes" in batch:
        model(**batch)
        seen[0] = seen[0][0, : batch["spatial_shapes"].prod()]
    elif pixels.ndim == 2:
        model.model.visual(pixels, grid_thw=batch.get("image_grid_thw", batch.get("video_grid_thw")))
    elif isinstance(layer, torch.nn.Conv3d):
        layer(torch.cat([pixels] + [pixels[:, -1:]] * (-pixels.shape[1] % layer.kernel_size[0]), 1).transpose(1, 2))
    else:
        layer(pixels.flatten(0, 1))
    z = seen[0]
    z = z.flatten(1) if pixels.ndim == 2 else z.movedim(1, -1).flatten(0, -2) if z.ndim > 2 else z
    return z if layer.bias is None else z - layer.bias


@pytest.mark.parametrize("name", FORMS)
def test_flattened_patches_and_videos_become_images_whose_blocks_the_model_multiplies(name, image):
    build, num_channels, of_image, of_frames = FORMS[name]
    model, processor = randomize(CASES[name]().model), build()
    subject = Subject.of(model, processor)
    assert (subject.projection.patch_size, subject.projection.num_channels) == (8, num_channels)
    names = ("china", "coffee", "astronaut", "flower")
    image, *others = [Image.fromarray(SAMPLE_IMAGES[n].load()).resize((64, 48)) for n in names]
    for victim, shape in ((image, of_image), ([image, *others], of_frames)):
        if shape is None:
            continue
        made = subject.pixels(victim)
        assert np.abs(made).max() <= 1 + 1e-6
        grid = to_grid(made, 8)
        assert grid.shape[:2] == shape
        ours, theirs = grid @ subject.embedding, computed_by_the_layer(model, subject._processed(victim)).numpy()
        np.testing.assert_allclose(np.sort(ours.reshape(-1, 32), 0), np.sort(theirs, 0), atol=1e-4)
        height, width = (8 * side for side in of_image)
        first = as_picture(made)[:, :width].astype(float)
        seen = image.resize((43, 32)).crop((5, 0, 37, 32)) if "crop_size" in processor.to_dict() else image
        expected = np.asarray(seen.resize((width, height)), float)
        assert np.corrcoef(first.ravel(), expected.ravel())[0, 1] > 0.9


@pytest.mark.parametrize("name", ["siglip2", "vjepa2"])
def test_an_audit_of_flattened_patches_and_of_videos_breaks_what_is_broken(name, image):
    build, num_channels, *_ = FORMS[name]
    model, processor = randomize(CASES[name]().model), build()
    victims = [image.crop((80, 60, 144, 124))]
    base = Subject.of(model, processor).embedding
    known: dict[str, Any] = {"public_base": base, "families": ("permutation",), "progress": False}
    report = audit(model, victims, processor=processor, **known)
    broken = {found.attacker: found.metrics for found in report.findings if found.family == "permutation"}
    assert broken["public base"]["exact"] > 0.9
    assert broken["chosen plaintext"]["hp"] > 0.99
    assert report.subject["num_channels"] == num_channels
    assert report.original.shape[2] == 3


def test_the_processor_of_images_inside_a_multimodal_one_is_the_one_that_is_asked(model, image):
    plain = hf.ViTImageProcessor(size=SQUARE, image_mean=MEAN, image_std=STD)
    inside = SimpleNamespace(image_processor=plain)
    np.testing.assert_array_equal(Subject.of(model, inside).pixels(image), Subject.of(model, plain).pixels(image))


def test_pixels_of_another_form_and_several_images_are_refused(model):
    subject, small = Subject.of(model, hf.Siglip2ImageProcessor(patch_size=8)), sample_image("china").resize((64, 64))
    with pytest.raises(InvalidImageError, match=r"patches of 48 numbers under .*, got pixel_values \(1, 256, 192\)"):
        subject.pixels(small)
    with pytest.raises(InvalidImageError, match=r"images of 3 channels under .*, got pixel_values \(1, 1, 32, 32\)"):
        replace(subject, processor=lambda **_: {"pixel_values": torch.zeros(1, 1, 32, 32)}).pixels(small)
    with pytest.raises(InvalidImageError, match=r"expected one image, got 2 of ViTImageProcessor"):
        replace(subject, processor=hf.ViTImageProcessor()).pixels([small, small])


def test_flattened_patches_of_an_unknown_order_are_refused():
    found = find_projection(CASES["siglip2"]().model)
    two_frames = replace(found, config=hf.Siglip2VisionConfig(patch_size=8, num_channels=1))
    with pytest.raises(ValueError, match=r"patches of 192 numbers .* says patch_size 8 and num_channels 1; audit a"):
        in_square_blocks(two_frames)


def test_crops_of_one_image_lie_side_by_side(image):
    processor = hf.Idefics3ImageProcessor(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})
    subject = Subject.of(randomize(CASES["idefics3"]().model), processor)
    crops = processor(images=image, return_tensors="pt")["pixel_values"][0].numpy()
    made = subject.pixels(image) * subject.scale
    assert crops.shape == (5, 3, 32, 32)
    assert made.shape == (3, 32, 5 * 32)
    np.testing.assert_allclose(made.reshape(3, 32, 5, 32).transpose(2, 0, 1, 3), crops, atol=1e-6)
