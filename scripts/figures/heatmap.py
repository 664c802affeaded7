"""Heat maps of the interaction, one for each level."""

from collections.abc import Sequence
from itertools import groupby
from textwrap import shorten

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scripts.figures.style import PAGE_WIDTH, colour_scale, scale_label, text_width
from scripts.figures.view import Band, View
from scripts.figures.words import join_words

LONGEST_LABEL = 36  # letters
LARGEST_TEXT = 7.0  # points
LINE_HEIGHT = 1.3  # of the text size
ROW = 0.2  # inches, as all lengths here
MOST_ROWS_HEIGHT = 2.5
SMALLEST_ROW = 0.1
AROUND = 0.8
MAP_WIDTH = 4.6


def heatmap_figure(view: View) -> Figure:
    """Draw the levels in a column, text players as rows, video players as columns.

    Each level's axes hold one image, whose array is the band's interaction.
    """
    heights = [max(SMALLEST_ROW * len(band.words), min(ROW * len(band.words), MOST_ROWS_HEIGHT)) for band in view.bands]
    figure = Figure(figsize=(PAGE_WIDTH, sum(heights) + AROUND * len(heights)), layout="constrained")
    for axes, band, height in zip(
        figure.subplots(len(heights), height_ratios=heights), view.bands, heights, strict=True
    ):
        scale = colour_scale(band.interaction, exact=view.exact)
        image = axes.imshow(
            band.interaction, cmap=scale.colours, norm=scale.norm, aspect="auto", interpolation="nearest"
        )
        bar = figure.colorbar(image, cax=axes.inset_axes((1.015, 0, 0.02, 1)))
        bar.ax.tick_params(labelsize=6, length=1.5, width=0.4)
        axes.set_title(f"{band.name}, similarity {band.sim:.3f}", size=8, loc="left")
        axes.set_title(scale_label(exact=view.exact), size=6, loc="right")
        label_players(axes, view, band, height / len(band.words))
    return figure


def label_players(axes: Axes, view: View, band: Band, row_height: float) -> None:
    """Label rows with words and columns with frame numbers, in a font size that fits."""
    rows = [" ".join(word.label for word in join_words(view.pieces, tokens)) for tokens in band.words]
    columns = [_short(frame_ranges(frames)) for frames in band.frames]
    column_width = MAP_WIDTH / len(columns)
    upright = max(text_width(column, LARGEST_TEXT) for column in columns) > 0.8 * column_width
    axes.set_yticks(range(len(rows)), map(_short, rows), size=min(LARGEST_TEXT, 72 * row_height / LINE_HEIGHT))
    axes.set_xticks(
        range(len(columns)),
        columns,
        size=min(LARGEST_TEXT, 72 * column_width / LINE_HEIGHT),
        rotation=90 if upright else 0,
    )
    for label in axes.get_yticklabels():
        label.set_parse_math(False)
    axes.tick_params(length=1.5, width=0.4)
    axes.set_xlabel("frames", size=LARGEST_TEXT)


def frame_ranges(frames: Sequence[int]) -> str:
    """Increasing positions as numbers from 1, neighbours as ranges: (0, 1, 2, 5) is "1-3, 6"."""
    runs = [[frame for _, frame in run] for _, run in groupby(enumerate(frames, start=1), lambda at: at[1] - at[0])]
    return ", ".join(f"{run[0] + 1}-{run[-1] + 1}" if len(run) > 1 else str(run[0] + 1) for run in runs)


def _short(label: str) -> str:
    return shorten(label, LONGEST_LABEL, placeholder=" ...")
