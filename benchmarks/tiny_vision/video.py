"""Models of videos, whose blocks span one frame or several."""

import transformers as hf

from .parts import ENCODER, PATCHES, Builder, Case, pixels


def _timesformer() -> Case:
    config = hf.TimesformerConfig(**PATCHES, num_frames=2)
    return Case(hf.TimesformerModel(config), {"pixel_values": pixels(1, 2, 3, 32, 32)})


def _videomae() -> Case:
    model = hf.VideoMAEForVideoClassification(hf.VideoMAEConfig(**PATCHES, num_frames=4, tubelet_size=2))
    return Case(model, {"pixel_values": pixels(2, 4, 3, 32, 32)})


def _vivit() -> Case:
    config = hf.VivitConfig(**ENCODER, image_size=32, num_frames=6, tubelet_size=[3, 8, 8])
    return Case(hf.VivitForVideoClassification(config), {"pixel_values": pixels(2, 6, 3, 32, 32)})


def _vjepa2() -> Case:
    config = hf.VJEPA2Config(
        patch_size=8, crop_size=32, frames_per_clip=4, hidden_size=32, num_attention_heads=2, num_hidden_layers=2,
        num_pooler_layers=1, pred_hidden_size=32, pred_num_attention_heads=2, pred_num_hidden_layers=1,
        pred_num_mask_tokens=2, pred_zero_init_mask_tokens=False,
    )  # fmt: skip
    return Case(hf.VJEPA2Model(config), {"pixel_values_videos": pixels(2, 4, 3, 32, 32)})


def _videoprism() -> Case:
    config = hf.VideoPrismVisionConfig(
        hidden_size=32, num_attention_heads=2, intermediate_size=37, image_size=32, num_frames=2,
        tubelet_size=[1, 8, 8], num_spatial_layers=2, num_temporal_layers=1, num_auxiliary_layers=1,
    )  # fmt: skip
    return Case(hf.VideoPrismVisionModel(config), {"pixel_values_videos": pixels(2, 2, 3, 32, 32)})


VIDEO_MODELS: dict[str, Builder] = {
    "timesformer": _timesformer,
    "videomae": _videomae,
    "vivit": _vivit,
    "vjepa2": _vjepa2,
    "videoprism": _videoprism,
}
