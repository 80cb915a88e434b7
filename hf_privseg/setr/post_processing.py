"""The way back: from the scores of a model to segmentation maps at the images' own sizes."""

from collections.abc import Iterable
from typing import Any

import torch
from transformers.image_processing_outputs import SemanticSegmentationPostProcessorOutput

from .patch_grid import PatchGrid, logits_to_image_size


class SegmentationPostProcessing:
    """What an image processor with a patch grid does with the output of a segmentation model."""

    patch_size: int
    do_pad: bool | None

    def post_process_semantic_segmentation(
        self,
        outputs: Any,
        target_sizes: Iterable[tuple[int, int]] | torch.Tensor | None = None,
        return_segmentation_scores: bool = False,
        *,
        valid_regions: Iterable[tuple[int, int]] | None = None,
    ) -> list[torch.Tensor] | list[SemanticSegmentationPostProcessorOutput]:
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
        scores = list(outputs.logits)
        if target_sizes is not None:
            sizes = [(int(height), int(width)) for height, width in target_sizes]
            regions = self._valid_regions(sizes) if valid_regions is None else list(valid_regions)
            if not len(sizes) == len(regions) == len(scores):
                raise ValueError(
                    f"expected a target size (and valid region) for each of the {len(scores)} images of the batch, "
                    f"got {len(sizes)} (and {len(regions)})"
                )
            each = zip(scores, sizes, regions, strict=True)
            scores = [logits_to_image_size(*item, patch_size=self.patch_size) for item in each]
        maps = [score.argmax(dim=0) for score in scores]
        if not return_segmentation_scores:
            return maps
        return [
            SemanticSegmentationPostProcessorOutput({"segmentation": segmentation, "segmentation_scores": score})
            for segmentation, score in zip(maps, scores, strict=True)
        ]

    def _valid_regions(self, sizes: list[tuple[int, int]]) -> list[tuple[int, int] | None]:
        """Sizes of images -> the part of its input that each covers by the processor's settings; None is all of it."""
        if not self.do_pad:
            return [None] * len(sizes)
        return [PatchGrid.of(vars(self)).valid_region(size) for size in sizes]
