"""A data set for a server that trains without seeing an image: ciphertexts, beside segmentation maps that are plain.

    OUT/images/<split>/000000.png           OUT/annotations/<split>/000000.png
    OUT/images/<split>/000000.mirrored.png  OUT/annotations/<split>/000000.mirrored.png     if asked for
    OUT/classes.json

A folder of the layout that `load_segmentation_dataset` reads. Rows are numbered in the order of the source, since
names of files can tell what is in them. Segmentation maps hold classes, whatever labels the source stores.
"""

import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import Dataset
from PIL import Image

from ..catalog.class_files import read_class_names
from ..setr.encrypted_image import EncryptedImage, file_suffix
from ..setr.encryption_key import EncryptionKey
from ..setr.errors import CiphertextError, KeyMismatchError
from ..setr.files import write_whole
from ..setr.image_encrypter import ImageEncrypter
from ..setr.segmentation_map_inputs import IGNORE_INDEX
from .label_map import LabelMap
from .rows import read_row

_VOID_OF_MANY = 2**16 - 1  # where 255 is a class


@dataclass(frozen=True)
class EncryptedDataset:
    """A folder of ciphertexts with plain segmentation maps, which is written split by split and can be gone on with.

    Args:
        folder: where it lies.
        names: {class: name}.
        encrypter: the settings of the model's image processor.
    """

    folder: Path
    names: Mapping[int, str]
    encrypter: ImageEncrypter

    @property
    def void(self) -> int:
        """What a pixel without a class is stored as: 255, or 65535 where 255 is a class."""
        return IGNORE_INDEX if len(self.names) <= IGNORE_INDEX else _VOID_OF_MANY

    def write_split(
        self, split: str, rows: Dataset, label_map: LabelMap, secret_key: EncryptionKey, *, mirrored: bool = False
    ) -> Iterator[int]:
        """Write the files that are missing, row by row -> how many ciphertexts of each row were written.

        Each file appears as a whole or not at all, so that a split that was stopped is gone on with by the same call.
        A ciphertext that exists is kept if its key, its blocks and its size are those of the row, and the segmentation
        map beside it is the row's; the pixels are not compared.

        Args:
            split: name of the split.
            rows: plain images, with columns `image` and `annotation`.
            label_map: turns annotations into classes.
            secret_key: its family chooses the cipher.
            mirrored: whether the ciphertext of each mirrored image is written, too.

        Raises:
            InvalidImageError, ValueError: of a row, as `read_row`; the files of the rows before it are there.
            KeyMismatchError: a file that exists is of another key.
            FileExistsError: a file that exists belongs to another data set, or to none.
        """
        images, annotations = (self.folder / kind / split for kind in ("images", "annotations"))
        suffix = file_suffix(secret_key.family, self.encrypter.num_channels)
        names = [[f"{index:06d}", *([f"{index:06d}.mirrored"] if mirrored else [])] for index in range(len(rows))]
        every = [name for of_row in names for name in of_row]
        for folder, ending in ((images, suffix), (annotations, ".png")):
            folder.mkdir(parents=True, exist_ok=True)
            _refuse_others(folder, {f"{name}{ending}" for name in every})
        self._write_names()
        for index, of_row in enumerate(names):
            levels, labels = read_row(rows, index, label_map, self.encrypter.num_channels)
            stored = np.where(labels == label_map.ignore_index, self.void, labels)
            written = 0
            for name, image, classes in zip(
                of_row, (levels.numpy(), levels.numpy()[..., ::-1]), (stored, stored[:, ::-1]), strict=False
            ):
                _write_map(annotations / f"{name}.png", classes.astype(np.uint8 if self.void < 256 else np.uint16))
                path = images / f"{name}{suffix}"
                if path.exists():
                    self._check_kept(path, secret_key, labels.shape)
                else:
                    self._encrypted(image, secret_key).to_file(path)
                    written += 1
            yield written

    def _encrypted(self, levels: np.ndarray, secret_key: EncryptionKey) -> EncryptedImage:
        return self.encrypter.encrypt(np.ascontiguousarray(levels), secret_key, input_data_format="channels_first")

    def _check_kept(self, path: Path, secret_key: EncryptionKey, size: tuple[int, ...]) -> None:
        """Refuse a ciphertext other than one of this key, size and processor."""
        try:
            found = EncryptedImage.from_file(path)
        except CiphertextError as error:
            raise CiphertextError(f"{path.parent / str(error)}; remove the file, and it is made again") from None
        if found.facts != secret_key.facts:
            raise KeyMismatchError(
                f"expected {path} to be encrypted with the key at hand ({secret_key.facts}), got one of another key "
                f"({found.facts}); choose another folder, or take that key"
            )
        expected = self.encrypter.patch_size, size, self.encrypter.valid_region((size[0], size[1]))
        if (found.patch_size, found.original_size, found.valid_region) != expected:
            raise FileExistsError(
                f"expected {path} to have blocks, original size and size {expected}, got "
                f"{(found.patch_size, found.original_size, found.valid_region)}: it is of another image, or for "
                "another processor; choose another folder"
            )

    def _write_names(self) -> None:
        path = self.folder / "classes.json"
        if not path.exists():
            write_whole(path, (json.dumps(self.names, indent=1) + "\n").encode(), overwrite=False)
        elif read_class_names(path) != dict(self.names):
            raise FileExistsError(f"{path} names other classes than this data set has; choose another folder")


def _refuse_others(folder: Path, expected: set[str]) -> None:
    """Refuse a folder with files that are not expected; hidden ones are what a stopped process leaves behind."""
    others = sorted(path.name for path in folder.iterdir() if path.name not in expected and path.name[0] != ".")
    if others:
        raise FileExistsError(
            f"{folder} holds files that do not come from this split, as {others[0]}; training would read them: choose "
            "another folder, or the options that they were made with"
        )


def _write_map(path: Path, classes: np.ndarray) -> None:
    """Write a segmentation map, or check that the one that exists is the same."""
    if path.exists():
        with Image.open(path) as file:
            if np.array_equal(np.array(file), classes):
                return
        raise FileExistsError(f"{path} is another segmentation map than the source has; choose another folder")
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(classes)).save(buffer, "PNG")
    write_whole(path, buffer.getvalue(), overwrite=False)
