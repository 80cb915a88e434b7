"""The forms in which a segmentation map goes to a client, chosen by the header Accept."""

import io
import json
from collections.abc import Callable

import numpy as np

from ..inference.pictures import class_shares, segmentation_map_to_picture
from .engine import SegmentationService
from .problems import Problem

PNG, NPY, JSON = "image/png", "application/x-npy", "application/json"
MEDIA_TYPES = (PNG, NPY, JSON)


def accepted(header: str | None) -> str:
    """The header Accept of a request, or None -> the media type of the answer; a PNG file where any will do.

    Raises:
        Problem: the client accepts none of the three.
    """
    wanted: list[tuple[float, str]] = []
    for part in (header or "*/*").split(","):
        name, *parameters = (piece.strip().lower() for piece in part.split(";"))
        quality = next((value[2:] for value in parameters if value.startswith("q=")), "1")
        try:
            wanted.append((float(quality), name))
        except ValueError:
            wanted.append((0.0, name))
    for weight, name in sorted(wanted, key=lambda pair: -pair[0]):
        fitting = [kind for kind in MEDIA_TYPES if name in (kind, "*/*", f"{kind.split('/')[0]}/*")]
        if weight > 0 and fitting:
            return fitting[0]
    raise Problem(406, "not_acceptable", f"expected the header Accept to name one of {', '.join(MEDIA_TYPES)}")


def encoded(segmentation_map: np.ndarray, media_type: str, service: SegmentationService) -> bytes:
    """(height, width) uint8 class indices -> the content of an answer of that media type."""
    return _ENCODERS[media_type](segmentation_map, service)


def _png(segmentation_map: np.ndarray, service: SegmentationService) -> bytes:
    buffer = io.BytesIO()
    segmentation_map_to_picture(segmentation_map, service.palette).save(buffer, "PNG")
    return buffer.getvalue()


def _npy(segmentation_map: np.ndarray, service: SegmentationService) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, segmentation_map, allow_pickle=False)
    return buffer.getvalue()


def _json(segmentation_map: np.ndarray, service: SegmentationService) -> bytes:
    height, width = segmentation_map.shape
    shares = class_shares([segmentation_map], len(service.labels))
    found = [
        {"index": int(index), "label": service.labels[int(index)], "share": float(shares[index])}
        for index in shares.argsort()[::-1]
        if shares[index] > 0
    ]
    return json.dumps({"height": height, "width": width, "shares": found}).encode()


_ENCODERS: dict[str, Callable[[np.ndarray, SegmentationService], bytes]] = {PNG: _png, NPY: _npy, JSON: _json}
