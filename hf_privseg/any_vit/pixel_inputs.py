"""The inputs of a model, as its processor makes them -> the same with encrypted pixels.

Pixels are encrypted last, as the processor has normalised them: b_hat E_hat = b E holds for every b, so that mean and
standard deviation need not be known, and zeros (padding) stay zeros.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from transformers import PreTrainedModel

from ..setr.ciphers import cipher_for
from ..setr.encryption_key import EncryptionKey
from ..setr.errors import InvalidImageError
from ..setr.patch_grid import check_on_grid
from .model_facts import ModelFacts
from .pixel_blocks import from_rows, to_rows

# What is encrypted. "hidden_states" is what the vision towers of Qwen-VL and GLM-V call their pixels.
# fmt: off
PIXEL_INPUTS = frozenset({
    "conditional_pixel_values", "hidden_states", "high_res_pixel_values", "image_pixel_values", "pixel_values",
    "pixel_values_images", "pixel_values_videos", "prompt_masks", "prompt_pixel_values", "query_pixel_values",
})
# fmt: on

# What is known to show no pixels and stays as it is: text, sizes, masks of padding, positions, labels, prompts.
# fmt: off
PLAIN_INPUTS = frozenset({
    "aspect_ratio_ids", "aspect_ratio_mask", "aspect_ratios", "attention_mask", "batch_num_images", "bbox",
    "bool_masked_pos", "class_labels", "cols", "cross_attention_mask", "decoder_attention_mask",
    "decoder_input_ids", "grids", "grids_videos", "image_attention_mask", "image_cols", "image_grid_hw",
    "image_grid_thw", "image_grids", "image_num_crops", "image_position_ids", "image_rows", "image_sizes",
    "images_per_sample", "input_boxes", "input_ids", "input_labels", "input_masks", "input_points",
    "interpolate_pos_encoding", "labels", "mask_labels", "mm_token_type_ids", "num_chunks_per_video", "num_crops",
    "num_frames_per_video", "num_image_patches", "num_image_tokens", "num_local_patches", "num_patches",
    "num_patches_per_image", "num_soft_tokens_per_image", "num_soft_tokens_per_video", "num_tiles",
    "original_sizes", "padding_mask", "padding_mask_videos", "patch_offsets", "patches_grid",
    "pixel_attention_mask", "pixel_mask", "position_ids", "qformer_attention_mask", "qformer_input_ids",
    "reshaped_input_sizes", "rows", "second_per_grid_ts", "spatial_shapes", "target_sizes", "target_sizes_videos",
    "task_inputs", "text_inputs", "token_type_ids", "video_compression_mask", "video_grid_thw", "video_grids",
    "video_merge_sizes", "video_metadata", "video_position_ids", "video_second_per_grid",
})
# fmt: on


def encrypt_inputs(
    inputs: Mapping[str, object],
    secret_key: EncryptionKey,
    facts: ModelFacts,
    *,
    pad: bool | None = None,
    plain_inputs: Collection[str] = (),
) -> dict[str, Any]:
    """What a processor returns -> the same with encrypted pixels, all names included.

    Args:
        inputs: name -> tensor, list of tensors or anything that shows no pixels.
        secret_key: the key of the model.
        facts: of the model.
        pad: see `encrypt_pixels`.
        plain_inputs: names beside `PLAIN_INPUTS` that are known to show no pixels.

    Raises:
        InvalidImageError: a name that is in neither list, no pixels at all, or pixels that cannot be encrypted.
    """
    unknown = sorted(set(inputs) - PIXEL_INPUTS - PLAIN_INPUTS - set(plain_inputs))
    if unknown:
        raise InvalidImageError(
            f"got inputs that may show the image and are not known to be encrypted: {', '.join(unknown)}; if they "
            "show no pixels, name them in plain_inputs"
        )
    found = [name for name in inputs if name in PIXEL_INPUTS and inputs[name] is not None]
    if not found:
        raise InvalidImageError(
            f"expected pixels under one of the names {', '.join(sorted(PIXEL_INPUTS))}, got "
            f"{', '.join(inputs) or 'no inputs'}"
        )
    encrypted = {name: _encrypt_named(name, inputs[name], secret_key, facts, pad) for name in found}
    return {**inputs, **encrypted}


def encrypt_pixels(pixels: Any, secret_key: EncryptionKey, facts: ModelFacts, *, pad: bool | None = None) -> Any:
    """(..., channels, height, width) or (..., L) float -> the same shape and dtype, encrypted; lists of them as well.

    Args:
        pixels: normalised as the model's processor does it: images or frames of any number of leading sides, or
            flattened patches for a model whose processor makes these. Where a block spans several frames, the side
            before the channels counts frames, whole groups of them.
        secret_key: the key of the model.
        facts: of the model.
        pad: whether sides are first padded with zeros, at the bottom and right, to whole blocks; the result is
            larger then. None pads where the model would do the same.

    Raises:
        InvalidImageError: no float tensor, wrong channels or length, frames that make no whole groups, or sides off
            the grid and no padding.
    """
    if isinstance(pixels, Sequence) and not isinstance(pixels, str | bytes):
        return [encrypt_pixels(item, secret_key, facts, pad=pad) for item in pixels]
    if not isinstance(pixels, torch.Tensor) or not pixels.is_floating_point():
        raise InvalidImageError(
            f"expected normalised float pixels in a torch.Tensor, got {getattr(pixels, 'dtype', type(pixels))}; let "
            "the processor rescale and normalise, with return_tensors='pt'"
        )
    if pixels.ndim > 2 and facts.patch_size > 1:
        pixels = _in_whole_blocks(pixels, facts, pad)
    geometry = (facts.patch_size, facts.num_channels)
    cipher = cipher_for(secret_key, patch_size=facts.patch_size, num_channels=facts.num_channels)
    blocks = to_rows(pixels, *geometry).unflatten(1, (facts.num_channels, facts.patch_size, facts.patch_size))
    return from_rows(cipher.encrypt(blocks).flatten(1), pixels.shape, *geometry)


def as_read_by(model: PreTrainedModel, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Inputs -> the same for `model(**inputs)`: tensors on its device, pixels in the numbers of its patch embedding.

    Processors return float32, and few models of half precision convert it.
    """
    own = getattr(model, "patch_projection", None)  # SETR's stays in float32 whatever the rest is in
    dtype = model.dtype if own is None else own.weight.dtype

    def read(value: Any, is_pixels: bool) -> Any:
        if isinstance(value, list | tuple):
            return [read(item, is_pixels) for item in value]
        if not isinstance(value, torch.Tensor):
            return value
        return value.to(model.device, dtype if is_pixels and value.is_floating_point() else value.dtype)

    return {name: read(value, name in PIXEL_INPUTS) for name, value in inputs.items()}


def _in_whole_blocks(pixels: torch.Tensor, facts: ModelFacts, pad: bool | None) -> torch.Tensor:
    """(..., height, width) -> the same, padded if wanted; refused off the grid otherwise."""
    if facts.pads if pad is None else pad:
        height, width = pixels.shape[-2:]
        pixels = F.pad(pixels, (0, -width % facts.patch_size, 0, -height % facts.patch_size))
    check_on_grid(
        tuple(pixels.shape[-2:]),
        facts.patch_size,
        what="height x width of the pixels",
        advice="let the processor resize or crop the plain image to whole blocks, or pass pad=True to add zeros",
        error=InvalidImageError,
    )
    return pixels


def _encrypt_named(name: str, pixels: Any, secret_key: EncryptionKey, facts: ModelFacts, pad: bool | None) -> Any:
    try:
        return encrypt_pixels(pixels, secret_key, facts, pad=pad)
    except InvalidImageError as error:
        raise InvalidImageError(f"{name}: {error}") from None
