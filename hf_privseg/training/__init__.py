"""Training and evaluation: options, data, metric, schedule, and the loop of `privseg train` (`train.py`)."""
