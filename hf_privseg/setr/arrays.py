"""NumPy arrays, and the tensors of torch where a program has loaded it: whoever encrypts images needs NumPy alone."""

import sys
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np

if TYPE_CHECKING:
    import torch


def is_tensor(value: object) -> "TypeGuard[torch.Tensor]":
    """Whether the value is a tensor of torch. Nothing is imported: without torch there are no tensors."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def to_array(values: "np.ndarray | torch.Tensor") -> np.ndarray:
    """An array as it is, a tensor as an array that shares its memory where it can; bfloat16 becomes float32."""
    if isinstance(values, np.ndarray):
        return values
    values = values.detach().cpu()
    return (values.float() if str(values.dtype) == "torch.bfloat16" else values).numpy()


def like(array: np.ndarray, values: Any) -> Any:
    """An array -> what can be combined with `values`: a tensor on the device of a tensor, else the array."""
    if not is_tensor(values):
        return array
    import torch

    return torch.tensor(array, device=values.device)
