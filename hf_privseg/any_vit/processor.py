"""A processor of transformers that encrypts the pixels it returns."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from inspect import isroutine
from typing import Any, NoReturn

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from ..setr.encryption_key import EncryptionKey, as_encryption_key
from ..setr.errors import EncryptionStateError
from ..setr.public_facts import check_key_fits
from .encrypted_inputs import EncryptedInputs
from .model_facts import ModelFacts, key_facts
from .pixel_inputs import PIXEL_INPUTS, encrypt_inputs


class EncryptingProcessor:
    """An image, video or multimodal processor whose pixels come out encrypted; all else is the processor's own.

        processor = EncryptingProcessor(AutoProcessor.from_pretrained(name), model)
        outputs = model(**processor(images=image, secret_key=key))
        processor.post_process_semantic_segmentation(outputs, target_sizes=[image.size[::-1]])

    Whatever method of the processor returns pixels takes a `secret_key` and returns them encrypted, or refuses:
    `preprocess` and `apply_chat_template`, for example. Text, masks and prompts stay plain, and a provider sees
    them.

    Args:
        processor: the processor that belongs to the model. It stays as it is.
        model_or_config: the encrypted model or its configuration, which says how blocks are made and with which key.
        pad: whether images are padded with zeros to whole blocks; segmentation maps cover the padded image then. None
            pads where the model would do the same, and refuses other sizes off the grid.
        plain_inputs: names of inputs that this processor makes and that show no pixels, beside the common ones.

    Raises:
        EncryptionStateError: the model is plain.
    """

    def __init__(
        self,
        processor: Any,
        model_or_config: PreTrainedModel | PreTrainedConfig,
        *,
        pad: bool | None = None,
        plain_inputs: Collection[str] = (),
    ) -> None:
        if key_facts(model_or_config) is None:
            raise EncryptionStateError(
                "expected an encrypted model or its configuration, got a plain one; encrypt_model(model, secret_key) "
                "comes first"
            )
        self.processor = processor
        self._model_or_config = model_or_config
        self._pad, self._plain_inputs = pad, frozenset(plain_inputs)

    def __call__(self, *args: Any, secret_key: EncryptionKey | bytes | None = None, **kwargs: Any) -> Any:
        """What the processor returns, its pixels encrypted; tensors of torch: "pt" is the only `return_tensors`.

        The attribute `key_facts` of a batch says with which key, as that of `SetrImageProcessor` does.

        Args:
            args, kwargs: for the processor, which normalises the pixels as it always does.
            secret_key: the key that the model is encrypted with.

        Raises:
            EncryptionStateError: no key.
            KeyMismatchError: the model is encrypted with another key.
            InvalidImageError: the processor returns no pixels, an input that may show the image and is unknown, or
                sizes off the grid of blocks.
        """
        return self._encrypted(self.processor, args, {"return_tensors": "pt", **kwargs}, secret_key)

    def encrypt(
        self,
        *args: Any,
        secret_key: EncryptionKey | bytes,
        target_sizes: Sequence[tuple[int, int]] = (),
        **kwargs: Any,
    ) -> EncryptedInputs:
        """The same as a container for a file, which a server reads without a key.

        Args:
            args, kwargs, secret_key: as `__call__`, whose errors it raises.
            target_sizes: (height, width) of each image, if whoever has the file is to post-process the outputs.

        Raises:
            ValueError: sizes of more or fewer images than there are.
        """
        inputs = self(*args, secret_key=secret_key, **kwargs)
        pixels = inputs.get("pixel_values")
        if target_sizes and isinstance(pixels, torch.Tensor) and pixels.ndim == 4 and len(pixels) != len(target_sizes):
            raise ValueError(
                f"expected target_sizes with the height and width of each of {len(pixels)} images, got "
                f"{len(target_sizes)}"
            )
        facts = self._facts
        return EncryptedInputs(dict(inputs), facts.key, facts.patch_size, facts.num_channels, target_sizes)

    @contextmanager
    def with_key(self, secret_key: EncryptionKey | bytes) -> Iterator[Any]:
        """A processor that holds the key until the block ends, for code that cannot pass one, as a pipeline.

        Its type is `Any`, for a pipeline's types name the processors of transformers alone.

        with processor.with_key(key) as holding:
            pipeline("image-segmentation", model=model, image_processor=holding)(image)

        Raises:
            InvalidKeyError, KeyMismatchError: as a call with this key.
        """
        key = as_encryption_key(secret_key)
        check_key_fits(key.facts, key_facts(self._model_or_config))
        holding = _HoldingProcessor(
            self.processor, self._model_or_config, pad=self._pad, plain_inputs=self._plain_inputs
        )
        holding._key = key
        try:
            yield holding
        finally:
            holding._key = None

    @property
    def _facts(self) -> ModelFacts:
        facts = ModelFacts.of(self._model_or_config)
        if facts is None:
            raise EncryptionStateError("the model is plain by now; make another processor when it is encrypted again")
        return facts

    def _encrypted(
        self,
        make: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        secret_key: EncryptionKey | bytes | None,
    ) -> Any:
        if secret_key is None:
            raise EncryptionStateError(
                "got no secret_key: this processor makes no plain pixels for an encrypted model; pass secret_key, or "
                "take its .processor for what needs no encryption"
            )
        key, facts = as_encryption_key(secret_key), self._facts
        check_key_fits(key.facts, facts.key)
        batch = make(*args, **kwargs)
        batch.update(encrypt_inputs(batch, key, facts, pad=self._pad, plain_inputs=self._plain_inputs))
        if hasattr(batch, "__dict__"):  # a batch of transformers, and no plain dictionary
            vars(batch)["key_facts"] = (key.facts,)
        return batch

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in ("processor", "_model_or_config"):
            raise AttributeError(name)
        value = getattr(self.processor, name)
        if hasattr(value, "preprocess"):  # the image or video processor inside a multimodal one
            return self._around(value)
        return self._guarded(value) if isroutine(value) else value

    def _around(self, processor: Any) -> "EncryptingProcessor":
        return EncryptingProcessor(processor, self._model_or_config, pad=self._pad, plain_inputs=self._plain_inputs)

    def _guarded(self, method: Callable[..., Any]) -> Callable[..., Any]:
        """A method of the processor that returns no plain pixels."""

        @wraps(method)
        def guarded(*args: Any, secret_key: EncryptionKey | bytes | None = None, **kwargs: Any) -> Any:
            result = method(*args, **kwargs)
            if isinstance(result, Mapping) and PIXEL_INPUTS & set(result):
                return self._encrypted(lambda: result, (), {}, secret_key)
            if secret_key is not None:
                raise TypeError(f"{method.__name__} returns no pixels and takes no secret_key; leave it out")
            return result

        return guarded

    def __repr__(self) -> str:
        return f"{type(self).__name__}({type(self.processor).__name__}, {key_facts(self._model_or_config)})"


class _HoldingProcessor(EncryptingProcessor):
    """An `EncryptingProcessor` with a key, while a `with` block lasts. It is neither pickled nor copied."""

    _key: EncryptionKey | None = None

    def _encrypted(
        self,
        make: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        secret_key: EncryptionKey | bytes | None,
    ) -> Any:
        return super()._encrypted(make, args, kwargs, self._key if secret_key is None else secret_key)

    def __getstate__(self) -> NoReturn:
        raise TypeError("this processor holds a key and is neither pickled nor copied; leave num_workers at 0")
