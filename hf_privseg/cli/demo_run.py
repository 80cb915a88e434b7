"""What `privseg demo` does: the whole method on one image, and a picture of the results.

The client's side runs in this process. The server's side runs in another process, which is given the paths of the
encrypted model and of the encrypted image, and no key.
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

from ..catalog.street_images import STREET_CREDIT, street_image
from ..inference import pictures
from ..inference.segmentation import segment_image
from ..reporting.tables import terminal
from ..setr.configuration_setr import SetrConfig
from ..setr.encrypted_image import EncryptedImage
from ..setr.files import new_folder
from ..setr.keys import SecretKey
from ..storage.images import read_image
from ..storage.models import load_model, save_model

MAX_SIDE = 640  # pixels of the image, so that the demo takes seconds on two cores

HONEST_NOTE = (
    "The embedded model is public, so anyone can invert an image that is encrypted for it: the demo shows how the "
    "method works and protects nothing. A deployment needs a patch embedding that was trained in private and stays "
    "private. Even then an image is visually protected only, not encrypted in the cryptographic sense: a thumbnail "
    "can be recovered from any ciphertext, more from many, and one known image with its ciphertext decodes the "
    "others. See SECURITY.md."
)
OWN_CREDIT = "Image: your own."

_MARK = "Made by `privseg demo`"  # begins the README.txt of a demo's folder
_IN_NEW_PROCESS = "segment the encrypted image, starting a process"
_LABELS = {
    "encrypted": "encrypted model, encrypted image, no key",
    "no_encryption": "encrypted model, plain image",
    "wrong_key": "encrypted model, image under a wrong key",
}


@dataclass
class DemoReport:
    """What a demo measured: seconds of each step, and the share of pixels that equal the plain model's map."""

    seconds: dict[str, float] = field(default_factory=dict)
    equal_pixels: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Measure how long the body of the `with` statement takes."""
        start = time.perf_counter()
        yield
        self.seconds[step] = time.perf_counter() - start


def run_demo(
    *,
    image: Path | None,
    family: str,
    output_dir: Path,
    model: str,
    overwrite: bool = False,
    print_to_stderr: bool = False,
) -> DemoReport:
    """Make a key, an encrypted model, an encrypted image, segmentation maps and demo.png in `output_dir`.

    The folder appears as a whole, at the end.

    Args:
        image: path of an image; None takes a street image that ships with the package.
        family: key family of the new key.
        output_dir: a new or empty folder, or with `overwrite` that of a former demo.
        model: a plain SETR model: folder, Hub id, or "default".
        overwrite: whether the results of a former demo may be lost.
        print_to_stderr: whether the tables go to standard error instead of standard output.

    Raises:
        FileExistsError: `output_dir` holds files that no demo made, or a former demo's and `overwrite` is False.
        ImportError: matplotlib is not installed.
        ChildProcessError: the segmentation in the other process failed.
    """
    _require_extras()
    _check_folder(output_dir, overwrite)
    console = terminal(highlight=False, soft_wrap=True, stderr=print_to_stderr)
    report = DemoReport()
    with report.timed("make a key"):
        key = SecretKey.generate(family)
    plain = _plain_image(image, console)
    credit = OWN_CREDIT if image else STREET_CREDIT
    with new_folder(output_dir, overwrite=overwrite) as folder:
        (folder / "README.txt").write_text(
            "\n\n".join((f"{_MARK}, which overwrites what is in this folder.", HONEST_NOTE, credit)) + "\n",
            encoding="utf-8",
        )
        ciphertext = _fill(folder, plain, key, model, report, credit, console)
    _print_report(console, output_dir, output_dir / ciphertext.name, key, report, credit)
    return report


def _fill(
    folder: Path, plain: Image.Image, key: SecretKey, model: str, report: DemoReport, credit: str, console: Console
) -> Path:
    """Write everything but the text file into `folder`; return the path of the encrypted image."""
    key.to_file(folder / "secret.key")
    plain.save(folder / "image.png")
    with console.status("Segmenting the plain image with the plain model ..."):
        network, processor = load_model(model)
        with report.timed("segment the image with the plain model"):
            maps = {"plain": segment_image(network, processor, plain)}
    with console.status("Encrypting the model and the image ..."):
        with report.timed("encrypt the model"):
            network.encrypt_model(key)
        save_model(network, processor, folder / "encrypted_model", licence_from=model)
        with report.timed("encrypt the image"):
            encrypted = processor.encrypt(plain, key)
        ciphertext = folder / f"image.encrypted{encrypted.suffix}"
        encrypted.to_file(ciphertext)
    with console.status("Segmenting the encrypted image in another process ..."), report.timed(_IN_NEW_PROCESS):
        maps["encrypted"] = _segment_without_key(folder / "encrypted_model", ciphertext)
    with console.status("Trying the encrypted model without encryption and with a wrong key ..."):
        wrong = processor.encrypt(plain, SecretKey.generate(key.family))
        maps["no_encryption"] = segment_image(network, processor, plain, allow_mismatch=True)
        maps["wrong_key"] = segment_image(network, processor, wrong, allow_mismatch=True)
    report.equal_pixels = {name: float((found == maps["plain"]).mean()) for name, found in maps.items()}
    _write_pictures(folder, plain, encrypted, maps, network.config, report, credit)
    return ciphertext


def _require_extras() -> None:
    if find_spec("matplotlib") is None:
        raise ImportError("the demo needs matplotlib; install it: pip install 'hf-privseg[demo]'")


def _plain_image(path: Path | None, console: Console) -> Image.Image:
    """Path of an image, or None for a street image -> upright RGB, no side longer than MAX_SIDE."""
    image = street_image("cars") if path is None else read_image(path)
    size = image.size
    image.thumbnail((MAX_SIDE, MAX_SIDE))
    if image.size != size:
        console.print(f"The image of {size[0]} x {size[1]} is reduced to {image.width} x {image.height} for the demo.")
    return image


def _check_folder(folder: Path, overwrite: bool) -> None:
    """Refuse a folder that holds other files than a former demo's, and unless `overwrite` is True those too."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    readme = folder / "README.txt"
    if not (readme.is_file() and readme.read_text(encoding="utf-8", errors="replace").startswith(_MARK)):
        raise FileExistsError(f"{folder} holds files that no demo made; choose another --output-dir or empty it")
    if not overwrite:
        raise FileExistsError(
            f"{folder} holds the results of a former demo; choose another --output-dir, or overwrite it with --force"
        )


