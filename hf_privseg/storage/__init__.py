"""Models and images on disk: load and save them, and tell what a file is."""
