"""Where the segmentation maps of `privseg segment` come from: a service, or a model (`local_models`)."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ..client import SegmentationClient, read_token
from ..inference.tasks import Segmentation, Task
from ..storage.images import is_ciphertext, plain_image
from .jobs import attempt
from .options import TOKEN_VARIABLE, read_key


@dataclass(frozen=True)
class Segmenter:
    """A model that segments images, here or on a server.

    Args:
        facts: what is said of it in the command's result.
        names: class -> its name.
        palette: uint8, a colour for each value of a map: (num_labels, 3) for classes, (256, 3) for segments.
        task: what it makes of an image.
        show: path of an image -> the plain image as a picture, decrypted if need be.
        segment: images -> position of each, and its segmentation or the error that it failed with.
    """

    facts: Mapping[str, object]
    names: Mapping[int, str]
    palette: np.ndarray
    task: Task
    show: Callable[[Path], Image.Image]
    segment: Callable[[Sequence[Path]], Iterator[tuple[int, Segmentation | Exception]]]


@contextmanager
def service(
    url: str,
    key_file: Path | None,
    *,
    needs_key: bool,
    patch_size: int,
    timeout: float,
    token_file: Path | None,
    ca_file: Path | None,
    bits: int | None = None,
    bits_per_block: float | None = None,
) -> Iterator[Segmenter]:
    """The model of a service, which is sent ciphertexts alone.

    Args:
        url: address of the service.
        key_file: file with the key of the service's model.
        needs_key: whether images are encrypted or decrypted here.
        patch_size: of the model, as its owner says.
        timeout: seconds for one image, with all attempts.
        token_file: file with an access token; without it, the environment variable PRIVSEG_TOKEN may hold one.
        ca_file: certificates that are trusted, in place of those that the machine trusts.
        bits, bits_per_block: of uploads in the 8-bit or the compact form.

    Raises:
        As `read_key` and `read_token`, and as `SegmentationClient`.
    """
    key = read_key(key_file) if needs_key or key_file is not None else None
    token = os.environ.get(TOKEN_VARIABLE) if token_file is None else read_token(token_file)
    with SegmentationClient(url, patch_size=patch_size, timeout=timeout, token=token, ca_file=ca_file) as client:
        if key is not None:
            client.check_key(key)
        yield Segmenter(
            facts={"server": url, "encryption": client.info.key_facts.to_dict()},
            names=dict(enumerate(client.info.labels)),
            palette=client.info.palette,
            task=Task(),
            show=lambda image: plain_image(image, client.processor, key),
            segment=lambda images: attempt(
                lambda _, found: Segmentation(found),
                client.segment_each(images, key, bits=bits, bits_per_block=bits_per_block),
            ),
        )


def needs_key(images: Sequence[Path], *, overlay: bool) -> bool:
    """Whether an encrypted model needs the key for these images: to encrypt them, or to show what is in them."""
    return overlay or not all(map(is_ciphertext, images))
