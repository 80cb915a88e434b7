"""The command `privseg segment`: segmentation maps of images, by a model on this machine or by a service."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..setr.public_facts import EMBEDDING_FAMILY, check_key_fits, check_plain_image_fits
from .jobs import Job, attempt
from .options import (
    TOKEN_VARIABLE,
    Bits,
    BitsPerBlock,
    Device,
    Dtype,
    Force,
    Images,
    Json,
    KeyFile,
    SkipExisting,
    Stride,
    Window,
    check_window,
    has_key,
    one_of,
    read_key,
)
from .output import output_paths, prepare_output, print_shares, report, shares_of, wrote

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    import numpy as np
    from PIL import Image

    from ..inference.tasks import Segmentation
    from ..setr.encryption_key import EncryptionKey
    from .segmenters import Segmenter

_PATCH_SIZE, _TIMEOUT_SECONDS, _MAX_PIXELS = 16, 120.0, 2**25
_TASKS = ("semantic", "instance", "panoptic")  # those of `inference.tasks`, which takes seconds to import


@dataclass(frozen=True)
class Target:
    """An image, and the files that are written for it; the segmentation map comes last and stands for the whole."""

    image: Path
    map: Path
    overlay: Path | None
    segments: Path | None

    @property
    def files(self) -> list[Path]:
        """What is written."""
        return [path for path in (self.map, self.overlay, self.segments) if path is not None]


def segment(
    images: Images,
    output: Annotated[Path, typer.Option("--output", "-o", help="A folder, or for one image a .png file.")],
    model: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", help="The model: a folder, a Hub id (owner/name), or 'default' for the embedded one."
        ),
    ] = None,
    server: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Instead of --model: address of a service that segments the images. Plain images are encrypted "
            "here, which needs the key, and only encrypted images are sent.",
        ),
    ] = None,
    key_file: KeyFile = None,
    overlay: Annotated[
        bool | None,
        typer.Option(
            "--overlay/--no-overlay",
            help="Also write the image tinted by class, with a legend; an encrypted image needs its --key-file.  "
            "[default: of plain images, and of encrypted ones where --key-file is given]",
        ),
    ] = None,
    task: Annotated[
        str,
        one_of(
            "--task",
            choices=_TASKS,
            help="With --model: a class for each pixel, or a segment, each of which has a class. Segments need a "
            "model that finds them, such as Mask2Former, OneFormer or EoMT.",
        ),
    ] = "semantic",
    threshold: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="Score below which a segment is left out.  [default: that of the model's processor]"
        ),
    ] = None,
    fuse: Annotated[
        list[str] | None,
        typer.Option(metavar="CLASS", help="With --task panoptic: make one segment of all of this class, as of sky."),
    ] = None,
    window: Window = None,
    stride: Stride = None,
    bits: Bits = None,
    bits_per_block: BitsPerBlock = None,
    patch_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="With --server: patch size of the model, as its owner says; smaller patches show more of an image. "
            f" [default: {_PATCH_SIZE}]",
        ),
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(
            min=1, help=f"With --server: seconds for one image, with all attempts.  [default: {_TIMEOUT_SECONDS:g}]"
        ),
    ] = None,
    max_pixels: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="With --model: pixels that the segmentation map of an encrypted image may have, as its file claims. "
            f" [default: {_MAX_PIXELS}]",
        ),
    ] = None,
    device: Device = None,
    dtype: Dtype = None,
    token_file: Annotated[
        Path | None,
        typer.Option(
            help="With --server: file with the access token, where the service wants one; without it, "
            f"{TOKEN_VARIABLE} is read."
        ),
    ] = None,
    ca_file: Annotated[
        Path | None,
        typer.Option(help="With --server: certificates (PEM) to trust, in place of those that this machine trusts."),
    ] = None,
    skip_existing: SkipExisting = False,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Segment images with a model (--model) or through a service (--server).

    Images that are encrypted for the model need no key. Plain images for an encrypted model are encrypted here first,
    which needs the key. Each result is an indexed PNG whose pixels are the class numbers; of instance and panoptic
    segmentation they are the numbers of segments, 0 for none, which NAME.segments.json lists with class, score and
    size. Beside it lies NAME.overlay.png, the image tinted by class, with a legend. All are written when they are
    ready, and an image that fails does not stop the others: after a stop, --skip-existing segments the images that
    remain.
    """
    if (model is None) == (server is None):
        got = "neither" if model is None else "both"
        raise typer.BadParameter(
            f"expected exactly one of --model and --server, got {got}", param_hint="--model / --server"
        )
    if server is None and (patch_size, timeout, token_file, ca_file) != (None,) * 4:
        raise typer.BadParameter(
            "--patch-size, --timeout, --token-file and --ca-file belong to --server; leave them out with --model"
        )
    if server is None and (bits, bits_per_block) != (None, None):
        raise typer.BadParameter(
            "--bits and --bits-per-block make uploads small, which --model has none of; leave them out"
        )
    if server is not None and (max_pixels, device, dtype) != (None, None, None):
        raise typer.BadParameter("--max-pixels, --device and --dtype belong to --model; leave them out with --server")
    if server is not None and (task, threshold, fuse or None) != ("semantic", None, None):
        raise typer.BadParameter("a service does semantic segmentation; leave out --task, --threshold and --fuse")
    check_window(window, stride)
    if server is not None and window is not None:
        raise typer.BadParameter(
            "a service cuts windows itself, of the encrypted image that it gets whole (privseg serve --window); "
            "leave --window and --stride out with --server"
        )
    from ..storage.model_files import is_setr

    # A key or model that is not there is said before the imports, which take seconds.
    key = None if key_file is None else read_key(key_file)
    of_setr = server is not None or is_setr(str(model))
    if model is not None and of_setr:
        _check_together(model, key, images)
    decrypts = of_setr and key is not None and key.family != EMBEDDING_FAMILY
    shown = _shown(images, overlay, decrypts=decrypts)
    targets = _targets(images, output, shown, segments=task != "semantic")
    files = [path for target in targets for path in target.files]
    prepare_output(files, force=force, skip_existing=skip_existing)
    from ..inference.tasks import Task
    from .segmenters import needs_key, service

    key_is_needed = needs_key(images, overlay=overlay is True)
    source: AbstractContextManager[Segmenter]
    if server is None:
        from ..inference.windows import Inference
        from .local_models import local_model

        limit = max_pixels or _MAX_PIXELS
        asked = Task(task, threshold, tuple(fuse or ()))
        source = nullcontext(
            local_model(
                str(model),
                key_file,
                task=asked,
                needs_key=key_is_needed,
                max_pixels=limit,
                device=device,
                dtype=dtype,
                inference=Inference(window, stride),
            )
        )
    else:
        size, seconds = patch_size or _PATCH_SIZE, timeout or _TIMEOUT_SECONDS
        source = service(
            server,
            key_file,
            needs_key=key_is_needed,
            patch_size=size,
            timeout=seconds,
            token_file=token_file,
            ca_file=ca_file,
            bits=bits,
            bits_per_block=bits_per_block,
        )
    with source as segmenter:
        _run(segmenter, targets, skip_existing=skip_existing, overwrite=force or skip_existing, as_json=as_json)


