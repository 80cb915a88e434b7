"""The folders of models, without torch: where one lies, and what a client needs of its settings."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..checkpoints import default_checkpoint
from ..setr.bounded_json import object_from_file
from ..setr.config_checks import check_model_settings
from ..setr.image_encrypter import ImageEncrypter
from ..setr.public_facts import KeyFacts, check_processor_fits

SETR = "setr"  # the model_type of SETR's configuration

_SECONDS = 10.0  # for an answer of the Hub
_NEEDED = ("decoder_type", "patch_size", "num_channels", "hidden_size", "num_hidden_layers", "image_size")


@dataclass(frozen=True)
class SetrSettings:
    """What config.json and preprocessor_config.json of a SETR model say.

    Args:
        config: entries of config.json, those that are used checked.
        key_facts: about the key that the model is encrypted with; None where it is plain.
        encrypter: encrypts images as the model's processor does.
    """

    config: Mapping[str, Any]
    key_facts: KeyFacts | None
    encrypter: ImageEncrypter

    @property
    def patch_size(self) -> int:
        """Side of a patch of the model in pixels."""
        return int(self.config["patch_size"])

    @property
    def num_channels(self) -> int:
        """Channels of the model's input."""
        return int(self.config["num_channels"])

    @property
    def labels(self) -> dict[str, str]:
        """{class: name}."""
        names = self.config.get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}  # as transformers numbers them
        return {index: names[index] for index in sorted(names, key=int)}


def read_setr_settings(name: str | Path) -> SetrSettings:
    """Folder, Hub id or "default" -> the settings of a SETR model; the weights are not looked at.

    Raises:
        OSError: there is no such model, or it lacks the processor's settings.
        ValueError: a model of another type, settings out of range, or other channels or patches in the two files.
    """
    found = model_type(name)
    if found != SETR:
        raise ValueError(f"expected a model of type '{SETR}', got {name}, which is of type '{found}'")
    config = object_from_file(_file_of(name, "config.json"))
    lacking = [entry for entry in _NEEDED if config.get(entry) is None]
    if lacking:
        raise ValueError(
            f"expected config.json of {name} to say {', '.join(lacking)}; save the model again with save_pretrained"
        )
    check_model_settings({entry: config[entry] for entry in (*_NEEDED, "id2label") if entry in config}, object)
    entry = config.get("encryption")
    encrypter = ImageEncrypter.of(object_from_file(_file_of(name, "preprocessor_config.json")))
    settings = SetrSettings(config, None if entry is None else KeyFacts.from_dict(entry), encrypter)
    check_processor_fits(encrypter, settings, model=f"the model {name}")
    return settings


def is_setr(name: str | Path) -> bool:
    """Whether a folder, Hub id or "default" names a SETR model.

    Raises:
        OSError: as `model_type`.
    """
    return model_type(name) == SETR


def model_type(name: str | Path) -> object:
    """Folder, Hub id or "default" -> the type that the model's config.json names, or None.

    Raises:
        OSError: there is no such model, neither here nor on the Hub, or the Hub cannot be reached; names the model.
    """
    return object_from_file(_file_of(name, "config.json")).get("model_type")


def local_folder(name: str | Path) -> Path | None:
    """Folder, Hub id or "default" -> the model's folder on this machine, or None for a Hub id."""
    folder = Path(source_of(name))
    return folder if folder.is_dir() else None


def check_model_folder(folder: Path, *, overwrite: bool) -> None:
    """Refuse a folder that holds something; with `overwrite`, only one that holds something other than a model.

    An empty folder may be written to.

    Raises:
        FileExistsError: the folder is refused; the message names it.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not overwrite:
        raise FileExistsError(f"{folder} exists; choose another folder, or overwrite it with --force")
    if not (folder / "config.json").is_file():
        raise FileExistsError(
            f"{folder} exists and holds no model (no config.json); it is not overwritten, choose another folder"
        )


def copy_licences(source: Path, folder: Path) -> None:
    """Copy the LICENSE files of a model's folder to another folder; a `source` that is no folder has none."""
    for licence in source.glob("LICENSE*"):
        shutil.copy(licence, folder)


def source_of(name: str | Path) -> str:
    """ "default", a folder or a Hub id (owner/name) -> what `from_pretrained` takes."""
    if str(name) == "default":
        return str(default_checkpoint())
    looks_like_id = not Path(name).is_absolute() and not str(name).startswith(".") and str(name).count("/") == 1
    if not Path(name).is_dir() and not looks_like_id:
        raise FileNotFoundError(f"expected a model's folder, a Hub id (owner/name) or 'default', got {name}")
    return str(name)


def _file_of(name: str | Path, part: str) -> Path:
    """The path of one file of a model, fetched from the Hub if need be."""
    source = source_of(name)
    if Path(source).is_dir():
        path = Path(source) / part
        if not path.is_file():
            what = "no model" if part == "config.json" else "no settings of an image processor"
            raise FileNotFoundError(f"expected a model's folder, got {name}, which holds {what} (no {part})")
        return path
    try:
        from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
    except ModuleNotFoundError as error:
        raise ImportError(
            f"{name} is no folder here, and a model of the Hub needs {error.name}, which is not installed; "
            "pip install 'hf-privseg[models]'"
        ) from error
    try:
        get_hf_file_metadata(hf_hub_url(source, part), timeout=_SECONDS)  # once; a download tries for long
    except Exception as error:  # of the library, of httpx, or of the system
        cached = try_to_load_from_cache(source, part)
        if isinstance(cached, str):
            return Path(cached)
        raise OSError(
            f"{name} is no folder here, and could not be read as a model of the Hub ({error!s:.300}); check the name, "
            "and that the Hub can be reached"
        ) from error
    return Path(hf_hub_download(source, part, etag_timeout=_SECONDS))
