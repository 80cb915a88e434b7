"""`privseg demo`: the whole method on one photo, with a picture of what came out.

The client's side runs in this process, the server's side in another one that is given two paths, the encrypted model
and the encrypted photo, and no key.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from ..catalog.sample_images import SAMPLE_IMAGES, sample_image
from ..inference import pictures as visualization
from ..inference.segmentation import segment_image
from ..setr.configuration_setr import SetrConfig
from ..setr.encrypted_image import EncryptedImage
from ..setr.files import new_folder
from ..setr.keys import SecretKey
from ..storage.images import read_image
from ..storage.models import load_model, save_model

MAX_SIDE = 640  # of the photo in pixels, so that the demo takes seconds on two cores

HONEST_NOTE = (
    "The embedded model is public, so anyone can invert a photo that is encrypted for it: the demo shows how the "
    "method works and protects nothing. A deployment needs a patch embedding that was trained in private and stays "
    "private. Even then an image is visually protected only, not encrypted in the cryptographic sense: a thumbnail "
    "can be recovered from any ciphertext, more from many, and one known photo with its ciphertext decodes the "
    "others. See SECURITY.md."
)
OWN_CREDIT = "Photo: your own."

_TITLE = "Made by `privseg demo`, which replaces what is in this folder."  # how a former demo's is known
_IN_NEW_PROCESS = "segment the encrypted photo, starting a process"
_LABELS = {
    "encrypted": "encrypted model, encrypted photo, no key",
    "no_encryption": "encrypted model, plain photo",
    "wrong_key": "encrypted model, photo under a wrong key",
}


@dataclass
class DemoReport:
    """What a run measured: seconds for each step, and the share of pixels that equal the plain model's map."""

    seconds: dict[str, float] = field(default_factory=dict)
    equal_pixels: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Take the time of what happens inside."""
        start = time.perf_counter()
        yield
        self.seconds[step] = time.perf_counter() - start


def run_demo(
    *,
    image: Path | None,
    family: str,
    output_dir: Path,
    model: str,
    replace: bool = False,
    print_to_stderr: bool = False,
) -> DemoReport:
    """A photo and a plain model -> key, encrypted model, encrypted photo, label maps and demo.png in `output_dir`.

    The folder appears as a whole, at the end.

    Args:
        image: path of a photo; None takes a sample photo of scikit-learn.
        family: cipher family of the new key.
        output_dir: new or empty; with `replace` it may be that of a former demo, which is replaced.
        model: a plain SETR model: folder, Hub id, or "default".
        replace: whether the results of a former demo may go.
        print_to_stderr: where the tables go; by default to standard output.

    Raises:
        FileExistsError: `output_dir` holds something that no demo made, or that one made and `replace` is False.
        ImportError: matplotlib or scikit-learn is not installed.
        ChildProcessError: the segmentation in the other process failed.
    """
    _require_extras()
    _check_folder(output_dir, replace)
    console = Console(highlight=False, soft_wrap=True, stderr=print_to_stderr)
    report = DemoReport()
    with report.timed("make a key"):
        key = SecretKey.generate(family)
    photo = _photo(image, console)
    credit = OWN_CREDIT if image else SAMPLE_IMAGES["china"].credit
    with new_folder(output_dir, overwrite=replace) as folder:
        (folder / "README.txt").write_text("\n\n".join((_TITLE, HONEST_NOTE, credit)) + "\n", encoding="utf-8")
        ciphertext = _fill(folder, photo, key, model, report, credit, console)
    _print_report(console, output_dir, output_dir / ciphertext.name, key, report, credit)
    return report


def _fill(
    folder: Path, photo: Image.Image, key: SecretKey, model: str, report: DemoReport, credit: str, console: Console
) -> Path:
    """Everything but the text files -> `folder`; returns the path of the encrypted photo."""
    key.to_file(folder / "secret.key")
    photo.save(folder / "photo.png")
    with console.status("Segmenting the plain photo with the plain model ..."):
        network, processor = load_model(model)
        with report.timed("segment the photo with the plain model"):
            maps = {"plain": segment_image(network, processor, photo)}
    with console.status("Encrypting the model and the photo ..."):
        with report.timed("encrypt the model"):
            network.encrypt_model(key)
        save_model(network, processor, folder / "encrypted_model", licence_from=model)
        with report.timed("encrypt the photo"):
            encrypted = processor.encrypt(photo, key)
        ciphertext = folder / f"photo.encrypted{encrypted.suffix}"
        encrypted.to_file(ciphertext)
    with console.status("Segmenting the encrypted photo in another process ..."), report.timed(_IN_NEW_PROCESS):
        maps["encrypted"] = _segment_without_key(folder / "encrypted_model", ciphertext)
    with console.status("Trying the encrypted model without encryption and with a wrong key ..."):
        wrong = processor.encrypt(photo, SecretKey.generate(key.family))
        maps["no_encryption"] = segment_image(network, processor, photo)
        maps["wrong_key"] = segment_image(network, processor, wrong)
    report.equal_pixels = {name: float((label_map == maps["plain"]).mean()) for name, label_map in maps.items()}
    _write_pictures(folder, photo, encrypted, maps, network.config, report, credit)
    return ciphertext


def _require_extras() -> None:
    missing = [name for name in ("matplotlib", "sklearn") if find_spec(name) is None]
    if missing:
        raise ImportError(f"the demo needs {' and '.join(missing)}; install them: pip install 'hf-privseg[demo]'")


def _photo(path: Path | None, console: Console) -> Image.Image:
    """Path of a photo, or None for scikit-learn's sample -> upright RGB, no side longer than MAX_SIDE."""
    photo = sample_image("china") if path is None else read_image(path)
    size = photo.size
    photo.thumbnail((MAX_SIDE, MAX_SIDE))
    if photo.size != size:
        console.print(f"The photo of {size[0]} x {size[1]} is reduced to {photo.width} x {photo.height} for the demo.")
    return photo


