"""The tasks of segmentation: what a processor makes of a model's outputs for each of them.

Semantic segmentation gives each pixel a class. Instance and panoptic segmentation give it a segment, and each segment
a class: instances may leave pixels out, a panoptic map as a rule covers all of them.
"""

import inspect
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import torch

TASKS = ("semantic", "instance", "panoptic")
MAX_SEGMENTS = 255  # what an indexed PNG holds beside the pixels without a segment


class Segment(NamedTuple):
    """One segment of an image.

    Args:
        id: its value in the map, from 1.
        label_id, label: class, and its name.
        score: of the model, 0 to 1.
        pixels: how many it has in the map.
    """

    id: int
    label_id: int
    label: str
    score: float
    pixels: int


@dataclass(frozen=True)
class Segmentation:
    """The segmentation of one image.

    Args:
        map: (height, width) int64. The class of each pixel; or, where there are segments, the id of the pixel's
            segment, 0 for a pixel without one.
        segments: of an instance or panoptic segmentation, in the order of their ids from 1; else None.
    """

    map: np.ndarray
    segments: Sequence[Segment] | None = None

    def pixels_of_labels(self, num_labels: int) -> np.ndarray:
        """(num_labels,) pixels of each class."""
        if self.segments is None:
            return np.bincount(self.map.ravel(), minlength=num_labels)
        counts = np.zeros(num_labels, np.int64)
        for segment in self.segments:
            counts[segment.label_id] += segment.pixels
        return counts


@dataclass(frozen=True)
class Task:
    """What is asked of a model.

    Args:
        name: one of `TASKS`.
        threshold: score below which a segment is left out; None leaves it to the processor.
        fused: classes whose segments become one segment of a panoptic map, such as sky; names of the model's labels.
    """

    name: str = "semantic"
    threshold: float | None = None
    fused: Collection[str] = ()

    @property
    def method(self) -> str:
        """Name of the processor's method."""
        return f"post_process_{self.name}_segmentation"

    def check_offered(self, processor: Any, labels: Mapping[int, str], *, model: str = "the model") -> None:
        """Refuse a task that a model's processor does not do, or settings that it does not have.

        Raises:
            ValueError: says what is missing, and which tasks there are.
        """
        check_takes_images(processor, model=model)
        offered = offered_tasks(processor)
        if self.name not in offered:
            others = f"; it does {' and '.join(offered)} segmentation" if offered else ""
            raise ValueError(
                f"expected a model for {self.name} segmentation, got {model}, whose {type(processor).__name__} has no "
                f"method {self.method}{others}"
            )
        if self.name == "semantic" and self.threshold is not None:
            raise ValueError("a threshold leaves out segments, and semantic segmentation has none; leave it out")
        if self.fused and self.name != "panoptic":
            raise ValueError(f"segments are fused for panoptic segmentation, got {self.name}; leave `fused` out")
        unknown = sorted(set(self.fused) - set(labels.values()))
        if unknown:
            raise ValueError(
                f"expected names of classes of {model}, got {', '.join(unknown)}; privseg info lists them"
            )

    def inputs(self, processor: Any) -> dict[str, Any]:
        """What a processor takes beside the image to prepare it for this task: OneFormer is told the task in words."""
        takes_task = "task_inputs" in inspect.signature(type(processor).__call__).parameters
        return {"task_inputs": [self.name]} if takes_task else {}

    def segmentation(
        self, processor: Any, outputs: Any, size: tuple[int, int], labels: Mapping[int, str]
    ) -> Segmentation:
        """The outputs of a model for one image -> its segmentation.

        Args:
            processor: the model's.
            outputs: of the model, for a batch of one image.
            size: (height, width) of the image.
            labels: {class: name}.

        Raises:
            ValueError: more segments than a picture holds.
        """
        method = getattr(processor, self.method)
        settings: dict[str, Any] = {} if self.threshold is None else {"threshold": self.threshold}
        if "label_ids_to_fuse" in inspect.signature(method).parameters:
            settings["label_ids_to_fuse"] = set()  # processors that fuse give different segments one id
        found = method(outputs, target_sizes=[size], **settings)[0]
        if self.name == "semantic":
            return Segmentation(found.long().cpu().numpy())
        fused = {index for index, name in labels.items() if name in self.fused}
        return _of_segments(found["segmentation"], found["segments_info"], labels, fused)


def _of_segments(
    ids: "torch.Tensor", infos: Sequence[Mapping[str, Any]], labels: Mapping[int, str], fused: Collection[int]
) -> Segmentation:
    """A processor's map and table of segments -> ours, in which ids start at 1 and each segment has a pixel at least.

    Processors number from 0 or 1, and give pixels without a segment the number -1 or 0. The segments of a fused class
    become one, with the score of the surest.
    """
    found = ids.long().cpu().numpy()
    numbered = np.zeros(found.shape, np.int64)
    segments: list[Segment] = []
    for info in infos:
        inside, label, score = found == info["id"], int(info["label_id"]), float(info["score"])
        pixels = int(inside.sum())
        if not pixels:  # another lies on all of it
            continue
        same = next((each for each in segments if each.label_id == label and label in fused), None)
        if same is None:
            same = Segment(len(segments) + 1, label, labels[label], score, pixels)
            segments.append(same)
        else:
            segments[same.id - 1] = same._replace(score=max(same.score, score), pixels=same.pixels + pixels)
        numbered[inside] = same.id
    if len(segments) > MAX_SEGMENTS:
        raise ValueError(
            f"expected at most {MAX_SEGMENTS} segments, as an indexed PNG holds, got {len(segments)}; raise the "
            "threshold"
        )
    return Segmentation(numbered, segments)


def check_takes_images(processor: Any, *, model: str = "the model") -> None:
    """Refuse the processor of a model that takes videos alone.

    Raises:
        ValueError: says how videos are encrypted.
    """
    takes = inspect.signature(type(processor).__call__).parameters
    if "videos" in takes and "images" not in takes:
        raise ValueError(
            f"expected a model of images, got {model}, whose {type(processor).__name__} takes videos; encrypt them in "
            "Python, EncryptingProcessor(processor, model).encrypt(videos=[frames], secret_key=key)"
        )


def offered_tasks(processor: Any) -> list[str]:
    """The tasks that a processor makes segmentations for."""
    return [name for name in TASKS if hasattr(processor, Task(name).method)]