def _check_together(model: str, key: "EncryptionKey | None", images: Sequence[Path]) -> None:
    """Refuse another key than a SETR's, and plain images alone without one, before its weights are read."""
    from ..storage.images import is_ciphertext
    from ..storage.model_files import read_setr_settings

    facts, named = read_setr_settings(model).key_facts, f"the model {model}"
    if key is not None:
        check_key_fits(key.facts, facts, model=named)
    elif not has_key(None) and not any(map(is_ciphertext, images)):
        check_plain_image_fits(None, facts, subject=str(images[0]), model=named)


def _shown(images: Sequence[Path], overlay: bool | None, *, decrypts: bool) -> list[bool]:
    """Whether each image gets an overlay: as asked for, or else where the plain image, or its key, is at hand."""
    from ..storage.images import is_ciphertext

    if overlay is not None:
        return [overlay] * len(images)
    return [decrypts or not is_ciphertext(image) for image in images]


def _targets(images: Sequence[Path], output: Path, shown: Sequence[bool], *, segments: bool) -> list[Target]:
    """The files of each image."""
    maps = output_paths(images, output, ".segmentation.png")

    def beside(path: Path, ending: str) -> Path:
        return path.with_name(f"{path.stem.removesuffix('.segmentation')}{ending}")

    return [
        Target(
            image,
            path,
            beside(path, ".overlay.png") if overlay else None,
            beside(path, ".segments.json") if segments else None,
        )
        for image, path, overlay in zip(images, maps, shown, strict=True)
    ]


