"""Training curves: the scalars of a run, grouped by level."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator

from scripts.figures.style import PAGE_WIDTH
from utils.errors import InputError

COLUMNS = 2
PANEL_HEIGHT = 1.9  # inches
BETWEEN_LEVELS = "between levels"

Curve = Sequence[tuple[int, float]]


def read_scalars(run: Path) -> dict[str, Curve]:
    """Read (step, value) of each scalar of a run, by its name.

    Args:
        run: the run's output folder, which holds the folder `tensorboard`.

    Raises:
        InputError: the run left no scalars.
    """
    folder = run / "tensorboard"
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give the --output_dir of a training run")
    events = EventAccumulator(str(folder), size_guidance={SCALARS: 0}).Reload()
    curves = {name: [(event.step, event.value) for event in events.Scalars(name)] for name in events.Tags()[SCALARS]}
    if not curves:
        raise InputError(f"{folder}: holds no scalars; has the run taken a step?")
    return curves


def panels(curves: Mapping[str, Curve]) -> dict[str, dict[str, Curve]]:
    """Group scalars by panel: "entity.ce_t2v" is "ce_t2v" of "entity"; "loss" and "score" have panels of their own."""
    grouped: dict[str, dict[str, Curve]] = {}
    for name, curve in curves.items():
        panel, _, term = name.rpartition(".")
        panel = panel or (BETWEEN_LEVELS if name.startswith("kl_") else name)
        grouped.setdefault(panel, {})[term] = curve
    first = ("loss", "score")
    return {panel: grouped[panel] for panel in (*first, *grouped) if panel in grouped}


def curves_figure(curves: Mapping[str, Curve]) -> Figure:
    """Draw every scalar over the training step, one panel for each level; line labels are the scalars' names."""
    grouped = panels(curves)
    rows = math.ceil(len(grouped) / COLUMNS)
    figure = Figure(figsize=(PAGE_WIDTH, PANEL_HEIGHT * rows), layout="constrained")
    grid = list(figure.subplots(rows, COLUMNS, squeeze=False, sharex=True).flat)
    for axes, (panel, terms) in zip(grid, grouped.items(), strict=False):
        for term, curve in terms.items():
            axes.plot(*zip(*curve, strict=True), label=term, linewidth=1, marker="." if len(curve) < 30 else None)
        axes.set_title(panel, size=8, loc="left")
        axes.set_xlabel("step", size=7)
        axes.set_ylabel("loss term" if panel not in curves else panel, size=7)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.tick_params(labelsize=6, labelbottom=True)
        axes.grid(color="0.9", linewidth=0.5)
        if len(terms) > 1:
            axes.legend(fontsize=5.5)
    for axes in grid[len(grouped) :]:
        axes.remove()
    return figure
