"""An encrypting processor around the processors of transformers: what it encrypts, refuses and hands on."""

import copy
import pickle
import re

import numpy as np
import pytest
import torch
import transformers as hf
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers

from helpers.tiny_setr import make_key, tiny_model
from hf_privseg import (
    EncryptingProcessor,
    EncryptionStateError,
    InvalidImageError,
    KeyMismatchError,
    SetrImageProcessor,
    decrypt_model,
    encrypt_model,
    rekey_model,
)
from hf_privseg.any_vit.model_facts import ModelFacts
from hf_privseg.any_vit.pixel_inputs import encrypt_pixels
from hf_privseg.any_vit.proof import difference, outputs_of
from tiny_vision import CASES, randomize
from tiny_vision.parts import PATCHES

pytestmark = pytest.mark.filterwarnings("ignore:the blocks of:UserWarning")

KEY, OTHER_KEY = make_key(), make_key(first_byte=9)
ROUNDING = 1e-4


def image(height=50, width=70, seed=0):
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise)


def words(*more):
    """A tokenizer of a few words."""
    vocabulary = ["<pad>", "<s>", "</s>", "<unk>", "road", "sky", *more]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(vocabulary)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def sized(side, **more):
    return {"size": {"height": side, "width": side}, **more}


def sam():
    processor = hf.SamProcessor(hf.SamImageProcessor(size={"longest_edge": 64}, pad_size={"height": 64, "width": 64}))
    return processor, {"images": image(), "input_points": [[[20, 30]]]}


def seggpt():
    prompts = {"prompt_images": image(seed=1), "prompt_masks": np.array(image(seed=2).convert("L"))}
    return hf.SegGptImageProcessor(**sized(16)), {"images": image(), **prompts}


def clipseg():
    processor = hf.CLIPSegProcessor(hf.ViTImageProcessor(**sized(32)), words())
    return processor, {"images": [image(), image(seed=1)], "text": ["road", "sky road"], "padding": True}


def mask2former():
    processor = hf.Mask2FormerImageProcessor(**sized(64), size_divisor=32)
    return processor, {"images": [image(), image(90, 40)]}


def eomt():
    return hf.EomtImageProcessor(size={"shortest_edge": 32, "longest_edge": 32}, do_pad=True), {"images": image()}


def pixtral():
    return hf.PixtralImageProcessor(size={"longest_edge": 64}, patch_size={"height": 16, "width": 16})


def qwen2_vl():
    return hf.Qwen2VLImageProcessor(patch_size=8, size={"shortest_edge": 28**2, "longest_edge": 84**2})


def video(num_frames, seed=0):
    frames = np.random.default_rng(seed).integers(0, 256, (num_frames, 3, 40, 60), dtype=np.uint8)
    return {"videos": [torch.from_numpy(frames)]}


def qwen2_vl_video():
    processor = hf.Qwen2VLVideoProcessor(
        patch_size=8, size={"shortest_edge": 28**2, "longest_edge": 84**2 * 4}, do_sample_frames=False
    )
    return processor, video(4)


# name of a tiny model -> its processor, and what a user passes to it
PROCESSORS = {
    "vit": lambda: (hf.ViTImageProcessor(**sized(32)), {"images": [image(), image(seed=1)]}),
    "beit": lambda: (hf.BeitImageProcessor(**sized(32), do_center_crop=False), {"images": image()}),
    "dpt": lambda: (hf.DPTImageProcessor(**sized(32)), {"images": image()}),
    "eomt": eomt,
    "sam": sam,
    "seggpt": seggpt,
    "siglip2": lambda: (hf.Siglip2ImageProcessor(patch_size=8, max_num_patches=12), {"images": [image(), image(9)]}),
    "mask2former_on_swin": mask2former,
    "oneformer_on_swin": lambda: (hf.Mask2FormerImageProcessor(**sized(62), size_divisor=1), {"images": image()}),
    "clipseg": clipseg,
    "pixtral": lambda: (pixtral(), {"images": image()}),
    "qwen2_vl_tower": lambda: (qwen2_vl(), {"images": [image(), image(90, 60)]}),
    "qwen2_5_vl_tower": qwen2_vl_video,
    "timesformer": lambda: (hf.TimesformerVideoProcessor(**sized(32), do_center_crop=False), video(2)),
    "videomae": lambda: (hf.VideoMAEVideoProcessor(**sized(32), do_center_crop=False), video(4)),
    "vjepa2": lambda: (hf.VJEPA2VideoProcessor(crop_size={"height": 32, "width": 32}), video(4)),
    "videomt": lambda: (hf.VideomtVideoProcessor(**sized(32)), video(2)),
}


