"""The checkpoint that comes with the package. Its folder states its terms of use, which differ from the code's."""

from pathlib import Path

_DEFAULT = Path(__file__).parent / "setr-vit-s16-camvid"


def default_checkpoint() -> Path:
    """The folder of the embedded plain model: SETR-Naive on ViT-S/16 for road scenes (CamVid, 11 classes).

    Raises:
        FileNotFoundError: this installation lacks the folder.
    """
    if not (_DEFAULT / "model.safetensors").is_file():
        raise FileNotFoundError(
            f"the embedded checkpoint is not at {_DEFAULT}: this installation is incomplete; reinstall the package, "
            "or name the folder or Hub id of another SETR model"
        )
    return _DEFAULT
