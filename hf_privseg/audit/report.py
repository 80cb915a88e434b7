"""What an audit returns: its findings, the verdict, the advice; written as JSON for programs or HTML for people."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..reporting.provenance import provenance, provenance_in_words
from ..setr.counts import counted
from ..setr.files import write_whole
from .advice import Advice
from .findings import Finding, under_fresh_keys, worst
from .page import render_page


@dataclass(frozen=True, kw_only=True)
class AuditReport:
    """The result of `audit`.

    Attributes:
        subject: facts about the model and the images: {"model", "num_images", "height", "width", "patch_size", ...}.
        findings: one for each attack and each baseline.
        advice: the recommended family, with what it still leaks.
        original: (height, width, 3) uint8, the first victim as the plain model sees it.
        public_source: what the public weights are called that the model's patch embedding equals; None for none.
        num_left: attacks that were not run, since the time was over.
        made_with: versions, commit, machine and so on, as `provenance` gives them.
    """

    subject: Mapping[str, str | int | float]
    findings: Sequence[Finding]
    advice: Advice
    original: np.ndarray
    public_source: str | None = None
    num_left: int = 0
    made_with: Mapping[str, Any] = field(default_factory=provenance)

    @property
    def verdict(self) -> str:
        """What the strongest attack recovers, and what the strongest one by the provider alone recovers.

        It begins with a warning where the patch embedding is public.
        """
        return " ".join(self.verdict_sentences)

    @property
    def verdict_sentences(self) -> list[str]:
        """The verdict, in sentences."""
        overall = worst(self.findings)
        alone = worst(f for f in self.findings if f.attacker in ("ciphertexts", "server"))
        sentences = []
        if self.num_left:
            num_all = self.num_left + len(self.findings)
            sentences.append(
                f"This audit is not complete: {self.num_left} of {counted(num_all, 'attack')} were not run, and they "
                "may recover more than is said here."
            )
        if self.public_source is not None:
            sentences.append(
                f"This model protects nothing: its patch embedding is that of {self.public_source}, and anyone who "
                "has that inverts what the server computes, whatever the key."
            )
        if overall is None:
            return [*sentences, "No attack that reconstructs images was run."]
        sentences.append(f"Recovered, in the worst case: {_described(overall)}.")
        if alone is not None:
            sentences.append(f"By the provider without further help: {_described(alone)}.")
        fresh = worst(under_fresh_keys(self.findings))
        if fresh is not None:
            sentences.append(f"By the provider if every image had a key of its own: {_described(fresh)}.")
        return sentences

    def to_dict(self) -> dict[str, object]:
        """Everything but the pictures, in values that JSON knows."""
        advice = {"family": self.advice.family, "reasons": list(self.advice.reasons)}
        rows = [finding.to_dict() for finding in self.findings]
        facts = {"verdict": self.verdict, "attacks_left": self.num_left, "subject": dict(self.subject)}
        return {**facts, "advice": advice, "findings": rows, "made_with": dict(self.made_with)}

    def to_json(self, path: str | Path) -> None:
        """Write `to_dict` to a file."""
        write_whole(path, (json.dumps(self.to_dict(), indent=2) + "\n").encode(), overwrite=True)

    def to_html(self, path: str | Path) -> None:
        """Write one self-contained page: verdict, advice, worst cases, every attack, pictures."""
        page = render_page(
            subject=self.subject,
            verdict=self.verdict_sentences,
            advice=self.advice,
            findings=self.findings,
            original=self.original,
            made_with=provenance_in_words(self.made_with),
        )
        write_whole(path, page.encode(), overwrite=True)


def _described(finding: Finding) -> str:
    return f"{finding.level} ({finding.family}, {finding.attack}: hp {finding.metrics['hp']:.2f})"
