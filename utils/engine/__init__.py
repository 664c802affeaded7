"""Training and evaluation: what all tasks share."""
