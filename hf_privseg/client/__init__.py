"""The client of the segmentation service: it encrypts on this machine and sends ciphertexts alone."""

from .segmentation_client import SegmentationClient, ServiceInfo, segment

__all__ = ["SegmentationClient", "ServiceInfo", "segment"]
