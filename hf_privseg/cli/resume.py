"""What a job that stopped has left behind: results that are whole are kept, others are made again.

A result belongs to an image by its name alone. What can be told apart is refused: an encrypted image of another key,
and a segmentation map of a model with other classes.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..inference.tasks import Segment, Segmentation
from ..setr.errors import CiphertextError, InvalidImageError, KeyMismatchError
from ..setr.image_files import decoded, open_image
from ..setr.public_facts import KeyFacts
from .failures import complain
from .segmenters import Segmenter

if TYPE_CHECKING:
    from ..any_vit.encrypted_inputs import EncryptedInputs
    from ..setr.encrypted_image import EncryptedImage


def kept_encrypted_images(
    paths: Sequence[Path], form: "type[EncryptedImage | EncryptedInputs]", facts: KeyFacts, patch_size: int
) -> set[Path]:
    """Those of the paths that hold a whole encrypted image. A damaged one is said on standard error.

    Args:
        paths: where the encrypted images of a job go; they need not exist.
        form: class of what the files hold.
        facts: of the job's key.
        patch_size: of the job's blocks, in pixels.

    Raises:
        KeyMismatchError: a file was encrypted with another key, or in blocks of another size.
    """
    kept = set()
    for path in paths:
        if not path.exists():
            continue
        try:
            image = form.from_file(path)
        except CiphertextError as error:
            _complain(path, error)
            continue
        if (image.facts, image.patch_size) != (facts, patch_size):
            raise KeyMismatchError(
                f"expected {path} to be encrypted in blocks of {patch_size} pixels with the key of fingerprint "
                f"{facts.fingerprint} ({facts.family}), got blocks of {image.patch_size} pixels and the key of "
                f"{image.facts.fingerprint} ({image.facts.family}); choose another --output, or overwrite it with "
                "--force"
            )
        kept.add(path)
    return kept


def kept_segmentation(
    path: Path, overlay: Path | None, segments: Path | None, segmenter: Segmenter
) -> Segmentation | None:
    """The segmentation in files that are whole; None if one is missing.

    A damaged file counts as missing, and is said on standard error.

    Args:
        path: of the map, an indexed PNG.
        overlay: of the overlay, where the job makes one.
        segments: of the table of segments, where the job makes one.
        segmenter: of the job.

    Raises:
        ValueError: the map has the colours of another model or task.
    """
    if not path.exists():
        return None
    is_there = overlay is not None and overlay.exists()
    found = _kept_map(path, overlay if is_there else None, segmenter.palette)  # another picture is never replaced
    if not all(each is None or each.exists() for each in (overlay, segments)):
        return None
    if found is None or segments is None:
        return None if found is None else Segmentation(found.astype(np.int64))
    try:
        table = _segments_from_json(segments.read_bytes())
    except (ValueError, TypeError, KeyError) as error:
        _complain(segments, error)
        return None
    same = [each.pixels for each in table] == np.bincount(found.ravel(), minlength=len(table) + 1)[1:].tolist()
    if not same or not all(segmenter.names.get(each.label_id) == each.label for each in table):
        raise ValueError(
            f"expected {segments} to list the segments of {path} with the classes of this model, got others; choose "
            "another --output, or overwrite it with --force"
        )
    return Segmentation(found.astype(np.int64), table)


def segments_to_json(segmentation: Segmentation) -> bytes:
    """The table of segments as the content of its file: a JSON object with the entry "segments"."""
    rows = [segment._asdict() for segment in segmentation.segments or ()]
    return (json.dumps({"segments": rows}, indent=1) + "\n").encode()


def _segments_from_json(content: bytes) -> list[Segment]:
    table = [Segment(**row) for row in json.loads(content)["segments"]]
    if not all(type(each.pixels) is int and each.id == number for number, each in enumerate(table, 1)):
        raise ValueError("its segments are not numbered from 1")
    return table


def _kept_map(path: Path, overlay: Path | None, palette: np.ndarray) -> np.ndarray | None:
    """The map alone; both files exist."""
    found, mode, colours = _decoded(path)
    if found is None:
        return None
    if mode != "P" or found.max() >= len(palette) or colours[: palette.size] != palette.tobytes():
        raise ValueError(
            f"expected {path} to be a segmentation map of this model, with {len(palette)} classes in its colours, got "
            "another picture; choose another --output, or overwrite it with --force"
        )
    if overlay is not None:
        tinted, *_ = _decoded(overlay)
        if tinted is None:
            return None
        if tinted.ndim != 3 or tinted.shape[0] < found.shape[0] or tinted.shape[1] < found.shape[1]:
            raise ValueError(
                f"expected {overlay} to hold at least {path}, {found.shape[0]} x {found.shape[1]} pixels, got an "
                f"array of shape {tinted.shape}; choose another --output, or overwrite it with --force"
            )
    return found


def _decoded(path: Path) -> tuple[np.ndarray | None, str, bytes]:
    """Pixels, mode and palette of a picture; no pixels if it is damaged, which is said on standard error."""
    try:
        with open_image(path) as file:
            picture = decoded(file)
        return np.array(picture), picture.mode, bytes(picture.getpalette() or ())
    except InvalidImageError as error:
        _complain(path, error)
        return None, "", b""


def _complain(path: Path, error: Exception) -> None:
    complain("warning", f"{path} is damaged, and is made again ({error})")
