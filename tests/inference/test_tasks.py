"""What is made of a model's outputs for each task: maps, segments with their sizes, fused classes, and refusals."""

import numpy as np
import pytest
import torch
import transformers as hf
from transformers.models.eomt.modeling_eomt import EomtForUniversalSegmentationOutput
from transformers.models.mask2former.modeling_mask2former import Mask2FormerForUniversalSegmentationOutput

from hf_privseg import SetrImageProcessor
from hf_privseg.inference.tasks import Segment, Task

LABELS = {0: "sky", 1: "car"}
SIZE = (8, 8)
PROCESSORS = {
    "mask2former": (hf.Mask2FormerImageProcessor(), Mask2FormerForUniversalSegmentationOutput),
    "eomt": (
        hf.EomtImageProcessor(size={"shortest_edge": 8, "longest_edge": 8}, do_pad=True),
        EomtForUniversalSegmentationOutput,
    ),
}


def outputs(name, classes=(0, 1, 0, 1), scores=(12, 12, 12, 0.2)):
    """Four queries, each sure of two columns of a map of 8 x 8 and of its class, the last less so."""
    processor, output = PROCESSORS[name]
    masks = torch.full((1, 4, *SIZE), -20.0)
    logits = torch.full((1, 4, 3), -12.0)
    for query, (label, score) in enumerate(zip(classes, scores, strict=True)):
        masks[0, query, :, 2 * query : 2 * query + 2] = 20
        logits[0, query, label], logits[0, query, 2] = score, 0
    return processor, output(class_queries_logits=logits, masks_queries_logits=masks)


def segments_of(segmentation):
    assert segmentation.segments is not None
    return segmentation.segments


@pytest.mark.parametrize("task", ["instance", "panoptic"])
def test_segments_are_numbered_from_one_and_counted(task):
    processor, found = outputs("eomt")
    segmentation = Task(task, threshold=0.8).segmentation(processor, found, SIZE, LABELS)
    assert segmentation.map.dtype == np.int64
    assert (segmentation.map == [1, 1, 2, 2, 3, 3, 0, 0]).all()
    assert [each[:3] + each[4:] for each in segments_of(segmentation)] == [
        (1, 0, "sky", 16), (2, 1, "car", 16), (3, 0, "sky", 16),
    ]  # fmt: skip
    assert all(each.score > 0.99 for each in segments_of(segmentation))
    assert segmentation.pixels_of_labels(3).tolist() == [32, 16, 0]
    lower = Task(task, threshold=0.3).segmentation(processor, found, SIZE, LABELS)
    assert (lower.map[:, 6:] == 4).all()


@pytest.mark.parametrize("name", PROCESSORS)
@pytest.mark.parametrize("task", ["instance", "panoptic"])
def test_map_and_table_agree_whatever_the_processor_numbers(name, task):
    processor, found = outputs(name, scores=(12, 12, 12, 12))
    segmentation = Task(task, 0.8).segmentation(processor, found, SIZE, LABELS)
    assert [each.id for each in segments_of(segmentation)] == [1, 2, 3, 4]
    for column, label in enumerate((0, 1, 0, 1)):
        here = segments_of(segmentation)[int(segmentation.map[0, 2 * column]) - 1]
        assert here.label_id == label
        assert here.pixels == (segmentation.map == here.id).sum()


@pytest.mark.parametrize("name", PROCESSORS)
def test_a_class_is_fused_where_it_is_asked_for_and_others_stay_apart(name):
    processor, found = outputs(name, scores=(11, 12, 12, 12))
    segmentation = Task("panoptic", 0.8, ["sky"]).segmentation(processor, found, SIZE, LABELS)
    assert [each.label for each in segments_of(segmentation)] == ["sky", "car", "car"]
    assert segmentation.map[0, [0, 2, 5, 7]].tolist() == [1, 2, 1, 3]
    assert segments_of(segmentation)[0].pixels == (segmentation.map == 1).sum()
    assert segments_of(segmentation)[0].score == pytest.approx(1 - 6e-6, abs=1e-6)  # the surer one's


def test_nothing_found_gives_an_empty_map():
    processor, found = outputs("mask2former", scores=(-12, -12, -12, -12))
    segmentation = Task("instance").segmentation(processor, found, SIZE, LABELS)
    assert segmentation.segments == []
    assert not segmentation.map.any()


def test_a_semantic_map_has_classes_and_no_segments():
    processor, found = outputs("mask2former")
    segmentation = Task().segmentation(processor, found, SIZE, LABELS)
    assert segmentation.segments is None
    assert segmentation.map[0, [0, 2, 4]].tolist() == [0, 1, 0]
    assert segmentation.pixels_of_labels(3).sum() == 64


class Many:
    """A processor that finds a segment in each pixel."""

    def post_process_instance_segmentation(self, outputs, target_sizes):
        infos = [{"id": number, "label_id": 0, "score": 1} for number in range(300)]
        return [{"segmentation": torch.arange(300).reshape(15, 20), "segments_info": infos}]


def test_more_segments_than_a_picture_holds_are_refused():
    with pytest.raises(
        ValueError, match="at most 255 segments, as an indexed PNG holds, got 300; raise the threshold"
    ):
        Task("instance").segmentation(Many(), None, (15, 20), LABELS)


@pytest.mark.parametrize(
    ("task", "processor", "message"),
    [
        (Task("panoptic"), SetrImageProcessor(), "no method post_process_panoptic_segmentation; it does semantic"),
        (Task(), hf.ViTImageProcessor(), "has no method post_process_semantic_segmentation$"),
        (Task(threshold=0.5), hf.Mask2FormerImageProcessor(), "a threshold leaves out segments"),
        (Task("instance", fused=["sky"]), hf.Mask2FormerImageProcessor(), "segments are fused for panoptic"),
        (Task("panoptic", fused=["sea"]), hf.Mask2FormerImageProcessor(), "expected names of classes of .*, got sea"),
    ],
)
def test_what_a_model_does_not_do_is_refused(task, processor, message):
    with pytest.raises(ValueError, match=message):
        task.check_offered(processor, LABELS)


def test_a_segment_says_what_it_is():
    assert Segment(1, 0, "sky", 0.5, 7)._asdict() == {
        "id": 1, "label_id": 0, "label": "sky", "score": 0.5, "pixels": 7,
    }  # fmt: skip
