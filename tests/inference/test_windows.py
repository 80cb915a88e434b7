"""Whole image, sliding window, mirrored image and several scales: mmsegmentation's results, and encrypted as plain."""

from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from transformers.modeling_outputs import SemanticSegmenterOutput

from helpers.golden import TOLERANCE, needs_golden, reference
from helpers.second_copy import second_copy
from helpers.tiny_setr import DECODERS, make_key, tiny_model
from hf_privseg import CiphertextError, EncryptionStateError, SetrImageProcessor
from hf_privseg.inference.windows import Inference

__all__ = ["reference"]  # the fixture, for pytest to find

PATCH = 4  # of the tiny models
STRATEGIES = {
    "whole": Inference(),
    "windows": Inference(crop_size=16, stride=9),
    "default stride": Inference(crop_size=16),
    "mirrored": Inference(flip=True),
    "scales": Inference(scales=(0.5, 1.0, 1.75)),
    "everything": Inference(crop_size=12, stride=7, scales=(0.75, 1.25), flip=True),
}


def image(height=27, width=38, seed=0):
    levels = np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)
    return Image.fromarray(levels)


def processor(**settings):
    return SetrImageProcessor(patch_size=PATCH, **settings)


def scores_of(inference, *arguments, **options):
    """All scores at once, (num_labels, height, width)."""
    return inference.scores(*arguments, **options).whole()


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@needs_golden
class TestAgainstMmsegmentation:
    # it gives its inputs after normalisation
    ready = SetrImageProcessor(do_rescale=False, do_normalize=False, do_pad=True)

    def test_windows(self, reference):
        model, tensors, _ = reference
        scores = scores_of(Inference(crop_size=64, stride=43), model, self.ready, tensors["slide80x96.input"][0])
        torch.testing.assert_close(scores, tensors["slide80x96.resized"][0], **TOLERANCE)

    @torch.no_grad()
    def test_sides_off_the_patch_grid(self, reference):
        """It pads with zeros, and then squeezes the logits of the padded image into the size of the image."""
        model, tensors, _ = reference
        inputs = self.ready(tensors["odd60x90.input"][0], return_tensors="pt")
        assert inputs.pixel_values.shape[-2:] == (64, 96)
        logits = model(**inputs).logits
        torch.testing.assert_close(logits, tensors["odd60x90.logits"], **TOLERANCE)
        (result,) = self.ready.post_process_semantic_segmentation(
            SemanticSegmenterOutput(logits=logits), [(60, 90)], True, valid_regions=[(64, 96)]
        )
        torch.testing.assert_close(result.segmentation_scores, tensors["odd60x90.resized"][0], **TOLERANCE)


class TestWholeImage:
    @pytest.mark.parametrize("settings", [{}, {"do_pad": True}, {"resize_factor": 1.5}], ids=str)
    @torch.no_grad()
    def test_is_exactly_the_model_between_both_ends_of_the_processor(self, model, settings):
        process = processor(**settings)
        outputs = model(**process(image(), return_tensors="pt"))
        (expected,) = process.post_process_semantic_segmentation(outputs, [(27, 38)], True)
        assert torch.equal(scores_of(Inference(), model, process, image()), expected["segmentation_scores"])

    def test_the_size_is_that_of_the_upright_photo(self, model):
        turned = image()
        turned.getexif()[0x0112] = 6  # turn by 90 degrees to see it upright
        assert scores_of(Inference(), model, processor(), turned).shape == (5, 38, 27)


