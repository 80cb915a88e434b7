"""The client of the segmentation service: it encrypts on this machine and sends ciphertexts alone."""

from .async_client import AsyncSegmentationClient
from .segmentation_client import SegmentationClient, read_token, segment
from .service_info import ServiceInfo

__all__ = ["AsyncSegmentationClient", "SegmentationClient", "ServiceInfo", "read_token", "segment"]
