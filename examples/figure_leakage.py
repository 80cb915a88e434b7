"""An image, its ciphertext, and what attackers recover from that one upload, family by family.

    python examples/figure_leakage.py --output outputs/leakage.png
    python examples/figure_leakage.py --images street.jpg --model my_model --families permutation orthogonal

The attacks are those of `privseg audit`. The attacker has no similar scenes, but the images that scikit-image and
scikit-learn ship (without the one shown) or a formula; the better of the two results is shown. The last picture is the
result of an attacker who knows the model's patch embedding, as everybody knows that of a public checkpoint.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from hf_privseg import SetrForSemanticSegmentation, SetrImageProcessor
from hf_privseg.audit.attack_table import FAMILIES
from hf_privseg.audit.audit import audit
from hf_privseg.audit.embeddings import embedding_matrix_of
from hf_privseg.audit.findings import Finding, worst
from hf_privseg.audit.report import AuditReport
from hf_privseg.catalog.sample_images import SAMPLE_IMAGES
from hf_privseg.checkpoints import default_checkpoint
from hf_privseg.experiments.figure_images import ImageArguments, load_images
from hf_privseg.inference.pictures import PROTECTION_NOTE, Panel, draw_comparison
from hf_privseg.setr.keys import DEFAULT_FAMILY
from hf_privseg.training.arguments import parse_arguments, run_script

ROW = 3  # pictures


@dataclass(kw_only=True)
class Arguments(ImageArguments):
    """The options of the script."""

    images: list[str] = field(
        default_factory=lambda: ["china"],
        metadata={"help": f"An image file, or a sample that comes with a package: {', '.join(SAMPLE_IMAGES)}."},
    )
    output: str = field(default="outputs/leakage.png", metadata={"help": "The picture: .png, .jpg, .svg or .pdf."})
    model: str | None = field(default=None, metadata={"help": "Plain SETR checkpoint. Default: the embedded one."})
    families: list[str] = field(
        default_factory=lambda: ["permutation", "orthogonal", "embedding"], metadata={"help": f"Among {FAMILIES}."}
    )


def panels(report: AuditReport, families: list[str]) -> list[Panel]:
    """The image, a ciphertext, the best reconstruction of each family, and the one from known weights."""
    shown_family = DEFAULT_FAMILY if DEFAULT_FAMILY in families else families[0]
    upload = next(f for f in report.findings if (f.family, f.attack) == (shown_family, "ciphertext as it is"))
    found = [(family, strongest(report, family, "ciphertexts")) for family in families]
    found.append(("any family, patch embedding known", strongest(report, "any", "public base")))
    return [
        Panel(Image.fromarray(report.original), "the image", "as the client encrypts it"),
        Panel(picture_of(upload), "the upload", f"family {shown_family}"),
        *(Panel(picture_of(f), title, f"{f.attack}: {f.level} (hp {f.metrics['hp']:.2f})") for title, f in found),
    ]


def strongest(report: AuditReport, family: str, attacker: str) -> Finding:
    """The attack that recovers most of a family, among those of an attacker in `findings.ATTACKERS`.

    Raises:
        ValueError: the audit made no such attack.
    """
    found = worst(f for f in report.findings if (f.family, f.attacker) == (family, attacker))
    if found is None:
        raise ValueError(f"expected a finding about the family {family!r} by an attacker with {attacker}, got none")
    return found


def picture_of(finding: Finding) -> Image.Image:
    """What the attack recovers, as a picture."""
    return Image.fromarray(np.asarray(finding.picture))


def main() -> None:
    args = parse_arguments(Arguments, description=__doc__)
    folder = args.model or default_checkpoint()
    model = SetrForSemanticSegmentation.from_pretrained(folder).eval()
    image = load_images(args)[0]
    report = audit(
        model,
        [image.image],
        processor=SetrImageProcessor.from_pretrained(folder),
        families=args.families,
        public_base=embedding_matrix_of(model),
    )
    shown = panels(report, args.families)
    rows = [shown[first : first + ROW] for first in range(0, len(shown), ROW)]
    Path(args.output).parent.mkdir(parents=True, exist_ok=True)
    captions = ["From one ciphertext each, without similar images; hp as in SECURITY.md. " + PROTECTION_NOTE]
    draw_comparison(Path(args.output), rows, {}, [*captions, image.credit])
    print(report.verdict)
    print(f"Wrote {args.output}")


if __name__ == "__main__":
    run_script(main)
