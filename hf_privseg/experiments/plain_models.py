"""The plain models that an experiment encrypts, and the seeded keys that it encrypts them with."""

import hashlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch

from ..checkpoints import default_checkpoint
from ..setr.errors import EncryptionStateError
from ..setr.image_processing_setr import SetrImageProcessor
from ..setr.keys import SecretKey
from ..setr.modeling_setr import SetrForSemanticSegmentation
from .arguments import ExperimentArguments


@dataclass(frozen=True)
class PlainModel:
    """A model before encryption, its processor, and its name in tables."""

    name: str
    source: str
    model: SetrForSemanticSegmentation
    processor: SetrImageProcessor

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
        decoder = self.model.config.decoder_type
        return {"source": self.source, "decoder": decoder, "weights_sha256": digest.hexdigest()}


def model_sources(args: ExperimentArguments) -> dict[str, str]:
    """The options --model and --models -> {name: folder or Hub id}; one model without a name is called "".

    Raises:
        ValueError: both options, an entry without a name, or one name twice.
    """
    if args.models and args.model:
        raise ValueError("expected either --model or --models, got both")
    if not args.models:
        return {"": args.model or str(default_checkpoint())}
    pairs = [entry.partition("=") for entry in args.models]
    names = [name for name, _, _ in pairs]
    if not all(name and path for name, _, path in pairs) or len(set(names)) < len(names):
        raise ValueError(
            f"expected --models to be different names with their paths, as in naive=PATH mla=PATH, got {args.models}"
        )
    return {name: path for name, _, path in pairs}


def load_plain_model(source: str | None, device: torch.device | str, name: str = "") -> PlainModel:
    """Folder or Hub id, None for the embedded checkpoint -> the model on `device`, ready to predict.

    Args:
        source: the checkpoint.
        device: where the model goes.
        name: its name in tables; by default its decoder's.

    Raises:
        EncryptionStateError: the model is encrypted.
    """
    source = source or str(default_checkpoint())
    model = SetrForSemanticSegmentation.from_pretrained(source).eval().to(device)
    if model.config.encryption is not None:
        raise EncryptionStateError(
            f"expected a plain model, since the experiment encrypts it itself, got {source}, which is encrypted; "
            "decrypt it first"
        )
    return PlainModel(name or model.config.decoder_type, source, model, SetrImageProcessor.from_pretrained(source))


def plain_models(args: ExperimentArguments, device: torch.device | str) -> Iterator[PlainModel]:
    """The models of the command line, one after another.

    Raises:
        EncryptionStateError: a model is encrypted.
        ValueError: the classes of a model are not those of --id2label.
    """
    for name, source in model_sources(args).items():
        plain = load_plain_model(source, device, name)
        if args.id2label and args.load_class_names() != plain.model.config.id2label:
            classes = plain.model.config.id2label
            raise ValueError(f"expected a model with the classes of {args.id2label}, got {source} with {classes}")
        yield plain


def seeded_key(seed: int, family: str) -> SecretKey:
    """`SecretKey.from_seed` without its warning, for published experiments: such a key protects nothing."""
    with warnings.catch_warnings(action="ignore"):
        return SecretKey.from_seed(seed, family=family)
