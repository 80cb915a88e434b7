"""A network behind a cipher: whatever it is trained and tested on is encrypted before it sees it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.functional import interpolate

from ..baselines.ciphers import BlockwiseCipher

CipherOf = Callable[
    [torch.Tensor], BlockwiseCipher
]  # (channels, height, width) in [-1, 1] -> what encrypts this image


@contextmanager
def behind_cipher(model: nn.Module, cipher_of: CipherOf | None) -> Iterator[None]:
    """While it lasts, calls of `model` take plain images and give answers for them, and the model sees ciphertexts.

    pixel_values, (batch, channels, height, width) in [-1, 1], are encrypted, each image with its own cipher, and
    labels, (batch, height, width), moved with the blocks. Where blocks move, logits come back at the images' size.

    Args:
        model: takes and returns what models for semantic segmentation do, by name.
        cipher_of: the cipher of an image; None encrypts nothing.
    """
    if cipher_of is None:
        yield
        return
    ciphers: list[BlockwiseCipher] = []  # of the call that is under way

    def encrypt(_model: nn.Module, _args: Any, inputs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        images = inputs["pixel_values"]
        ciphers[:] = map(cipher_of, images)
        pairs = list(zip(ciphers, images, strict=True))
        inputs = inputs | {"pixel_values": torch.stack([cipher.encrypt_centred(image) for cipher, image in pairs])}
        if inputs.get("labels") is not None:
            moved = [cipher.move(labels) for cipher, labels in zip(ciphers, inputs["labels"], strict=True)]
            inputs["labels"] = torch.stack(moved)
        return _args, inputs

    def put_back(_model: nn.Module, _args: Any, inputs: dict[str, Any], output: Any) -> Any:
        if any(cipher.moves_blocks for cipher in ciphers):
            size = inputs["pixel_values"].shape[-2:]
            logits = interpolate(output.logits.float(), size=size, mode="bilinear", align_corners=False)
            output.logits = torch.stack([cipher.put_back(one) for cipher, one in zip(ciphers, logits, strict=True)])
        return output

    hooks = [
        model.register_forward_pre_hook(encrypt, with_kwargs=True),
        model.register_forward_hook(put_back, with_kwargs=True),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
