"""The model card (README.md) of a SETR checkpoint: what it is, whether and how it is encrypted, and what that means.

A new card has a front matter and one generated part between two markers. That part follows the model at every save, so
that it never states another encryption than the weights have. Everything outside of it, the front matter included,
belongs to the owner of the model, and so does a card without the markers: neither is ever changed.
"""

from collections.abc import Callable, Iterable
from os import PathLike
from pathlib import Path
from typing import cast

from huggingface_hub import ModelCard, ModelCardData
from transformers import PreTrainedModel

from .configuration_setr import SetrConfig
from .counts import counted
from .files import write_whole

_BEGIN = "<!-- privseg:begin. Written anew whenever the model is saved; your own text goes outside of this part. -->"
_END = "<!-- privseg:end -->"

# What transformers says in the empty card that it makes for a repository without one.
_EMPTY_CARD = (
    "This is the model card of a 🤗 transformers model that has been pushed on the Hub. This model card has been "
    "automatically generated."
)

# What encrypts images for a model of this family, where that is no SecretKey.
KEY_CLASSES = {"embedding": "ClientEmbedding"}

FOR_THE_OWNER = """
_What the model was trained on, how well it does and under which licence it may be used is for its owner to say here;
until then no licence is granted. The front matter takes the licence as `license: ...`._
"""

_TITLE = "# SETR ({decoder_type}) for semantic segmentation\n" + FOR_THE_OWNER

_FACTS = """## Model

| | |
|---|---|
| class | `{class_name}` |
| decoder | {decoder_type} |
| encoder | ViT, {layers}, hidden size {hidden_size}, {heads} |
| patch size = block size of the encryption | {patch_size} x {patch_size} pixels |
| training size | {size} pixels; other multiples of the patch size work as well |
| classes | {num_labels} |
| parameters | {num_parameters:,} |
| input | {channels}, pixels in [-1, 1] (mean = std = 0.5) |
| encryption | {encryption} |
"""

_PLAIN = """## Encryption

This checkpoint is **plain**: it takes plain images, and it protects nothing. `model.encrypt_model(secret_key)`
replaces its patch embedding E by E_enc E, after which it takes images that are encrypted with the same key.
"""

ENCRYPTED = """## Encryption

The patch embedding of this checkpoint is **encrypted** (key family `{family}`, format version {version}, key
fingerprint `{fingerprint}`). It takes images that are encrypted with the same key, and gives for them what the plain
model gives for the plain images, up to rounding. Plain images, and images encrypted with another key, give garbage.
The fingerprint is public: it links everything made with one key, and lets anyone test guesses of a weak passphrase.
No file that the package writes with a model holds the key.
"""

THREATS = """## What the encryption protects, and what not

The images are *visually protected*; this is no encryption in the cryptographic sense, and the size of the key space is
no measure of it. One key serves every block of every image, and the provider of the model computes with the embedded
blocks themselves.

- The `permutation` families fall to statistics of the ciphertext alone: a single one gives the image away, up to
  the order of the colours, to an attacker who has similar images. `orthogonal` and `matrix` show a thumbnail
  (1/{patch_size} of the size) and outlines from one ciphertext, and most of the image from four. Least is shown with a
  `ClientEmbedding`. `privseg audit` measures what a model of your own leaks.
- One pair of a plain image and its ciphertext, for whatever family, reveals other images made with the same key.
- **A public patch embedding voids the protection of every family.** If the plain model, or a checkpoint near it such
  as the one it was fine-tuned from, is public, its ciphertexts can be inverted without the key. Protection needs a
  patch embedding that was trained in private and stays so.
- The segmentation map is not encrypted: the provider sees it.

The method: Kiya et al., *Privacy-Preserving Semantic Segmentation Using Vision Transformer*, J. Imaging 2022, 8(9),
233. The architecture: Zheng et al., CVPR 2021.
"""


