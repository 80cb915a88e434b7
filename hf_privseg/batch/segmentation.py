"""`privseg batch segment`: images, or ciphertexts without a key, become segmentation maps."""

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from ..setr.encrypted_image import EncryptedImage
from ..setr.public_facts import check_image_fits, check_plain_image_fits
from ..storage.model_files import SetrSettings, local_folder, read_setr_settings
from .operations import Outcome, Value, Work, decode_image


@dataclass(frozen=True)
class Segment:
    """Semantic segmentation by a SETR model, without a key: a plain model takes plain images, others ciphertexts.

    Args:
        model: name of the model, on every node.
        batch_size: how many images of one size the model sees at once.
        max_pixels: of a map of a ciphertext, whose file says how large it is.
        device, dtype: as for `load_model`.
    """

    name: ClassVar[str] = "segment"
    content: ClassVar[str] = "map"
    ending: ClassVar[str] = ".segmentation"
    fields: ClassVar[dict[str, pa.DataType]] = {
        "map": pa.large_binary(),
        "width": pa.int32(),
        "height": pa.int32(),
        "pixels": pa.list_(pa.int64()),
    }
    uses_model: ClassVar[bool] = True

    model: str
    batch_size: int = 4
    max_pixels: int = 2**25
    device: str | None = None
    dtype: str | None = None

    def facts(self) -> dict[str, Any]:
        """The model and its key. Neither device nor batch size makes it another job."""
        settings = _settings(self.model)
        key = None if settings.key_facts is None else settings.key_facts.to_dict()
        return {"model": self.model, "model_sha256": _digest(self.model), "key": key, "dtype": self.dtype}

    def decode(self, name: str, content: bytes) -> Value:
        """The bytes of an image -> its levels, or the ciphertext."""
        return decode_image(name, content, _settings(self.model).encrypter)

    def check(self, value: Value) -> None:
        """Refuse an image that is not for the model."""
        settings, model = _settings(self.model), f"the model {self.model}"
        if isinstance(value, EncryptedImage):
            check_image_fits(value, settings.key_facts, settings.patch_size, settings.num_channels, model=model)
        else:
            check_plain_image_fits(None, settings.key_facts, model=model)

    def work(self) -> Work:
        """Load the model -> what segments."""
        from ..inference.pictures import palette_for
        from ..inference.segmentation import check_map_size, segment_images
        from ..storage.models import load_model

        model, processor = load_model(self.model, device=self.device, dtype=self.dtype)
        palette = palette_for(model.config)

        def row(found: np.ndarray) -> Mapping[str, Any]:
            """(height, width) classes -> the fields of a row."""
            pixels = np.bincount(found.ravel(), minlength=len(palette)).tolist()
            return {
                "map": map_to_png(found, palette),
                "width": found.shape[1],
                "height": found.shape[0],
                "pixels": pixels,
            }

        def refused(value: Value) -> Exception | None:
            """Why a value is refused; None where it is not."""
            try:
                self.check(value)
                if isinstance(value, EncryptedImage):
                    check_map_size(value, self.max_pixels)
            except (ValueError, RuntimeError) as error:
                return error
            return None

        def segment(values: Sequence[Value]) -> list[Outcome]:
            """Values -> a row or an error for each, in their order."""
            rows: list[Outcome | None] = [refused(value) for value in values]
            taken = [index for index, row in enumerate(rows) if row is None]
            maps = segment_images(model, processor, [values[index] for index in taken], batch_size=self.batch_size)
            for index, found in zip(taken, maps, strict=True):
                rows[index] = found if isinstance(found, Exception) else row(found)
            return [row for row in rows if row is not None]

        return segment


def map_to_png(found: np.ndarray, palette: np.ndarray) -> bytes:
    """(height, width) classes and (num_labels, 3) uint8 colours -> an indexed PNG, as `privseg segment` writes it."""
    from ..inference.pictures import segmentation_map_to_picture

    buffer = io.BytesIO()
    segmentation_map_to_picture(found, palette).save(buffer, "PNG")
    return buffer.getvalue()


@cache
def _settings(model: str) -> SetrSettings:
    return read_setr_settings(model)


def _digest(model: str) -> str | None:
    """The SHA-256 over settings and weights of a model's folder; None for a model of the Hub, known by its name."""
    folder = local_folder(model)
    if folder is None:
        return None
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in (".json", ".safetensors"):
            with path.open("rb") as file:
                digest.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
