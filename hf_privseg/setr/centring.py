"""How levels become the pixels that a model takes, and what an encryption needs of it: pixels in [-1, 1]."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np


def refuse_secret_key(settings: Mapping[str, Any]) -> None:
    """Refuse a key among settings, which are saved and shown."""
    if "secret_key" in settings:
        raise TypeError(
            "secret_key is no setting of an image processor, for settings are saved and shown; pass it to the call: "
            "processor(images, secret_key=key)"
        )


def check_channels(settings: Mapping[str, Any]) -> None:
    """Refuse settings that have several numbers, but not one a channel.

    Raises:
        ValueError: names the setting.
    """
    num_channels = settings["num_channels"]
    for name in ("image_mean", "image_std", "pad_value"):
        value = settings[name]
        if isinstance(value, Sequence) and len(value) != num_channels:
            raise ValueError(
                f"expected {name} to be one number or {num_channels}, as many as num_channels says, got {len(value)}"
            )


def with_channels(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a call -> the same with `num_channels` where only the mean says it, by one number a channel."""
    mean = settings.get("image_mean")
    return {"num_channels": len(mean)} | dict(settings) if isinstance(mean, Sequence) and mean else dict(settings)


@dataclass(frozen=True)
class Centring:
    """The settings of an image processor that rescale and normalise; the defaults give pixels in [-1, 1].

    Args:
        do_rescale: whether levels are multiplied by `rescale_factor` first.
        rescale_factor: usually 1 / 255.
        do_normalize: whether `image_mean` is subtracted then, and the result divided by `image_std`.
        image_mean: one number, or one a channel.
        image_std: likewise.
    """

    do_rescale: bool | None = True
    rescale_factor: float = 1 / 255
    do_normalize: bool | None = True
    image_mean: float | Sequence[float] = 0.5
    image_std: float | Sequence[float] = 0.5

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> "Centring":
        """Take these settings from all those of an image processor."""
        return cls(**{field.name: settings[field.name] for field in fields(cls)})

    def to_dict(self) -> dict[str, Any]:
        """The settings by name, as `rescale_and_normalize` takes them."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def check_encryptable(self) -> None:
        """Refuse settings that give other pixels than those in [-1, 1], which every cipher needs.

        Raises:
            ValueError: names the first setting that differs, and the way out.
        """
        for name, expected in CENTRED.to_dict().items():
            found = getattr(self, name)
            if any(value != expected for value in (found if isinstance(found, Sequence) else [found])):
                raise ValueError(
                    f"encryption needs pixels in [-1, 1], that is {name}={expected}, got {found}; a key mixes the "
                    "channels, so statistics of their own would not cancel: fold them into the patch embedding's "
                    "weight and bias, as SetrForSemanticSegmentation.from_vit does, and use this processor's defaults"
                )

    def before(self, pad_value: float | Sequence[float], *, is_8_bits: bool) -> Any:
        """A padding in normalised units -> the same, one number or one a channel, before this centring.

        Images are padded while they are 8 bits deep, so that 8-bit ciphertexts hold the same pixels as float ones.
        The padding is therefore rounded to the nearest level; the mean, 127.5, becomes 128.

        Args:
            pad_value: in the units of the centred image.
            is_8_bits: whether the image that is padded is; only then is the padding rounded.

        Raises:
            ValueError: the padding of a uint8 image is no level in 0..255.
        """
        value = np.asarray(pad_value, np.float64)
        if self.do_normalize:
            value = value * np.asarray(self.image_std, np.float32) + np.asarray(self.image_mean, np.float32)
        if self.do_rescale:
            value = value * (1 / self.rescale_factor)  # 255 exactly, as in the library's fused step
        if is_8_bits:
            value = value.round()
            if value.min() < 0 or value.max() > 255:
                raise ValueError(
                    f"expected a pad_value in normalised units, got {pad_value}: {value.tolist()} in 0..255"
                )
        return value.tolist()


CENTRED = Centring()  # what an encryption needs: pixels in [-1, 1], whatever their channel