def _check_folder(folder: Path, replace: bool) -> None:
    """Refuse a folder of somebody else's, and that of a former demo unless `replace` is True."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    readme = folder / "README.txt"
    if not (readme.is_file() and readme.read_text(encoding="utf-8", errors="replace").startswith(_TITLE)):
        raise FileExistsError(f"{folder} holds files that no demo made; choose another --output-dir or empty it")
    if not replace:
        raise FileExistsError(
            f"{folder} holds the results of a former demo; choose another --output-dir, or replace it with --force"
        )


def _segment_without_key(model: Path, ciphertext: Path) -> np.ndarray:
    """Encrypted model and photo -> label map, by a new process that gets these two paths and no key at all."""
    output = ciphertext.with_name("segmentation.png")
    command = [sys.executable, "-m", "hf_privseg.cli", "segment", str(model), str(ciphertext)]
    environment = {name: value for name, value in os.environ.items() if name != "PRIVSEG_KEY"}
    done = subprocess.run(
        [*command, "--output", str(output), "--force"], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ChildProcessError(f"the segmentation in the other process failed: {done.stderr.strip()}")
    return np.array(Image.open(output))


def _write_pictures(
    folder: Path,
    photo: Image.Image,
    encrypted: EncryptedImage,
    maps: dict[str, np.ndarray],
    config: SetrConfig,
    report: DemoReport,
    credit: str,
) -> None:
    """The label maps made in this process, and the picture that compares everything."""
    palette = visualization.palette_for(config)
    tinted = {name: visualization.overlay(photo, label_map, palette) for name, label_map in maps.items()}
    equal = {
        name: f"agrees with the plain model on {share:.2%} of pixels" for name, share in report.equal_pixels.items()
    }
    for name in ("plain", "no_encryption", "wrong_key"):
        picture = visualization.segmentation_map_to_picture(maps[name], palette)
        picture.save(folder / f"segmentation_{name}.png")
    legend = visualization.legend_for(config, list(maps.values()))
    panel = visualization.Panel
    rows = [
        [
            panel(photo, "Photo", "stays with the client"),
            panel(
                encrypted.to_picture(),
                "Encrypted photo",
                f"what the server receives (family: {encrypted.family})",
            ),
            panel(tinted["encrypted"], "Encrypted model, encrypted photo", equal["encrypted"]),
        ],
        [
            panel(tinted["plain"], "Plain model, plain photo", "for comparison: no encryption anywhere"),
            panel(tinted["no_encryption"], "Encrypted model, plain photo", equal["no_encryption"]),
            panel(tinted["wrong_key"], "Encrypted model, wrong key", equal["wrong_key"]),
        ],
    ]
    visualization.draw_comparison(folder / "demo.png", rows, legend, [HONEST_NOTE, credit])


def _print_report(
    console: Console, folder: Path, ciphertext: Path, key: SecretKey, report: DemoReport, credit: str
) -> None:
    equal = Table("segmentation", title="Pixels of the same class as the plain model's", title_justify="left")
    equal.add_column("equal", justify="right")
    for name, label in _LABELS.items():
        equal.add_row(label, f"{report.equal_pixels[name]:.3%}")
    seconds = Table("step", title="Time on this machine", title_justify="left")
    seconds.add_column("seconds", justify="right")
    for step, value in report.seconds.items():
        seconds.add_row(step, f"{value:.3f}")
    files = Table("file", "", title=f"Written to {folder}", title_justify="left")
    files.add_column("size", justify="right")
    for path, meaning in _files(folder, ciphertext):
        size = sum(each.stat().st_size for each in path.rglob("*")) if path.is_dir() else path.stat().st_size
        files.add_row(path.name, meaning, decimal(size))
    console.print(equal, seconds, files)
    console.print(f"Key: family {key.family}, fingerprint {key.fingerprint}. The other process never had it.\n")
    console.print(HONEST_NOTE, style="bold")
    console.print(f"\n{credit}\n\nLook at {folder / 'demo.png'}", markup=False)


def _files(folder: Path, ciphertext: Path) -> list[tuple[Path, str]]:
    return [
        (folder / "demo.png", "everything in one picture"),
        (folder / "photo.png", "stays with the client"),
        (folder / "secret.key", "stays with the client"),
        (ciphertext, "goes to the server"),
        (folder / "encrypted_model", "lies on the server"),
        (folder / "segmentation.png", "the server's answer"),
        (folder / "segmentation_plain.png", "plain model and photo"),
        (folder / "segmentation_no_encryption.png", "plain photo"),
        (folder / "segmentation_wrong_key.png", "wrong key"),
    ]
