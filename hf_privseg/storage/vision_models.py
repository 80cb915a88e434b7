"""Models of any class of transformers on disk: load one with its processor by folder or Hub id, SETR among them."""

from pathlib import Path
from typing import Any

import transformers
from safetensors import SafetensorError
from transformers import AutoConfig, AutoImageProcessor, AutoProcessor, PreTrainedConfig, PreTrainedModel

from .model_files import is_setr, source_of
from .models import device_of, load_model, load_settings


def load_any_settings(name: str | Path) -> tuple[PreTrainedConfig, Any]:
    """Folder, Hub id or "default" -> configuration and processor of a model of any class, without its weights.

    Raises:
        OSError: there is no such model, or it lacks the processor's settings.
        ValueError: transformers does not know the type of the model, or it says no class.
    """
    if is_setr(name):
        return load_settings(name)
    source = source_of(name)
    config = AutoConfig.from_pretrained(source)
    _class_of(config, name)
    return config, _processor(source)


def load_any_model(
    name: str | Path, *, device: str | None = None, dtype: str | None = None
) -> tuple[PreTrainedModel, Any]:
    """Folder, Hub id or "default" -> a model of any class in evaluation mode, and its processor.

    Device and dtype are those of `load_model`.

    The class is the one that the configuration names under `architectures`, from transformers itself: no code that
    lies with the model is run.

    Raises:
        OSError, ValueError: as `load_any_settings`; or the weights are damaged or do not fit the class.
    """
    if is_setr(name):
        return load_model(name, device=device, dtype=dtype)
    place = device_of(device)
    config, processor = load_any_settings(name)
    cls = _class_of(config, name)
    try:
        model, report = cls.from_pretrained(
            source_of(name),
            config=config,
            use_safetensors=True,
            output_loading_info=True,
            **({} if dtype is None else {"dtype": dtype}),
        )
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(f"the weights of {name} are damaged, or do not fit its config.json: {error}") from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise ValueError(
            f"expected the weights of a {cls.__name__}, got {name}, which lacks {len(missing)} of them ({missing[0]}, "
            "...)"
        )
    return model.to(place).eval(), processor


def _class_of(config: PreTrainedConfig, name: str | Path) -> Any:
    named = (getattr(config, "architectures", None) or ["none"])[0]
    cls = getattr(transformers, named, None)
    if not isinstance(cls, type) or not issubclass(cls, PreTrainedModel):
        raise ValueError(
            f"expected a model whose config.json names a class of transformers under 'architectures', got {name}, "
            f"which names {named!r:.80}"
        )
    return cls


def _processor(source: str) -> Any:
    try:
        return AutoProcessor.from_pretrained(source)
    except (OSError, ValueError):
        return AutoImageProcessor.from_pretrained(source)
