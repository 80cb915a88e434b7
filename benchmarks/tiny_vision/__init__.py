"""Tiny random vision models of many classes of transformers, with inputs for them.

`CASES[name]()` builds a model, every number of it random, and inputs that its forward pass takes.
"""

from .backbones import BACKBONES
from .language import LANGUAGE_MODELS
from .parts import Case, randomize
from .refused import REFUSED
from .segmentation import SEGMENTATION_MODELS
from .transformers_on_patches import PATCH_TRANSFORMERS
from .video import VIDEO_MODELS

CASES = {**PATCH_TRANSFORMERS, **BACKBONES, **SEGMENTATION_MODELS, **LANGUAGE_MODELS, **VIDEO_MODELS}

__all__ = ["CASES", "REFUSED", "Case", "randomize"]
