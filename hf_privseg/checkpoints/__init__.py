"""The checkpoint that comes with the package. Its terms of use are in its folder, and are not those of the code."""

from pathlib import Path

_DEFAULT = Path(__file__).parent / "setr-vit-s16-camvid"


def default_checkpoint() -> Path:
    """The folder of the embedded plain model: SETR-Naive on ViT-S/16, road scenes (CamVid, 11 classes).

    Raises:
        FileNotFoundError: the folder is not part of this installation.
    """
    if not (_DEFAULT / "model.safetensors").is_file():
        raise FileNotFoundError(
            f"the embedded checkpoint is not at {_DEFAULT}: this installation is incomplete; reinstall the package, "
            "or name the folder or Hub id of another SETR model"
        )
    return _DEFAULT
