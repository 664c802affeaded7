"""The hierarchical figure: words above, frames below, and between them the interaction, level by level."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from scripts.figures.layout import NUMBER_SIZE, Box, FrameRow, WordRow, place_frames, place_words
from scripts.figures.style import GREY, PAGE_WIDTH, colour_scale, scale_label
from scripts.figures.view import Band, View

MARGIN = 0.08  # inches, as all lengths here
HEADER = 0.34
LINKS = 0.85
SCALE_WIDTH = 1.3
SCALE_HEIGHT = 0.07
WIDEST_LINE = 2.6  # points
THINNEST_LINE = 0.25


def hierarchy_figure(view: View) -> Figure:
    """Draw all bands of a pair, as wide as a page.

    The lines of a band are one `LineCollection` with the group id "interaction <level>", from the weakest to the
    strongest; its array holds their interactions.
    """
    rows = []
    for band in view.bands:
        boxed = band is not view.bands[0]
        width = PAGE_WIDTH - 2 * MARGIN
        rows.append(
            (place_words(view.pieces, band.words, width, boxed=boxed), place_frames(band.frames, width, boxed=boxed))
        )
    heights = [HEADER + words.height + LINKS + frames.height + 2 * MARGIN for words, frames in rows]
    figure = Figure(figsize=(PAGE_WIDTH, sum(heights)))
    top = 1.0
    for band, (words, frames), height in zip(view.bands, rows, heights, strict=True):
        share = height / sum(heights)
        axes = figure.add_axes((0, top - share, 1, share), label=band.name)
        axes.set(
            xlim=(-MARGIN, PAGE_WIDTH - MARGIN),
            ylim=(-LINKS - frames.height - MARGIN, words.height + HEADER + MARGIN),
            autoscale_on=False,
        )
        axes.axis("off")
        _draw_words(axes, words)
        _draw_frames(axes, frames, view.frames)
        lines = _draw_lines(axes, band, words.anchors, frames.anchors, exact=view.exact)
        _draw_header(axes, band, lines, scale_label(exact=view.exact))
        top -= share
    return figure


def _draw_header(axes: Axes, band: Band, lines: LineCollection, label: str) -> None:
    """Name and similarity of the level on the left, the colour bar on the right."""
    right, top = axes.get_xlim()[1] - MARGIN, axes.get_ylim()[1] - MARGIN
    axes.plot((0, right), (top + MARGIN / 2,) * 2, color="0.85", linewidth=0.6)
    axes.text(0, top, band.name, size=9, weight="bold", va="top")
    axes.text(0.6, top, f"similarity {band.sim:.3f}", size=8, va="top")
    left = right - SCALE_WIDTH - 0.15
    axes.text(left - 0.15, top, label, size=7, ha="right", va="top")
    inset = axes.inset_axes(
        (left, top - SCALE_HEIGHT - 0.02, SCALE_WIDTH, SCALE_HEIGHT),
        transform=axes.transData,
        label=f"{band.name} scale",
    )
    scale = axes.figure.colorbar(lines, cax=inset, orientation="horizontal")
    scale.set_ticks([lines.norm.vmin, lines.norm.vmax], labels=[f"{x:.3g}" for x in (lines.norm.vmin, lines.norm.vmax)])
    scale.ax.tick_params(labelsize=6, length=1.5, width=0.4, pad=1)
    scale.outline.set_linewidth(0.4)


def _draw_words(axes: Axes, row: WordRow) -> None:
    """Words from height 0 upwards; the special tokens in grey italics."""
    _draw_boxes(axes, row.boxes, 0)
    for word, place in zip(row.words, row.places, strict=True):
        axes.text(
            place.centre,
            place.bottom if row.upright else place.bottom + place.height / 2,
            word.label,
            size=row.size,
            rotation=90 if row.upright else 0,
            ha="center",
            va="bottom" if row.upright else "center_baseline",
            color=GREY if word.special else "black",
            style="italic" if word.special else "normal",
            parse_math=False,
            zorder=3,
        )


def _draw_frames(axes: Axes, row: FrameRow, pictures: np.ndarray) -> None:
    """Thumbnails below the lines with their numbers, counted from 1; stems lead to those further down."""
    _draw_boxes(axes, row.boxes, -LINKS)
    for frame, place in zip(row.frames, row.thumbnails, strict=True):
        bottom = place.bottom - LINKS
        extent = (place.left, place.left + place.width, bottom, bottom + place.height)
        axes.imshow(pictures[frame], extent=extent, aspect="auto", zorder=3, label=f"frame {frame + 1}")
        axes.text(place.centre, bottom - 0.015, str(frame + 1), size=NUMBER_SIZE, ha="center", va="top", color=GREY)
        if not row.boxes:
            axes.plot((place.centre,) * 2, (-LINKS, bottom), color="0.7", linewidth=0.4, zorder=2)


def _draw_boxes(axes: Axes, boxes: list[Box], height: float) -> None:
    """Frames of rounded corners, lifted by `height`."""
    for box in boxes:
        axes.add_patch(
            FancyBboxPatch(
                (box.left, box.bottom + height),
                box.width,
                box.height,
                boxstyle="round,pad=0,rounding_size=0.03",
                facecolor="0.97",
                edgecolor="0.55",
                linewidth=0.6,
                zorder=2,
            )
        )


def _draw_lines(
    axes: Axes, band: Band, words: Sequence[float], frames: Sequence[float], *, exact: bool
) -> LineCollection:
    """A line for each word and frame player, coloured and weighted by their interaction, the strongest on top."""
    scale = colour_scale(band.interaction, exact=exact)
    values = band.interaction.ravel()
    strength = scale.strength(values)
    starts, ends = np.meshgrid(words, frames, indexing="ij")
    segments = np.stack([starts, np.zeros_like(starts), ends, np.full_like(ends, -LINKS)], axis=-1).reshape(-1, 2, 2)
    pitch = 72 * PAGE_WIDTH / max(len(words), len(frames))
    widest = min(WIDEST_LINE, pitch / 5)
    order = strength.argsort(kind="stable")
    lines = LineCollection(
        segments[order],
        array=values[order],
        cmap=scale.colours,
        norm=scale.norm,
        linewidths=THINNEST_LINE + (widest - THINNEST_LINE) * strength[order] ** 2,
        capstyle="butt",
        zorder=1,
        gid=f"interaction {band.name}",
    )
    axes.add_collection(lines, autolim=False)
    return lines
