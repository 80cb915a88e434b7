"""What the configuration of an encrypted model says: whose key it is encrypted with, and how its blocks are made."""

from collections.abc import Iterator
from dataclasses import dataclass

from transformers import PreTrainedConfig, PreTrainedModel

from ..setr.errors import EncryptionStateError
from ..setr.model_encryption import PatchProjection
from ..setr.public_facts import KeyFacts

# Types of models whose patch embedding pads odd sides with zeros; the others drop what is left over.
PADDING_TYPES = frozenset({"swin", "swinv2", "maskformer-swin", "donut-swin", "focalnet"})

_GEOMETRY = ("patch_size", "num_channels")


@dataclass(frozen=True)
class ModelFacts:
    """The public facts about an encrypted model that encrypting for it needs; none of them is secret.

    Args:
        key: the facts about the key.
        patch_size: side of a block in pixels; 1 where the model takes patches that its processor has flattened.
        num_channels: numbers that a block has for each of its pixels: channels, or channels times frames.
        projection: name of the patch embedding, where the owner of the model had to give it.
        pads: whether the model itself pads odd sides with zeros to whole blocks.

    Raises:
        ValueError: a fact of another type or range. Configurations come from files that anyone may have written.
    """

    key: KeyFacts
    patch_size: int
    num_channels: int
    projection: str | None = None
    pads: bool = False

    def __post_init__(self) -> None:
        for name in _GEOMETRY:
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= 2**16:
                raise ValueError(f"{name} of an encrypted model is an int from 1 to {2**16}, got {value!r:.80}")
        if self.projection is not None and not isinstance(self.projection, str):
            raise ValueError(f"projection of an encrypted model is a name, got {self.projection!r:.80}")

    @property
    def block_length(self) -> int:
        """L, the numbers of one block."""
        return self.num_channels * self.patch_size**2

    @classmethod
    def of_projection(cls, projection: PatchProjection, key: KeyFacts) -> "ModelFacts":
        """The projection of a plain model -> what its configuration will say when `key` encrypts it."""
        pads = projection.config.model_type in PADDING_TYPES
        return cls(key, projection.patch_size, projection.num_channels, pads=pads)

    @classmethod
    def of(cls, model_or_config: PreTrainedModel | PreTrainedConfig) -> "ModelFacts | None":
        """A model or its configuration -> the facts about its encryption, None where it is plain.

        Raises:
            EncryptionStateError: two parts of the model are encrypted.
            TypeError: neither a model of transformers nor the configuration of one.
            ValueError: the entry is damaged.
        """
        config: object = model_or_config
        if not isinstance(config, PreTrainedConfig):
            config = getattr(model_or_config, "config", None)
        if not isinstance(config, PreTrainedConfig):
            raise TypeError(
                f"expected a model of transformers or its configuration, got {type(model_or_config).__name__}; load "
                "one with from_pretrained, and take a wrapped model (DataParallel, for instance) out of its wrapper"
            )
        encrypted = [part for part in configurations(config) if getattr(part, "encryption", None) is not None]
        if len(encrypted) > 1:
            raise EncryptionStateError(
                f"expected a model with one encrypted part, got {len(encrypted)} in {type(config).__name__}: "
                f"{', '.join(type(part).__name__ for part in encrypted)}; decrypt the one that is not used"
            )
        return cls._of_entry(encrypted[0]) if encrypted else None

    @classmethod
    def _of_entry(cls, config: PreTrainedConfig) -> "ModelFacts":
        entry = dict(config.encryption) if isinstance(config.encryption, dict) else config.encryption
        if not isinstance(entry, dict):
            raise ValueError(f"the entry `encryption` of a configuration is a dictionary, got {type(entry).__name__}")
        named = {name: entry.pop(name) for name in ("projection",) if name in entry}
        # SETR's configuration says these itself.
        geometry = {name: entry.pop(name, getattr(config, name, None)) for name in _GEOMETRY}
        return cls(key=KeyFacts.from_dict(entry), **geometry, **named, pads=config.model_type in PADDING_TYPES)


def key_facts(model_or_config: PreTrainedModel | PreTrainedConfig) -> KeyFacts | None:
    """A model or its configuration -> the public facts about its key, None where it is plain."""
    facts = ModelFacts.of(model_or_config)
    return None if facts is None else facts.key


def configurations(config: PreTrainedConfig) -> Iterator[PreTrainedConfig]:
    """A configuration -> itself and all those inside it, each once."""
    seen: set[int] = set()
    queue = [config]
    while queue:
        part = queue.pop(0)
        if id(part) not in seen:
            seen.add(id(part))
            yield part
            queue += [value for value in vars(part).values() if isinstance(value, PreTrainedConfig)]
