"""The client embedding with a transform code that several benchmarks send few bits with: fitted once, then kept."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from tqdm.auto import tqdm

from hf_privseg import ClientEmbedding, SetrForSemanticSegmentation, SetrImageProcessor
from hf_privseg.training.transform_fit import fit_transform_code


def coded_embedding(
    path: Path,
    model: SetrForSemanticSegmentation,
    processor: SetrImageProcessor,
    images: Sequence[Image.Image],
    *,
    seed: int = 0,
) -> ClientEmbedding:
    """A plain model and calibration images -> a client embedding with a transform code.

    Args:
        path: of its file; one that exists is taken as it is.
        model: plain, in evaluation mode.
        processor: the model's.
        images: for the fit.
        seed: of the labels that the fit draws.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        fit_transform_code(model, processor, tqdm(images, desc="fit", unit="image"), seed=seed).to_file(path)
    return ClientEmbedding.from_file(path)
