"""Which family to use where, and what it still leaks: the end of an audit."""

from collections.abc import Sequence
from dataclasses import dataclass

from .findings import Finding, worst


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """Three questions about where the model will run.

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
    """Attributes:
    family: the cipher family to use.
    reasons: sentences, the most important one first.
    """

    family: str
    reasons: tuple[str, ...]


def advise(deployment: Deployment, findings: Sequence[Finding] = ()) -> Advice:
    """Where the model will run, and what an audit found -> the family that leaks least there, and what it leaks."""
    reasons = []
    if deployment.base_is_public:
        reasons.append(
            "The patch embedding is public, or near public weights: who has those inverts what the server computes, "
            "whatever the family. First train the patch embedding from scratch on private data, and never publish it; "
            "until then the images are hidden from people who look at uploads, and from nobody who has the weights."
        )
    if not deployment.float_transport:
        family = "signed_permutation"
        reasons.append(
            "Only 8-bit images can be sent, which leaves the permutation families, and these fall to the uploads "
            "themselves. They keep images from casual eyes. Send 16-bit numbers if there is any way."
        )
    elif deployment.client_holds_file:
        family = "embedding"
        reasons.append(
            "Clients hold a file and send numbers: the embedding family shows the server just what it computes "
            "anyway, which is the least that an exact scheme can show, in the smallest upload."
        )
    else:
        family = "orthogonal"
        reasons.append(
            "With a key of 32 bytes and 16-bit numbers, the orthogonal family leaks least. The embedding family leaks "
            "less, if clients can hold a file."
        )
    reasons += _what_it_leaks(family, findings)
    reasons.append(
        "One image that the provider has in plain and encrypted decodes the others under any family: change keys when "
        "that may have happened. The label maps are not hidden."
    )
    return Advice(family, tuple(reasons))


def _what_it_leaks(family: str, findings: Sequence[Finding]) -> list[str]:
    own = [f for f in findings if f.family == family and f.attacker in ("ciphertexts", "server")]
    found = worst(own)
    if found is None:
        return []
    prior = f" and {found.prior} photographs" if found.prior else ""
    return [
        f"What {family} leaks here without any further help: {found.level} (hp {found.metrics['hp']:.2f}, by "
        f"{found.attack} from {found.num_images} images{prior}). Stronger attacks than these may exist."
    ]
