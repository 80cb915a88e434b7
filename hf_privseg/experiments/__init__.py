"""What the tables and figures of the paper need beyond training and evaluation."""
