"""Which family to use where, and what it still leaks: the end of an audit."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..setr.ciphers import CIPHERS
from ..setr.counts import counted
from .findings import ANY_FAMILY, LEVELS, Finding, worst

_FAMILIES = ("embedding", "orthogonal", "matrix", "signed_permutation", "permutation")  # what leaks least comes first
_EIGHT_BITS = tuple(family for family in _FAMILIES if CIPHERS[family].acts_on_uint8)


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """Where the model will run, as the answers to three questions.

    Attributes:
        base_is_public: the patch embedding, or a checkpoint near it, is or will be published in plain.
        client_holds_file: clients can keep a secret file of one to three megabytes, and not only 32 bytes.
        float_transport: ciphertexts may travel as 16-bit numbers, and not only as 8-bit images.
    """

    base_is_public: bool
    client_holds_file: bool
    float_transport: bool


@dataclass(frozen=True)
class Advice:
    """A recommendation, with its reasons.

    Attributes:
        family: the audited family that leaks least; None where none fits the deployment.
        reasons: sentences, the most important one first.
        base_is_public: whether the patch embedding is public, against which no family helps.
        shows_images: whether the provider recovers the images under that family, too; None where no attack was run
            that tells.
    """

    family: str | None
    reasons: tuple[str, ...]
    base_is_public: bool = False
    shows_images: bool | None = None

    @property
    def recommendation(self) -> str:
        """The family in a sentence; where the patch embedding is public, what comes first."""
        if self.base_is_public:
            return "No key family protects a public patch embedding: train it in private first."
        if self.family is None:
            return "No audited family fits this deployment."
        if self.shows_images:
            return f"No audited family hides the images from the provider; {self.family} leaks least."
        if self.shows_images is None:
            return f"By what is known of the families, {self.family} leaks least; no attack on it was run here."
        return f"Recommended here: {self.family}."


def advise(deployment: Deployment, findings: Sequence[Finding] = (), *, families: Sequence[str] = _FAMILIES) -> Advice:
    """Where the model will run, and what an audit found -> the audited family that leaks least there.

    Args:
        deployment: where the model will run.
        findings: of the audit, of which the reasons quote the worst.
        families: those that were audited; no other one is recommended.
    """
    reasons = []
    if deployment.base_is_public:
        reasons.append(
            "The patch embedding is public, or near public weights: anyone who has those inverts what the server "
            "computes, whatever the family. First train a patch embedding of your own: draw it anew with equal "
            "variance in every direction (privseg train --fresh-embedding whitened), train on private data, "
            "never publish it, and audit the result at the size of the images that you send. Until then the images "
            "are hidden from people who look at uploads, and from nobody who has the weights."
        )
    fitting = [family for family in _FAMILIES if _fits(family, deployment)]
    audited = [family for family in fitting if family in families]
    family = audited[0] if audited else None
    shown = None
    if family is not None:
        shown = _worst_by_the_provider(family, findings)
        reasons.append(_why(family, deployment))
        reasons += _what_it_leaks(family, findings)
    not_tried = [each for each in fitting if each not in families]
    if not_tried:
        reasons.append(f"Of {', '.join(not_tried)} this audit says nothing: it did not try them here.")
    for other in (each for each in families if each not in _FAMILIES):
        reasons.append(
            f"{other} is a family of your own: the general attacks were tried on it, and none that was made for it, "
            "so that it is not recommended."
        )
        reasons += _what_it_leaks(other, findings)
    reasons.append(
        "Larger images leak more: send the smallest ones that still do the job, and audit at that size "
        "(benchmarks/input_size.py compares sizes)."
    )
    reasons.append(
        "One image that the provider has in plain and encrypted decodes the others under any family. A fresh key for "
        "every image ends neither that nor the attacks on what the server computes, which no key changes. The "
        "segmentation maps are not hidden."
    )
    shows_images = None if shown is None else shown.level == LEVELS[max(LEVELS)]
    return Advice(family, tuple(reasons), deployment.base_is_public, shows_images)


def _fits(family: str, deployment: Deployment) -> bool:
    if family == "embedding" and not deployment.client_holds_file:
        return False
    return deployment.float_transport or family in _EIGHT_BITS


def _why(family: str, deployment: Deployment) -> str:
    if family == "embedding":
        return (
            "Clients hold a file and send numbers: the embedding family shows the server only what the server "
            "computes anyway, which is the least that an exact scheme can show, in the smallest upload."
        )
    if family not in _EIGHT_BITS:
        return f"With a key of 32 bytes and 16-bit numbers, {family} leaks least among the audited families."
    if deployment.float_transport:
        return f"Of the audited families, {family} leaks least; it falls to the uploads themselves."
    return (
        "Only 8-bit images can be sent, which leaves the permutation families, and these fall to the uploads "
        "themselves. They keep images from casual eyes. Send 16-bit numbers if there is any way."
    )


def _worst_by_the_provider(family: str, findings: Sequence[Finding]) -> Finding | None:
    of_it = (f for f in findings if f.family in (family, ANY_FAMILY))
    return worst(f for f in of_it if f.attacker in ("ciphertexts", "server"))


def _what_it_leaks(family: str, findings: Sequence[Finding]) -> list[str]:
    found = _worst_by_the_provider(family, findings)
    if found is None:
        return []
    images = "one ciphertext" if found.num_images == 1 else counted(found.num_images, "ciphertext")
    prior = f" and a prior of {found.prior} images" if found.prior else ""
    return [
        f"What {family} leaks here without any further help: {found.level} (hp {found.metrics['hp']:.2f}, by "
        f"{found.attack} from {images}{prior}). Stronger attacks than these may exist."
    ]