def encrypted(name):
    case = CASES[name]()
    plain = randomize(case.model)
    model = encrypt_model(copy.deepcopy(plain), KEY)
    processor, arguments = PROCESSORS[name]()
    return plain, model, processor, arguments


def run(model, batch):
    batch = dict(batch)
    for kind, name in (("image", "pixel_values"), ("video", "pixel_values_videos")):
        if f"{kind}_grid_thw" in batch:  # a tower has names of its own
            batch = {"hidden_states": batch[name], "grid_thw": batch[f"{kind}_grid_thw"]}
    known = {"original_sizes", "reshaped_input_sizes", "patch_offsets"}
    extra = {"task_inputs": torch.full((1, 7), 5)} if "OneFormer" in type(model).__name__ else {}
    return outputs_of(model, {name: value for name, value in batch.items() if name not in known} | extra)


@pytest.mark.parametrize("name", PROCESSORS)
def test_encrypted_inputs_give_the_plain_model_s_outputs(name):
    plain, model, processor, arguments = encrypted(name)
    expected = processor(**arguments, return_tensors="pt")
    batch = EncryptingProcessor(processor, model)(**arguments, secret_key=KEY)
    assert type(batch) is type(expected)
    assert set(batch) == set(expected)
    (pixels,) = {"pixel_values", "pixel_values_videos"} & set(batch)
    assert difference(batch[pixels], expected[pixels]) > 0.1
    pairs = zip(run(model, batch), run(plain, expected), strict=True)
    assert max(difference(*pair) for pair in pairs) < ROUNDING


def test_setr_s_own_processor_and_this_one_around_a_plain_copy_agree():
    model = encrypt_model(tiny_model(), KEY)
    processor = SetrImageProcessor(patch_size=4, size={"height": 16, "width": 16})
    ours = processor(image(), secret_key=KEY, return_tensors="pt")["pixel_values"]
    around = EncryptingProcessor(processor, model)(image(), secret_key=KEY)["pixel_values"]
    torch.testing.assert_close(around, ours, rtol=1e-5, atol=1e-6)


def test_padding_of_a_batch_stays_zero_and_its_mask_as_it_is():
    _, model, processor, _ = encrypted("mask2former_on_swin")
    arguments = {"images": [image(64, 64), image(64, 40)], "do_resize": False}
    plain = processor(**arguments, return_tensors="pt")
    batch = EncryptingProcessor(processor, model)(**arguments, secret_key=KEY)
    assert torch.equal(batch["pixel_mask"], plain["pixel_mask"])
    padding = plain["pixel_mask"][1] == 0
    assert padding.any()
    assert not batch["pixel_values"][1][:, padding].any()


# -------------------------------------------------------------------------------------------------- what it refuses


def vit(**kwargs):
    model = encrypt_model(randomize(hf.ViTModel(hf.ViTConfig(**PATCHES))), KEY)
    return EncryptingProcessor(hf.ViTImageProcessor(**sized(32)), model, **kwargs), model


def test_no_key_the_wrong_key_and_a_plain_model_are_refused():
    processor, model = vit()
    with pytest.raises(EncryptionStateError, match="got no secret_key"):
        processor(image())
    with pytest.raises(KeyMismatchError, match=f"{OTHER_KEY.fingerprint}.*{KEY.fingerprint}"):
        processor(image(), secret_key=OTHER_KEY)
    with pytest.raises(EncryptionStateError, match=r"expected an encrypted model or its conf.*, got a plain"):
        EncryptingProcessor(hf.ViTImageProcessor(), hf.ViTConfig())
    decrypt_model(model, KEY)
    with pytest.raises(EncryptionStateError, match="the model is plain by now"):
        processor(image(), secret_key=KEY)


def test_it_follows_the_model_to_another_key():
    processor, model = vit()
    rekey_model(model, KEY, OTHER_KEY)
    assert processor(image(), secret_key=OTHER_KEY)["pixel_values"].shape == (1, 3, 32, 32)


