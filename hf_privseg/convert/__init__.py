"""Checkpoints from elsewhere become SETR models: mmsegmentation's SETR, and ViT, DeiT, DINOv2 and timm encoders."""

from ..setr.errors import ConversionError
from .card import Provenance
from .conversion import FORMATS, Converted, convert_checkpoint
from .loading import Checkpoint, read_checkpoint

__all__ = [
    "FORMATS",
    "Checkpoint",
    "ConversionError",
    "Converted",
    "Provenance",
    "convert_checkpoint",
    "read_checkpoint",
]