class TestWindows:
    @pytest.mark.parametrize("decoder", DECODERS)
    @pytest.mark.parametrize("crop_size", [28, 40], ids=["one side whole", "image smaller than the window"])
    @torch.no_grad()
    def test_a_window_as_large_as_the_image_is_the_whole_image(self, decoder, crop_size):
        model, square = tiny_model(decoder), image(28, 28)
        pixel_values = processor()(square, return_tensors="pt").pixel_values
        expected = F.interpolate(model(pixel_values).logits, size=(28, 28), mode="bilinear")[0]
        found = scores_of(Inference(crop_size=crop_size), model, processor(), square)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)

    @pytest.mark.parametrize("size", [(16, 16), (17, 40), (33, 8), (50, 31)], ids=str)
    @pytest.mark.parametrize("settings", [{}, {"do_pad": True}], ids=["rounded", "padded"])
    def test_every_pixel_is_divided_by_how_often_it_was_covered(self, size, settings):
        model = tiny_model()
        model.decode_head.conv_seg.weight.data.zero_()  # the scores are the bias, wherever a window lies
        found = scores_of(Inference(crop_size=16, stride=7), model, processor(**settings), image(*size))
        expected = model.decode_head.conv_seg.bias.detach()[:, None, None].expand(5, *size)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)

    @torch.no_grad()
    def test_the_last_window_is_shifted_back_inside(self, model):
        pixel_values = processor()(image(16, 24), return_tensors="pt").pixel_values
        left, right = (
            F.interpolate(model(pixel_values[..., start : start + 16]).logits, size=(16, 16), mode="bilinear")[0]
            for start in (0, 8)
        )
        found = scores_of(Inference(crop_size=16, stride=10), model, processor(), image(16, 24))
        expected = torch.cat([left[..., :8], (left[..., 8:] + right[..., :8]) / 2, right[..., 8:]], dim=-1)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)

    def test_they_end_where_the_photo_ends_and_not_where_its_padding_does(self, model):
        """What padding holds changes nothing as long as the image has the size of a window."""
        windows = Inference(crop_size=16, stride=9)

        def on(level, *size):
            return scores_of(windows, model, processor(do_pad=True, pad_value=level), image(*size))

        assert torch.equal(on(0.0, 18, 21), on(1.0, 18, 21))
        assert not torch.equal(on(0.0, 14, 21), on(1.0, 14, 21))

    @pytest.mark.parametrize(("crop_size", "stride"), [(512, 341), (768, 512)])
    def test_the_published_strides(self, crop_size, stride, model):
        starts = [rows.start for rows, _ in Inference(crop_size)._windows(3 * crop_size, 1, crop_size)]
        assert starts[:2] == [0, stride]
        assert starts[-1] == 2 * crop_size


