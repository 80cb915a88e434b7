"""The plain models that an experiment encrypts, and the seeded keys that it encrypts them with."""

import hashlib
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np
import torch
from PIL import Image
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from ..any_vit.model_facts import key_facts
from ..any_vit.projection import projection_name
from ..checkpoints import default_checkpoint
from ..inference.segmentation import WHOLE_IMAGE
from ..inference.tasks import Task
from ..inference.vision_segmentation import segment_vision_image
from ..inference.windows import Inference
from ..setr.encryption_key import EncryptionKey
from ..setr.errors import EncryptionStateError
from ..setr.image_inputs import image_to_levels, levels_to_pillow
from ..setr.image_processing_setr import SetrImageProcessor
from ..setr.keys import SecretKey
from ..setr.modeling_setr import SetrForSemanticSegmentation
from ..storage.model_files import is_setr
from ..storage.vision_models import load_any_model
from ..training.evaluation import predict_maps
from .arguments import ExperimentArguments, model_sources

Loaded = TypeVar("Loaded", bound="PlainModel")


@dataclass(frozen=True)
class PlainModel:
    """A model of any class before encryption, its processor, and its name in tables."""

    name: str
    source: str
    model: PreTrainedModel
    processor: Any

    def maps(
        self,
        model: PreTrainedModel,
        images: Iterable[Image.Image],
        *,
        secret_key: EncryptionKey | None,
        inference: Inference,
        **progress: Any,
    ) -> Iterator[np.ndarray]:
        """Images -> one int64 segmentation map `(height, width)` each, at the image's size.

        Args:
            model: this one, plain or encrypted, on any device.
            images: plain images.
            secret_key: encrypts them. The key is not checked against the model.
            inference: how an image is evaluated.
            progress: settings of the progress bar.

        Raises:
            ValueError: windows, scales or mirroring, which are for SETR alone.
        """
        if inference != WHOLE_IMAGE:
            raise ValueError(
                f"windows, scales and mirrored images are for SETR alone, got them for {type(model).__name__}, whose "
                "processor says how an image is prepared; leave --window, --scales and --flip out"
            )
        for image in tqdm(images, leave=False, **progress):
            upright = levels_to_pillow(image_to_levels(image))
            yield segment_vision_image(model, self.processor, upright, secret_key=secret_key).map

    def embedded(
        self, model: PreTrainedModel, image: Image.Image, *, secret_key: EncryptionKey | None = None
    ) -> torch.Tensor:
        """What the patch embedding of this model, plain or encrypted, makes of an image. Arguments: `maps`."""
        found: list[torch.Tensor] = []
        layer = model.get_submodule(projection_name(model))
        hook = layer.register_forward_hook(lambda *args: found.append(args[-1]))
        try:
            next(self.maps(model, [image], secret_key=secret_key, inference=WHOLE_IMAGE, disable=True))
        finally:
            hook.remove()
        return found[0]

    @property
    def decoder(self) -> str:
        """What tables call its decoder: the class of the model, or the decoder of a SETR."""
        return type(self.model).__name__

    @property
    def num_labels(self) -> int:
        """The number of classes."""
        return len(self.names)

    @property
    def names(self) -> dict[int, str]:
        """{class: name}."""
        return cast("dict[int, str]", self.model.config.id2label)

    @property
    def facts(self) -> dict[str, str]:
        """Its source, its decoder, and the SHA-256 of its weights, since other weights are another experiment."""
        digest = hashlib.sha256()
        for name, value in sorted(self.model.state_dict().items()):
            digest.update(name.encode() + value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        return {"source": self.source, "decoder": self.decoder, "weights_sha256": digest.hexdigest()}


@dataclass(frozen=True)
class PlainSetr(PlainModel):
    """A SETR before encryption."""

    model: SetrForSemanticSegmentation
    processor: SetrImageProcessor

    def maps(self, model: PreTrainedModel, images: Iterable[Image.Image], **settings: Any) -> Iterator[np.ndarray]:
        """As for any model; windows, scales and mirroring too."""
        return predict_maps(model, self.processor, images, **settings)

    @property
    def decoder(self) -> str:
        """Its decoder."""
        return str(self.model.config.decoder_type)


def load_plain_model(source: str | None, device: torch.device | str, name: str = "") -> PlainSetr:
    """Folder or Hub id, None for the embedded checkpoint -> the SETR on `device`, ready to predict.

    Args:
        source: the checkpoint.
        device: where the model goes.
        name: its name in tables; by default its decoder's.

    Raises:
        EncryptionStateError: the model is encrypted.
    """
    source = source or str(default_checkpoint())
    model = SetrForSemanticSegmentation.from_pretrained(source).eval().to(device)
    _check_plain(model, source)
    return PlainSetr(name or model.config.decoder_type, source, model, SetrImageProcessor.from_pretrained(source))


def load_any_plain_model(source: str, device: torch.device | str, name: str = "") -> PlainModel:
    """The same for a model of any class with semantic segmentation, SETR among them.

    Raises:
        EncryptionStateError: the model is encrypted.
        ValueError: its processor does no semantic segmentation.
    """
    if is_setr(source):
        return load_plain_model(source, device, name)
    model, processor = load_any_model(source)
    _check_plain(model, source)
    model.to(cast(Any, device))  # transformers' own annotation lacks the argument
    Task().check_offered(processor, cast("dict[int, str]", model.config.id2label), model=source)
    return PlainModel(name or type(model).__name__, source, model, processor)


def _check_plain(model: PreTrainedModel, source: str) -> None:
    if key_facts(model) is not None:
        raise EncryptionStateError(
            f"expected a plain model, since the experiment encrypts it itself, got {source}, which is encrypted; "
            "decrypt it first"
        )


def plain_models(args: ExperimentArguments, device: torch.device | str) -> Iterator[PlainSetr]:
    """The models of the command line, one after another.

    Raises:
        EncryptionStateError: a model is encrypted.
        ValueError: the classes of a model are not those of --id2label.
    """
    return _loaded(args, lambda source, name: load_plain_model(source, device, name))


def any_plain_models(args: ExperimentArguments, device: torch.device | str) -> Iterator[PlainModel]:
    """The same for models of any class with semantic segmentation."""
    return _loaded(args, lambda source, name: load_any_plain_model(source, device, name))


def _loaded(args: ExperimentArguments, load: Callable[[str, str], Loaded]) -> Iterator[Loaded]:
    for name, source in model_sources(args).items():
        plain = load(source, name)
        if args.id2label and args.load_class_names() != plain.names:
            raise ValueError(f"expected a model with the classes of {args.id2label}, got {source} with {plain.names}")
        yield plain


def seeded_key(seed: int, family: str) -> SecretKey:
    """`SecretKey.from_seed` without its warning, for published experiments: such a key protects nothing."""
    with warnings.catch_warnings(action="ignore"):
        return SecretKey.from_seed(seed, family=family)
