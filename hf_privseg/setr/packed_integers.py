"""Small integers as a few bytes: zigzag, the low bytes before the high ones, raw deflate.

Neighbouring numbers are of one block and fall in size, so that each block ends in a run of zeros. Deflate with runs
alone (longer matches do not pay) then takes about as few bytes as a range coder, and no dependency; browsers have it.
"""

import math
import zlib

import numpy as np

from .errors import CiphertextError


def packed(values: np.ndarray) -> np.ndarray:
    """int16 of any shape -> uint8 (n,), from which `unpacked` restores them bit for bit."""
    zigzag = ((values << 1) ^ (values >> 15)).astype("<i2")
    planes = zigzag.reshape(-1, 1).view(np.uint8).T
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zlib.Z_RLE)
    return np.frombuffer(deflate.compress(planes.tobytes()) + deflate.flush(), np.uint8)


def unpacked(content: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The inverse of `packed`, for content that anyone may have written; the caller has bounded the shape.

    Raises:
        CiphertextError: no deflate stream, or one of more or fewer numbers.
    """
    num_bytes = 2 * math.prod(shape)
    inflate = zlib.decompressobj(-15)
    try:
        planes = inflate.decompress(content.tobytes(), num_bytes + 1)
    except zlib.error as error:
        raise CiphertextError(f"the packed numbers are damaged ({error}); transfer the file again") from error
    if len(planes) != num_bytes or not inflate.eof or inflate.unused_data:
        raise CiphertextError(f"expected {num_bytes} bytes of packed numbers, got more or fewer; the file is damaged")
    low, high = np.frombuffer(planes, np.uint8).reshape(2, -1).astype(np.uint16)
    zigzag = low | high << 8
    return ((zigzag >> 1) ^ -(zigzag & 1)).view(np.int16).reshape(shape)  # modulo 2**16
