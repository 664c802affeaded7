"""A chart of several methods' recall, with intervals over seeds."""

from collections.abc import Mapping

from matplotlib.figure import Figure

from scripts.figures.style import PAGE_WIDTH


def comparison_figure(recalls: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Figure:
    """Draw R@1 in both directions, a row for each method.

    Args:
        recalls: method -> "t2v" and "v2t" -> "mean" and "interval" in percent.
    """
    figure = Figure(figsize=(PAGE_WIDTH, 1.0 + 0.4 * len(recalls)), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    names = list(recalls)
    for side, label, plot in (("t2v", "text to video", axes[0]), ("v2t", "video to text", axes[1])):
        means, intervals = ([recalls[name][side][key] for name in names] for key in ("mean", "interval"))
        plot.errorbar(means, range(len(names)), xerr=intervals, fmt="o", capsize=3)
        plot.set(xlabel=f"R@1 {label}, %", ylim=(len(names) - 0.5, -0.5))
    axes[0].set_yticks(range(len(names)), names)
    return figure
