"""Models and images on disk: loading them, saving them whole, and saying what a file is."""
