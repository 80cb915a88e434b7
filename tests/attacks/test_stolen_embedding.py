"""z inverted through a patch embedding that was learned for the layers behind the model's own."""

import numpy as np
import pytest
import torch

from helpers.tiny_setr import make_key, pixels, projection, randomize, tiny_model
from hf_privseg.attacks.model_theft import TheftBudget, with_weight
from hf_privseg.attacks.public_base import embedding_matrix
from hf_privseg.attacks.stolen_embedding import fit_hints, invert_stolen_embedding
from hf_privseg.attacks.tools.blocks import to_grid
from hf_privseg.attacks.tools.statistics import block_statistics

BUDGET = TheftBudget(steps=250, batch_size=8, learning_rate=0.02)


def features_of(model):
    """The hidden states after each of two layers."""

    def features(images):
        hidden = model.setr.embeddings(images)
        found = []
        for layer in model.setr.layers[:2]:
            hidden = layer(hidden)
            found.append(hidden.transpose(1, 2)[..., None])
        return found

    return features


def images(count, seed):
    return torch.nn.functional.interpolate(pixels(batch=count, seed=seed)[..., ::2, ::2], scale_factor=2)


def stolen_from(model, public, **kwargs):
    """An embedding for the model's layers, from what the public network computes."""
    return fit_hints(
        features_of(model), features_of(public), projection(model).weight, images(64, 5), budget=BUDGET, **kwargs
    )


def error(stolen, seed=9):
    """Mean squared error of blocks that were inverted from z, relative to their variance."""
    grids = [to_grid(image.double().numpy(), 4) for image in images(40, seed)]
    z = [grid @ embedding_matrix(projection(tiny_model()).weight.detach().numpy()) for grid in grids]
    own = [to_grid(image.double().numpy(), 4) for image in images(200, seed + 1)]
    decoder = invert_stolen_embedding(stolen, block_statistics(own), block_statistics(z), drift=0.05)
    return np.mean([(decoder.estimate(seen) - grid) ** 2 for seen, grid in zip(z, grids, strict=True)]) / np.var(grids)


def test_layers_of_a_public_network_give_its_embedding_back():
    public, model = tiny_model(), tiny_model().encrypt_model(make_key("orthogonal")).requires_grad_(False)
    before = projection(model).weight.clone()
    stolen = stolen_from(model, public)
    assert torch.equal(projection(model).weight, before)
    assert sum(stolen.losses[-10:]) < 0.2 * sum(stolen.losses[:10])
    assert error(stolen) < 0.05


def test_layers_of_another_network_give_nothing():
    """The control: the hints are of a network whose layers are not the model's."""
    model = tiny_model().encrypt_model(make_key("orthogonal")).requires_grad_(False)
    stolen = stolen_from(model, randomize(tiny_model(), seed=1))
    assert error(stolen) > 0.5


def test_a_start_is_where_it_begins():
    model = tiny_model().requires_grad_(False)
    start = projection(randomize(tiny_model(), seed=1)).weight.detach()
    stolen = fit_hints(
        features_of(model), features_of(model), projection(model).weight, images(2, 5),
        start=start, budget=TheftBudget(steps=0),
    )  # fmt: skip
    with with_weight(projection(model).weight, stolen.weight):
        assert torch.equal(projection(model).weight, start)


def test_images_are_needed():
    model = tiny_model()
    with pytest.raises(ValueError, match="one or more images to compare features on, got none"):
        fit_hints(features_of(model), features_of(model), projection(model).weight, torch.zeros(0, 3, 16, 16))
