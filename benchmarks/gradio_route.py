"""The same engine behind a Gradio function, as a Gradio app serves it: upload, queue, event stream, download.

    python benchmarks/gradio_route.py encrypted_model --port 7861

Its named endpoint is /segment: gradio_client.Client(URL).predict(handle_file(ENCRYPTED_IMAGE), api_name="/segment").
benchmarks/service_routes.py compares it with the service's own route.
"""

import argparse
import tempfile
from pathlib import Path

import gradio as gr

from hf_privseg.service import SegmentationService
from hf_privseg.service.answers import PNG, encoded
from hf_privseg.storage.models import load_model


def build(service: SegmentationService, folder: Path) -> gr.Blocks:
    """An engine -> a Gradio app with one function from file to file; the answers lie in `folder`."""

    def segment(path: str) -> str:
        content = encoded(service.segment(Path(path).read_bytes()), PNG, service)
        with tempfile.NamedTemporaryFile(dir=folder, suffix=".png", delete=False) as answer:
            answer.write(content)
        return answer.name

    with gr.Blocks(analytics_enabled=False) as app:
        given, found = gr.File(), gr.File()
        gr.Button().click(segment, given, found, api_name="segment", concurrency_limit=1)
    return app


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--port", type=int, default=7861)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        app = build(SegmentationService(*load_model(arguments.model)), Path(folder))
        app.launch(server_port=arguments.port, ssr_mode=False, quiet=True)


if __name__ == "__main__":
    main()
