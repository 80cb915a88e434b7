"""What remains of augmentation when images are encrypted: crops whose borders lie between patches.

A cipher acts on whole blocks, so that blocks may be left out but not scaled, shifted by less than a block, mirrored or
recoloured. The owner can write the ciphertext of a mirrored image beside that of the image.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import pad
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from ..setr.encrypted_image import EncryptedImage, is_encrypted_image
from ..setr.image_processing_setr import SetrImageProcessor
from ..setr.patch_grid import PatchGrid, check_on_grid
from ..setr.segmentation_map_inputs import IGNORE_INDEX

ATTEMPTS = 10  # crops that are drawn before one of a single class is taken


@dataclass(frozen=True)
class GridCrops:
    """A random crop, on the patch grid, of an image and its labels; plain images and ciphertexts are cropped alike.

    Args:
        processor: the model's; a plain image gets the size and the values that it has when it is encrypted.
        crop_size: side of the square crop in pixels, a multiple of the patch size. A smaller image is filled up with
            zeros, which are mid grey and, whatever the key, its ciphertext.
        max_class_share: a crop is drawn again, ten times at most, while one class fills a larger share than this.
        ignore_index: the label of pixels without a class, and of padding.

    Raises:
        ValueError: a crop size that is not on the grid.
    """

    processor: SetrImageProcessor
    crop_size: int
    max_class_share: float = 0.75
    ignore_index: int = IGNORE_INDEX

    def __post_init__(self) -> None:
        size, advice = self.processor.patch_size, "ciphertexts are cropped between their blocks"
        check_on_grid((self.crop_size,), size, what="the crop size", advice=advice)

    @property
    def num_channels(self) -> int:
        """Channels of the image."""
        return int(self.processor.num_channels)

    def __call__(self, image: torch.Tensor | EncryptedImage, labels: np.ndarray) -> dict[str, torch.Tensor]:
        """An image and its labels -> a crop of both.

        Args:
            image: `(channels, height, width)` uint8 levels, or a ciphertext.
            labels: `(height, width)` int64, of the plain image's size; resized by nearest neighbour.

        Returns:
            pixel_values `(channels, crop_size, crop_size)` float32, and labels `(crop_size, crop_size)` int64.
        """
        pixels = self.processor(image, return_tensors="pt")["pixel_values"][0]
        height, width = labels.shape
        if is_encrypted_image(image):
            region = image.valid_region
        else:
            region = PatchGrid.of(vars(self.processor)).valid_region((height, width))
        mask = F.resize(tv_tensors.Mask(torch.from_numpy(labels)), list(region)).as_subclass(torch.Tensor)
        size = [max(side, self.crop_size) for side in pixels.shape[-2:]]
        pixels, mask = _filled_up(pixels, size, 0.0), _filled_up(mask, size, self.ignore_index)
        for _ in range(ATTEMPTS):
            top, left = (self._drawn(side) for side in size)
            crop = ..., slice(top, top + self.crop_size), slice(left, left + self.crop_size)
            if is_varied(mask[crop], self.ignore_index, self.max_class_share):
                break
        return {"pixel_values": pixels[crop].contiguous(), "labels": mask[crop].contiguous()}

    def _drawn(self, side: int) -> int:
        """A random place of a crop along a side, a multiple of the patch size."""
        patch_size = int(self.processor.patch_size)
        return patch_size * int(torch.randint((side - self.crop_size) // patch_size + 1, ()))


def is_varied(labels: torch.Tensor, ignore_index: int, max_class_share: float) -> bool:
    """Whether labels of any shape, void apart, have no class with a larger share than `max_class_share`."""
    counts = torch.bincount(labels[labels != ignore_index])
    return bool(len(counts) and counts.max() <= max_class_share * counts.sum())


def _filled_up(values: torch.Tensor, size: list[int], value: float) -> torch.Tensor:
    """(..., height, width) -> the same of this size, filled up at the bottom and right."""
    height, width = values.shape[-2:]
    return pad(values, (0, size[1] - width, 0, size[0] - height), value=value)
