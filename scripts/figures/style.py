"""Style of all figures: size, type, the colours of interactions, and writing the file."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextToPath

from utils.errors import InputError
from utils.files import atomic_write

PAGE_WIDTH = 7.0  # inches, the text width of a page
GREY = "0.45"
DOTS_PER_INCH = 200
FORMATS = (".png", ".svg", ".pdf")


def text_width(text: str, size: float) -> float:
    """Width of a line of text in inches, at `size` points."""
    return TextToPath().get_text_width_height_descent(text, FontProperties(size=size), False)[0] / 72


@dataclass(frozen=True)
class ColourScale:
    """Mapping of interactions to colours.

    Attributes:
        colours: name of the colour map.
        norm: interaction -> 0 to 1.
        neutral: the interaction that is drawn weakest.
    """

    colours: str
    norm: Normalize
    neutral: float

    def strength(self, interaction: np.ndarray) -> np.ndarray:
        """Distance from `neutral`, 0 to 1."""
        return np.abs(interaction - self.neutral) / (self.norm.vmax - self.neutral)


def colour_scale(interaction: np.ndarray, *, exact: bool) -> ColourScale:
    """The scale of one level.

    The exact interaction is signed, so zero is neutral and the range symmetric. The estimator is trained through a
    softmax and has no fixed zero: there the level's lowest value is neutral.
    """
    if exact:
        reach = float(np.abs(interaction).max()) or 1.0
        return ColourScale("RdBu_r", Normalize(-reach, reach), 0.0)
    low, high = float(interaction.min()), float(interaction.max())
    return ColourScale("YlGnBu", Normalize(low, high if high > low else low + 1), low)


def scale_label(*, exact: bool) -> str:
    """Label of a scale."""
    return f"Banzhaf interaction ({'exact' if exact else 'estimator'})"


def figure_path(text: str) -> Path:
    """The path of a figure.

    Raises:
        InputError: its ending is none of `FORMATS`.
    """
    path = Path(text)
    if path.suffix.lower() not in FORMATS:
        raise InputError(f"{path}: no format is known by this ending; end it in {', '.join(FORMATS)}")
    return path


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure in the format that the ending of `path` names.

    Raises:
        InputError: the file cannot be written.
    """
    with atomic_write(path, "wb") as file, rc_context({"pdf.fonttype": 42}):
        figure.savefig(file, format=path.suffix[1:].lower(), dpi=DOTS_PER_INCH)
