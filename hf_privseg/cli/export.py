"""The command `privseg export`: a model as a file for onnxruntime, OpenVINO or PyTorch without this package."""

from pathlib import Path
from typing import Annotated

import typer

from .options import Force, Json, Model, ModelFolder, one_of
from .output import report

# A test compares these with what the export knows; an import here would make `privseg --help` wait for torch.
FORMATS = ("onnx", "onnx-int8", "torch")


def export(
    model: Model,
    output: ModelFolder,
    format: Annotated[
        str,
        one_of(
            "--format",
            choices=FORMATS,
            help="onnx: an ONNX graph in float32. onnx-int8: its matrix products with 8-bit weights. torch: a program "
            "of torch.export.",
        ),
    ] = "onnx",
    size_seconds: Annotated[
        float,
        typer.Option(
            "--size-seconds",
            min=1.0,
            max=86400.0,
            help="That torch.export may take to let the size of images vary. With models that cut images into "
            "windows, such as Swin, it would not end. Does not count for SETR.",
        ),
    ] = 120.0,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Export a model, plain or encrypted, to a file that other runtimes run without this package.

    OUTPUT gets the file, and the settings of model and processor. The file takes the pixels that the model takes, at
    any size where the model does; it is run beside the model before it is kept. Of an encrypted model it holds the
    encrypted weights and no key, and whoever runs it sees what a server sees.
    """
    from ..storage.model_files import check_model_folder, copy_licences, source_of

    check_model_folder(output, overwrite=force)
    from ..export import example_inputs, export_model
    from ..setr.files import new_folder
    from ..storage.vision_models import load_any_model

    network, processor = load_any_model(model, device="cpu", dtype="float32")
    with new_folder(output, overwrite=force) as folder:
        inputs = example_inputs(network, processor)
        exported = export_model(network, folder, inputs, format=format, size_seconds=size_seconds)
        network.config.save_pretrained(folder)
        processor.save_pretrained(folder)
        copy_licences(Path(source_of(model)), folder)
    path = output / exported.path.name
    facts: dict[str, object] = {"path": path, "format": format, "outputs": exported.outputs}
    facts |= {"varies": exported.varies, "step": exported.step}
    facts |= {"difference": exported.difference, "num_checked": exported.num_checked}
    facts |= {"fixed_because": exported.fixed_because}
    varying = {
        "batch and size": f"any batch, sides that are multiples of {exported.step} pixels",
        "batch": "any batch, images of the processor's size",
        "nothing": "two images of the processor's size, no more and no fewer",
    }
    because = [f"No more varies, because: {exported.fixed_because}"] if exported.fixed_because else []
    report(
        facts,
        f"Wrote {path}: {', '.join(exported.outputs)} for {varying[exported.varies]}.",
        *because,
        f"Run beside the model on {exported.num_checked} inputs: outputs differ by {exported.difference:.1g} of their "
        "largest number at most.",
        as_json=as_json,
    )
