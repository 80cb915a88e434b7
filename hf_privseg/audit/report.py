"""An audit on paper: JSON for programs, one HTML file with pictures for people."""

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .advice import Advice
from .findings import ATTACKERS, Finding, verdicts, worst

METRICS = {
    "psnr": ("PSNR, dB", "{:.1f}"),
    "ssim": ("SSIM", "{:.2f}"),
    "hp": ("hp", "{:.2f}"),
    "agreement": ("same labels", "{:.0%}"),
    "exact": ("key exact", "{:.0%}"),
    "within_one": ("within 1 px", "{:.0%}"),
    "signs": ("signs", "{:.0%}"),
}

EXPLANATION = (
    "hp: correlation of high-pass luminance of reconstruction and original, 0 to 1 (a 1/16 thumbnail has about .1). "
    "Same labels: share of pixels to which the plain model gives the label that it gives the original. Key exact, "
    "within 1 px: share of the positions in a block that were found, colour forgiven in the second. All figures are "
    "lower bounds: a better attack may recover more. This is not encryption in the cryptographic sense; images are "
    "visually protected."
)

_PICTURE_SIDE = 640  # pixels, at most: there are dozens of pictures in one file

_STYLE = """
:root { color-scheme: light dark }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; font-size: .9rem; display: block; overflow-x: auto }
td, th { padding: .25rem .6rem; text-align: left; border-bottom: 1px solid #8886 }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums }
.verdict { border-left: .4rem solid #d55e00; padding: .2rem 1rem; font-size: 1.1rem }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); gap: 1rem }
figure { margin: 0 } figure img { width: 100% } figcaption { font-size: .85rem }
"""


@dataclass(frozen=True, kw_only=True)
class AuditReport:
    """What `audit` returns.

    Attributes:
        subject: facts of the model and the images: {"model", "num_images", "height", "width", "patch_size", ...}.
        findings: a row for each attack, baselines among them.
        advice: the recommendation, with what it still leaks.
        original: (height, width, 3) uint8, the first victim as the model would have seen it.
    """

    subject: dict[str, Any]
    findings: Sequence[Finding]
    advice: Advice
    original: np.ndarray

    @property
    def verdict(self) -> str:
        """One sentence: the worst over all attacks, and the worst that ciphertexts and the model alone allow."""
        overall = worst(self.findings)
        alone = worst(f for f in self.findings if f.attacker in ("ciphertexts", "server"))
        if overall is None:
            return "No attack that reconstructs images was run."
        text = f"Recovered, in the worst case: {_told(overall)}."
        return text + (f" By the provider without further help: {_told(alone)}." if alone else "")

    def to_dict(self) -> dict[str, Any]:
        """Everything but the pictures."""
        advice = {"family": self.advice.family, "reasons": list(self.advice.reasons)}
        rows = [finding.to_dict() for finding in self.findings]
        return {"subject": self.subject, "verdict": self.verdict, "advice": advice, "findings": rows}

    def to_json(self, path: str | Path) -> None:
        """Write `to_dict` to a file."""
        Path(path).write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")

    def to_html(self, path: str | Path) -> None:
        """Write one self-contained page: verdict, worst cases, every attack, pictures, advice."""
        Path(path).write_text(_page(self), encoding="utf-8")


def table_rows(findings: Sequence[Finding]) -> tuple[list[str], list[list[str]]]:
    """Findings -> column heads and rows of text; metrics that no row has are left out."""
    shown = [name for name in METRICS if any(name in finding.metrics for finding in findings)]
    head = ["family", "attack", "images", "prior", *(METRICS[name][0] for name in shown), "recovered", "s"]
    rows = []
    for f in findings:
        figures = [METRICS[name][1].format(f.metrics[name]) if name in f.metrics else "" for name in shown]
        recovered = "baseline" if f.attacker == "baseline" else "; ".join(filter(None, [f.level, f.note]))
        rows.append([f.family, f.attack, str(f.num_images), f.prior, *figures, recovered, f"{f.seconds:.1f}"])
    return head, rows


def _told(finding: Finding) -> str:
    return f"{finding.level} ({finding.family}, {finding.attack}: hp {finding.metrics['hp']:.2f})"


def _page(report: AuditReport) -> str:
    worst_rows = [
        [family, ATTACKERS[attacker], found.level, found.attack, f"{found.metrics['hp']:.2f}"]
        for family, attacker, found in verdicts(report.findings)
        if attacker != "baseline"
    ]
    facts = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in report.subject.items())
    advice = "".join(f"<li>{escape(reason)}</li>" for reason in report.advice.reasons)
    pictures = [("the original, as the model sees it", report.original)]
    pictures += [(_caption(f), f.picture) for f in report.findings if f.picture is not None]
    figures = "".join(_figure(caption, picture) for caption, picture in pictures)
    parts = [
        f"<h1>What an attacker recovers</h1><p>{escape(facts)}</p>",
        f'<p class="verdict">{escape(report.verdict)}</p>',
        f"<h2>Recommended: {escape(report.advice.family)}</h2><ul>{advice}</ul>",
        "<h2>The worst case by what the attacker has</h2>",
        _table(["family", "the attacker has", "recovered", "attack", "hp"], worst_rows),
        "<h2>Every attack</h2>",
        _table(*table_rows(report.findings)),
        f"<p>{escape(EXPLANATION)}</p><h2>Pictures of the first image</h2>",
        f'<div class="pictures">{figures}</div>',
    ]
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    title = "<title>What an attacker recovers</title>"
    return (
        f"<!doctype html><html lang=en><head>{head}{title}<style>{_STYLE}</style></head><body>{''.join(parts)}</body>"
    )


def _caption(finding: Finding) -> str:
    count = finding.num_images
    details = [finding.attack, f"{count} image{'s' if count > 1 else ''}" if count else "", finding.prior]
    hp = f"hp {finding.metrics['hp']:.2f}" if "hp" in finding.metrics else ""
    return f"{finding.family}: " + ", ".join(part for part in [*details, hp] if part)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    of_numbers = [all(_is_number(row[column]) for row in rows) for column in range(len(head))]

    def line(kind: str, texts: Sequence[str]) -> str:
        opened = (f'<{kind} class="number">' if number else f"<{kind}>" for number in of_numbers)
        return "<tr>" + "".join(start + escape(text) for start, text in zip(opened, texts, strict=True)) + "</tr>"

    body = "".join(line("td", row) for row in rows)
    return f"<table><thead>{line('th', head)}</thead><tbody>{body}</tbody></table>"


def _is_number(text: str) -> bool:
    return not text or text.replace(".", "").replace("-", "").replace("%", "").isdigit()


def _figure(caption: str, picture: np.ndarray) -> str:
    shown = Image.fromarray(picture)
    shown.thumbnail((_PICTURE_SIDE, _PICTURE_SIDE))
    buffer = io.BytesIO()
    shown.save(buffer, "JPEG", quality=90, subsampling=0)
    source = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
    text = escape(caption)
    return f'<figure><img src="{source}" alt="{text}"><figcaption>{text}</figcaption></figure>'
