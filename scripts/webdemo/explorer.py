"""What the page shows, without the page: pictures and numbers of an index, its model and a model of questions."""

import base64
import html
import io

import numpy as np
from matplotlib.figure import Figure

from models import HBIVQA
from scripts.figures.heatmap import heatmap_figure
from scripts.figures.hierarchy import hierarchy_figure
from scripts.figures.view import View, look
from scripts.searching.query import Segment, VideoIndex
from utils.errors import printable
from utils.video.decode import decode_clip

DOTS_PER_INCH = 150


class Explorer:
    """Answers what the page asks.

    Args:
        index: of the videos.
        questions: a model that answers questions, None if there is none.
    """

    def __init__(self, index: VideoIndex, questions: HBIVQA | None = None):
        self.index, self.questions = index, questions

    def thumbnail(self, segment: Segment) -> np.ndarray:
        """A frame from the middle of a segment, uint8 (H, W, 3)."""
        middle = (segment.start + segment.end) / 2
        (frame,) = decode_clip(self.index.file(segment.file), start=middle, end=middle + 1, max_frames=1)
        return frame

    def look(self, query: str, segment: Segment, *, exact: bool) -> View:
        """The interactions of a query and a segment."""
        path, words = self.index.file(segment.file), self.index.manifest.max_words
        return look(self.index.model, query, path, max_words=words, exact=exact, **self.index.sampling(segment))

    def hierarchy(self, query: str, segment: Segment, *, exact: bool) -> str:
        """The hierarchical figure of a query and a segment, as HTML."""
        view = self.look(query, segment, exact=exact)
        return picture(hierarchy_figure(view), f"words and frames of {printable(segment.file)} at three levels")

    def answer(self, question: str, segment: Segment) -> dict[str, float]:
        """Answers to a question about a segment, with their probabilities."""
        sampling = self.index.sampling(segment)
        return dict(self.questions.answer(question, self.index.file(segment.file), **sampling))

    def compare(self, query: str, segment: Segment) -> tuple[str, str]:
        """Compare the estimator with the exact interaction.

        Returns:
            The correlation of the two at each level as a table in Markdown, and heat maps of both as HTML.
        """
        views = {kind: self.look(query, segment, exact=kind == "exact") for kind in ("estimator", "exact")}
        rows = ["| level | players | correlation |", "| --- | --- | --- |"]
        for guess, truth in zip(*(view.bands for view in views.values()), strict=True):
            players = f"{len(truth.words)} x {len(truth.frames)}"
            rows.append(f"| {truth.name} | {players} | {correlation(guess.interaction, truth.interaction)} |")
        maps = [picture(heatmap_figure(view), f"heat maps, {kind}") for kind, view in views.items()]
        return "\n".join(rows), "".join(maps)


def correlation(one: np.ndarray, other: np.ndarray) -> str:
    """Pearson's correlation of two arrays of one shape; "-" where one of them does not vary."""
    if min(one.std(), other.std()) == 0:
        return "-"
    return f"{np.corrcoef(one.ravel(), other.ravel())[0, 1]:.2f}"


def picture(figure: Figure, description: str) -> str:
    """A figure as HTML; where the page is narrow it keeps its size and is scrolled."""
    with io.BytesIO() as file:
        figure.savefig(file, format="png", dpi=DOTS_PER_INCH)
        data = base64.b64encode(file.getvalue()).decode()
    return f'<div class="figure"><img alt="{html.escape(description)}" src="data:image/png;base64,{data}"></div>'