class TestViews:
    def test_the_scores_of_a_symmetric_photo_are_symmetric(self, model):
        half = np.asarray(image(24, 16))
        symmetric = Image.fromarray(np.concatenate([half, half[:, ::-1]], axis=1))
        plain = scores_of(Inference(), model, processor(), symmetric)
        assert (plain - plain.flip(-1)).abs().max() > 0.1
        scores = scores_of(Inference(flip=True), model, processor(), symmetric)
        torch.testing.assert_close(scores, scores.flip(-1))
        probabilities = plain.softmax(dim=0)
        torch.testing.assert_close(scores, (probabilities + probabilities.flip(-1)) / 2)

    @pytest.mark.parametrize("settings", [{}, {"do_pad": True}], ids=["rounded", "padded"])
    def test_the_mirrored_photo_has_the_mirrored_scores(self, model, settings):
        both = [image(), image().transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
        plain, mirrored = (scores_of(Inference(flip=True), model, processor(**settings), image) for image in both)
        torch.testing.assert_close(plain, mirrored.flip(-1))

    @pytest.mark.parametrize(
        "settings",
        [{}, {"resize_factor": 1.5}, {"size": {"height": 24, "width": 32}}, {"size": {"shortest_edge": 24}}],
        ids=["own size", "factor", "fixed size", "shortest edge"],
    )
    def test_scales_are_relative_to_the_processor_s_size(self, model, settings):
        sizes = []
        hook = model.setr.register_forward_pre_hook(
            lambda _, args, kwargs: sizes.append(tuple((args or [kwargs["pixel_values"]])[0].shape[-2:])),
            with_kwargs=True,
        )
        scores = scores_of(Inference(scales=(0.5, 1.0, 2.0)), model, processor(**settings), image(24, 32))
        hook.remove()
        factor = settings.get("resize_factor", 1.0)
        expected = [(24 * scale * factor, 32 * scale * factor) for scale in (0.5, 1.0, 2.0)]
        assert np.abs(np.subtract(sizes, expected)).max() <= PATCH / 2
        assert scores.shape == (5, 24, 32)
        torch.testing.assert_close(scores.sum(dim=0), torch.ones(24, 32))

    def test_they_are_averaged(self, model):
        views = [scores_of(Inference(scales=(scale,)), model, processor(), image()) for scale in (0.5, 1.5)]
        expected = torch.stack([logits.softmax(dim=0) for logits in views]).mean(dim=0)
        torch.testing.assert_close(scores_of(Inference(scales=(0.5, 1.5)), model, processor(), image()), expected)


class TestEncrypted:
    @pytest.mark.parametrize("family", ["permutation", "orthogonal"])
    @pytest.mark.parametrize("strategy", STRATEGIES)
    @pytest.mark.parametrize("settings", [{}, {"do_pad": True}], ids=["rounded", "padded"])
    def test_with_the_right_key_everything_is_as_plain(self, family, strategy, settings):
        inference, process, key = STRATEGIES[strategy], processor(**settings), make_key(family)
        plain = scores_of(inference, tiny_model(), process, image())
        encrypted = scores_of(inference, tiny_model().encrypt_model(key), process, image(), secret_key=key)
        torch.testing.assert_close(encrypted, plain, rtol=0, atol=1e-4)
        assert torch.equal(encrypted.argmax(dim=0), plain.argmax(dim=0))
        wrong = scores_of(inference, tiny_model().encrypt_model(key), process, image(), secret_key=make_key(family, 1))
        assert (wrong - plain).abs().max() > 1e-2

    @pytest.mark.parametrize("family", ["permutation", "orthogonal"])
    @pytest.mark.parametrize("inference", [Inference(), Inference(16, 8)], ids=["whole", "windows"])
    def test_an_encrypted_image_is_cut_between_its_blocks(self, family, inference):
        key = make_key(family)
        encrypted = tiny_model().encrypt_model(key)
        found = scores_of(inference, encrypted, processor(), processor().encrypt(image(), key))
        plain = scores_of(inference, tiny_model(), processor(), image())
        torch.testing.assert_close(found, plain, rtol=0, atol=1e-4)

    def test_an_encrypted_image_with_padding(self):
        """The sides are not whole blocks, so that the windows reach into the padding; the result is the image's."""
        key, process = make_key(), processor(do_pad=True)
        ciphertext = process.encrypt(image(27, 38), key)
        scores = scores_of(Inference(16, 8), tiny_model().encrypt_model(key), process, ciphertext)
        padded = np.full((28, 40, 3), 128, np.uint8)
        padded[:27, :38] = np.asarray(image(27, 38))
        expected = scores_of(Inference(16, 8), tiny_model(), process, Image.fromarray(padded))
        torch.testing.assert_close(scores, expected[:, :27, :38], rtol=0, atol=1e-4)

    @pytest.mark.parametrize(("stride", "nearest"), [(5, 4), (7, 8), (1, 4), (None, 12)])
    def test_a_stride_off_the_grid_is_refused(self, model, stride, nearest):
        ciphertext = processor().encrypt(image(), make_key())
        message = (
            rf"the stride must be a multiple of .* size 4, got {stride or 10}; the nearest is {nearest}: an encrypted"
        )
        with pytest.raises(CiphertextError, match=message):
            scores_of(Inference(16, stride), model, processor(), ciphertext)

    def test_the_published_stride_names_its_neighbour(self, model):
        ciphertext = SetrImageProcessor().encrypt(image(), make_key())
        with pytest.raises(CiphertextError, match=r"patch size 16, got 341; the nearest is 336"):
            scores_of(Inference(512), model, SetrImageProcessor(), ciphertext)

    @pytest.mark.parametrize("inference", [Inference(flip=True), Inference(scales=(0.5, 1.0))], ids=["flip", "scales"])
    def test_what_comes_before_encryption_is_refused_after_it(self, model, inference):
        ciphertext = processor().encrypt(image(), make_key())
        with pytest.raises(CiphertextError, match=r"got scales=\(.*\) and flip=(True|False); that happens before"):
            scores_of(inference, model, processor(), ciphertext)

    def test_an_encrypted_image_and_a_key_are_refused(self, model):
        ciphertext = processor().encrypt(image(), make_key())
        with pytest.raises(EncryptionStateError, match="encrypting twice"):
            scores_of(Inference(), model, processor(), ciphertext, secret_key=make_key())


class TestAnotherCipher:
    @pytest.mark.parametrize("strategy", STRATEGIES)
    def test_what_encrypts_instead_of_a_key_sees_the_same_pixels(self, model, strategy):
        inference, process, key = STRATEGIES[strategy], processor(), make_key("permutation")
        with_key = scores_of(inference, model, process, image(), secret_key=key)
        found = scores_of(inference, model, process, image(), encrypt=partial(process.encrypt_pixels, secret_key=key))
        assert torch.equal(found, with_key)
        assert not torch.equal(found, scores_of(inference, model, process, image()))

    def test_two_ways_to_encrypt_are_refused(self, model):
        with pytest.raises(EncryptionStateError, match="`encrypt` together with a key; leave one"):
            scores_of(Inference(), model, processor(), image(), secret_key=make_key(), encrypt=torch.neg)
        ciphertext = processor().encrypt(image(), make_key())
        with pytest.raises(EncryptionStateError, match="`encrypt` together with an encrypted image; leave one"):
            scores_of(Inference(), model, processor(), ciphertext, encrypt=torch.neg)


class TestRefusals:
    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"crop_size": 0}, "positive number of pixels, got 0"),
            ({"crop_size": 16, "stride": 17}, "in 1 .. crop_size, .* got 17 with a crop_size of 16"),
            ({"crop_size": 16, "stride": 0}, "in 1 .. crop_size, .* got 0 with"),
            ({"stride": 16}, "got 16 with a crop_size of None"),
            ({"scales": ()}, r"one or more positive numbers, got \(\)"),
            ({"scales": (1.0, -0.5)}, r"got \(1.0, -0.5\)"),
        ],
        ids=str,
    )
    def test_settings_out_of_range(self, settings, message):
        with pytest.raises(ValueError, match=message):
            Inference(**settings)

    @pytest.mark.parametrize(("crop_size", "nearest"), [(15, 16), (1, 4), (18, 20)])
    def test_a_crop_off_the_grid(self, model, crop_size, nearest):
        message = f"the window .crop_size. must be a multiple of the patch size 4, got {crop_size}; .* is {nearest}: "
        with pytest.raises(ValueError, match=message):
            scores_of(Inference(crop_size), model, processor(), image())

    def test_scales_without_resizing(self, model):
        with pytest.raises(ValueError, match=r"for the scale 0.5, got one with do_resize=False"):
            scores_of(Inference(scales=(0.5,)), model, processor(do_resize=False), image(16, 16))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_predicted_maps_are_the_best_scores(model, strategy):
    pytest.importorskip("evaluate", reason="the train extra is not installed")
    from hf_privseg.training.evaluation import predict_maps

    inference, images = STRATEGIES[strategy], [image(seed=1), image(20, 17, seed=2)]
    maps = list(predict_maps(model, processor(), images, inference=inference, disable=True))
    for found, given in zip(maps, images, strict=True):
        assert found.dtype == np.int64
        assert np.array_equal(found, scores_of(inference, model, processor(), given).argmax(dim=0).numpy())


def test_the_maps_of_encrypted_images_need_no_key(model):
    pytest.importorskip("evaluate", reason="the train extra is not installed")
    from hf_privseg.training.evaluation import predict_maps

    key = make_key()
    (found,) = predict_maps(
        tiny_model().encrypt_model(key), processor(), [processor().encrypt(image(), key)], disable=True
    )
    (expected,) = predict_maps(model, processor(), [image()], disable=True)
    assert np.array_equal(found, expected)


@torch.no_grad()
def test_an_encrypted_image_of_another_copy_of_the_module_is_one(model):
    encrypted = processor().encrypt(image(), make_key("permutation"))
    foreign = second_copy("encrypted_image").EncryptedImage.from_bytes(encrypted.to_bytes())
    expected = scores_of(Inference(), model, processor(), encrypted)
    assert torch.equal(scores_of(Inference(), model, processor(), foreign), expected)
    with pytest.raises(CiphertextError):
        scores_of(Inference(flip=True), model, processor(), foreign)
