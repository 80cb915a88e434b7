"""What clients of a service may ask for, each of them and all together."""

from dataclasses import dataclass

_MEMORY_FACTOR = 3  # a request's body, and its decoded pixels in float32, which are twice as large


@dataclass(frozen=True)
class Limits:
    """What one client may ask for, and all of them together.

    Args:
        max_pixels: of an encrypted image, height times width.
        max_original_pixels: of the image's own size, which the segmentation map has.
        max_embedding_bytes: of the file of a patch embedding.
        max_batch: images that share a forward.
        max_wait_ms: how long the first image of a batch waits for others, in milliseconds.
        max_queue: images that wait; one tenant may hold half of the places.
        max_memory_mib: of all requests under way, with their decoded pixels, in MiB.
        body_seconds: in which a request's body has to arrive.
        max_temporary_embeddings: of visitors of a public demonstration; the one used longest ago makes room.
        temporary_seconds: after which an embedding of such a visitor is forgotten, used or not.

    Raises:
        ValueError: a limit below 1 (`max_wait_ms`: below 0).
    """

    max_pixels: int = 2**21
    max_original_pixels: int = 2**24
    max_embedding_bytes: int = 2**25
    max_batch: int = 8
    max_wait_ms: int = 5
    max_queue: int = 256
    max_memory_mib: int = 1024
    body_seconds: int = 60
    max_temporary_embeddings: int = 64
    temporary_seconds: int = 1800

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            least = 0 if name == "max_wait_ms" else 1
            if value < least:
                raise ValueError(f"{name} is at least {least}, got {value}")

    @property
    def max_upload_bytes(self) -> int:
        """Size of the largest file of an encrypted image: three 16-bit channels and their header."""
        return 6 * self.max_pixels + 2**16

    @property
    def max_body_bytes(self) -> int:
        """How many bytes of bodies may be in memory at a time, so that `max_memory_mib` holds."""
        return max(self.max_memory_mib * 2**20 // _MEMORY_FACTOR, self.max_upload_bytes, self.max_embedding_bytes)
