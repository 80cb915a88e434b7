"""transformers' Auto classes know SETR once both are imported, in either order, and neither import loads the other.

A client that makes keys and encrypts images imports this package without torch and transformers. So SETR is registered
when a module of `transformers.models.auto` has been loaded, or at once where one is loaded already.
"""

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

_AUTO = "transformers.models.auto."


class _Watch(MetaPathFinder):
    """Counts the modules of the two packages that are being loaded, and looks whenever there is none."""

    def __init__(self) -> None:
        self._num_loading = 0

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name.partition(".")[0] not in ("transformers", __package__):
            return None
        spec = PathFinder.find_spec(name, path, target)
        loader: Any = None if spec is None else spec.loader
        if loader is not None:
            load = loader.exec_module

            def load_and_look(module: ModuleType) -> None:
                self._num_loading += 1
                try:
                    load(module)
                finally:
                    self._num_loading -= 1
                self.look()

            loader.exec_module = load_and_look
        return spec

    def look(self) -> None:
        """Register SETR if transformers' Auto classes are loaded, and nothing is half loaded."""
        if not self._num_loading and self in sys.meta_path and any(name.startswith(_AUTO) for name in sys.modules):
            sys.meta_path.remove(self)
            register()


def watch() -> None:
    """Have SETR registered as soon as transformers' Auto classes are loaded."""
    watcher = _Watch()
    sys.meta_path.insert(0, watcher)
    watcher.look()


def register() -> None:
    """Register SETR with the Auto classes; without torch there is nothing to register."""
    try:
        from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForSemanticSegmentation

        from .setr.configuration_setr import SetrConfig
        from .setr.image_processing_setr import SetrImageProcessor
        from .setr.modeling_setr import SetrForSemanticSegmentation, SetrModel
    except ImportError:
        return
    AutoConfig.register("setr", SetrConfig, exist_ok=True)
    AutoModel.register(SetrConfig, SetrModel, exist_ok=True)
    AutoModelForSemanticSegmentation.register(SetrConfig, SetrForSemanticSegmentation, exist_ok=True)
    AutoImageProcessor.register(SetrConfig, image_processor_classes={"torchvision": SetrImageProcessor}, exist_ok=True)