def _run(
    segmenter: "Segmenter", targets: Sequence[Target], *, skip_existing: bool, overwrite: bool, as_json: bool
) -> None:
    """Segment the images, write each result when it is ready, and report all of them at the end."""
    from ..inference.pictures import segmentation_map_to_picture
    from ..setr.files import write_whole
    from ..storage.images import save_picture
    from .resume import segments_to_json

    records = _kept(segmenter, targets) if skip_existing else {}
    remaining = [target for target in targets if target not in records]

    def with_overlay(index: int, found: "Segmentation") -> "tuple[Segmentation, Image.Image | None]":
        if remaining[index].overlay is None:
            return found, None
        return found, _tinted(segmenter, segmenter.show(remaining[index].image), found)

    job = Job([target.image for target in remaining], doing="Segmenting", lacking="segmentation map")
    for index, (found, tinted) in job.results(attempt(with_overlay, segmenter.segment(job.images))):
        target = remaining[index]
        if tinted is not None and target.overlay is not None:
            save_picture(tinted, target.overlay, overwrite=overwrite)
        if target.segments is not None:
            write_whole(target.segments, segments_to_json(found), overwrite=overwrite)
        save_picture(segmentation_map_to_picture(found.map, segmenter.palette), target.map, overwrite=overwrite)
        records[target] = _Record.of(found, len(segmenter.names), is_kept=False)
    if records:
        _report(segmenter, {target: records[target] for target in targets if target in records}, as_json=as_json)
    job.raise_failures()


def _tinted(segmenter: "Segmenter", image: "Image.Image", found: "Segmentation") -> "Image.Image":
    """The image tinted by class or segment, above a legend."""
    from ..inference.pictures import Colouring, overlay, with_legend

    names = segmenter.names
    if found.segments is not None:
        names = {0: "no segment"} | {segment.id: f"{segment.id} {segment.label}" for segment in found.segments}
    colouring = Colouring.of(names, segmenter.palette, [found.map])
    return with_legend(overlay(image, found.map, colouring.palette), colouring.legend)


@dataclass(frozen=True)
class _Record:
    """What the report needs of a segmentation."""

    size: tuple[int, int]  # height, width
    counts: "np.ndarray"  # pixels of each class
    segments: list[dict[str, object]] | None
    is_kept: bool  # it was there before

    @classmethod
    def of(cls, found: "Segmentation", num_labels: int, *, is_kept: bool) -> "_Record":
        height, width = found.map.shape
        segments = None if found.segments is None else [segment._asdict() for segment in found.segments]
        return cls((height, width), found.pixels_of_labels(num_labels), segments, is_kept)

    @property
    def num_pixels(self) -> int:
        return self.size[0] * self.size[1]


def _kept(segmenter: "Segmenter", targets: Sequence[Target]) -> dict[Target, _Record]:
    """The targets whose files are there and whole."""
    from .resume import kept_segmentation

    found = ((each, kept_segmentation(each.map, each.overlay, each.segments, segmenter)) for each in targets)
    return {target: _Record.of(kept, len(segmenter.names), is_kept=True) for target, kept in found if kept is not None}


def _report(segmenter: "Segmenter", records: Mapping[Target, _Record], *, as_json: bool) -> None:
    """Print the classes in all maps together, and where the maps are."""
    names = segmenter.names
    results = [
        {"image": target.image, "segmentation": target.map, "overlay": target.overlay, "skipped": record.is_kept}
        | {"height": record.size[0], "width": record.size[1]}
        | {"shares": shares_of(record.counts, record.num_pixels, names)}
        | ({} if record.segments is None else {"segments": record.segments})
        for target, record in records.items()
    ]
    has_segments = segmenter.task.name != "semantic"
    first, *others = [record.counts for record in records.values()]
    num_segments = sum(len(record.segments or ()) for record in records.values())
    print_shares(
        sum(others, start=first),
        sum(record.num_pixels for record in records.values()),
        names,
        title=_counted(len(records), "image") + f", {_counted(num_segments, 'segment')}" * has_segments,
        palette=None if has_segments else segmenter.palette,
        to_stderr=as_json,
    )
    written = [path for target, record in records.items() if not record.is_kept for path in target.files]
    num_kept = sum(record.is_kept for record in records.values())
    facts = {**segmenter.facts, "task": segmenter.task.name, "images": results}
    report(facts, wrote(written, num_kept), as_json=as_json)


def _counted(number: int, thing: str) -> str:
    return f"{number} {thing}{'s' * (number != 1)}"
