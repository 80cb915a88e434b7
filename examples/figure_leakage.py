"""A photo, its ciphertext, and what attackers make of that one upload, family by family.

    python examples/figure_leakage.py --output outputs/leakage.png
    python examples/figure_leakage.py --images street.jpg --model my_model --families permutation orthogonal

The attacks are those of `privseg audit`; the attacker knows no similar scenes, only photographs that scikit-image and
scikit-learn ship (the one shown is taken out) or a formula, and the better of the two is shown. The last picture is by
an attacker who knows the model's patch embedding, as everybody knows that of a public checkpoint.
"""

from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from hf_privseg import SetrForSemanticSegmentation, SetrImageProcessor
from hf_privseg.audit.audit import FAMILIES, audit, embedding_matrix_of
from hf_privseg.audit.findings import Finding, worst
from hf_privseg.audit.report import AuditReport
from hf_privseg.catalog.sample_images import SAMPLE_IMAGES
from hf_privseg.checkpoints import default_checkpoint
from hf_privseg.experiments.figure_images import ImageArguments, load_images
from hf_privseg.inference.pictures import PROTECTION_NOTE, Panel, draw_comparison
from hf_privseg.setr.keys import DEFAULT_FAMILY
from hf_privseg.training.arguments import parse_arguments

ROW = 3  # pictures


@dataclass(kw_only=True)
class Arguments(ImageArguments):
    """What the command line takes."""

    images: list[str] = field(
        default_factory=lambda: ["china"],
        metadata={"help": f"A photo file, or a sample photo: {', '.join(SAMPLE_IMAGES)}."},
    )
    output: str = field(default="outputs/leakage.png", metadata={"help": "The picture: .png, .jpg, .svg or .pdf."})
    model: str | None = field(default=None, metadata={"help": "Plain SETR checkpoint. Default: the embedded one."})
    families: list[str] = field(
        default_factory=lambda: ["permutation", "orthogonal", "embedding"], metadata={"help": f"Among {FAMILIES}."}
    )


def panels(report: AuditReport, families: list[str]) -> list[Panel]:
    """The photo, a ciphertext, what each family gives away by itself, and what the weights give away."""
    shown_family = DEFAULT_FAMILY if DEFAULT_FAMILY in families else families[0]
    upload = next(f for f in report.findings if (f.family, f.attack) == (shown_family, "ciphertext as it is"))
    found = [(family, strongest(report, family, "ciphertexts")) for family in families]
    found.append(("any family, patch embedding known", strongest(report, "any", "public base")))
    return [
        Panel(Image.fromarray(report.original), "the photo", "as the client encrypts it"),
        Panel(Image.fromarray(upload.picture), "the upload", f"family {shown_family}"),
        *(
            Panel(Image.fromarray(f.picture), title, f"{f.attack}: {f.level} (hp {f.metrics['hp']:.2f})")
            for title, f in found
        ),
    ]


def strongest(report: AuditReport, family: str, attacker: str) -> Finding:
    """The attack that recovers most of a family, by an attacker of `findings.ATTACKERS`."""
    return worst(f for f in report.findings if (f.family, f.attacker) == (family, attacker))


def main() -> None:
    """Audits one photo and draws what came out."""
    args: Arguments = parse_arguments(Arguments, description=__doc__)
    folder = args.model or default_checkpoint()
    model = SetrForSemanticSegmentation.from_pretrained(folder).eval()
    photo = load_images(args)[0]
    report = audit(
        model,
        [photo.picture],
        processor=SetrImageProcessor.from_pretrained(folder),
        families=args.families,
        public_base=embedding_matrix_of(model),
    )
    shown = panels(report, args.families)
    rows = [shown[first : first + ROW] for first in range(0, len(shown), ROW)]
    Path(args.output).parent.mkdir(parents=True, exist_ok=True)
    captions = ["From one ciphertext each, without similar photographs; hp as in SECURITY.md. " + PROTECTION_NOTE]
    draw_comparison(Path(args.output), rows, {}, [*captions, photo.credit])
    print(report.verdict)
    print(f"Wrote {args.output}")


if __name__ == "__main__":
    main()
