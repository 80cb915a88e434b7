"""Sample images for visitors who have none at hand: read from the packages that ship them, pictures like any other.

The service knows them, and one known image opens whatever else is encrypted with the same key. So they are offered
with a public model alone, where visitors make keys of their own, and the attacks of server_view.py may not know them.
"""

import html
import io
import re
from functools import cache

from ..catalog.sample_images import SAMPLE_IMAGES, sample_image

# name in the catalog -> what it shows, in a word or two
SAMPLES = {"china": "A tower by a lake", "rocket": "A rocket at night"}


@cache
def sample_file(name: str) -> bytes | None:
    """A sample image as a JPEG file; None where the package that ships it is not installed."""
    try:
        image = sample_image(name)
    except ImportError:
        return None
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def offered_samples() -> list[str]:
    """The names of the samples that are installed."""
    return [name for name in SAMPLES if sample_file(name) is not None]


def sample_credit(name: str) -> str:
    """A sample's credit in HTML; an address in brackets becomes a link that is named after its host."""
    credit = html.escape(SAMPLE_IMAGES[name].credit)
    return re.sub(r"\((https://([^/)]+)[^)]*)\)", r'(<a href="\1" target="_blank" rel="noopener">\2</a>)', credit)
