"""Encryption of any vision model of transformers whose first layer is linear on blocks that do not overlap."""
