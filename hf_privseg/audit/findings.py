"""What an audit found: a row for each attack, and the verdict, which is the worst of them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

# What the attacker has, from nothing over what every provider has to what should never leave the owner.
ATTACKERS = {
    "baseline": "nothing: a figure to compare the others with",
    "ciphertexts": "ciphertexts alone",
    "model": "the encrypted model alone",
    "server": "ciphertexts and the encrypted model: the provider",
    "known plaintext": "one image in plain beside its ciphertext",
    "chosen plaintext": "ciphertexts of images of the attacker's choice",
    "public base": "public weights near the model's",
}

ANY_FAMILY = "any"  # of attacks on what no key changes

# Not what an attacker has, but what an owner may do: the row of `verdicts` for a key that serves one image alone.
FRESH_KEYS = "fresh keys"
FRESH_KEYS_IN_WORDS = "one ciphertext a key, and what no key changes: the provider, with a fresh key for every image"

# The least high-pass correlation of each level. A 1/16 thumbnail alone scores about .1.
LEVELS = {0.6: "the images", 0.3: "recognisable objects", 0.15: "blurred outlines", -1.0: "a thumbnail"}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The result of one attack on one key family.

    Attributes:
        attack: what it is called.
        attacker: what the attacker has, a key of `ATTACKERS`.
        family: the key family, or "any" where the attack does not depend on it.
        num_images: ciphertexts that the attacker used.
        prior: whose images the attacker knows: "in-domain", "unrelated", "synthetic" or "" for none.
        metrics: means over the victims: "psnr" in dB, "ssim", "hp", "agreement" (share of pixels where the plain model
            gives reconstruction and original the same label); of a key "exact", "within_one", "signs", "keys".
        seconds: how long it took, scoring included.
        note: what a reader must know beside the figures.
        picture: (height, width, 3) uint8, the reconstruction of the first victim.
    """

    attack: str
    attacker: str
    family: str
    num_images: int
    prior: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    note: str = ""
    picture: np.ndarray | None = field(default=None, repr=False, compare=False)

    @property
    def level(self) -> str:
        """What is recovered, in words; the empty string where the attack reconstructs no image."""
        hp = self.metrics.get("hp")
        return "" if hp is None else next(words for least, words in LEVELS.items() if hp >= least)

    def to_dict(self) -> dict[str, object]:
        """Everything but the picture, for JSON."""
        names = ("attack", "attacker", "family", "num_images", "prior", "metrics", "seconds", "note")
        return {name: getattr(self, name) for name in names} | {"recovered": self.level}


def worst(findings: Iterable[Finding]) -> Finding | None:
    """The finding with the highest hp, baselines aside; None where no attack reconstructs an image."""
    found = [finding for finding in findings if "hp" in finding.metrics and finding.attacker != "baseline"]
    return max(found, key=lambda finding: finding.metrics["hp"], default=None)


def under_fresh_keys(findings: Iterable[Finding], family: str | None = None) -> list[Finding]:
    """What the provider finds without further help even if every image has a key of its own.

    That is what takes one ciphertext, and what depends on no key, such as the attacks on what the server computes,
    from any number of images.

    Args:
        findings: of an audit.
        family: the one that the images are encrypted with; None for any.
    """
    provider = [finding for finding in findings if finding.attacker in ("ciphertexts", "server")]
    return [
        finding
        for finding in provider
        if finding.family == ANY_FAMILY or (finding.num_images <= 1 and family in (None, finding.family))
    ]


def verdicts(findings: Sequence[Finding]) -> list[tuple[str, str, Finding]]:
    """[(family, what the attacker has, the worst finding)], in the order of `ATTACKERS`, then with `FRESH_KEYS`."""
    families = list(dict.fromkeys(finding.family for finding in findings))
    rows = []
    for family in families:
        for attacker in ATTACKERS:
            found = worst(f for f in findings if (f.family, f.attacker) == (family, attacker))
            if found is not None:
                rows.append((family, attacker, found))
        found = worst(under_fresh_keys(findings, family)) if family != ANY_FAMILY else None
        if found is not None:
            rows.append((family, FRESH_KEYS, found))
    return rows


def as_picture(image: np.ndarray) -> np.ndarray:
    """(channels, height, width) float in [-1, 1] -> (height, width, 3) uint8.

    Three channels are red, green and blue, and of four or more the first three are shown so. One channel is shown in
    grey, and so is the first of two.
    """
    levels = ((np.clip(image, -1, 1) + 1) * 127.5).round().astype(np.uint8)
    shown = levels[:3] if len(levels) >= 3 else np.repeat(levels[:1], 3, axis=0)
    return shown.transpose(1, 2, 0)
