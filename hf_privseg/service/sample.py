"""The sample image for visitors who have none at hand: read from the package that ships it, a picture like any other.

The service knows it, and one known image opens whatever else is encrypted with the same key. So it is offered with a
public model alone, where visitors make keys of their own, and the attacks of server_view.py may not know it.
"""

import html
import io
import re
from functools import cache

from ..catalog.sample_images import SAMPLE_IMAGES, sample_image

SAMPLE = "china"  # buildings, trees and sky, as in the scenes that the embedded model was trained on


@cache
def sample_file() -> bytes | None:
    """The image as a JPEG file; None where the package that ships it is not installed."""
    try:
        image = sample_image(SAMPLE)
    except ImportError:
        return None
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def sample_credit() -> str:
    """The image's credit in HTML; an address in brackets becomes a link that is named after its host."""
    credit = html.escape(SAMPLE_IMAGES[SAMPLE].credit)
    return re.sub(r"\((https://([^/)]+)[^)]*)\)", r'(<a href="\1" target="_blank" rel="noopener">\2</a>)', credit)
