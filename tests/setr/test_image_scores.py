"""Scores at the size of an image: as torch resizes, in any blocks of rows, with little memory for large maps."""

import pytest
import torch
import torch.nn.functional as F

from helpers import preloaded
from hf_privseg.setr import image_scores
from hf_privseg.setr.image_scores import ImageScores


def random_logits(num_labels=5, height=7, width=9):
    return torch.randn(num_labels, height, width, generator=torch.Generator().manual_seed(height))


def test_padding_is_cut_off_before_anything_is_resized():
    padding_wins = torch.zeros(2, 32, 48)
    padding_wins[0, :30, :45] = 1
    padding_wins[1, 30:] = 9
    padding_wins[1, :, 45:] = 9
    scores = ImageScores.from_logits(padding_wins, (60, 90), (30, 45), patch_size=16).whole()
    torch.testing.assert_close(scores, torch.stack([torch.ones(60, 90), torch.zeros(60, 90)]), rtol=0, atol=1e-6)


def test_logits_keep_their_place_through_cropping():
    ramp = torch.linspace(0, 47, 48).expand(1, 32, 48)
    scores = ImageScores.from_logits(ramp, (30, 45), (30, 45), patch_size=16).whole()
    assert torch.equal(scores, ramp[:, :30, :45])


@pytest.mark.parametrize("size", [(31, 47), (8, 12), (5, 90), (3, 4), (1, 1), (160, 7)], ids=str)
@pytest.mark.parametrize("whole", [None, (32, 48), [32, 48]], ids=str)
def test_logits_without_padding_are_resized_once_as_torch_does(size, whole):
    logits = random_logits(3, 8, 12)
    expected = F.interpolate(logits[None], size=size, mode="bilinear")[0]
    found = ImageScores.from_logits(logits, size, whole, patch_size=16)
    assert (found.size, found.num_labels) == (size, 3)
    torch.testing.assert_close(found.whole(), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("size", [(37, 50), (101, 33), (4, 5)], ids=str)
@pytest.mark.parametrize("region", [None, (27, 34)], ids=["whole", "padded"])
@pytest.mark.parametrize("num_rows", [1, 2, 7])
def test_blocks_of_rows_are_bit_for_bit_those_of_the_whole(size, region, num_rows):
    scores = ImageScores.from_logits(random_logits(), size, region, patch_size=4)
    whole = scores.whole()
    for first in range(0, size[0], num_rows):
        last = min(first + num_rows, size[0])
        assert torch.equal(scores.rows(first, last), whole[:, first:last])


@pytest.mark.parametrize("max_scores", [1, 1000, 2**24])
def test_the_segmentation_map_does_not_depend_on_the_blocks(max_scores, monkeypatch):
    monkeypatch.setattr(image_scores, "_MAX_SCORES", max_scores)
    scores = ImageScores.from_logits(random_logits(), (37, 50), (27, 34), patch_size=4)
    found = scores.segmentation_map()
    assert found.dtype == torch.int64
    assert torch.equal(found, scores.whole().argmax(dim=0))
    assert len(found.unique()) == 5


def test_logits_that_require_a_gradient_have_a_map_too():
    logits = random_logits().requires_grad_()
    found = ImageScores.from_logits(logits, (37, 50), (27, 34), patch_size=4)
    assert torch.equal(found.segmentation_map(), found.whole().argmax(dim=0))


def test_of_equal_scores_the_first_class_wins():
    assert torch.equal(
        ImageScores.from_logits(torch.ones(3, 4, 4), (9, 9), None, 4).segmentation_map(),
        torch.zeros(9, 9, dtype=torch.int64),
    )


def test_half_precision_is_resized_in_float32():
    logits = random_logits().bfloat16()
    found = ImageScores.from_logits(logits, (37, 50), None, 4).whole()
    assert torch.equal(found, ImageScores.from_logits(logits.float(), (37, 50), None, 4).whole())
    assert found.dtype == torch.float32


def test_a_large_map_takes_a_small_part_of_the_memory_of_its_scores():
    """All scores of 64 classes at 2048 x 2048 pixels are 1 GiB; the map itself is 32 MiB."""
    code = (
        "import resource, torch\n"
        "from hf_privseg.setr.image_scores import ImageScores\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "scores = ImageScores.from_logits(torch.randn(64, 8, 8), (2048, 2048), None, 4)\n"
        "before = peak(); found = scores.segmentation_map(); print(peak() - before)"
    )
    result = preloaded.run("hf_privseg", "-c", code)
    assert int(result.stdout) < 400 * 1024  # kilobytes
