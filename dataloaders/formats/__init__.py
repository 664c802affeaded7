"""Annotation files of the data sets, one reader each."""
