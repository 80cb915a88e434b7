"""The commands that make secrets: `keygen`, `make-client-embedding` and `fit-transform-code`."""

from pathlib import Path
from typing import Annotated

import typer

from ..setr.keys import DEFAULT_FAMILY, SecretKey
from .options import (
    AnnotationColumn,
    AnnotationPattern,
    ClassFile,
    Family,
    Force,
    IgnoreLabels,
    ImageColumn,
    Json,
    LabelMapFile,
    Model,
    Preset,
    ReduceLabels,
    Revision,
    Source,
)
from .output import free_folder, readable_by, refuse_existing_secret, report, write_secret

EmbeddingFile = Annotated[Path, typer.Argument(metavar="OUTPUT", help="File for the client embedding.")]


def keygen(
    path: Annotated[Path, typer.Argument(metavar="[PATH]", help="File for the key.")] = Path("secret.key"),
    family: Family = DEFAULT_FAMILY,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Make a secret key and write it to a file that only you can read.

    The key belongs to one key family. Its fingerprint is public: encrypted models and images carry it.
    """
    key = SecretKey.generate(family)
    write_secret(key, path, force=force)
    report(
        {"path": path, **key.facts.to_dict()},
        f"Wrote {path}: family {key.family}, fingerprint {key.fingerprint}, {readable_by()}.",
        "Keep a copy in a safe place: nothing that is encrypted with this key can be used without it.",
        f"Next: privseg encrypt-model default {free_folder('encrypted_model')} --key-file {path}",
        as_json=as_json,
    )


def make_client_embedding(
    model: Model,
    output: EmbeddingFile,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Make a client embedding for a plain model: a secret file that is used like a key file, for this model alone.

    It holds the client's part of the patch embedding. The server then sees less than with any key, and encrypted
    images are smaller where the patch embedding is narrow (half the size for the embedded model). In return the file
    has megabytes, and it holds the patch embedding up to a rotation: whoever has it and the encrypted model can invert
    all images, under this or any other key.
    """
    from ..any_vit.model_encryption import generate_client_embedding
    from ..storage.vision_models import load_any_model

    network, _ = load_any_model(model)
    embedding = generate_client_embedding(network)
    write_secret(embedding, output, force=force)
    length, rank = embedding.shape
    report(
        {"path": output, "block_length": length, "numbers_sent": rank, **embedding.facts.to_dict()},
        f"Wrote {output}: {rank} numbers for the {length} of a block, fingerprint {embedding.fingerprint}, "
        f"{readable_by()}.",
        f"Next: privseg encrypt-model {model} {free_folder('encrypted_model')} --key-file {output}",
        as_json=as_json,
    )


def fit_transform_code(
    model: Model,
    source: Source,
    output: EmbeddingFile,
    split: Annotated[str, typer.Option("--split", help="Split of the calibration images.")] = "train",
    limit: Annotated[int, typer.Option("--limit", min=1, help="Evenly spaced calibration images.")] = 10,
    test_split: Annotated[str, typer.Option("--test-split", help="Split on which rates are measured.")] = "test",
    test_limit: Annotated[int, typer.Option("--test-limit", min=1, help="Evenly spaced images of it.")] = 14,
    rate: Annotated[
        list[float] | None,
        typer.Option("--rate", help="Bits a block to measure; may be repeated.  [default: four of the range]"),
    ] = None,
    preset: Preset = None,
    id2label: ClassFile = None,
    label_map: LabelMapFile = None,
    ignore_label: IgnoreLabels = None,
    reduce_labels: ReduceLabels = None,
    image_column: ImageColumn = "image",
    annotation_column: AnnotationColumn = "annotation",
    annotation_pattern: AnnotationPattern = None,
    revision: Revision = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Make a client embedding for small uploads, and print what its rates cost: bytes, mIoU and equal pixels.

    A client that gives it and --bits-per-block sends rounded numbers, in a basis in which rounding costs this model
    least; without the option it is used like any client embedding. The encrypted model shows that basis, and with it
    second moments of the calibration images: take images that the server does not have. It needs the extra `train`:
    `pip install 'hf-privseg[train]'`.
    """
    refuse_existing_secret(output, force=force)
    import numpy as np
    from rich.progress import track

    from ..reporting.tables import terminal, terminal_table
    from ..setr.public_facts import check_plain_model
    from ..storage.models import load_model
    from ..training.arguments import DataArguments
    from ..training.data import evenly_spaced
    from ..training.transform_fit import fit_transform_code, measure_rates

    network, processor = load_model(model)
    check_plain_model(network.config.key_facts)
    data = DataArguments(
        dataset=source,
        image_column=image_column,
        annotation_column=annotation_column,
        annotation_pattern=annotation_pattern,
        revision=revision,
        preset=preset,
        id2label=id2label,
        label_map=label_map,
        ignore_labels=ignore_label or None,
        reduce_labels=reduce_labels,
    )
    console = terminal(stderr=True)
    images = evenly_spaced(data.load_split(split), limit)["image"]
    tests = evenly_spaced(data.load_split(test_split), test_limit)
    labels = data.load_label_map(network.config.num_labels)
    embedding = fit_transform_code(network, processor, track(images, "Fitting", len(images), console=console))
    code = embedding.code
    assert code is not None
    for bits in rate or ():
        code.step_for(bits)  # refuses, before anything is measured
    rates = rate or [float(f"{bits:.2g}") for bits in np.geomspace(code.bits[0], code.bits[-1], 6)[1:-1]]
    write_secret(embedding, output, force=force)
    measured = measure_rates(network, processor, embedding, tests, labels, rates)
    *_, (plain, found) = track(measured, "Measuring", len(tests), console=console)
    header = ("bits a block", "bytes an image", "mIoU", "equal pixels")
    rows = [
        [
            "16 a number" if each.bits_per_block is None else f"{each.bits_per_block:g}",
            f"{each.num_bytes:.0f}",
            f"{each.mean_iou:.3f}",
            f"{each.equal_pixels:.4f}",
        ]
        for each in found
    ]
    title = f"{len(tests)} images of {test_split}; mIoU of the plain model {plain:.3f}"
    terminal(stderr=as_json).print(terminal_table(title, header, rows))
    report(
        {"path": output, **embedding.facts.to_dict(), "mean_iou": plain, "rates": [vars(each) for each in found]},
        f"Wrote {output}: fingerprint {embedding.fingerprint}, {readable_by()}; "
        f"{code.bits[-1]:.3g} to {code.bits[0]:.3g} bits a block.",
        f"Next: privseg encrypt-model {model} {free_folder('encrypted_model')} --key-file {output}",
        f"Then: privseg encrypt IMAGES --key-file {output} --bits-per-block {rates[0]:g} -o encrypted",
        as_json=as_json,
    )