def generated_part(model: PreTrainedModel) -> str:
    """A model -> the text between the markers, markers included. Deterministic, and without anything secret."""
    config = cast(SetrConfig, model.config)
    facts = config.encryption
    height, width = (side * config.patch_size for side in config.grid_size)
    values = {
        **config.to_dict(),
        "class_name": type(model).__name__,
        "num_labels": config.num_labels,
        "channels": counted(config.num_channels, "channel"),
        "layers": counted(config.num_hidden_layers, "layer"),
        "heads": counted(config.num_attention_heads, "head"),
        "num_parameters": model.num_parameters(),
        "size": f"{height} x {width}",
        "encryption": f"{facts['family']}, key `{facts['fingerprint']}`" if facts else "none (plain)",
    }
    parts = (
        _FACTS.format(**values),
        ENCRYPTED.format(**facts) if facts else _PLAIN,
        _usage(str(values["class_name"]), facts["family"] if facts else None),
        THREATS.format(**values),
    )
    return marked(*parts)


def marked(*parts: str) -> str:
    """Sections -> the generated part of a card, between the markers."""
    return "\n".join((_BEGIN, "", *parts, _END))


def _usage(class_name: str, family: str | None) -> str:
    """The lines that run the model, with a key where it is encrypted."""
    key_class = KEY_CLASSES.get(family, "SecretKey") if family else ""
    key_argument = "secret_key=secret_key, " if family else ""
    lines = [
        f"from hf_privseg import {', '.join(filter(None, (key_class, class_name, 'SetrImageProcessor')))}\n",
        f'secret_key = {key_class}.from_file("my.key")' if family else "",
        f'model = {class_name}.from_pretrained("path/or/name/of/this/model")',
        'processor = SetrImageProcessor.from_pretrained("path/or/name/of/this/model")',
        f'inputs = processor(images=image, {key_argument}return_tensors="pt")',
        "outputs = model(**inputs)",
    ]
    if class_name == "SetrForSemanticSegmentation":
        target = "target_sizes=[image.size[::-1]]"
        lines.append(f"maps = processor.post_process_semantic_segmentation(outputs, {target})")
    code = "\n".join(line for line in lines if line)
    return f"## How to use it\n\n```python\n{code}\n```\n"


def new_card(model: PreTrainedModel, tags: Iterable[str] = ()) -> ModelCard:
    """A whole card: front matter without a licence, a place for the owner's words, and the generated part."""
    own_tags = ["setr", "image-segmentation", "semantic-segmentation", "privacy", "image-encryption"]
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="image-segmentation",
        tags=[*own_tags, *(tag for tag in tags if tag not in own_tags)],
    )
    title = _TITLE.format(decoder_type=model.config.decoder_type)
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{title}\n{generated_part(model)}\n")


def write_model_card(model: PreTrainedModel, folder: str | PathLike) -> None:
    """Write README.md where there is none (or transformers' empty one), else bring its generated part up to date.

    Args:
        model: a SETR model of any class.
        folder: where the model is saved.
    """
    write_card(folder, generated_part(model), lambda tags: new_card(model, tags))


def write_card(folder: str | PathLike, part: str, new: Callable[[Iterable[str]], ModelCard]) -> None:
    """The same with a generated part, `marked`, and what makes a whole new card with further tags."""
    path = Path(folder) / "README.md"
    # surrogateescape: a card in another encoding is not ours to refuse
    text = path.read_text(encoding="utf-8", errors="surrogateescape") if path.exists() else ""
    head, begin, rest = text.partition(_BEGIN)
    _, end, tail = rest.partition(_END)
    if begin and end:
        text = head + part + tail
    elif not text.strip():
        text = str(new(()))
    elif _is_empty_card(text):
        text = str(new(ModelCard(text).data.get("tags") or ()))
    else:
        return
    write_whole(path, text.encode("utf-8", errors="surrogateescape"), overwrite=True)


def _is_empty_card(text: str) -> bool:
    """Whether it is the card that transformers makes at a push to a repository without one, with nothing added."""
    if _EMPTY_CARD not in text:
        return False
    empty = ModelCard.from_template(ModelCardData(), model_description=_EMPTY_CARD)
    return ModelCard(text).text.strip() == empty.text.strip()


__all__ = ["ENCRYPTED", "KEY_CLASSES", "THREATS", "marked", "write_card", "write_model_card"]
