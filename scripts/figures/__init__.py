"""Figures of what the model sees: the hierarchy, heat maps, training curves."""
