"""The program `privseg`: starts the command line without waiting for torch and transformers.

Importing hf_privseg registers its classes with transformers' Auto classes, which takes seconds. Help, usage errors and
key files need none of that. So the program puts the package's `__init__` off until something asks for one of its
names; its modules are imported as ever. This file lies beside the package: what lies in it comes after `__init__`.
"""

import sys
from importlib.util import find_spec, module_from_spec


def put_off(package_name: str) -> None:
    """Make a package known to `import` without running its `__init__`, which the first use of a name of its runs.

    Args:
        package_name: of an installed package. If it is imported already, nothing changes.
    """
    spec = find_spec(package_name)
    if package_name in sys.modules or spec is None or spec.loader is None:
        return
    loader, package = spec.loader, module_from_spec(spec)

    def run_init(name: str) -> object:
        del package.__dict__["__getattr__"]
        loader.exec_module(package)
        return getattr(package, name)

    package.__dict__["__getattr__"] = run_init
    sys.modules[package_name] = package


def main() -> None:
    """Run the command line with the program's arguments; ends in SystemExit."""
    put_off("hf_privseg")
    from hf_privseg.cli.app import main as run_command_line

    run_command_line()
