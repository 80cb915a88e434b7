"""A file of a model or processor, in its folder or on the Hub, for a look at it before transformers reads it."""

import os
from collections.abc import Mapping
from pathlib import Path

from transformers.utils.hub import cached_file

_OPTIONS = ("cache_dir", "local_files_only", "token", "revision", "subfolder")  # of `from_pretrained`


def model_file(name: str | os.PathLike[str], part: str, options: Mapping[str, object]) -> Path | None:
    """Folder or Hub id -> the path of a file in it, fetched if need be; None where it has no such file.

    Args:
        name: of the model.
        part: name of the file.
        options: of `from_pretrained`; those that say where on the Hub the model lies are used.

    Raises:
        OSError: there is no such folder or id, or the Hub cannot be reached.
    """
    where = {option: options[option] for option in _OPTIONS if option in options}
    found = cached_file(str(name), part, **where, _raise_exceptions_for_missing_entries=False)
    return None if found is None else Path(found)
