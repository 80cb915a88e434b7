"""Pieces of training and evaluation: data, metric, schedule. The loop itself is visible in examples/train_setr.py."""
