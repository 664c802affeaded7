"""Figures: the hierarchy, heat maps, training curves."""
