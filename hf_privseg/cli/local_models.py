"""The segmentation maps of `privseg segment --model`: a model on this machine, which needs torch."""

from pathlib import Path
from typing import Any, cast

from PIL import Image
from transformers import PreTrainedModel

from ..any_vit.model_facts import key_facts
from ..inference.pictures import palette_for, segment_palette
from ..inference.segmentation import WHOLE_IMAGE, prepare, segment_image
from ..inference.tasks import Segmentation, Task
from ..inference.vision_segmentation import segment_file
from ..inference.windows import Inference
from ..setr.errors import EncryptionStateError
from ..setr.public_facts import check_key_fits
from ..storage.images import is_ciphertext, plain_image, read_image
from ..storage.model_files import is_setr
from ..storage.models import load_model
from ..storage.vision_models import load_any_model
from .jobs import attempt
from .options import has_key, read_key
from .segmenters import Segmenter


def local_model(
    name: str,
    key_file: Path | None,
    *,
    task: Task,
    needs_key: bool,
    max_pixels: int,
    device: str | None = None,
    dtype: str | None = None,
    inference: Inference = WHOLE_IMAGE,
) -> Segmenter:
    """A model on this machine.

    Args:
        name: folder, Hub id, or "default".
        task: what it is to make of an image.
        key_file: file with the model's key.
        needs_key: whether the job uses the key; else a key in the environment variable is not even read.
        max_pixels: of the segmentation map of an encrypted image.
        device, dtype: as for `load_model`.
        inference: whether a SETR segments the whole image or windows of it.

    Raises:
        KeyMismatchError: the key is not the model's.
        ValueError: the model does not do the task, or is no SETR and is to segment windows.
        As `load_model` and `read_key`.
    """
    if not is_setr(name):
        if inference != WHOLE_IMAGE:
            raise ValueError(
                f"expected a SETR for --window, got {name}, whose processor says how an image is prepared; leave "
                "--window and --stride out"
            )
        found = load_any_model(name, device=device, dtype=dtype)
        return _any_model(*found, name, key_file, task=task, needs_key=needs_key, max_pixels=max_pixels)
    network, processor = load_model(name, device=device, dtype=dtype)
    config, key = network.config, None
    names = cast("dict[int, str]", config.id2label)
    task.check_offered(processor, names, model=f"the model {name}")
    if key_file is not None or (config.encryption is not None and needs_key and has_key(key_file)):
        key = read_key(key_file)
        check_key_fits(key.facts, config.key_facts, model=f"the model {name}")

    def segment_one(_: int, image: Path) -> Segmentation:
        prepared = prepare(image, name, config, processor, key)
        found = segment_image(network, processor, prepared, max_pixels=max_pixels, inference=inference)
        return Segmentation(found)

    return Segmenter(
        facts={"model": name, "encryption": config.encryption},
        names=names,
        palette=palette_for(config),
        task=task,
        show=lambda image: plain_image(image, processor, key),
        segment=lambda images: attempt(segment_one, enumerate(images)),
    )


def _any_model(
    network: PreTrainedModel,
    processor: Any,
    name: str,
    key_file: Path | None,
    *,
    task: Task,
    needs_key: bool,
    max_pixels: int,
) -> Segmenter:
    """A loaded model of another class than SETR; the other arguments as for `local_model`."""
    names = cast("dict[int, str]", network.config.id2label)
    task.check_offered(processor, names, model=f"the model {name}")
    facts, key = key_facts(network), None
    if key_file is not None or (facts is not None and needs_key and has_key(key_file)):
        key = read_key(key_file)
        check_key_fits(key.facts, facts, model=f"the model {name}")

    def segment_one(_: int, image: Path) -> Segmentation:
        return segment_file(network, processor, image, task=task, secret_key=key, max_pixels=max_pixels)

    def show(image: Path) -> Image.Image:
        if is_ciphertext(image):
            raise EncryptionStateError(
                f"{image} is encrypted; an overlay shows the plain image, and encrypted inputs of {name} are not "
                "decrypted; give the plain image and the key"
            )
        return read_image(image)

    return Segmenter(
        facts={"model": name, "encryption": None if facts is None else facts.to_dict()},
        names=names,
        palette=palette_for(network.config) if task.name == "semantic" else segment_palette(),
        task=task,
        show=show,
        segment=lambda images: attempt(segment_one, enumerate(images)),
    )
