"""mmsegmentation's SETR, in an environment of its own: `../mmseg.py` starts it, and asks for one forward pass a line.

It draws a model and an image, writes both with the model's logits into a folder, and reports versions as a line of
JSON. Then it answers each line, the name of a dtype, with the seconds of processor time that one forward pass took.
"""

import copy
import json
import sys
import time
import types
import warnings
from importlib import import_module
from pathlib import Path

import numpy as np
import torch

# mmcv-lite lacks the compiled operators. Heads of other models import some; SETR runs none.
_OPS = types.ModuleType("mmcv.ops")
for _name in ("CrissCrossAttention", "PSAMask", "point_sample", "sigmoid_focal_loss"):
    setattr(_OPS, _name, type(_name, (), {}))
sys.modules["mmcv.ops"] = _OPS

BN = {"type": "BN", "requires_grad": True}
EPS = {"type": "LN", "eps": 1e-6, "requires_grad": True}


def model_settings(decoder: str, hidden_size: int, layers: int, heads: int, size: int, classes: int) -> dict:
    """What mmsegmentation builds a SETR from, as in its configurations of the published models."""
    fractions = (1 / 4, 1 / 2, 3 / 4, 1) if decoder == "mla" else (5 / 12, 5 / 8, 5 / 6, 1)
    backbone = {
        "type": "VisionTransformer", "img_size": (size, size), "patch_size": 16, "embed_dims": hidden_size,
        "num_layers": layers, "num_heads": heads, "out_indices": tuple(round(layers * f) - 1 for f in fractions),
        "drop_rate": 0.0, "norm_cfg": EPS, "with_cls_token": decoder != "mla", "interpolate_mode": "bilinear",
        "patch_bias": True,
    }  # fmt: skip
    head = {"num_classes": classes, "dropout_ratio": 0, "norm_cfg": BN, "align_corners": False}
    if decoder == "mla":
        neck = {"type": "MLANeck", "in_channels": [hidden_size] * 4, "out_channels": 256, "norm_cfg": BN}
        levels = {"in_channels": (256,) * 4, "channels": 512, "in_index": (0, 1, 2, 3), "mla_channels": 128}
        return {
            "type": "EncoderDecoder", "backbone": backbone, "decode_head": {"type": "SETRMLAHead", **levels, **head},
            "neck": {**neck, "norm_layer": EPS, "act_cfg": {"type": "ReLU"}},
        }  # fmt: skip
    stages = {"naive": (1, 4, 1), "pup": (4, 2, 3)}[decoder]
    stage = dict(zip(("num_convs", "up_scale", "kernel_size"), stages, strict=True))
    widths = {"in_channels": hidden_size, "channels": 256, "in_index": 3}
    decode_head = {"type": "SETRUPHead", **widths, **stage, **head}
    return {"type": "EncoderDecoder", "backbone": backbone, "decode_head": decode_head}


@torch.no_grad()
def drawn_model(settings: dict) -> torch.nn.Module:
    """A model in evaluation mode in which nothing is zero or one by chance of its initialisation."""
    import_module("mmseg.utils").register_all_modules(init_default_scope=True)
    torch.manual_seed(0)
    model = import_module("mmseg.registry").MODELS.build(settings).eval()
    for parameter in (model.backbone.pos_embed, model.backbone.cls_token):
        torch.nn.init.normal_(parameter, std=0.02)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor in (module.weight, module.running_var):
                tensor.uniform_(0.5, 1.5)  # type: ignore[union-attr] # a norm with running statistics has both
            for tensor in (module.bias, module.running_mean):
                tensor.normal_(std=0.2)  # type: ignore[union-attr] # likewise
    classifier = model.decode_head.conv_seg
    torch.nn.init.normal_(classifier.weight, std=classifier.in_channels**-0.5)  # logits of order 1, as trained ones
    return model


@torch.inference_mode()
def main() -> None:
    """Draws, writes, reports, and answers until its input ends."""
    warnings.filterwarnings("ignore")
    request = json.loads(sys.argv[1])
    folder, settings = Path(request["folder"]), model_settings(**request["model"])
    torch.set_num_threads(request["threads"])
    model = drawn_model(settings)
    size = request["model"]["size"]
    pixels = torch.rand(request["batch"], 3, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1
    half = {"mean": [127.5] * 3, "std": [127.5] * 3}  # of images whose pixels are in [-1, 1]
    text = f"model = {settings!r}\ndata_preprocessor = {half!r}\n"
    torch.save({"state_dict": model.state_dict(), "meta": {"cfg": text}}, folder / "model.pth")
    np.save(folder / "pixels.npy", pixels.numpy())
    np.save(folder / "logits.npy", model(pixels, mode="tensor").numpy())
    found = {name: import_module(name).__version__ for name in ("mmseg", "mmengine", "mmcv", "torch")}
    print(json.dumps(found), flush=True)
    models = {}
    for line in sys.stdin:
        dtype = getattr(torch, line.strip())
        if dtype not in models:
            models[dtype] = copy.deepcopy(model).to(dtype), pixels.to(dtype)
        network, inputs = models[dtype]
        start = time.process_time()
        network(inputs, mode="tensor")
        print(time.process_time() - start, flush=True)


if __name__ == "__main__":
    main()
