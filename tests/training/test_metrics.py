"""The streaming mIoU equals the published definition, computed here the slow way, and refuses what it cannot count."""

import numpy as np
import pytest

pytest.importorskip("evaluate", reason="the train extra is not installed")

from hf_privseg.training.metrics import MeanIoU

RESULT_NAMES = ("mean_iou", "mean_accuracy", "overall_accuracy", "per_category_iou", "per_category_accuracy")


def by_definition(predictions, references, num_labels, ignore_index, reduce_labels):
    """Upstream's definition: histograms of agreement, prediction and reference, image by image, then summed."""
    agreement, predicted, labelled = (np.zeros(num_labels) for _ in range(3))
    edges = np.arange(num_labels + 1)
    for prediction, reference in zip(predictions, references, strict=True):
        reference = reference.astype(np.int64)
        if reduce_labels:
            reference = np.select([reference == 0, reference == 255], [255, 255], reference - 1)
        counted = reference != ignore_index
        prediction, reference = prediction[counted], reference[counted]
        agreement += np.histogram(prediction[prediction == reference], edges)[0]
        # a histogram's last bin includes its right edge, which is no class
        predicted += np.histogram(prediction[prediction < num_labels], edges)[0]
        labelled += np.histogram(reference, edges)[0]
    with np.errstate(invalid="ignore", divide="ignore"):
        iou, accuracy = agreement / (predicted + labelled - agreement), agreement / labelled
    return {
        "mean_iou": np.nanmean(iou),
        "mean_accuracy": np.nanmean(accuracy),
        "overall_accuracy": agreement.sum() / labelled.sum(),
        "per_category_iou": iou,
        "per_category_accuracy": accuracy,
    }


def random_maps(seed, num_labels, ignore_index, reduce_labels):
    rng = np.random.default_rng(seed)
    shapes = [(int(h), int(w)) for h, w in rng.integers(1, 40, (4, 2))]
    present = rng.permutation(num_labels)[: rng.integers(1, num_labels + 1)]
    references = [rng.choice(present, shape) + reduce_labels for shape in shapes]
    predictions = [rng.integers(-1, num_labels + 2, shape) for shape in shapes]
    for reference in references:
        reference[rng.random(reference.shape) < 0.2] = ignore_index
        if reduce_labels:
            reference[rng.random(reference.shape) < 0.1] = 0
    references[0].flat[0] = present[0] + reduce_labels
    return predictions, references


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(
    ("num_labels", "ignore_index", "reduce_labels"),
    [(2, 255, False), (11, 11, False), (19, -100, False), (150, 255, True), (300, 1000, False)],
    ids=["binary", "void next to the classes", "negative void", "reduced", "many classes"],
)
def test_equals_the_definition(seed, num_labels, ignore_index, reduce_labels):
    predictions, references = random_maps(seed, num_labels, ignore_index, reduce_labels)
    expected = by_definition(predictions, references, num_labels, ignore_index, reduce_labels)
    metric = MeanIoU(num_labels, ignore_index, reduce_labels)
    for prediction, reference in zip(predictions, references, strict=True):
        metric.add(prediction=prediction, reference=reference)
    streamed = metric.compute()
    at_once = MeanIoU(num_labels, ignore_index, reduce_labels).compute(predictions=predictions, references=references)
    assert set(streamed) == set(at_once) == set(RESULT_NAMES)
    for name, value in streamed.items():
        np.testing.assert_allclose(np.asarray(value), expected[name], rtol=1e-12, err_msg=name)
    for name, value in at_once.items():
        np.testing.assert_array_equal(value, {**streamed}[name], err_msg=name)


def test_a_known_case():
    metric = MeanIoU(3)
    metric.add(prediction=np.array([[0, 0, 1, 1]]), reference=np.array([[0, 1, 1, 255]]))
    result = metric.compute()
    # class 0: 1 of 2; class 1: 1 of 2; class 2 is absent and must not count as zero
    assert result["mean_iou"] == 0.5
    assert result["overall_accuracy"] == 2 / 3
    assert np.isnan(result["per_category_iou"][2])


def test_the_sum_of_shares_is_the_whole():
    predictions, references = random_maps(1, 11, 255, False)
    whole, first, second = (MeanIoU(11) for _ in range(3))
    whole.add_batch(predictions=predictions, references=references)
    first.add_batch(predictions=predictions[:1], references=references[:1])
    second.add_batch(predictions=predictions[1:], references=references[1:])
    first.confusion = first.confusion + second.confusion
    assert first.compute()["mean_iou"] == whole.compute()["mean_iou"]


def test_computing_starts_anew():
    metric = MeanIoU(2)
    metric.add(prediction=np.zeros((2, 2), int), reference=np.zeros((2, 2), int))
    assert metric.compute()["mean_iou"] == 1.0
    assert np.isnan(metric.compute()["mean_iou"])


def test_unsigned_references_are_reduced_without_wrapping():
    metric = MeanIoU(2, reduce_labels=True)
    reference = np.array([[0, 1, 2, 255]], dtype=np.uint8)
    metric.add(prediction=np.array([[1, 0, 1, 0]]), reference=reference)
    assert metric.compute()["mean_iou"] == 1.0
    assert reference.tolist() == [[0, 1, 2, 255]], "the caller's array was changed"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_labels": 1}, r"at least 2 .*got 1"),
        ({"num_labels": 11, "ignore_index": 4}, r"no class \(0 \.\. 10\), got 4"),
        ({"num_labels": 11, "ignore_index": 11, "reduce_labels": True}, r"must be 255, got 11"),
    ],
    ids=["one class", "ignored class", "reduced void"],
)
def test_refuses_senseless_settings(arguments, message):
    with pytest.raises(ValueError, match=message):
        MeanIoU(**arguments)


@pytest.mark.parametrize("value", [11, 254, -1, 4000], ids=str)
def test_a_reference_that_is_no_class_is_named_and_counts_nothing(value):
    metric = MeanIoU(11)
    reference = np.full((4, 4), 3)
    reference[0, 0] = value
    with pytest.raises(ValueError, match=rf"0 \.\. 10 or 255 .* got the values \[{value}\]"):
        metric.add(prediction=reference, reference=reference)
    assert not metric.confusion.any()


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"got \(2, 3\) and \(3, 2\)"):
        MeanIoU(2).add(prediction=np.zeros((2, 3), int), reference=np.zeros((3, 2), int))


def test_works_offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    metric = MeanIoU(2)
    assert metric.name == "mean_io_u"
    metric.add(prediction=np.eye(2, dtype=int), reference=np.eye(2, dtype=int))
    assert metric.compute()["overall_accuracy"] == 1.0
