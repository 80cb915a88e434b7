"""The command `privseg audit`: what attackers recover from images that are encrypted for a model."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..setr.keys import FAMILIES
from .failures import complain
from .options import Device, Force, Json, KeyFile, Model, one_of, read_key
from .output import prepare_output, report

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    from ..audit.report import AuditReport
    from ..setr.image_inputs import PlainImage

AUDITED = (*FAMILIES, "embedding")
_NUM_PRIOR = 64

Paths = Annotated[
    list[Path],
    typer.Argument(metavar="IMAGES...", exists=True, help="Plain images, or folders of them: the victims."),
]


def audit(
    model: Model,
    images: Paths,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for report.html and report.json.")] = Path(
        "audit"
    ),
    budget: Annotated[
        str,
        one_of(
            "--budget", choices=("quick", "full"), help="full tries more numbers of images, and a trained inversion."
        ),
    ] = "quick",
    public_base: Annotated[
        Path | None,
        typer.Option(
            help="Public weights that the model was trained from: a SETR folder, or what `privseg convert` reads."
        ),
    ] = None,
    prior_images: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            file_okay=False,
            help=f"Folder of similar images that an attacker may have; {_NUM_PRIOR} of them are used at most.",
        ),
    ] = None,
    family: Annotated[
        str | None, one_of("--family", choices=AUDITED, help="Audit this key family alone.  [default: all]")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Number of images to use, evenly spaced.")] = 64,
    base_is_public: Annotated[
        bool | None,
        typer.Option(
            "--base-is-public/--base-is-private",
            help="Whether the patch embedding, or weights near it, are published.  [default: public if --public-base "
            "is given]",
        ),
    ] = None,
    client_holds_file: Annotated[
        bool,
        typer.Option("--client-file/--no-client-file", help="Whether clients can keep a secret file of 1 to 3 MB."),
    ] = True,
    transport: Annotated[
        str, one_of("--transport", choices=("float", "8-bit"), help="What clients can send.")
    ] = "float",
    max_minutes: Annotated[
        float | None, typer.Option(min=0, help="Begin no attack later than that; the same command goes on later.")
    ] = None,
    device: Device = None,
    key_file: KeyFile = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Measure what attackers recover from images that are encrypted for MODEL, and recommend a key family.

    It is for the owner: it takes the plain model (or an encrypted one with its key) and plain images of the kind that
    clients will send, all of one size. It makes keys of its own. Every finding is kept as it comes: after an
    interruption there is a report of what was found, and the same command goes on. It needs the extra `attacks`:
    `pip install 'hf-privseg[attacks]'`.
    """
    from ..any_vit.model_encryption import decrypt_model
    from ..any_vit.model_facts import key_facts
    from ..audit.advice import Deployment
    from ..audit.audit import audit as run_audit
    from ..setr.image_processing_setr import SetrImageProcessor
    from ..storage.images import read_image
    from ..storage.vision_models import load_any_model

    similar = [] if prior_images is None else [prior_images]
    kept = output / "findings.jsonl"  # there while an audit is not complete
    if force:
        kept.unlink(missing_ok=True)
    prepare_output([output / "report.html", output / "report.json"], force=force or kept.exists())
    network, processor = load_any_model(model, device=device)
    read: Callable[[Path], PlainImage] = Path if isinstance(processor, SetrImageProcessor) else read_image
    key_in_use = key_facts(network)
    if key_in_use is not None:
        decrypt_model(network, read_key(key_file))
    run = partial(
        run_audit,
        network,
        [read(path) for path in _evenly(_image_files(images), limit)],
        processor=processor,
        families=[family] if family else AUDITED,
        prior_images=[read(path) for path in _evenly(_image_files(similar), _NUM_PRIOR)],
        public_base=None if public_base is None else _public_embedding(public_base, model),
        key_in_use=key_in_use,
        deployment=Deployment(
            base_is_public=public_base is not None if base_is_public is None else base_is_public,
            client_holds_file=client_holds_file,
            float_transport=transport == "float",
        ),
        budget="full" if budget == "full" else "quick",
        findings_file=kept,
    )
    try:
        result = run(max_minutes=max_minutes)
    except KeyboardInterrupt:
        result = run(max_minutes=0, progress=False)  # of what was found
        _write(result, output)
        complain("stopped", f"{result.verdict} {_goes_on(output)}")
        raise SystemExit(130) from None
    _write(result, output)
    if not result.num_left:
        kept.unlink()
    advice = result.advice
    report(result.to_dict(), *result.verdict_sentences, advice.recommendation, *advice.reasons, as_json=as_json)
    _print_table(result, to_stderr=as_json)
    typer.echo(
        f"Wrote {output / 'report.html'} (every attack, with pictures) and {output / 'report.json'}."
        + (f" {_goes_on(output)}" if result.num_left else ""),
        err=as_json,
    )


def _write(result: "AuditReport", output: Path) -> None:
    result.to_html(output / "report.html")
    result.to_json(output / "report.json")


def _goes_on(output: Path) -> str:
    return f"The same command goes on with what is kept in {output}, and --force begins anew."


def _public_embedding(public_base: Path, model: str) -> "np.ndarray":
    """The patch embedding of public weights, for pixels as the audit of this model has them."""
    from ..audit.embeddings import load_embedding
    from ..audit.subject import Subject
    from ..storage.model_files import is_setr
    from ..storage.vision_models import load_any_model

    return load_embedding(public_base) if is_setr(model) else Subject.of(*load_any_model(public_base)).embedding


def _image_files(paths: list[Path]) -> list[Path]:
    """The files, and in place of each folder the image files in it, sorted.

    Raises:
        FileNotFoundError: a folder holds none.
    """
    from ..setr.image_files import IMAGE_SUFFIXES

    found: list[Path] = []
    for path in paths:
        inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES) if path.is_dir() else [path]
        if not inside:
            raise FileNotFoundError(f"expected images ({', '.join(IMAGE_SUFFIXES)}) in {path}, found none")
        found += inside
    return found


def _evenly(paths: list[Path], limit: int) -> list[Path]:
    step = max(1.0, len(paths) / limit)
    return [paths[int(n * step)] for n in range(min(limit, len(paths)))]


def _print_table(result: "AuditReport", *, to_stderr: bool) -> None:
    from ..audit.summary import HP_EXPLANATION, short_worst_cases
    from ..reporting.tables import terminal, terminal_table

    console = terminal(stderr=to_stderr)
    console.print(terminal_table("The worst case by what the attacker has", *short_worst_cases(result.findings)))
    console.print(HP_EXPLANATION, style="dim")