def _segment_without_key(model: Path, ciphertext: Path) -> np.ndarray:
    """Encrypted model and image -> segmentation map, by a new process that gets these two paths and no key."""
    output = ciphertext.with_name("segmentation.png")
    command = [sys.executable, "-m", "hf_privseg.cli", "segment", str(ciphertext), "--model", str(model)]
    environment = {name: value for name, value in os.environ.items() if name != "PRIVSEG_KEY"}
    done = subprocess.run(
        [*command, "--output", str(output), "--force"], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ChildProcessError(f"the segmentation in the other process failed: {done.stderr.strip()}")
    return np.array(Image.open(output))


def _write_pictures(
    folder: Path,
    plain: Image.Image,
    encrypted: EncryptedImage,
    maps: dict[str, np.ndarray],
    config: SetrConfig,
    report: DemoReport,
    credit: str,
) -> None:
    """Write the segmentation maps made in this process, and the picture that compares everything."""
    palette = pictures.palette_for(config)
    colouring = pictures.colouring_for(config, list(maps.values()))
    tinted = {name: pictures.overlay(plain, found, colouring.palette) for name, found in maps.items()}
    equal = {
        name: f"agrees with the plain model on {share:.2%} of pixels" for name, share in report.equal_pixels.items()
    }
    for name in ("plain", "no_encryption", "wrong_key"):
        picture = pictures.segmentation_map_to_picture(maps[name], palette)
        picture.save(folder / f"segmentation_{name}.png")
    panel = pictures.Panel
    rows = [
        [
            panel(plain, "Image", "stays with the client"),
            panel(
                encrypted.to_picture(),
                "Encrypted image",
                f"what the server receives (family: {encrypted.family})",
            ),
            panel(tinted["encrypted"], "Encrypted model, encrypted image", equal["encrypted"]),
        ],
        [
            panel(tinted["plain"], "Plain model, plain image", "for comparison: no encryption anywhere"),
            panel(tinted["no_encryption"], "Encrypted model, plain image", equal["no_encryption"]),
            panel(tinted["wrong_key"], "Encrypted model, wrong key", equal["wrong_key"]),
        ],
    ]
    pictures.draw_comparison(folder / "demo.png", rows, colouring.legend, [HONEST_NOTE, credit])


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
    console.print(f"\n{credit}\n\nLook at {folder / 'demo.png'}")


def _files(folder: Path, ciphertext: Path) -> list[tuple[Path, str]]:
    return [
        (folder / "demo.png", "everything in one picture"),
        (folder / "image.png", "stays with the client"),
        (folder / "secret.key", "stays with the client"),
        (ciphertext, "goes to the server"),
        (folder / "encrypted_model", "lies on the server"),
        (folder / "segmentation.png", "the server's answer"),
        (folder / "segmentation_plain.png", "plain model and image"),
        (folder / "segmentation_no_encryption.png", "plain image"),
        (folder / "segmentation_wrong_key.png", "wrong key"),
    ]
