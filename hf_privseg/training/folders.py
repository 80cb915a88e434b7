"""Folders of images and segmentation maps: which files of a split belong together."""

from collections.abc import Sequence
from pathlib import Path

from ..setr.array_files import ARRAY_SUFFIX
from ..setr.counts import counted
from ..setr.image_files import IMAGE_SUFFIXES as PLAIN_SUFFIXES

IMAGE_SUFFIXES = (*PLAIN_SUFFIXES, ".safetensors")  # that of ciphertexts, beside .png
ANNOTATION_SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".gif", ARRAY_SUFFIX)  # formats that keep every label
_LOSSY_SUFFIXES = (".jpg", ".jpeg", ".webp")

# Cityscapes names a segmentation map by what it holds; those that hold classes, the preferred one first.
_CITYSCAPES_PATTERNS = ("{stem}_gtFine_labelIds", "{stem}_gtFine_labelTrainIds")
_CITYSCAPES_IMAGE = "_leftImg8bit"


def is_folder_of_pairs(folder: Path) -> bool:
    """Whether it has a layout that `paired_files` reads."""
    return (folder / "images").is_dir() or (folder / "leftImg8bit").is_dir()


def paired_files(folder: Path, split: str, annotation_pattern: str | None = None) -> tuple[list[Path], list[Path]]:
    """The images of a split and their segmentation maps, in the order of the images' names.

    Args:
        folder: has `images/<split>` and `annotations/<split>`, or `leftImg8bit/<split>/<city>` and
            `gtFine/<split>/<city>` as Cityscapes has.
        split: name of the split.
        annotation_pattern: name of a segmentation map without its suffix, where {stem} stands for that of the image
            (without `_leftImg8bit`). None means {stem} or, for Cityscapes, {stem}_gtFine_labelIds or, where there are
            none, {stem}_gtFine_labelTrainIds. Suffixes are those of lossless formats, in any case.

    Raises:
        FileNotFoundError: there is no such split, no image, or an image without segmentation map.
        ValueError: the pattern is wrong, a segmentation map is in a lossy format, or an image has two of them.
    """
    if annotation_pattern is not None and "{stem}" not in annotation_pattern:
        raise ValueError(
            f"expected an annotation pattern with {{stem}}, the image's name, in it, got {annotation_pattern!r}"
        )
    is_cityscapes = (folder / "leftImg8bit").is_dir()
    kinds = ("leftImg8bit", "gtFine") if is_cityscapes else ("images", "annotations")
    image_folder, annotation_folder = (folder / kind / split for kind in kinds)
    for needed in (image_folder, annotation_folder):
        if not needed.is_dir():
            splits = sorted(path.name for path in (folder / kinds[0]).iterdir())
            raise FileNotFoundError(f"Expected the folder {needed}; the splits under {folder} are {splits}.")
    glob = f"*/*{_CITYSCAPES_IMAGE}.png" if is_cityscapes else "*"
    images = sorted(
        path
        for path in image_folder.glob(glob)
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
    )
    if not images:
        wanted = f"<city>/*{_CITYSCAPES_IMAGE}.png" if is_cityscapes else ", ".join(sorted(IMAGE_SUFFIXES))
        raise FileNotFoundError(f"Expected images ({wanted}) in {image_folder}, found none.")
    patterns: Sequence[str] = [annotation_pattern] if annotation_pattern else ["{stem}"]
    if is_cityscapes and not annotation_pattern:
        patterns = _CITYSCAPES_PATTERNS
    stems = [path.stem.removesuffix(_CITYSCAPES_IMAGE) if is_cityscapes else path.stem for path in images]
    places = [path.parent.relative_to(image_folder) for path in images]
    return images, _annotations(annotation_folder, places, stems, patterns)


def _annotations(folder: Path, places: list[Path], stems: list[str], patterns: Sequence[str]) -> list[Path]:
    """The segmentation map of each image, by the first pattern that fits one of them."""
    there: dict[Path, list[Path]] = {}  # files by folder and stem
    for place in set(places):
        for path in sorted((folder / place).glob("*")):
            there.setdefault(path.parent / path.stem, []).append(path)
    wanted: list[Path] = []
    for pattern in patterns:
        wanted = [folder / place / pattern.replace("{stem}", s) for place, s in zip(places, stems, strict=True)]
        if any(name in there for name in wanted):
            break
    else:
        wanted = [folder / place / patterns[0].replace("{stem}", s) for place, s in zip(places, stems, strict=True)]
    found = [_lossless(there.get(name, [])) for name in wanted]
    lacking = [name.name for name, path in zip(wanted, found, strict=True) if path is None]
    if lacking:
        hint = _alike(there, stems) if patterns == ["{stem}"] else ""
        raise FileNotFoundError(
            f"no segmentation map for {len(lacking)} of {counted(len(wanted), 'image')} in {folder}, expected "
            f"{lacking[0]} with one of the suffixes {', '.join(ANNOTATION_SUFFIXES)}{hint}"
        )
    return [path for path in found if path is not None]


def _lossless(paths: list[Path]) -> Path | None:
    """Files of one stem -> the segmentation map among them."""
    usable = [path for path in paths if path.suffix.lower() in ANNOTATION_SUFFIXES]
    if len(usable) > 1:
        raise ValueError(f"expected one segmentation map an image, got {' and '.join(map(str, usable))}; remove one")
    lossy = [path for path in paths if path.suffix.lower() in _LOSSY_SUFFIXES]
    if lossy and not usable:
        raise ValueError(
            f"expected a segmentation map in a lossless format, got {lossy[0]}: the compression of "
            f"{lossy[0].suffix} changes labels, most of all at the edges of objects. Take the original maps, as PNG; "
            "converting this file does not bring its labels back"
        )
    return usable[0] if usable else None


def _alike(there: dict[Path, list[Path]], stems: list[str]) -> str:
    """A hint at files whose names have more than the stem, with the pattern that finds one for every image."""
    names = {name.name for name in there}
    for name, paths in there.items():
        pattern = name.name.replace(stems[0], "{stem}", 1)
        if pattern != name.name and all(pattern.replace("{stem}", stem) in names for stem in stems):
            return f"; there is {paths[0].name}: --annotation-pattern {pattern} finds these files"
    return ""
