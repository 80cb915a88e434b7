"""A segmentation service for encrypted images: it never has a key and never sees an image.

engine.py       sessions, limits and segmentation; knows nothing of the web
model_view.py   one shared network under any number of encrypted patch embeddings
server_view.py  what the service can reconstruct from what it is sent, shown to whoever sent it
cleanup.py      deletes uploads and answers in time
sample.py       an image for visitors who have none at hand
app.py          the Gradio app: named endpoints and the page (needs gradio)
static/         the page's own modules: keys, ciphers and containers in the browser, as in Python
"""

from .engine import Limits, SegmentationService

__all__ = ["Limits", "SegmentationService"]
