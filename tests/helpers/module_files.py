"""A Python file that is in no package, as a module."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType


def module_of_file(path: Path, name: str, folder: Path | None = None) -> ModuleType:
    """Run a Python file as the module `name`, the package in `folder` if one is given."""
    inside = None if folder is None else [str(folder)]
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=inside)
    assert spec is not None, path
    assert spec.loader is not None, path
    module = importlib.util.module_from_spec(spec)
    if folder is not None:
        sys.modules[name] = module  # its modules find it there
    spec.loader.exec_module(module)
    return module
