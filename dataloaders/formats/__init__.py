"""Annotation files of the data sets: what must be in them, and one reader each."""
