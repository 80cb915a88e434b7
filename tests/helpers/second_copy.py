"""A second copy of the modules in hf_privseg/setr, as remote code loads them: same files, other classes."""

import importlib
import importlib.util
import sys
from types import ModuleType

from helpers.paths import ROOT

_NAME = "second_copy_of_setr"
_FOLDER = ROOT / "hf_privseg" / "setr"


def second_copy(name: str) -> ModuleType:
    """Name of a file of hf_privseg/setr -> the copy of that module; copies import each other."""
    if _NAME not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            _NAME, _FOLDER / "__init__.py", submodule_search_locations=[str(_FOLDER)]
        )
        package = importlib.util.module_from_spec(spec)
        sys.modules[_NAME] = package
        spec.loader.exec_module(package)
    return importlib.import_module(f"{_NAME}.{name}")
