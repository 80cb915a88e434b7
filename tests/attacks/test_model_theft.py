"""A new patch embedding for an encrypted model, learned on labelled images."""

import pytest
import torch

from helpers.tiny_setr import labels, make_key, pixels, projection, tiny_model
from hf_privseg.attacks.model_theft import TheftBudget, mean_iou, steal_embedding, with_weight


def balanced_model():
    """A tiny model that finds each of its classes about as often: a random one has its favourite."""
    model = tiny_model()
    with torch.no_grad():
        logits = model(pixel_values=blocks_of_colour(64, seed=4)).logits
        head = model.decode_head.conv_seg
        spread = logits.std(dim=(0, 2, 3))
        head.weight /= spread[:, None, None, None]
        head.bias.copy_((head.bias - logits.mean(dim=(0, 2, 3))) / spread)
    return model


def blocks_of_colour(count, seed):
    images = pixels(batch=count, seed=seed)[..., ::4, ::4].sign() * 0.9
    return torch.nn.functional.interpolate(images, scale_factor=4)


def scenes(count, seed):
    """Images, and their labels by the plain model: what anyone might draw by hand."""
    images = blocks_of_colour(count, seed)
    with torch.no_grad():
        logits = balanced_model()(pixel_values=images).logits
    whole = torch.nn.functional.interpolate(logits, images.shape[-2:], mode="bilinear", align_corners=False)
    return images, whole.argmax(dim=1)


@pytest.fixture
def encrypted():
    return balanced_model().encrypt_model(make_key("orthogonal"))


def segmenting(model):
    return lambda images: model(pixel_values=images).logits


def test_a_new_embedding_serves_the_encrypted_model(encrypted):
    weight, segment = projection(encrypted).weight, segmenting(encrypted)
    images, truth = scenes(64, seed=5)
    unseen, unseen_truth = scenes(32, seed=6)
    before = {name: value.clone() for name, value in encrypted.state_dict().items()}
    without_key = mean_iou(segment, unseen, unseen_truth, 5)
    stolen = steal_embedding(
        segment, weight, images, truth, budget=TheftBudget(steps=150, batch_size=16, learning_rate=0.02)
    )
    with with_weight(weight, stolen.weight):
        assert mean_iou(segment, unseen, unseen_truth, 5) > without_key + 0.15
    assert sum(stolen.losses[-10:]) < 0.7 * sum(stolen.losses[:10])
    assert all(torch.equal(value, before[name]) for name, value in encrypted.state_dict().items())
    assert all(parameter.grad is None for parameter in encrypted.parameters())


def test_a_public_embedding_is_a_start(encrypted):
    weight, segment = projection(encrypted).weight, segmenting(encrypted)
    images, truth = scenes(4, seed=5)
    public = projection(tiny_model()).weight
    stolen = steal_embedding(segment, weight, images, truth, start=public, budget=TheftBudget(steps=0))
    assert torch.equal(stolen.weight, public)
    with with_weight(weight, stolen.weight):
        assert mean_iou(segment, images, truth, 5) == 1


def test_the_embedding_is_set_back_when_training_fails(encrypted):
    weight = projection(encrypted).weight
    kept = weight.detach().clone()

    def stop(step, loss):
        assert not torch.equal(weight, kept)
        raise KeyboardInterrupt(step)

    images, truth = scenes(2, seed=5)
    with pytest.raises(KeyboardInterrupt, match="1"):
        steal_embedding(segmenting(encrypted), weight, images, truth, progress=stop)
    assert torch.equal(weight, kept)


def test_progress_is_told(encrypted):
    told = []
    images, truth = scenes(2, seed=5)
    steal_embedding(
        segmenting(encrypted), projection(encrypted).weight, images, truth,
        budget=TheftBudget(steps=3), progress=lambda step, loss: told.append(step),
    )  # fmt: skip
    assert told == [1, 2, 3]


def test_mean_iou_counts_what_occurs_and_has_a_label():
    truth = torch.tensor([[[0, 0, 1, 255]]])
    logits = torch.nn.functional.one_hot(torch.tensor([[[0, 1, 1, 2]]]), 4).permute(0, 3, 1, 2).float()
    assert mean_iou(lambda images: logits, torch.zeros(1, 3, 1, 4), truth, 4) == pytest.approx(0.5)


def test_images_without_labels_are_refused(encrypted):
    message = r"images of shape \(2, 3, 16, 16\) and labels of shape \(1, 16, 16\)"
    with pytest.raises(ValueError, match=message):
        steal_embedding(segmenting(encrypted), projection(encrypted).weight, pixels(), labels(batch=1))
