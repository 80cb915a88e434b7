"""Command lines of the examples: dataclasses as options, the module's docstring as help."""

import argparse
from typing import Any

from transformers import HfArgumentParser


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows defaults, and keeps the lines of the description as they are."""


def parse_arguments(*dataclass_types: Any, description: str | None) -> Any:
    """The command line -> an instance of the dataclass, or a tuple with one of each."""
    parser = HfArgumentParser(dataclass_types, description=description, formatter_class=_HelpFormatter)
    parsed = parser.parse_args_into_dataclasses()
    return parsed[0] if len(dataclass_types) == 1 else parsed
