"""A chart of effects, with their intervals."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from scripts.figures.style import PAGE_WIDTH


def effects_figure(effects: Sequence[dict]) -> Figure:
    """Draw a panel for each of the first two measures, a row for each comparison.

    Args:
        effects: each with "of", "against", "measure", and in points "effect" and "interval", low and high.
    """
    measures = list(dict.fromkeys(each["measure"] for each in effects))[:2]
    names = list(dict.fromkeys(f"{each['of']}\nagainst {each['against']}" for each in effects))
    figure = Figure(figsize=(PAGE_WIDTH, 1.0 + 0.5 * len(names)), layout="constrained")
    for axes, measure in zip(figure.subplots(1, len(measures), sharey=True, squeeze=False)[0], measures, strict=True):
        for each in effects:
            if each["measure"] == measure:
                row = names.index(f"{each['of']}\nagainst {each['against']}")
                (low, high), middle = each["interval"], each["effect"]
                errors = [[max(middle - low, 0)], [max(high - middle, 0)]]
                axes.errorbar(middle, row, xerr=errors, fmt="o", color="C0", capsize=3)
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set(xlabel=f"{measure}, points", ylim=(len(names) - 0.5, -0.5))
    figure.axes[0].set_yticks(range(len(names)), names)
    return figure
