"""SETR models on disk: load one with its processor by folder, Hub id or "default", and save one as a whole."""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import PreTrainedModel

from ..any_vit.model_card import write_model_card
from ..setr.configuration_setr import SetrConfig
from ..setr.errors import HeaderError
from ..setr.files import new_folder
from ..setr.image_processing_setr import SetrImageProcessor
from ..setr.modeling_setr import SetrForSemanticSegmentation
from ..setr.public_facts import check_processor_fits
from ..setr.stored_weights import missing_weights, stored_entries
from .model_cards import carry_front_matter
from .model_files import copy_licences, model_type, source_of


def load_settings(name: str | Path) -> tuple[SetrConfig, SetrImageProcessor]:
    """Folder, Hub id or "default" -> the configuration and the processor of the model, without its weights.

    Raises:
        OSError: there is no such model, or it lacks the processor's settings.
        ValueError: a model of another type, or whose processor has another patch size or other channels.
    """
    source, found = source_of(name), model_type(name)
    if found != SetrConfig.model_type:
        raise ValueError(f"expected a model of type '{SetrConfig.model_type}', got {name}, which is of type '{found}'")
    config, processor = SetrConfig.from_pretrained(source), SetrImageProcessor.from_pretrained(source)
    check_processor_fits(processor, config, model=f"the model {name}")
    return config, processor


def load_model(
    name: str | Path, *, device: str | None = None, dtype: str | None = None
) -> tuple[SetrForSemanticSegmentation, SetrImageProcessor]:
    """Folder, Hub id or "default" -> the model in evaluation mode, and its processor.

    Args:
        name: the model.
        device: of torch, such as "cpu" or "cuda:1"; None is the machine's accelerator.
        dtype: of the weights, such as "bfloat16"; None is that of the checkpoint. The patch embedding of a SETR is in
            float32 in any case.

    Raises:
        OSError: there is no such model, or it lacks the processor's settings.
        ValueError: the model is of another type, lacks its segmentation head, or has damaged weights; or this machine
            has no such device.
    """
    place = device_of(device)
    config, processor = load_settings(name)
    source, cls = source_of(name), SetrForSemanticSegmentation
    try:
        missing = sorted(w for w in missing_weights(cls, config, source) if not w.startswith("auxiliary_head."))
        if missing:
            raise ValueError(
                f"expected a SETR model with its segmentation head, got {name}, which lacks {len(missing)} weights "
                f"({missing[0]}, ...); a bare encoder has to be trained first, or config.json is of another model"
            )
        model = cls.from_pretrained(source, config=config, **({} if dtype is None else {"dtype": dtype}))
    except (SafetensorError, RuntimeError, HeaderError) as error:
        raise ValueError(f"the weights of {name} are damaged, or do not fit its config.json: {error}") from error
    return model.to(place).eval(), processor


def device_of(name: str | None) -> torch.device:
    """The name of a device of torch -> the device; None -> the machine's accelerator, or its CPU.

    Raises:
        ValueError: this machine has no such device.
    """
    if name is None:
        found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return found or torch.device("cpu")
    try:
        torch.zeros(1, device=name).item()
        return torch.device(name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch without CUDA asserts
        raise ValueError(
            f"expected a device that torch has on this machine, such as cpu, got {name!r:.40} ({error!s:.160})"
        ) from error


def save_model(
    model: PreTrainedModel,
    processor: Any,
    folder: Path,
    *,
    licence_from: str | Path,
    private: bool = False,
    overwrite: bool = False,
) -> None:
    """Model, card, processor's settings and the source's licence -> `folder`, as a whole or not at all.

    Args:
        model: of any class, plain or encrypted.
        processor: the model's.
        folder: the destination; `check_model_folder` says early whether it may be written.
        licence_from: what the model was loaded from; its LICENSE files are copied, and licence, data set and metrics
            in its card. Weights that it stores in half precision are stored so again, where that changes none of them.
        private: whether the folder is for its owner alone (mode 0700).
        overwrite: whether a model that is there is replaced.

    Raises:
        FileExistsError: `folder` holds something and `overwrite` is False.
    """
    with new_folder(folder, overwrite=overwrite, private=private) as temporary:
        model.save_pretrained(temporary, state_dict=_as_stored(model, source_of(licence_from)))
        processor.save_pretrained(temporary)
        if model.config.model_type != SetrConfig.model_type:  # which writes its card itself
            write_model_card(model, temporary)
        source = Path(source_of(licence_from))
        copy_licences(source, temporary)
        carry_front_matter(source, temporary)


def _as_stored(model: PreTrainedModel, source: str) -> dict[str, torch.Tensor]:
    """The weights of a model, in the half precision of its source where that holds their numbers exactly.

    Checkpoints are stored in half precision and loaded in float32; an encryption changes one weight of them.
    """
    halves = {"F16": torch.float16, "BF16": torch.bfloat16}
    stored = {weight: halves.get(entry.dtype) for weight, entry in stored_entries(source).items()}

    def stored_form(name: str, value: torch.Tensor) -> torch.Tensor:
        dtype = stored.get(name)
        if dtype is None or value.dtype != torch.float32:
            return value
        half = value.to(dtype)
        return half if torch.equal(half.float(), value) else value

    return {name: stored_form(name, value) for name, value in model.state_dict().items()}
