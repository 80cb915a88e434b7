"""Public weights near the model's: keys from weights, images from what the server computes."""

import numpy as np
import pytest

from helpers.attack_victims import (
    HIDDEN_SIZE,
    LENGTH,
    PATCH_SIZE,
    drifted,
    embedding,
    encrypt,
    encrypt_embedding,
    key_of,
    pixels_of,
    prior,
    victim,
)
from hf_privseg.attacks.public_base import (
    align_base,
    embedding_matrix,
    invert_ciphertexts,
    invert_drifted_embedding,
    invert_embedding,
    recover_permutation_from_weight,
    relative_drift,
)
from hf_privseg.attacks.tools.blocks import to_image
from hf_privseg.attacks.tools.metrics import psnr, thumbnail
from hf_privseg.attacks.tools.statistics import block_statistics
from hf_privseg.setr.keys import FAMILIES


def test_the_embedding_is_the_weight_flattened_as_blocks_are():
    weight = np.random.default_rng(0).standard_normal((5, 3, 2, 2))
    np.testing.assert_array_equal(embedding_matrix(weight)[1 * 4 + 1 * 2 + 0], weight[:, 1, 1, 0])


@pytest.mark.parametrize("drift", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("family", ["permutation", "signed_permutation"])
def test_a_permutation_is_read_off_the_weights(family, drift):
    wide = np.random.default_rng(3).standard_normal((LENGTH, 384)) + 0.5  # rows alike, as trained ones are
    found = recover_permutation_from_weight(
        encrypt_embedding(wide, family), drifted(wide, drift), signed=family != "permutation"
    )
    order, signs = key_of(family)
    assert (found.order == order).all()
    assert (found.signs == signs).all()
    assert not found.ambiguous.any()
    np.testing.assert_allclose(found.decode(encrypt(victim(), family)), victim(), atol=1e-6)


def test_equal_rows_are_said_to_be_ambiguous():
    base = np.ones((LENGTH, HIDDEN_SIZE))
    assert recover_permutation_from_weight(base, base).ambiguous.all()


@pytest.mark.parametrize("family", FAMILIES)
def test_any_family_falls_to_the_public_embedding(family):
    base = embedding()
    found = invert_ciphertexts(encrypt_embedding(base, family), base, prior().statistics)
    quality = psnr(found.decode(encrypt(victim(), family)), victim())
    coarse = psnr(thumbnail(pixels_of("astronaut"), PATCH_SIZE), pixels_of("astronaut"))
    assert quality > 32
    assert quality > coarse + 8


def test_it_takes_what_the_server_computes():
    base = embedding()
    image = to_image(invert_embedding(base, prior().statistics).decode(victim() @ base), PATCH_SIZE)
    assert psnr(image, pixels_of("astronaut")) > 32


def test_the_filter_is_the_best_linear_one():
    base, statistics = embedding(), block_statistics([victim()])
    seen = victim().reshape(-1, LENGTH) @ base
    design = np.hstack([seen, np.ones((len(seen), 1))])
    best = design @ np.linalg.lstsq(design, victim().reshape(-1, LENGTH), rcond=None)[0]
    found = invert_embedding(base, statistics)
    np.testing.assert_allclose(seen @ found.matrix + found.offset, best, atol=1e-5)


def test_more_drift_leaves_less_and_knowing_it_helps():
    quality = {}
    for drift in (0.0, 0.1, 0.5):
        base = drifted(embedding(), drift)
        for guess in (0.0, drift):
            found = invert_embedding(base, prior().statistics, drift=guess)
            quality[drift, guess] = psnr(found.decode(victim() @ embedding()), victim())
    assert quality[0, 0] > quality[0.1, 0.1] + 3 > quality[0.5, 0.5] + 5
    assert quality[0.1, 0.1] > quality[0.1, 0.0] + 3


@pytest.mark.parametrize("drift", [0.2, 0.5, 1.0])
def test_many_images_make_up_for_drift(drift):
    plain = embedding(0.1, 1.0)  # as trained ones, it has more weight on fine structure than on the mean
    base = drifted(plain, drift)
    known, hidden = victim()[::2], victim()[1::2]  # the attacker's and the victim's, of one scene
    prior = block_statistics([known])
    single = invert_embedding(base, prior, drift=drift)
    many = invert_drifted_embedding(base, prior, block_statistics([hidden @ plain]), drift=drift)
    before, after = (psnr(found.decode(hidden @ plain), hidden) for found in (single, many))
    assert after > before + 1


def test_an_orthogonal_key_hides_only_a_rotation_of_the_drift():
    plain, base = embedding(), drifted(embedding(), 0.3)
    aligned = align_base(encrypt_embedding(plain, "orthogonal"), base)
    np.testing.assert_allclose(aligned.T @ aligned, plain.T @ plain, atol=1e-6)
    assert relative_drift(plain, base) == pytest.approx(0.3)
    assert relative_drift(plain, aligned) < 0.26


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda e: recover_permutation_from_weight(e, e[:, 1:]), r"one shape, got \(48, 24\) and \(48, 23\)"),
        (lambda e: align_base(e[1:], e), r"one shape, got \(47, 24\) and \(48, 24\)"),
        (lambda e: invert_embedding(e[1:], prior().statistics), "blocks of length 47, .*, got 48"),
        (lambda e: invert_ciphertexts(e[:, 1:], e, prior().statistics), "one hidden size, got 23 and 24"),
        (
            lambda e: invert_drifted_embedding(e, prior().statistics, prior().statistics, drift=0.1),
            "moments of z of length 24, got 48",
        ),
    ],
)
def test_embeddings_that_do_not_fit_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(embedding())
