"""Layers in evaluation mode, computed in the fastest way: the same parameters, the same results up to rounding.

Nothing is stored and nothing is replaced: every forward pass reads the parameters as they are, so that encryption, key
updates, saving, training and moving a model need not know of it. `model.train()` undoes it, `model.eval()` is it.

A layer that something else watches or replaces (hooks, offloading, adapters, quantisation, a compiler) is called as it
is.
"""

import time
from collections.abc import Callable
from functools import cache, partial
from itertools import product

import torch
from torch import nn
from torch.nn.modules.module import _has_any_global_hook
from torch.utils._python_dispatch import _disable_current_modes

_MIN_WIDTH = 256  # of a linear layer, below which the choice of a kernel is not worth its time
_ROUNDS = 5  # of the measurement
_CLEARLY_FASTER = 1.1  # so that noise does not decide, and every run on a machine decides alike


def conv_norm_relu(conv: nn.Conv2d, norm: nn.BatchNorm2d, feature_map: torch.Tensor) -> torch.Tensor:
    """`(batch, in_channels, h, w)` -> ReLU(norm(conv)), `(batch, out_channels, h, w)`.

    In evaluation mode a batch norm is a factor and an offset a channel, which the convolution's weight takes up.

    Args:
        conv: without bias.
        norm: with running statistics.
        feature_map: of any layout, which the result has too.
    """
    if norm.training or not (_is_bare(conv, nn.Conv2d) and _is_bare(norm, nn.BatchNorm2d)):
        return nn.functional.relu(norm(conv(feature_map)))
    weight, bias = folded(conv.weight, norm)
    # In place: nothing else holds the convolution's result.
    return nn.functional.conv2d(feature_map, weight, bias, conv.stride, conv.padding).relu_()


def folded(weight: torch.Tensor, norm: nn.BatchNorm2d) -> tuple[torch.Tensor, torch.Tensor]:
    """A convolution's weight and the batch norm behind it -> weight and bias of one convolution, in the same dtype.

    Computed in float32 at least; differentiable.
    """
    dtype = torch.promote_types(weight.dtype, torch.float32)
    gain, offset, mean, variance = (
        value.to(dtype)  # type: ignore[union-attr] # a norm with parameters and running statistics has all four
        for value in (norm.weight, norm.bias, norm.running_mean, norm.running_var)
    )
    scale = gain * torch.rsqrt(variance + norm.eps)
    return (weight * scale.view(-1, 1, 1, 1)).to(weight.dtype), (offset - mean * scale).to(weight.dtype)


def linear(layer: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """`(batch, tokens, in_features)` -> `(batch, tokens, out_features)`.

    PyTorch multiplies float32 matrices on a CPU with MKL, which is slower than oneDNN on processors that are not
    Intel's. There, oneDNN multiplies them, by the operator with which PyTorch's own compiler calls it.
    """
    if (
        inputs.dtype == torch.float32
        and inputs.device.type == "cpu"
        and inputs.ndim == 3
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and isinstance(layer, nn.Linear)
        and _is_bare(layer, nn.Linear)
        and min(layer.weight.shape) >= _MIN_WIDTH
        and inputs.is_contiguous()
        and layer.weight.is_contiguous()
        and onednn_is_faster()
    ):
        return _by_onednn(inputs, layer.weight, layer.bias)
    found: torch.Tensor = layer(inputs)
    return found


def _by_onednn(inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """A linear layer without gradients, computed by oneDNN."""
    found: torch.Tensor = torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, "none", [], "")
    return found


def attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float) -> torch.Tensor | None:
    """`(batch, heads, tokens, head_dim)` x 3 -> `(batch, tokens, heads, head_dim)`; None where it is not faster.

    PyTorch's fused attention multiplies bfloat16 matrices on a CPU with MKL as well. Where oneDNN is faster, heads are
    computed one after the other, so that their weights stay in the cache. Weights are rounded to bfloat16 as in
    attention by its formula.
    """
    if (
        query.dtype != torch.bfloat16
        or query.device.type != "cpu"
        or torch.is_grad_enabled()
        or torch.compiler.is_compiling()
        or not head_by_head_is_faster()
    ):
        return None
    return _head_by_head(query, key, value, scaling)


def _head_by_head(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float) -> torch.Tensor:
    batch, heads, tokens, size = query.shape
    attended = query.new_empty(batch, tokens, heads, size)
    scores, weights = query.new_empty(2, tokens, tokens)  # of one head after the other: memory that is at hand
    for image, head in product(range(batch), range(heads)):
        q, k, v = (states[image, head].contiguous() for states in (query, key, value))
        torch.mm(q * scaling, k.T, out=scores)
        torch.softmax(scores, -1, out=weights)
        attended[image, :, head] = torch.mm(weights, v)
    return attended


@cache
def onednn_is_faster() -> bool:
    """Whether oneDNN computes a linear layer in float32 clearly faster on this machine; measured once a process."""
    if not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")):
        return False
    return _is_clearly_faster(_by_onednn, nn.functional.linear, [(1, 256, 768), (3072, 768), (3072,)], torch.float32)


@cache
def head_by_head_is_faster() -> bool:
    """Whether attention in bfloat16 is clearly faster so on this machine; measured once a process."""
    usual = nn.functional.scaled_dot_product_attention
    return _is_clearly_faster(partial(_head_by_head, scaling=0.125), usual, [(1, 2, 1024, 64)] * 3, torch.bfloat16)


def _is_clearly_faster(
    kernel: Callable[..., object], usual: Callable[..., object], shapes: list[tuple[int, ...]], dtype: torch.dtype
) -> bool:
    """Whether one function takes clearly less time than another on the same inputs, of these shapes."""
    seconds: list[list[float]] = [[], []]
    # Modes count operations, or only pretend to compute.
    with _disable_current_modes(), torch.inference_mode():
        inputs = [torch.ones(shape, dtype=dtype, device="cpu") for shape in shapes]
        for _ in range(_ROUNDS + 1):
            for function, taken in zip((kernel, usual), seconds, strict=True):
                start = time.perf_counter()
                function(*inputs)
                taken.append(time.perf_counter() - start)
    fastest, fastest_usual = (min(taken[1:]) for taken in seconds)
    return fastest_usual > _CLEARLY_FASTER * fastest


def _is_bare(layer: nn.Module, cls: type[nn.Module]) -> bool:
    """Whether a layer is just what it was made as, so that its parameters say all that calling it would do."""
    return (
        type(layer) is cls
        and type(layer.weight) is nn.Parameter
        and not torch.compiler.is_compiling()
        and "forward" not in vars(layer)
        and not (layer._forward_hooks or layer._forward_pre_hooks)
        and not (layer._backward_hooks or layer._backward_pre_hooks)
        and not _has_any_global_hook()
    )


__all__ = ["attention", "conv_norm_relu", "folded", "head_by_head_is_faster", "linear", "onednn_is_faster"]
