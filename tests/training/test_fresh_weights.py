"""Parts of an encoder that are drawn anew, and the rest, which stays."""

import pytest
import torch

from helpers.tiny_setr import make_key, pixels, tiny_model
from hf_privseg import EncryptionStateError
from hf_privseg.training.fresh_weights import reinitialize, whiten_embedding


def changed(num_layers: int, *, embedding: bool) -> tuple[set[str], set[str]]:
    """The parameters that a reinitialisation names, and those that it changes."""
    torch.manual_seed(0)
    model = tiny_model()
    with torch.no_grad():
        for parameter in model.parameters():  # so that constants such as the zeros of a bias are seen to be drawn
            parameter.fill_(0.3)
            setattr(parameter, "_is_hf_initialized", True)  # noqa: B010 - as after from_pretrained
    named = reinitialize(model, embedding=embedding, num_layers=num_layers)
    return set(named), {name for name, value in model.named_parameters() if not bool((value == 0.3).all())}


@pytest.mark.parametrize(("num_layers", "embedding"), [(0, True), (1, False), (2, True)])
def test_what_is_named_is_drawn_and_nothing_else(num_layers, embedding):
    named, found = changed(num_layers, embedding=embedding)
    assert named == found
    parts = ["setr.embeddings."] * embedding + [f"setr.layers.{index}." for index in range(num_layers)]
    names = [name for name, _ in tiny_model().named_parameters()]
    assert named == {name for name in names if name.startswith(tuple(parts))}


def test_nothing_is_drawn_unless_asked_for():
    assert changed(0, embedding=False) == (set(), set())


def test_a_drawn_embedding_has_nothing_of_the_one_before():
    torch.manual_seed(0)
    model = tiny_model()
    weight = model.setr.embeddings.patch_embeddings.projection.weight
    before = weight.detach().clone()
    reinitialize(model, embedding=True)
    cosine = torch.nn.functional.cosine_similarity(weight.detach().flatten(), before.flatten(), dim=0)
    assert abs(float(cosine)) < 0.2
    assert float(weight.std()) == pytest.approx(model.config.initializer_range, rel=0.2)


def test_more_layers_than_there_are_is_an_error():
    model = tiny_model()
    depth = len(model.setr.layers)
    with pytest.raises(ValueError, match=f"expected from 0 to {depth} layers to be drawn anew, got {depth + 1}"):
        reinitialize(model, num_layers=depth + 1)


def noise(count):
    """Images whose pixels vary together: nearly all of a block's variance lies in few directions."""
    smooth = torch.nn.functional.interpolate(pixels(batch=count, seed=3), scale_factor=4, mode="bilinear")
    return 0.3 * smooth + 0.05 * torch.randn(smooth.shape, generator=torch.Generator().manual_seed(1)) + 0.4


def embedded(model, images):
    """z without position, as rows."""
    return model.setr.embeddings.patch_embeddings.projection(images).detach().flatten(2).transpose(1, 2).flatten(0, 1)


def test_a_whitened_embedding_spreads_what_a_random_one_leaves_in_few_directions():
    torch.manual_seed(0)
    model, images = tiny_model(), noise(16)
    reinitialize(model, embedding=True)
    drawn = embedded(model, images)
    whiten_embedding(model, images.split(4))
    whitened = embedded(model, images)
    torch.testing.assert_close(whitened.mean(dim=0), torch.zeros(32), rtol=0, atol=1e-4)
    shares = [
        torch.linalg.eigvalsh(torch.cov(z.T)).flip(0).cumsum(0) / torch.cov(z.T).trace() for z in (drawn, whitened)
    ]
    assert shares[0][2] > 0.6
    assert shares[1][2] < 1.2 * 3 / 32
    power = [(z - z.mean(dim=0)).square().sum(dim=1).mean() for z in (drawn, whitened)]
    torch.testing.assert_close(power[1], power[0], rtol=1e-3, atol=0)


def test_two_whitened_embeddings_have_nothing_in_common():
    images = noise(8)
    weights = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        model = tiny_model()
        whiten_embedding(model, [images])
        weights.append(model.setr.embeddings.patch_embeddings.projection.weight.detach().flatten())
    assert abs(float(torch.nn.functional.cosine_similarity(weights[0], weights[1], dim=0))) < 0.2


def test_whitening_needs_images():
    with pytest.raises(ValueError, match="images of one block or more to whiten the patch embedding with, got none"):
        whiten_embedding(tiny_model(), [])


def test_an_encrypted_embedding_is_not_drawn_anew():
    model = tiny_model().encrypt_model(make_key("orthogonal"))
    before = model.setr.embeddings.patch_embeddings.projection.weight.detach().clone()
    with pytest.raises(EncryptionStateError, match="draw the patch embedding anew first, and encrypt it afterwards"):
        reinitialize(model, embedding=True)
    assert torch.equal(model.setr.embeddings.patch_embeddings.projection.weight, before)
    assert reinitialize(model, num_layers=1)
