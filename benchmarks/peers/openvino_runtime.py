"""An ONNX file in OpenVINO, in an environment of its own: `../exported.py` starts it.

It reports versions as a line of JSON. Then it answers each line, "float32" or "bfloat16", with the seconds
of processor time that it took to run `pixels.npy` of the folder; what came out lies in `logits.npy`.
"""

import json
import sys
import time
from importlib import import_module
from pathlib import Path

import numpy as np


def main() -> None:
    """Compiles, reports, and answers until its input ends."""
    request = json.loads(sys.argv[1])
    folder = Path(request["folder"])
    openvino = import_module("openvino")
    print(json.dumps({"openvino": openvino.get_version()}), flush=True)
    network = openvino.Core().read_model(request["model"])
    compiled = {}
    for line in sys.stdin:
        dtype = line.strip()
        if dtype not in compiled:
            settings = {
                "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[dtype],
                "INFERENCE_NUM_THREADS": request["threads"],
                "PERFORMANCE_HINT": "LATENCY",
            }
            compiled[dtype] = openvino.Core().compile_model(network, "CPU", settings)
        pixels = np.load(folder / "pixels.npy")
        start = time.process_time()
        (logits,) = compiled[dtype]({"pixel_values": pixels}).values()
        seconds = time.process_time() - start
        np.save(folder / "logits.npy", logits)
        print(seconds, flush=True)


if __name__ == "__main__":
    main()
