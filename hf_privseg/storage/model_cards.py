"""The owner's part of a model card: licence, data set, metrics and a picture, in the front matter that the Hub reads.

`save_pretrained` writes the card with its generated part (`setr.model_card`), which follows the encryption. What is
written here is left alone by every later save.
"""

import io
import re
from collections.abc import Mapping
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from PIL import Image

from ..setr.files import write_whole

CARD, PICTURE = "README.md", "picture.jpg"
_OWNERS = ("license", "license_name", "license_link", "language", "datasets", "metrics", "model_name", "eval_results")
_OLD_PICTURE = re.compile(rf"\n!\[[^\]]*\]\({re.escape(PICTURE)}\)\n")
_TITLE = re.compile(r"^# .*\n", re.MULTILINE)


def describe_model(
    folder: str | Path,
    *,
    license: str | None = None,
    license_name: str | None = None,
    license_link: str | None = None,
    dataset: str | None = None,
    split: str | None = None,
    metrics: Mapping[str, float] | None = None,
    picture: Image.Image | None = None,
    caption: str = "",
) -> None:
    """Write into the card of a saved model what only its owner knows; what is left out stays as it is.

        model.save_pretrained(folder)
        describe_model(folder, license="apache-2.0", dataset="CamVid", split="test", metrics={"mean_iou": 0.6856})

    Args:
        folder: of the model, with its card; of any class.
        license: identifier as the Hub lists them, such as "apache-2.0", or "other", which takes the next two as well.
        license_name, license_link: of another licence; the link may be the name of a file in the folder.
        dataset: name or Hub id of the data that the model was trained and evaluated on.
        split: of the data set that the metrics are of.
        metrics: name as in `evaluate` -> value; needs the data set.
        picture: what the model makes of an image that may be published; is saved beside the card, below its title.
        caption: what the picture shows, for those who cannot see it.

    Raises:
        FileNotFoundError: the folder has no card.
        ValueError: metrics without a data set.
    """
    path = Path(folder) / CARD
    if not path.is_file():
        raise FileNotFoundError(
            f"expected a saved model with its card, got {folder}, which has no {CARD}; save it first"
        )
    if metrics and dataset is None:
        raise ValueError("expected the data set that the metrics are of, got none; pass dataset")
    card = ModelCard.load(path)
    data = _data(card)
    given = {"license": license, "license_name": license_name, "license_link": license_link, "datasets": dataset}
    for name, value in given.items():
        if value is not None:
            setattr(data, name, [value] if name == "datasets" else value)
    if metrics:
        data.metrics = list(metrics)
        data.model_name = data.model_name or Path(folder).resolve().name
        data.eval_results = [
            EvalResult(
                task_type="image-segmentation",
                dataset_type=str(dataset).lower(),
                dataset_name=str(dataset),
                dataset_split=split,
                metric_type=name,
                metric_value=value,
            )
            for name, value in metrics.items()
        ]
    if picture is not None:
        buffer = io.BytesIO()
        picture.convert("RGB").save(buffer, "JPEG", quality=90)
        write_whole(path.with_name(PICTURE), buffer.getvalue(), overwrite=True)
        text = _OLD_PICTURE.sub("", card.text)
        line = f"\n![{' '.join(caption.replace('[', '(').replace(']', ')').split())}]({PICTURE})\n"
        card.text = _TITLE.sub(lambda title: title[0] + line, text, count=1)
    _write(card, path)


def carry_front_matter(source: Path, folder: Path) -> None:
    """Licence, data set and metrics in the card of `source` -> the card of `folder`, made from it by an encryption.

    The name of a base model is not carried: an encrypted model protects nothing where its base is known.
    """
    paths = [each / CARD for each in (source, folder)]
    if not all(path.is_file() for path in paths):
        return
    old, card = (ModelCard.load(path, ignore_metadata_errors=True) for path in paths)
    theirs, ours = _data(old), _data(card)
    carried = {name: getattr(theirs, name) for name in _OWNERS if getattr(theirs, name, None) is not None}
    for name, value in carried.items():
        setattr(ours, name, value)
    if carried:
        _write(card, paths[1])


def _data(card: ModelCard) -> ModelCardData:
    data = card.data
    assert isinstance(data, ModelCardData)
    return data


def _write(card: ModelCard, path: Path) -> None:
    write_whole(path, str(card).encode(), overwrite=True)
