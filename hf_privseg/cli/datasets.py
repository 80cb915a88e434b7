"""The command `privseg encrypt-dataset`: a labelled data set becomes one that a server may train on."""

from pathlib import Path
from typing import Annotated

import typer

from .options import (
    AnnotationColumn,
    AnnotationPattern,
    ClassFile,
    IgnoreLabels,
    ImageColumn,
    Json,
    KeyFile,
    LabelMapFile,
    Preset,
    ReduceLabels,
    Revision,
    Source,
    read_key,
)
from .output import report

_WARNING = (
    "The server sees every segmentation map as it is. It holds the encrypted patch embedding, too: if that comes from "
    "public weights, the server computes b E for every block b and, knowing E, gets nearly all of each image back, "
    "whatever the key family. Only an E that nobody else has, or comes near to, keeps it from that (documentation: "
    "Train on an untrusted server)."
)


def encrypt_dataset(
    source: Source,
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="Folder for the ciphertexts; may exist.")],
    key_file: KeyFile = None,
    split: Annotated[str, typer.Option("--split", help="Split to encrypt, under its name in OUTPUT.")] = "train",
    model: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="The SETR that will be trained: the settings of its processor are used, and the key is checked. "
            "Without it, images become RGB and are resized to the nearest multiple of 16 pixels.",
        ),
    ] = None,
    flips: Annotated[
        bool, typer.Option("--flips", help="Also encrypt each image mirrored, which nobody can do afterwards.")
    ] = False,
    preset: Preset = None,
    id2label: ClassFile = None,
    label_map: LabelMapFile = None,
    ignore_label: IgnoreLabels = None,
    reduce_labels: ReduceLabels = None,
    image_column: ImageColumn = "image",
    annotation_column: AnnotationColumn = "annotation",
    annotation_pattern: AnnotationPattern = None,
    revision: Revision = None,
    as_json: Json = False,
) -> None:
    """Encrypt a split of a labelled data set, so that a server trains an encrypted model on it and sees no image.

    SOURCE is whatever privseg train takes. OUTPUT gets numbered ciphertexts, plain segmentation maps of the
    same numbers, and classes.json. A job that stopped goes on when the same command is given again. It needs the extra
    `train`: `pip install 'hf-privseg[train]'`.
    """
    key = read_key(key_file)
    from rich.progress import track

    from ..reporting.tables import terminal
    from ..setr.image_encrypter import ImageEncrypter
    from ..setr.public_facts import check_key_fits
    from ..storage.model_files import read_setr_settings
    from ..training.arguments import DataArguments
    from ..training.encrypted_dataset import EncryptedDataset

    encrypter = ImageEncrypter()
    if model is not None:
        settings = read_setr_settings(model)
        encrypter = settings.encrypter
        if settings.key_facts is not None:
            check_key_fits(key.facts, settings.key_facts, model=f"the model {model}")
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
    names, rows = data.load_class_names(), data.load_split(split)
    stored_labels, _ = data.inspect_labels(split, rows, names, quiet=as_json)
    target = EncryptedDataset(output, names, encrypter)
    parts = target.write_split(split, rows, stored_labels, key, mirrored=flips)
    written = sum(track(parts, "Encrypting", len(rows), console=terminal(stderr=True), disable=len(rows) < 2))
    total = len(rows) * (1 + flips)
    noun = "ciphertext" if written == 1 else "ciphertexts"
    kept = f" Kept {total - written} that existed." if written < total else ""
    void = "" if target.void == 255 else f" --ignore-labels {target.void}"
    report(
        {**key.facts.to_dict(), "split": split, "ciphertexts": total, "written": written, "void": target.void},
        f"Wrote {written} {noun} of {split} to {output}.{kept} The key has the fingerprint {key.fingerprint} "
        f"({key.family}).",
        _WARNING,
        f"Next: privseg train --dataset {output} --checkpoint {model or 'ENCRYPTED_MODEL'}{void} --output-dir outputs",
        as_json=as_json,
    )
