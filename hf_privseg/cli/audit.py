"""The command `privseg audit`: what attackers recover from images that are encrypted for a model."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..setr.keys import FAMILIES
from .options import Force, Json, KeyFile, Model, one_of, read_key
from .output import refuse_existing, report

if TYPE_CHECKING:
    from ..audit.report import AuditReport

AUDITED = (*FAMILIES, "embedding")
_NUM_PRIOR = 64
_PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")

Paths = Annotated[
    list[Path],
    typer.Argument(metavar="IMAGES...", exists=True, help="Plain photos, or folders of them: the victims."),
]


def audit(
    model: Model,
    images: Paths,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for report.html and report.json.")] = Path(
        "audit"
    ),
    budget: Annotated[
        str,
        one_of("--budget", choices=("quick", "full"), help="full: more numbers of images, and a trained inversion."),
    ] = "quick",
    public_base: Annotated[
        Path | None,
        typer.Option(help="Public weights that the model came from: a SETR folder, or what `privseg convert` reads."),
    ] = None,
    prior_images: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            file_okay=False,
            help=f"Folder of similar photos that an attacker may have; {_NUM_PRIOR} at most.",
        ),
    ] = None,
    family: Annotated[
        str | None, one_of("--family", choices=AUDITED, help="Try this cipher family alone.  [default: all]")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Use so many of the images, evenly spaced.")] = 64,
    base_is_public: Annotated[
        bool | None,
        typer.Option(
            "--base-is-public/--base-is-private",
            help="Whether the patch embedding, or weights near it, are published.  [default: public with "
            "--public-base]",
        ),
    ] = None,
    client_holds_file: Annotated[
        bool, typer.Option("--client-file/--no-client-file", help="Whether clients can keep a secret file of 1-3 MB.")
    ] = True,
    transport: Annotated[
        str, one_of("--transport", choices=("float", "8-bit"), help="What clients can send.")
    ] = "float",
    key_file: KeyFile = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Measure what attackers recover from images encrypted for MODEL, and recommend a cipher family.

    Run it as the owner: it takes the plain model (an encrypted one with its key) and plain images of the kind that
    clients will send, all of one size. Keys are drawn afresh. Needs: pip install 'hf-privseg[attacks]'.
    """
    from ..audit.advice import Deployment
    from ..audit.audit import audit as run_audit
    from ..audit.audit import load_embedding
    from ..storage.images import read_image
    from ..storage.models import load_model

    similar = [] if prior_images is None else [prior_images]
    refuse_existing([output / "report.html", output / "report.json"], force)
    network, processor = load_model(model)
    encryption = network.config.encryption
    if encryption is not None:
        network.decrypt_model(read_key(key_file))
    result = run_audit(
        network,
        [read_image(path) for path in _evenly(_pictures(images), limit)],
        processor=processor,
        families=[family] if family else AUDITED,
        prior_images=[read_image(path) for path in _evenly(_pictures(similar), _NUM_PRIOR)],
        public_base=None if public_base is None else load_embedding(public_base),
        encryption=encryption,
        deployment=Deployment(
            base_is_public=public_base is not None if base_is_public is None else base_is_public,
            client_holds_file=client_holds_file,
            float_transport=transport == "float",
        ),
        budget="full" if budget == "full" else "quick",
    )
    output.mkdir(parents=True, exist_ok=True)
    result.to_html(output / "report.html")
    result.to_json(output / "report.json")
    _print_table(result, to_stderr=as_json)
    report(
        result.to_dict(),
        result.verdict,
        f"Recommended here: {result.advice.family}.",
        *result.advice.reasons,
        f"Wrote {output / 'report.html'} (with pictures) and {output / 'report.json'}.",
        as_json=as_json,
    )


def _pictures(paths: list[Path]) -> list[Path]:
    """Files as they are, folders replaced by the pictures in them, sorted.

    Raises:
        FileNotFoundError: a folder holds none.
    """
    found: list[Path] = []
    for path in paths:
        inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in _PICTURES) if path.is_dir() else [path]
        if not inside:
            raise FileNotFoundError(f"expected pictures ({', '.join(_PICTURES)}) in {path}, found none")
        found += inside
    return found


def _evenly(paths: list[Path], limit: int) -> list[Path]:
    step = max(1.0, len(paths) / limit)
    return [paths[int(n * step)] for n in range(min(limit, len(paths)))]


def _print_table(result: "AuditReport", *, to_stderr: bool) -> None:
    from rich.console import Console

    from ..audit.summary import EXPLANATION, table_rows
    from ..reporting.tables import terminal_table

    console = Console(stderr=to_stderr)
    console.print(terminal_table("What attackers recover", *table_rows(result.findings)))
    console.print(EXPLANATION, style="dim")
