"""From the logits of a model to segmentation maps at the images' own sizes."""

from collections.abc import Iterable
from typing import Any, Literal, Protocol, overload

import torch
from transformers.image_processing_outputs import SemanticSegmentationPostProcessorOutput as Output

from .image_scores import ImageScores
from .patch_grid import PatchGrid


class HasLogits(Protocol):
    """The output of a segmentation model."""

    @property
    def logits(self) -> Any: ...


class SegmentationPostProcessing:
    """What an image processor with a patch grid does with the output of a segmentation model."""

    patch_size: int
    do_pad: bool | None

    @overload
    def post_process_semantic_segmentation(
        self,
        outputs: HasLogits,
        target_sizes: Iterable[tuple[int, int]] | torch.Tensor | None = None,
        return_segmentation_scores: Literal[False] = False,
        *,
        valid_regions: Iterable[tuple[int, int]] | None = None,
    ) -> list[torch.Tensor]: ...

    @overload
    def post_process_semantic_segmentation(
        self,
        outputs: HasLogits,
        target_sizes: Iterable[tuple[int, int]] | torch.Tensor | None = None,
        return_segmentation_scores: Literal[True] = True,
        *,
        valid_regions: Iterable[tuple[int, int]] | None = None,
    ) -> list[Output]: ...

    def post_process_semantic_segmentation(
        self,
        outputs: HasLogits,
        target_sizes: Iterable[tuple[int, int]] | torch.Tensor | None = None,
        return_segmentation_scores: bool = False,
        *,
        valid_regions: Iterable[tuple[int, int]] | None = None,
    ) -> list[torch.Tensor] | list[Output]:
        """A model's output -> one (height, width) int64 map of class indices an image, at its target size.

        Args:
            outputs: has `logits` (batch, num_labels, any height, any width) over the whole, possibly padded input.
            target_sizes: (height, width) of each upright image, `EncryptedImage.original_size`. None leaves the maps
                at the size of the logits, padding included.
            return_segmentation_scores: whether each item has `segmentation` and `segmentation_scores`, the resized
                logits (num_labels, height, width).
            valid_regions: (height, width) of the part of each input that the image covers,
                `EncryptedImage.valid_region`. None computes it from the target sizes and this processor's own
                settings, which is right unless a call replaced `size`, `resize_factor` or `do_pad`.

        Raises:
            ValueError: not as many sizes as images.
        """
        logits = list(outputs.logits)
        if target_sizes is None:
            sizes = [(each.shape[-2], each.shape[-1]) for each in logits]
            regions: list[tuple[int, int] | None] = [None] * len(sizes)
        else:
            sizes = [(int(height), int(width)) for height, width in target_sizes]
            regions = self._valid_regions(sizes) if valid_regions is None else list(valid_regions)
        if not len(sizes) == len(regions) == len(logits):
            raise ValueError(
                f"expected a target size (and valid region) for each of the {len(logits)} images of the batch, "
                f"got {len(sizes)} (and {len(regions)})"
            )
        each = zip(logits, sizes, regions, strict=True)
        each_scores = [ImageScores.from_logits(*item, patch_size=self.patch_size) for item in each]
        if not return_segmentation_scores:
            return [scores.segmentation_map() for scores in each_scores]
        wholes = [scores.whole() for scores in each_scores]
        return [Output({"segmentation": whole.argmax(dim=0), "segmentation_scores": whole}) for whole in wholes]

    def _valid_regions(self, sizes: list[tuple[int, int]]) -> list[tuple[int, int] | None]:
        """Sizes of images -> the part of its input that each covers by the processor's settings; None is all of it."""
        if not self.do_pad:
            return [None] * len(sizes)
        return [PatchGrid.of(vars(self)).valid_region(size) for size in sizes]
