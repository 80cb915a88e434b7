"""Models as files for other runtimes: program.py traces one, runtimes.py writes and runs it, export.py checks both."""

from .export import FORMATS, Exported, example_inputs, export_model

__all__ = ["FORMATS", "Exported", "example_inputs", "export_model"]
