"""What a job that stopped has left behind: results that are whole are kept, others are made again.

A result belongs to an image by its name alone. What can be told apart is refused: an encrypted image of another key,
and a segmentation map of a model with other classes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..setr.errors import CiphertextError, InvalidImageError, KeyMismatchError
from ..setr.image_files import decoded, open_image
from ..setr.public_facts import KeyFacts
from .failures import complain

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


def kept_map(path: Path, overlay: Path | None, palette: np.ndarray) -> np.ndarray | None:
    """(height, width) uint8, the segmentation map in a file that is whole, as is its overlay; None if one is missing.

    A damaged file counts as missing, and is said on standard error.

    Args:
        path: of the map, an indexed PNG.
        overlay: of the overlay, where the job makes one.
        palette: (num_labels, 3) uint8, the colours of the job's model.

    Raises:
        ValueError: the map has the colours of another model.
    """
    if not path.exists() or (overlay is not None and not overlay.exists()):
        return None
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
        if tinted.shape != (*found.shape, 3):
            raise ValueError(
                f"expected {overlay} to be as large as {path}, {found.shape[0]} x {found.shape[1]} pixels, got an "
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