class Verbose(hf.ViTImageProcessor):
    """A processor that returns the image a second time, under a name of its own."""

    def preprocess(self, *args, **kwargs):
        batch = super().preprocess(*args, **kwargs)
        batch["thumbnail"] = batch["pixel_values"][..., ::2, ::2]
        return batch


def test_an_input_of_an_unknown_name_is_refused_unless_it_is_said_to_be_plain():
    _, model = vit()
    verbose = Verbose(**sized(32))
    with pytest.raises(InvalidImageError, match="may show the image and are not known to be encrypted: thumbnail"):
        EncryptingProcessor(verbose, model)(image(), secret_key=KEY)
    batch = EncryptingProcessor(verbose, model, plain_inputs=["thumbnail"])(image(), secret_key=KEY)
    assert set(batch) == {"pixel_values", "thumbnail"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"do_normalize": False, "do_rescale": False}, "pixel_values: expected normalised .* torch.uint8"),
        ({"return_tensors": "np"}, "pixel_values: expected .* torch.Tensor"),
        ({"size": {"height": 32, "width": 44}}, "multiple of the patch size 8, got 32 x 44; the nearest is 32 x 48"),
        ({"size": {"height": 4, "width": 32}}, "multiple of the patch size 8, got 4 x 32"),
    ],
)  # fmt: skip
def test_pixels_that_cannot_be_encrypted_are_refused(arguments, message):
    processor, _ = vit()
    with pytest.raises(InvalidImageError, match=message):
        processor(image(), secret_key=KEY, **arguments)


def test_frames_that_make_no_whole_groups_are_refused():
    model = encrypt_model(randomize(CASES["videomae"]().model), KEY)
    processor = EncryptingProcessor(hf.VideoMAEVideoProcessor(**sized(32), do_center_crop=False), model)
    with pytest.raises(InvalidImageError, match=r"pixel_values: expected whole groups of 2 frames, .* got 3 frames"):
        processor(**video(3), secret_key=KEY)


def test_flattened_patches_of_another_length_and_images_for_a_model_of_flattened_patches_are_refused():
    facts = ModelFacts(KEY.facts, 1, 192)
    for shape in ((2, 5, 100), (1, 3, 32, 32)):
        with pytest.raises(InvalidImageError, match=re.escape(f"patches of 192 numbers each, got shape {shape}")):
            encrypt_pixels(torch.zeros(shape), KEY, facts)


def test_sides_off_the_grid_are_padded_where_asked_and_where_the_model_pads_itself():
    processor, _ = vit(pad=True)
    batch = processor(image(), secret_key=KEY, size={"height": 28, "width": 44})
    assert batch["pixel_values"].shape == (1, 3, 32, 48)
    _, swin, _, _ = encrypted("mask2former_on_swin")
    around = EncryptingProcessor(hf.ViTImageProcessor(**sized(62)), swin)
    batch = around(image(), secret_key=KEY)
    assert batch["pixel_values"].shape == (1, 3, 64, 64)
    refusing = EncryptingProcessor(hf.ViTImageProcessor(**sized(62)), swin, pad=False)
    with pytest.raises(InvalidImageError, match="multiple of the patch size 4, got 62 x 62"):
        refusing(image(), secret_key=KEY)


# ------------------------------------------------------------------------------------------------ what it hands on


def test_other_methods_and_settings_are_the_processor_s_own():
    _, model, inner, arguments = encrypted("mask2former_on_swin")
    processor = EncryptingProcessor(inner, model)
    outputs = model(**processor(**arguments, secret_key=KEY))
    ours = processor.post_process_semantic_segmentation(outputs, target_sizes=[(50, 70), (90, 40)])
    theirs = inner.post_process_semantic_segmentation(outputs, target_sizes=[(50, 70), (90, 40)])
    assert all(torch.equal(*pair) for pair in zip(ours, theirs, strict=True))
    assert processor.size == inner.size
    with pytest.raises(AttributeError):
        _ = processor.no_such_thing
    with pytest.raises(TypeError, match="post_process_semantic_segmentation returns no pixels"):
        processor.post_process_semantic_segmentation(outputs, secret_key=KEY)


