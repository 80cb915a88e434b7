"""The model card of an encrypted or decrypted model of another class than SETR: its generated part, as SETR's has one.

`privseg encrypt-model` and its like write it. After `save_pretrained` or before an upload, call `write_model_card`.
"""

from collections.abc import Iterable
from os import PathLike

from huggingface_hub import ModelCard, ModelCardData
from transformers import PreTrainedModel

from ..setr.model_card import ENCRYPTED, FOR_THE_OWNER, KEY_CLASSES, THREATS, marked, write_card
from .model_facts import ModelFacts
from .projection import find_projection, projection_name

_TITLE = "# {class_name}\n" + FOR_THE_OWNER

_FACTS = """## Model

| | |
|---|---|
| class | `{class_name}` |
| patch embedding | `{projection}`, {numbers} numbers a block |
| parameters | {num_parameters:,} |
| encryption | {encryption} |
"""

_PLAIN = """## Encryption

This checkpoint is **plain**: it takes plain images, and it protects nothing. `hf_privseg.encrypt_model(model, key)`
replaces its patch embedding E by E_enc E, after which it takes images that are encrypted with the same key.
"""

_USAGE = """## How to use it

The client, who has the key:

```python
from hf_privseg import EncryptingProcessor, {key_class}
from transformers import AutoConfig, AutoProcessor

secret_key = {key_class}.from_file("my.key")
name = "path/or/name/of/this/model"
processor = EncryptingProcessor(AutoProcessor.from_pretrained(name), AutoConfig.from_pretrained(name))
processor.encrypt(images=image, secret_key=secret_key).to_file("image.safetensors")
```

The server, which needs no key. Its own processor would give the model plain images, and garbage come out:

```python
from hf_privseg import EncryptedInputs
from transformers import {class_name}

model = {class_name}.from_pretrained("path/or/name/of/this/model").eval()
outputs = model(**EncryptedInputs.from_file("image.safetensors").inputs_for(model))
```
"""

_SMALL = """**The blocks of this model are small: a single ciphertext shows {seen} in every family.**
"""


def generated_part(model: PreTrainedModel) -> str:
    """A model that can be encrypted -> the text between the markers. Deterministic, and without anything secret."""
    facts, found = ModelFacts.of(model), find_projection(model)
    length = found.num_channels * found.patch_size**2
    side = found.patch_size if found.patch_size > 1 else round((length / 3) ** 0.5)  # of flattened patches
    key = None if facts is None else facts.key
    named = facts is not None and facts.projection is not None
    values = {
        "class_name": type(model).__name__,
        "projection": facts.projection if facts is not None and named else projection_name(model),
        "numbers": f"{length:,}",
        "num_parameters": model.num_parameters(),
        "encryption": "none (plain)" if key is None else f"{key.family}, key `{key.fingerprint}`",
        "key_class": KEY_CLASSES.get(key.family if key else "", "SecretKey"),
        "patch_size": side,
        "seen": "the scene" if side < 8 else "most of the scene",
    }
    state = _PLAIN if key is None else ENCRYPTED.format(**key.to_dict())
    usage = [] if key is None else [_USAGE.format(**values)]
    small = [_SMALL.format(**values)] if side < 14 else []
    return marked(_FACTS.format(**values), state, *usage, *small, THREATS.format(**values))


def new_card(model: PreTrainedModel, tags: Iterable[str] = ()) -> ModelCard:
    """A whole card: front matter without a licence, a place for the owner's words, and the generated part."""
    own_tags = ["privacy", "image-encryption"]
    data = ModelCardData(library_name="transformers", tags=[*own_tags, *(tag for tag in tags if tag not in own_tags)])
    title = _TITLE.format(class_name=type(model).__name__)
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{title}\n{generated_part(model)}\n")


def write_model_card(model: PreTrainedModel, folder: str | PathLike) -> None:
    """Write README.md where there is none (or transformers' empty one), else bring its generated part up to date.

    Args:
        model: of any class that can be encrypted, plain or encrypted.
        folder: where the model is saved.

    Raises:
        ValueError: the model cannot be encrypted.
    """
    write_card(folder, generated_part(model), lambda tags: new_card(model, tags))
