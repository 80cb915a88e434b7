"""The file form of a processed batch with encrypted pixels: what a server needs to run the model, and no key.

A safetensors file. A tensor of pixels `name` is stored as "name/values", int16 of its shape, and "name/scale", float32
(1,), with pixels = values * scale, so that zeros stay zeros. Of the family "embedding", "name/values" are (n, r): of
each of n blocks, in the order of the weight, the first r numbers; the others are 0. Other tensors are stored as they
are, under their name. The i-th tensor of a list is called "name/i", from 0. The metadata entry "privseg_inputs" is a
JSON object with exactly these entries:

    format         1, the version of this layout
    family, version, fingerprint    the public facts about the key
    patch_size     side of a block in pixels              num_channels   numbers of a block for each of its pixels
    encrypted      the names of the inputs that hold encrypted pixels
    shapes         {name of a tensor of pixels: its shape}, for those that are stored block by block
    lengths        {name: number of tensors} for those inputs that are lists
    settings       {name: true, false, a number or a text} for the inputs that are no tensors
    target_sizes   [[height, width], ...] of the plain images, for post-processing; may be empty
    sha256         hexadecimal, over name, dtype, shape and numbers of all tensors, in the order of their names

The hash finds accidents, not attackers: it is not keyed. Nothing in the file is secret, and nothing is ever pickled.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from transformers import PreTrainedConfig, PreTrainedModel

from ..setr.arrays import to_array
from ..setr.ciphers import CIPHERS
from ..setr.ciphertext_file import CiphertextFile
from ..setr.errors import CiphertextError, HeaderError
from ..setr.public_facts import KeyFacts, check_image_fits, check_key_fits
from ..setr.stored_pixels import digest_of, restored, stored
from ..setr.tensor_files import header_from_bytes, tensors_from_bytes, tensors_to_bytes
from .model_facts import ModelFacts, key_facts
from .pixel_blocks import from_rows, to_rows
from .pixel_inputs import PIXEL_INPUTS, as_read_by

_FORMAT = 1
_MAX_SIDE = 2**16
_ENTRY = "privseg_inputs"
_IMAGE_ENTRY = "privseg"  # of `setr.image_container`
_KEY = ("family", "version", "fingerprint")
_GEOMETRY = ("patch_size", "num_channels")
_HEADER = {*("format", *_KEY, *_GEOMETRY, "encrypted", "shapes", "lengths", "settings", "target_sizes", "sha256")}
_MAX_NUMBERS = 2**29  # of a tensor of pixels, as many as the largest file holds


@dataclass(frozen=True, eq=False, repr=False)
class EncryptedInputs(CiphertextFile):
    """The inputs of an encrypted model, as `EncryptingProcessor.encrypt` makes them, with the public facts about them.

    Args:
        inputs: name -> tensor, list of tensors, or a single bool, number or text. Pixels are encrypted floats; None
            and empty lists are left out.
        facts: about the key.
        patch_size, num_channels: geometry of a block.
        target_sizes: (height, width) of each plain image in pixels, which post-processing takes.

    Raises:
        CiphertextError: no encrypted pixels among the inputs, pixels that are not finite floats, an input of another
            kind, or sizes that are no pairs of positive ints.
    """

    suffix: ClassVar[str] = ".safetensors"
    _max_file_bytes: ClassVar[int] = 2**30

    inputs: dict[str, Any]
    facts: KeyFacts
    patch_size: int
    num_channels: int
    target_sizes: Sequence[tuple[int, int]] = ()

    def __post_init__(self) -> None:
        given = {name: value for name, value in self.inputs.items() if not _is_nothing(value)}
        object.__setattr__(self, "inputs", given)
        ModelFacts(self.facts, self.patch_size, self.num_channels)  # checks the two numbers
        if not PIXEL_INPUTS & set(given):
            raise CiphertextError(f"expected encrypted pixels among the inputs, got {', '.join(given) or 'no inputs'}")
        for name, value in given.items():
            _check_input(name, value)
        sizes = [tuple(size) if isinstance(size, list | tuple) else size for size in self.target_sizes]
        if not all(isinstance(size, tuple) and len(size) == 2 and all(map(_is_side, size)) for size in sizes):
            raise CiphertextError(
                f"target_sizes are pairs of ints from 1 to {_MAX_SIDE}, got {list(self.target_sizes)!r:.80}"
            )
        object.__setattr__(self, "target_sizes", tuple(sizes))

    def inputs_for(self, model: PreTrainedModel | PreTrainedConfig) -> dict[str, Any]:
        """The inputs for `model(**inputs)`, after a check that they belong together.

        Args:
            model: the encrypted model, to whose device they are moved, the pixels in its dtype; or its configuration
                (they then stay on the CPU, in float32).

        Raises:
            EncryptionStateError: the model is plain.
            KeyMismatchError: the model is encrypted with another key.
            CiphertextError: the model has other blocks.
        """
        facts, subject = ModelFacts.of(model), "the encrypted inputs"
        check_key_fits(self.facts, key_facts(model), subject=subject)
        if facts is not None:
            check_image_fits(self, facts.key, facts.patch_size, facts.num_channels, subject=subject)
        return as_read_by(model, self.inputs) if isinstance(model, PreTrainedModel) else dict(self.inputs)

    def to_bytes(self) -> bytes:
        """The content of the file form.

        Pixels are rounded to 16 bits: they change by at most half the scale, max |pixels| / 65534 of each tensor, and
        the inputs that `from_bytes` returns keep their values through further round trips, up to float32 rounding.
        """
        tensors: dict[str, torch.Tensor] = {}
        shapes: dict[str, list[int]] = {}
        for name, tensor in _named_tensors(self.inputs):
            if _input_name(name) in PIXEL_INPUTS:
                values, scale = map(torch.from_numpy, stored(to_array(tensor.float())))
                if CIPHERS[self.facts.family].ends_in_zeros:
                    shapes[name], values = list(values.shape), self._without_zeros(values)
                tensors |= {f"{name}/values": values, f"{name}/scale": scale}
            else:
                tensors[name] = tensor.detach().cpu().contiguous()
        settings = {name: value for name, value in self.inputs.items() if isinstance(value, bool | int | float | str)}
        lengths = {name: len(value) for name, value in self.inputs.items() if isinstance(value, list | tuple)}
        header = {
            "format": _FORMAT,
            **self.facts.to_dict(),
            "patch_size": self.patch_size,
            "num_channels": self.num_channels,
            "encrypted": sorted(PIXEL_INPUTS & set(self.inputs)),
            "shapes": shapes,
            "lengths": lengths,
            "settings": settings,
            "target_sizes": self.target_sizes,
            "sha256": _digest(tensors),
        }
        return tensors_to_bytes(tensors, {_ENTRY: json.dumps(header)})

    @classmethod
    def from_bytes(cls, data: bytes) -> "EncryptedInputs":
        """What `to_bytes` returned -> the inputs, pixels in float32 on the CPU.

        Raises:
            CiphertextError: another format, missing or additional tensors, wrong types, or numbers that were changed.
        """
        try:
            found = header_from_bytes(data)
            if _IMAGE_ENTRY in found.metadata:
                raise CiphertextError(
                    "expected a file that EncryptedInputs.to_file wrote, got an encrypted image for a SETR, which "
                    "EncryptedImage reads; encrypt the image with the processor of the model that segments it"
                )
            header, tensors = found.json_entry(_ENTRY), tensors_from_bytes(data)
        except HeaderError as error:
            raise CiphertextError(f"expected a file that EncryptedInputs.to_file wrote ({error})") from error
        _check_header(header)
        try:
            if header["sha256"] != _digest(tensors):
                raise CiphertextError(
                    "the numbers were changed after encryption (their SHA-256 is not the one in the header): by an "
                    "editor or a transmission error; send the file exactly as to_file wrote it"
                )
            facts = KeyFacts(*(header[name] for name in _KEY))
            tensors = _with_zeros(tensors, header["shapes"], ModelFacts(facts, *(header[name] for name in _GEOMETRY)))
            inputs = {**header["settings"], **_inputs_of(tensors, header["encrypted"], header["lengths"])}
            return cls(inputs, facts, header["patch_size"], header["num_channels"], header["target_sizes"])
        except CiphertextError:
            raise
        except (ValueError, TypeError, KeyError) as error:
            raise CiphertextError(f"the header of the encrypted inputs does not fit its tensors: {error}") from error

    def _without_zeros(self, values: torch.Tensor) -> torch.Tensor:
        """Stored pixels of any form -> (n, r): of each block as far as any block has a number other than 0."""
        rows = to_rows(values, self.patch_size, self.num_channels)
        used = rows.any(dim=0).nonzero()
        return rows[:, : int(used[-1]) + 1 if len(used) else 1].contiguous()

    def __repr__(self) -> str:
        return f"EncryptedInputs({', '.join(self.inputs)}; {self.facts}, patch_size {self.patch_size})"


def _is_nothing(value: Any) -> bool:
    return value is None or (isinstance(value, list | tuple) and not value)


def _check_input(name: str, value: Any) -> None:
    items = value if isinstance(value, list | tuple) else [value]
    is_pixels = name in PIXEL_INPUTS
    if all(isinstance(item, torch.Tensor) for item in items) and items:
        if is_pixels and not all(item.is_floating_point() and item.isfinite().all() for item in items):
            raise CiphertextError(f"expected finite float pixels in {name}, got {items[0].dtype} or NaN or infinity")
    elif is_pixels or not isinstance(value, bool | int | float | str):
        kind = (
            type(value).__name__ if items is not value else f"a list of {', '.join({type(i).__name__ for i in items})}"
        )
        raise CiphertextError(
            f"expected a tensor{'' if is_pixels else ', a list of tensors, a number or a text'} in {name}, got {kind};"
            " process the images with return_tensors='pt', and leave out what the model does not take"
        )


def _named_tensors(inputs: Mapping[str, object]) -> list[tuple[str, torch.Tensor]]:
    """The tensors of inputs under the names of the file."""
    found = [(name, value) for name, value in inputs.items() if isinstance(value, torch.Tensor)]
    lists = [(name, value) for name, value in inputs.items() if isinstance(value, list | tuple)]
    return found + [(f"{name}/{index}", item) for name, value in lists for index, item in enumerate(value)]


def _input_name(name: str) -> str:
    return name.partition("/")[0]


def _with_zeros(
    tensors: Mapping[str, torch.Tensor], shapes: Mapping[str, Sequence[int]], facts: ModelFacts
) -> dict[str, torch.Tensor]:
    """The tensors of a file -> the same, those of `shapes` in that shape; anyone may have written the header."""
    found = dict(tensors)
    for name, shape in shapes.items():
        rows = found[f"{name}/values"]
        if rows.ndim != 2 or rows.shape[1] > facts.block_length:
            raise ValueError(f"{name} is stored in rows of at most {facts.block_length} numbers, got {rows.shape}")
        is_shape = isinstance(shape, list) and len(shape) > 1 and all(type(side) is int and side > 0 for side in shape)
        if not is_shape or math.prod(shape) != len(rows) * facts.block_length or math.prod(shape) > _MAX_NUMBERS:
            raise ValueError(f"{name} has {len(rows)} blocks of {facts.block_length}, but the shape {shape!r:.80}")
        is_flat, side = len(shape) == 2 or facts.patch_size == 1, facts.patch_size
        if (shape[-1] != facts.block_length) if is_flat else any(each % side for each in shape[-2:]):
            raise ValueError(f"{name} has {len(rows)} blocks of {facts.block_length}, but the shape {shape!r:.80}")
        whole = F.pad(rows, (0, facts.block_length - rows.shape[1]))
        found[f"{name}/values"] = from_rows(whole, torch.Size(shape), facts.patch_size, facts.num_channels)
    return found


def _inputs_of(
    tensors: Mapping[str, torch.Tensor], encrypted: Sequence[str], lengths: Mapping[str, int]
) -> dict[str, object]:
    """The tensors of a file -> the inputs that they make; all of them are used."""
    left = dict(tensors)

    def take(name: str, is_encrypted: bool) -> torch.Tensor:
        if not is_encrypted:
            return left.pop(name)
        values, scale = left.pop(f"{name}/values"), left.pop(f"{name}/scale")
        if values.dtype != torch.int16 or scale.dtype != torch.float32 or scale.shape != (1,) or not scale.isfinite():
            raise ValueError(f"{name} is int16 with one finite float32 scale, got {values.dtype} and {scale.dtype}")
        return torch.from_numpy(restored((values.numpy(), scale.numpy())))

    names = sorted({_input_name(name) for name in tensors})
    if not set(encrypted) <= set(names) & PIXEL_INPUTS or not set(lengths) <= set(names):
        raise ValueError(f"it names {sorted({*encrypted, *lengths})!r:.200}, the tensors are {names!r:.200}")
    inputs: dict[str, Any] = {}
    for name in names:
        is_encrypted = name in encrypted
        if name in lengths:
            inputs[name] = [take(f"{name}/{index}", is_encrypted) for index in range(lengths[name])]
        else:
            inputs[name] = take(name, is_encrypted)
    if left:
        raise ValueError(f"tensors that no input names: {sorted(left)!r:.200}")
    return inputs


def _check_header(header: object) -> None:
    if not isinstance(header, dict) or header.get("format") != _FORMAT or set(header) != _HEADER:
        found = sorted(header) if isinstance(header, dict) else type(header).__name__
        raise CiphertextError(
            f"expected a header of format {_FORMAT} with exactly the entries {sorted(_HEADER)}, got {found!r:.200}; a "
            "later version may have written it"
        )
    kinds = {"encrypted": list, "shapes": dict, "lengths": dict, "settings": dict, "target_sizes": list}
    wrong = [name for name, kind in kinds.items() if not isinstance(header[name], kind)]
    if wrong or not all(type(length) is int and 0 < length <= 2**16 for length in header["lengths"].values()):
        raise CiphertextError(f"the header of the encrypted inputs is damaged: {', '.join(wrong) or 'lengths'}")


def _digest(tensors: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        array = tensors[name]
        array = array.view(torch.int16) if array.dtype == torch.bfloat16 else array
        digest.update(f"{name}:{digest_of(array.numpy())};".encode())
    return digest.hexdigest()


def _is_side(value: object) -> bool:
    return type(value) is int and 0 < value <= _MAX_SIDE