def test_no_method_and_no_inner_processor_lets_a_plain_image_through():
    _, model, inner, arguments = encrypted("clipseg")
    processor = EncryptingProcessor(inner, model)
    for make in (processor.image_processor, processor.image_processor.preprocess):
        with pytest.raises(EncryptionStateError, match="got no secret_key"):
            make(image(), return_tensors="pt")
    expected = processor(**arguments, secret_key=KEY)["pixel_values"]
    found = processor.image_processor.preprocess(arguments["images"], return_tensors="pt", secret_key=KEY)
    assert torch.equal(found["pixel_values"], expected)
    assert processor.tokenizer.decode([4]) == "road"


def test_the_key_never_reaches_the_processor_and_is_in_nothing_that_is_saved_or_shown(tmp_path):
    processor, _ = vit()
    batch = processor(image(), secret_key=KEY)
    processor.save_pretrained(tmp_path)
    shown = (
        repr(processor) + repr(processor.processor) + repr(batch) + (tmp_path / "preprocessor_config.json").read_text()
    )
    assert KEY.fingerprint in repr(processor)
    assert KEY.to_text() not in shown
    assert "secret" not in shown
    assert pickle.loads(pickle.dumps(processor))(image(), secret_key=KEY)["pixel_values"].equal(batch["pixel_values"])  # noqa: S301


@pytest.mark.parametrize("subtask", ["instance", "panoptic"])
def test_a_pipeline_finds_the_same_segments_of_an_encrypted_image(subtask):
    inner = hf.Mask2FormerImageProcessor(size={"height": 64, "width": 64}, size_divisor=1)
    plain = randomize(CASES["mask2former_on_swin"]().model, seed=6)  # a seed with which it finds segments
    model = encrypt_model(copy.deepcopy(plain), KEY)
    options = {"subtask": subtask, "threshold": 0.01, "overlap_mask_area_threshold": 0.01}
    expected = hf.pipeline("image-segmentation", model=plain, image_processor=inner)(image(), **options)
    with EncryptingProcessor(inner, model).with_key(KEY) as holding:
        found = hf.pipeline("image-segmentation", model=model, image_processor=holding)(image(), **options)
    without = hf.pipeline("image-segmentation", model=model, image_processor=inner)(image(), **options)
    assert len(expected) > 1
    assert [part["label"] for part in found] == [part["label"] for part in expected]
    assert [part["score"] for part in found] == pytest.approx([part["score"] for part in expected], abs=1e-3)
    shares = [(np.array(a["mask"]) == np.array(b["mask"])).mean() for a, b in zip(found, expected, strict=True)]
    assert min(shares) > 0.99
    assert [part["score"] for part in without] != pytest.approx([part["score"] for part in expected], abs=1e-3)


def test_a_pipeline_gets_a_processor_with_the_key_for_as_long_as_a_block_lasts():
    inner = hf.BeitImageProcessor(**sized(32), do_center_crop=False)
    plain = randomize(CASES["beit"]().model)
    model = encrypt_model(copy.deepcopy(plain), KEY)
    expected = hf.pipeline("image-segmentation", model=plain, image_processor=inner)(image())
    processor = EncryptingProcessor(inner, model)
    with processor.with_key(KEY) as holding:
        segment = hf.pipeline("image-segmentation", model=model, image_processor=holding)
        found = segment(image())
        with pytest.raises(TypeError, match="holds a key and is neither pickled nor copied"):
            pickle.dumps(holding)
        with pytest.raises(TypeError, match="holds a key"):
            copy.copy(holding)
        assert KEY.to_text() not in repr(holding) + repr(vars(holding))
    assert [part["label"] for part in found] == [part["label"] for part in expected]
    for ours, theirs in zip(found, expected, strict=True):
        assert (np.array(ours["mask"]) == np.array(theirs["mask"])).mean() > 0.999
    with pytest.raises(EncryptionStateError, match="got no secret_key"):
        segment(image())
    with pytest.raises(KeyMismatchError), processor.with_key(OTHER_KEY):
        pass


def test_as_many_target_sizes_as_images():
    model = encrypt_model(randomize(CASES["beit"]().model), KEY)
    processor = EncryptingProcessor(hf.BeitImageProcessor(**sized(32), do_center_crop=False), model)
    two = [image(), image(90, 40)]
    assert processor.encrypt(images=two, secret_key=KEY, target_sizes=[(50, 70), (90, 40)]).target_sizes[1] == (90, 40)
    with pytest.raises(ValueError, match=r"height and width of each of 2 images, got 1$"):
        processor.encrypt(images=two, secret_key=KEY, target_sizes=[(50, 70)])
