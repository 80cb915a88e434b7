"""The configuration of SETR: encoder and decoder sizes, and the public facts about the key of an encrypted model."""

import os
from typing import TYPE_CHECKING, Any, Literal, Self, cast

from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig

from .bounded_json import object_from_file
from .class_names import check_class_names, void_label
from .config_checks import check_model_settings
from .public_facts import KeyFacts

# Where the four feature maps are taken, as fractions of the depth. For ViT-L this gives layers 9, 14, 19, 23 (naive,
# pup) and 5, 11, 17, 23 (mla), as in the published models.
_TAP_FRACTIONS = {
    "naive": (5 / 12, 5 / 8, 5 / 6, 1.0),
    "pup": (5 / 12, 5 / 8, 5 / 6, 1.0),
    "mla": (1 / 4, 1 / 2, 3 / 4, 1.0),
}


@strict
class SetrConfig(PreTrainedConfig):
    r"""The sizes of a SETR model; the defaults are SETR-Naive on ViT-L/16 at 512 x 512 (Zheng et al., CVPR 2021).

    Args:
        hidden_size, num_hidden_layers, num_attention_heads, intermediate_size, hidden_act: the ViT encoder.
        hidden_dropout_prob, attention_probs_dropout_prob, drop_path_rate: regularisation of the encoder, in [0, 1).
        initializer_range: standard deviation of the encoder's initial weights.
        layer_norm_eps: epsilon of every LayerNorm.
        image_size: the training size in pixels, an int or (height, width); it fixes the grid of position embeddings.
            The model takes any other size on the patch grid too, and resizes the position embeddings for it.
        patch_size: side of a patch in pixels. It is also the block size of the image encryption.
        num_channels: channels of the input.
        qkv_bias: whether the query, key and value projections have a bias.
        position_interpolation: `"bilinear"` resizes position embeddings as SETR does (only where the number of patches
            differs), `"bicubic"` as ViT and DINOv2 do (wherever the grid differs).
        use_cls_token: whether a class token runs through the encoder. None means as published: yes for `naive` and
            `pup`, no for `mla`.
        decoder_type: `"naive"` (1x1 convolutions), `"pup"` (progressive up-sampling) or `"mla"` (multi-level
            aggregation). `decoder=` means the same.
        out_indices: encoder layers, 0 the first, whose outputs feed the decoder and the auxiliary heads. None means as
            published, in proportion to the depth. The last one feeds the `naive` and `pup` decoder.
        decoder_hidden_size: channels inside the decoder.
        mla_hidden_size: channels of each of the `mla` decoder's streams.
        use_auxiliary_head: whether auxiliary heads exist. They serve training alone.
        auxiliary_num_stages: stages of each auxiliary head of `naive` and `pup`. None means 1 and 2.
        auxiliary_loss_weight: weight of each auxiliary loss.
        semantic_loss_ignore_index: the label that the loss leaves out. None means 255, or -100 where 255 is a class.
        id2label: {class: name}, two or more classes that are numbered from 0 without gaps. `label2id` follows from it.
        encryption: None, or the public facts {"family", "version", "fingerprint"} of the key that the patch embedding
            is encrypted with. Set by `encrypt_model`. The key itself is never part of a configuration.
    """

    model_type = "setr"

    hidden_size: int = 1024
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    intermediate_size: int = 4096
    hidden_act: str = "gelu"
    hidden_dropout_prob: float | int = 0.0
    attention_probs_dropout_prob: float | int = 0.0
    drop_path_rate: float | int = 0.0
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-6
    image_size: int | list[int] | tuple[int, int] = 512
    patch_size: int = 16
    num_channels: int = 3
    qkv_bias: bool = True
    position_interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    use_cls_token: bool | None = None
    decoder_type: Literal["naive", "pup", "mla"] = "naive"
    out_indices: list[int] | tuple[int, ...] | None = None
    decoder_hidden_size: int = 256
    mla_hidden_size: int = 128
    use_auxiliary_head: bool = True
    auxiliary_num_stages: int | None = None
    auxiliary_loss_weight: float = 0.4
    semantic_loss_ignore_index: int | None = None
    encryption: dict[str, Any] | None = None

    if TYPE_CHECKING:  # an argument that is no field
        num_labels: int = 2

    def __new__(cls, *_: Any, **settings: object) -> Self:
        """Refuse settings out of range before anything is made of them."""
        _refuse_secrets(settings)
        check_model_settings(settings, cls)
        return super().__new__(cls)

    def __post_init__(self, **kwargs: Any) -> None:
        # No attribute may be called `decoder`: transformers takes config.decoder for a configuration.
        self.decoder_type = kwargs.pop("decoder", self.decoder_type)
        if self.use_cls_token is None:
            self.use_cls_token = self.decoder_type != "mla"
        if self.auxiliary_num_stages is None:
            self.auxiliary_num_stages = 2 if self.decoder_type == "pup" else 1
        if self.out_indices is None:
            taps = {
                max(round(self.num_hidden_layers * f) - 1, 0) for f in _TAP_FRACTIONS.get(self.decoder_type, (1.0,))
            }
            self.out_indices = sorted(taps)
        self.out_indices = list(self.out_indices)
        super().__post_init__(**kwargs)
        names = cast("dict[int, str]", self.id2label)  # the parent class numbers the classes where it is None
        if self.label2id is None:
            self.label2id = {name: index for index, name in names.items()}
        if self.semantic_loss_ignore_index is None:
            self.semantic_loss_ignore_index = void_label(len(names))

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As in transformers, whose `from_pretrained` calls it.

        Raises:
            ValueError: a secret among the settings, or settings of wrong types, whatever the library raises for them.
        """
        _refuse_secrets(kwargs)
        try:
            return super().from_dict(config_dict, **kwargs)
        except (StrictDataclassError, TypeError, AttributeError, LookupError, ArithmeticError) as error:
            raise ValueError(f"expected the settings of a SETR model, got others ({error!s:.300})") from error

    @classmethod
    def _dict_from_json_file(cls, json_file: str | os.PathLike[str]) -> dict[str, object]:
        """Read a config.json within bounds; transformers calls it."""
        return {name: cls._decode_special_floats(value) for name, value in object_from_file(json_file).items()}

    @property
    def grid_size(self) -> tuple[int, int]:
        """(rows, columns) of patches at the training size; the grid of the stored position embeddings."""
        height, width = (self.image_size,) * 2 if isinstance(self.image_size, int) else self.image_size
        return height // self.patch_size, width // self.patch_size

    @property
    def num_levels(self) -> int:
        """How many layers feed the decoder and the auxiliary heads."""
        return len(self.out_indices or ())

    @property
    def key_facts(self) -> KeyFacts | None:
        """The public facts in `encryption`; None for a plain model."""
        return None if self.encryption is None else KeyFacts.from_dict(self.encryption)

    def validate_image_size(self) -> None:
        """Refuse a training size without a whole patch."""
        if min(self.grid_size) < 1:
            raise ValueError(
                f"image_size must be at least patch_size {self.patch_size} a side, got {self.image_size}."
            )

    def validate_heads(self) -> None:
        """Refuse a hidden size that the attention heads do not divide."""
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size must be a multiple of num_attention_heads, got {self.hidden_size} and "
                f"{self.num_attention_heads}."
            )

    def validate_out_indices(self) -> None:
        """Refuse layers that do not exist, are not in order, or leave layers without use."""
        indices = list(self.out_indices or ())
        if (
            not indices
            or indices != sorted(set(indices))
            or indices[0] < 0
            or indices[-1] != self.num_hidden_layers - 1
        ):
            raise ValueError(
                f"out_indices must be increasing layer numbers from 0 that end with the last layer "
                f"({self.num_hidden_layers - 1}), got {indices}. Leave it out to place them as published."
            )

    def validate_id2label(self) -> None:
        """Refuse fewer than two classes, and ids with gaps."""
        check_class_names(cast("dict[int, str]", self.id2label))

    def validate_encryption(self) -> None:
        """Refuse anything but the three public facts."""
        try:
            _ = self.key_facts
        except ValueError as error:
            raise ValueError(
                "encryption must be None or exactly {'family': str, 'version': int, 'fingerprint': str}, but "
                f"{error}. It is set by `encrypt_model`; there is no need to write it by hand."
            ) from None


def _refuse_secrets(settings: dict[str, Any]) -> None:
    for name in settings:
        if name in ("secret_key", "key", "private_key", "passphrase"):
            raise ValueError(
                f"SetrConfig got `{name}`: a configuration is public and is written to config.json. Give the key to "
                "`model.encrypt_model(secret_key)` and to the processor's call instead."
            )


__all__ = ["SetrConfig"]
