"""A second copy of the modules in hf_privseg/setr, as remote code loads them: same files, other classes."""

import importlib
import sys
from types import ModuleType

from helpers.module_files import module_of_file
from helpers.paths import ROOT

_NAME = "second_copy_of_setr"
_FOLDER = ROOT / "hf_privseg" / "setr"


def second_copy(name: str) -> ModuleType:
    """Name of a file of hf_privseg/setr -> the copy of that module; copies import each other."""
    if _NAME not in sys.modules:
        module_of_file(_FOLDER / "__init__.py", _NAME, folder=_FOLDER)
    return importlib.import_module(f"{_NAME}.{name}")
