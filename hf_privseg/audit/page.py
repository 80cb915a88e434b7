"""The HTML page of an audit: what `templates/report.html` shows, prepared for it."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from ..setr.counts import counted
from .advice import Advice
from .findings import Finding
from .summary import EXPLANATION, table_rows, worst_cases

_PICTURE_SIDE = 640  # pixels, at most: a page holds dozens of pictures


@dataclass(frozen=True)
class PageTable:
    """A table of the page.

    Attributes:
        head: the column heads.
        rows: a cell of text for each column.
        numeric: for each column, whether all of its cells are numbers, which are aligned at the right.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    numeric: Sequence[bool]


@dataclass(frozen=True)
class PagePicture:
    """A picture of the page.

    Attributes:
        caption: one line of text.
        source: the picture as a `data:` URL, so that the page needs no other file.
    """

    caption: str
    source: str


def render_page(
    *,
    subject: Mapping[str, str | int | float],
    verdict: Sequence[str],
    advice: Advice,
    findings: Sequence[Finding],
    original: np.ndarray,
    made_with: str,
) -> str:
    """The parts of an `AuditReport` -> one HTML page that loads nothing from elsewhere; all text is escaped."""
    environment = Environment(
        loader=PackageLoader(__package__),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    reconstructed = [_picture(_caption(f), f.picture) for f in findings if f.picture is not None]
    return environment.get_template("report.html").render(
        subject={name.replace("_", " "): value for name, value in subject.items()},
        verdict=verdict,
        advice=advice,
        worst_cases=_table(*worst_cases(findings)),
        attacks=_table(*table_rows(findings)),
        explanation=EXPLANATION,
        made_with=made_with,
        pictures=[_picture("the original, as the model sees it", original), *reconstructed],
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> PageTable:
    return PageTable(head, rows, [all(_is_number(row[column]) for row in rows) for column in range(len(head))])


def _is_number(text: str) -> bool:
    return not text or text.replace(".", "").replace("-", "").replace("%", "").isdigit()


def _caption(finding: Finding) -> str:
    count = finding.num_images
    details = [finding.attack, counted(count, "image") if count else "", finding.prior]
    hp = f"hp {finding.metrics['hp']:.2f}" if "hp" in finding.metrics else ""
    return f"{finding.family}: " + ", ".join(part for part in [*details, hp] if part)


def _picture(caption: str, picture: np.ndarray) -> PagePicture:
    """(height, width, 3) uint8 -> the picture as JPEG, reduced to `_PICTURE_SIDE`."""
    shown = Image.fromarray(picture)
    shown.thumbnail((_PICTURE_SIDE, _PICTURE_SIDE))
    buffer = io.BytesIO()
    shown.save(buffer, "JPEG", quality=90, subsampling=0)
    return PagePicture(caption, "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode())
