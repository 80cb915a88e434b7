"""Which models can be encrypted: those known not to, and those that the tests have encrypted (`tested_classes`).

A class that is in neither table is encrypted after a proof with example inputs, or where its owner takes the risk.
"""

from collections.abc import Iterable

from .tested_classes import TESTED_CLASSES

_MOVES_PIXELS = "its forward pass changes pixels before they reach the patch embedding"
_COORDINATES = "its patches carry their row and column beside the pixels, so that a block is more than pixels"
_TARGETS = "its head is trained against the pixels themselves; encrypt the model without this head"

# Beginning of the class name of any module inside -> why structure alone would be wrong.
REFUSED_PARTS = {
    "DepthPro": f"{_MOVES_PIXELS}: it resizes them and cuts windows that overlap",
    "Gemma4Vision": f"{_MOVES_PIXELS}: it shifts them to 2 * (pixels - 0.5)",
    "Kosmos2_5": _COORDINATES,
    "NeoMME": f"{_MOVES_PIXELS}: it normalises each patch, which is no linear map",
    "Pix2Struct": _COORDINATES,
    "Tvp": f"{_MOVES_PIXELS}: it adds prompts to them",
}

# End of the class name of the model -> why.
REFUSED_HEADS = {"ForMaskedImageModeling": _TARGETS, "ForPreTraining": _TARGETS}


def refusal(model: str, parts: Iterable[str]) -> str | None:
    """Class name of a model and those of all modules inside -> why it cannot be encrypted, None where it may."""
    head = next((reason for ending, reason in REFUSED_HEADS.items() if model.endswith(ending)), None)
    part = (reason for name in parts for start, reason in REFUSED_PARTS.items() if name.startswith(start))
    return head or next(part, None)


def untested(classes: Iterable[str]) -> list[str]:
    """Class names of the models around a patch embedding -> those that no test has encrypted, in their order."""
    return [name for name in classes if name not in TESTED_CLASSES]
