"""From a model and an image to a segmentation map: one image, sliding windows, the pipeline, pictures of maps."""
