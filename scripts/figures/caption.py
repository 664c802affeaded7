"""A caption, and the attention of each word to the frames of each level."""

import numpy as np
from matplotlib.figure import Figure

from models import Description
from scripts.figures.heatmap import frame_ranges
from scripts.figures.style import PAGE_WIDTH

ROW = 0.22  # inches, as all lengths here
AROUND = 1.1
TEXT = 7.0  # points
COLOURS = "YlGnBu"


def caption_figure(said: Description) -> Figure:
    """Draw a map for each level side by side: rows are words with their probabilities, columns are tokens.

    A column names the frames of its token. All maps have one colour scale; a row sums to 1 over the levels.
    """
    levels = {name: [place for place, frames in enumerate(held) if frames] for name, held in said.frames.items()}
    maps = {name: np.array([[word.attention[name][place] for place in places] for word in said.words])
            for name, places in levels.items()}  # fmt: skip
    highest = max((values.max() for values in maps.values() if values.size), default=1.0)
    figure = Figure(figsize=(PAGE_WIDTH, ROW * len(said.words) + AROUND), layout="constrained")
    axes = figure.subplots(1, len(maps), squeeze=False, width_ratios=[len(places) + 1 for places in levels.values()])[0]
    for number, (each, (name, values)) in enumerate(zip(axes, maps.items(), strict=True)):
        image = each.imshow(values, cmap=COLOURS, vmin=0, vmax=highest, aspect="auto", interpolation="nearest")
        each.set_title(name, size=TEXT + 1)
        columns = [frame_ranges(said.frames[name][place]) for place in levels[name]]
        each.set_xticks(range(len(columns)), columns, size=TEXT, rotation=90)
        rows = [f"{word.word}  {word.probability:.2f}" for word in said.words] if number == 0 else []
        each.set_yticks(range(len(rows)), rows, size=TEXT, parse_math=False)
        each.tick_params(length=1.5, width=0.4)
        each.set_xlabel("frames", size=TEXT)
    bar = figure.colorbar(image, ax=list(axes), fraction=0.03, pad=0.01)
    bar.set_label("attention", size=TEXT)
    bar.ax.tick_params(labelsize=TEXT - 1, length=1.5, width=0.4)
    figure.suptitle(said.caption, size=TEXT + 2, parse_math=False)
    return figure
