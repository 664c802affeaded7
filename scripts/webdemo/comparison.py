"""The estimator next to the exact interaction, in one colour map."""

import numpy as np
from matplotlib.figure import Figure

from scripts.figures.heatmap import label_players
from scripts.figures.style import PAGE_WIDTH
from scripts.figures.view import View

ROW = 0.22  # inches, as all lengths here
AROUND = 0.9
REACH = 3.0
"""Limit of the colour map in standard deviations."""


def standardised(interaction: np.ndarray) -> np.ndarray:
    """Deviation from the mean in standard deviations; zeros for constant input."""
    return (interaction - interaction.mean()) / (interaction.std() or 1.0)


def comparison_figure(estimator: View, exact: View) -> Figure:
    """Draw a row for each level, on the left the estimator's interactions and on the right the exact ones.

    The estimator is trained through a softmax and has no fixed zero, so both are drawn around their mean.
    """
    heights = [ROW * len(band.words) + AROUND for band in exact.bands]
    figure = Figure(figsize=(PAGE_WIDTH, sum(heights)), layout="constrained")
    grid = figure.subplots(len(heights), 2, height_ratios=heights, squeeze=False)
    for column, (name, view) in enumerate((("estimator", estimator), ("exact", exact))):
        for axes, band in zip(grid[:, column], view.bands, strict=True):
            image = axes.imshow(standardised(band.interaction), cmap="RdBu_r", vmin=-REACH, vmax=REACH, aspect="auto",
                                interpolation="nearest")  # fmt: skip
            axes.set_title(f"{band.name}, {name}", size=8, loc="left")
            label_players(axes, view, band, ROW)
            axes.tick_params(labelleft=not column)
    bar = figure.colorbar(image, ax=grid, location="bottom", fraction=0.04, aspect=50)
    bar.set_label("standard deviations from the mean of the level", size=7)
    bar.ax.tick_params(labelsize=6)
    return figure
