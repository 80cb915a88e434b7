"""What tests of batch jobs share: images, an engine in this process, and the rows of an output."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from helpers.tiny_setr import tiny_model
from hf_privseg import SetrImageProcessor
from hf_privseg.batch.local_engine import LocalEngine
from hf_privseg.batch.places import filesystem_of, names_in
from hf_privseg.batch.plan import PART
from hf_privseg.batch.run import start
from hf_privseg.batch.work import run_task


class HereEngine(LocalEngine):
    """Does every task in this process, one after the other."""

    def __init__(self):
        super().__init__(1)

    def run(self, job, tasks):
        work = job.operation.work()
        for task in tasks:
            yield run_task(job, work, task)


def run(operation, sources, output, engine=None, **settings):
    """Run a job to its end -> its rows."""
    started = start(operation, [str(each) for each in sources], str(output), engine or HereEngine(), **settings)
    list(started.results())
    return rows_of(output)


def rows_of(output, *, seconds=False):
    """The rows of an output in the order of parts, without their seconds; every part is read whole."""
    filesystem, path = filesystem_of(str(output))
    rows = []
    for name in names_in(str(output)):
        if PART.fullmatch(name):
            with filesystem.open(f"{path}/{name}", "rb") as file:
                rows += pq.read_table(file).to_pylist()
    return rows if seconds else [{key: row[key] for key in row if key != "seconds"} for row in rows]


def parts_in(output: Path) -> list[str]:
    return sorted(path.name for path in output.glob("part-*"))


def make_images(folder: Path, count: int, size=(20, 24)) -> list[Path]:
    """Images of random pixels, every third of another size; named so that their order is their number's."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for index in range(count):
        height, width = (size[0] + 8, size[1]) if index % 3 == 2 else size
        pixels = np.random.default_rng(index).integers(0, 256, (height, width, 3), np.uint8)
        paths.append(folder / f"{index:03}.png")
        Image.fromarray(pixels).save(paths[-1])
    return paths


def make_models(folder: Path, key, **settings) -> tuple[Path, Path]:
    """Folders of a tiny plain model, and of the same model encrypted with the key."""
    patch_size = settings.get("patch_size", 4)
    plain = tiny_model(num_labels=3, id2label={0: "sky", 1: "road", 2: "tree"}, **settings)
    plain.save_pretrained(folder / "plain")
    plain.encrypt_model(key).save_pretrained(folder / "encrypted")
    for name in ("plain", "encrypted"):
        SetrImageProcessor(patch_size=patch_size).save_pretrained(folder / name)
    return folder / "plain", folder / "encrypted"
