"""Pictures of results."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from torch import Tensor

from utils.files import atomic_write

POINTS = 5000


def scatter(path: str | Path, x: Tensor, y: Tensor, *, labels: tuple[str, str]) -> None:
    """Draw y (n,) against x (n,), at most `POINTS` evenly chosen pairs, and the line y = x, as a PNG file."""
    step = -(-len(x) // POINTS)
    figure = Figure(figsize=(5, 5), layout="constrained")
    axes = figure.subplots()
    axes.scatter(x[::step], y[::step], s=4, alpha=0.3, linewidths=0)
    axes.axline((0, 0), slope=1, color="black", linewidth=0.8)
    axes.set(xlabel=labels[0], ylabel=labels[1])
    _save(figure, path)


def lines(
    path: str | Path, curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], *, labels: tuple[str, str]
) -> None:
    """Draw curves, x and y by name, as a PNG file."""
    figure = Figure(figsize=(5, 3.5), layout="constrained")
    axes = figure.subplots()
    for name, (x, y) in curves.items():
        axes.plot(x, y, marker="o", markersize=3, label=name)
    axes.set(xlabel=labels[0], ylabel=labels[1], xlim=(0, None), ylim=(0, None))
    axes.legend()
    _save(figure, path)


def _save(figure: Figure, path: str | Path) -> None:
    with atomic_write(path, "wb") as file:
        figure.savefig(file, format="png", dpi=120)
