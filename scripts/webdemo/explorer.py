"""What the page and the API show: pictures and numbers of an index, its model and a model of questions."""

import base64
import hashlib
import html
import io
import logging
import math
import shutil
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from models import HBIVQA, Tokens
from models.shortlist import vectors
from scripts.figures.hierarchy import hierarchy_figure
from scripts.figures.view import View, look
from scripts.searching.build import build_index
from scripts.searching.captions import Captioner, check_captioner
from scripts.searching.query import Hit, Segment, VideoIndex
from scripts.webdemo.comparison import comparison_figure
from scripts.webdemo.uploads import PICTURE_SUFFIXES, Uploads
from utils.errors import InputError, printable
from utils.files import atomic_write
from utils.video.decode import decode_clip
from utils.video.transforms import ClipTransform

DOTS_PER_INCH = 150
THUMBNAIL = 320
"""Size of a thumbnail's longer side in pixels."""
KEPT_THUMBNAILS = 2000
MAX_TEXT = 1000
"""Maximum letters of a query or a question."""
MAX_TOP = 50
"""Maximum results of a search."""
ADDED = "uploads"
"""Folder of visitors' videos, within that of the videos."""

logger = logging.getLogger("hbi")


class Explorer:
    """Answers what the page and the API ask.

    Args:
        open_index: opens the index; called again when a video was added.
        uploads: what visitors have sent.
        questions: a model that answers questions, None if there is none.
        captioner: a model that describes results, None if there is none.
    """

    def __init__(
        self,
        open_index: Callable[[], VideoIndex],
        uploads: Uploads,
        questions: HBIVQA | None = None,
        captioner: Captioner | None = None,
    ):
        self.index, self._open_index = open_index(), open_index
        self.uploads, self.questions, self.captioner = uploads, questions, captioner
        self._thumbnails: OrderedDict[str, bytes] = OrderedDict()

    @property
    def size(self) -> str:
        """How many videos are searched, and how many cannot be."""
        skipped = self.index.manifest.skipped
        return f"{len(self.index.files)} videos" + (f", {skipped} skipped" if skipped else "")

    def search(self, words: str, example: str = "", top: int = 10) -> list[Hit]:
        """Find segments that a sentence describes, or that are similar to an uploaded file.

        Raises:
            InputError: the sentence is empty, or the file cannot be read.
        """
        top = min(max(int(top), 1), MAX_TOP)
        if example:
            return self.index.like(self._example(example), top=top)
        return self.index.search(words[:MAX_TEXT], top=top)

    def sought(self, words: str, example: str = "") -> Tensor:
        """The vector (D,) of a query."""
        if example:
            return vectors(self.index.model, *self._example(example), "video")[0]
        return self.index.model.encode_text([words[:MAX_TEXT]], self.index.manifest.max_words).last()[0]

    @torch.no_grad()
    def _example(self, key: str) -> Tokens:
        """Frame tokens of an uploaded picture or video."""
        return self._frame_tokens(self.uploads.frames(key, **self._sizes()))

    def _sizes(self) -> dict[str, int]:
        """Numbers of frames of a segment and of a second."""
        return self.index.manifest.sampling.model_dump(include={"max_frames", "framerate"})

    @torch.no_grad()
    def _frame_tokens(self, frames: np.ndarray) -> Tokens:
        """Tokens (1, N_v, D) of frames, uint8 (n, H, W, 3)."""
        model, most = self.index.model, self._sizes()["max_frames"]
        mask = (torch.arange(most) < len(frames)).long().unsqueeze(0).to(model.device)
        pictures = ClipTransform(model.clip.config.resolution)(frames)
        return Tokens(model.frame_tokens(pictures.to(model.device), mask), mask)

    def thumbnail(self, segment: Segment, sought: Tensor) -> tuple[str, bool]:
        """The frame nearest to what is `sought`.

        Returns:
            Key of the thumbnail, and whether the video could be read; it is grey if the video was moved or is damaged.
        """
        try:
            frames = decode_clip(self.index.file(segment.file), **self.index.sampling(segment))
        except (InputError, KeyError):
            return self._keep(Image.new("RGB", (THUMBNAIL, THUMBNAIL * 3 // 4), "grey")), False
        tokens = self._frame_tokens(frames).tokens[0, : len(frames)]
        nearest = F.cosine_similarity(tokens, sought.unsqueeze(0)).argmax()
        return self._keep(Image.fromarray(frames[nearest])), True

    def _keep(self, picture: Image.Image) -> str:
        """Store a thumbnail of a picture, and return its key."""
        picture.thumbnail((THUMBNAIL, THUMBNAIL))
        with io.BytesIO() as file:
            picture.save(file, "JPEG", quality=85)
            content = file.getvalue()
        key = hashlib.sha256(content).hexdigest()[:32]
        self._thumbnails[key] = content
        while len(self._thumbnails) > KEPT_THUMBNAILS:
            self._thumbnails.popitem(last=False)
        return key

    def picture(self, key: str) -> bytes | None:
        """A thumbnail as JPEG, if it is still stored."""
        return self._thumbnails.get(key)

    def segment(self, file: str, start: float, end: float) -> Segment:
        """A segment of a video that the index holds.

        Raises:
            InputError: there is no such video, or no such segment of it.
        """
        if not self.index.holds(file):
            raise InputError(f"{printable(file[:MAX_TEXT])}: is no video of the index; take one that a search found")
        segment = Segment(file, float(start), float(end))
        if not (math.isfinite(segment.end) and 0 <= segment.start < segment.end):
            raise InputError(f"{printable(file)}: has no segment from {start} to {end} s; take one that a search found")
        return segment

    def look(self, query: str, segment: Segment, *, exact: bool) -> View:
        """The interactions of a query and a segment.

        Raises:
            InputError: the query is empty, or the video cannot be decoded.
        """
        if not query.strip():
            raise InputError("there are no words to look at: describe what to look for")
        path, words = self.index.file(segment.file), self.index.manifest.max_words
        sampling = self.index.sampling(segment)
        return look(self.index.model, query[:MAX_TEXT], path, max_words=words, exact=exact, **sampling)

    def hierarchy(self, query: str, segment: Segment, *, exact: bool) -> str:
        """The hierarchical figure of a query and a segment, as HTML."""
        view = self.look(query, segment, exact=exact)
        return as_html(hierarchy_figure(view), f"words and frames of {printable(segment.file)} at three levels")

    def answer(self, question: str, segment: Segment) -> dict[str, float]:
        """Answers to a question about a segment, with their probabilities.

        Raises:
            InputError: there is no model for questions, the question is empty, or the video cannot be decoded.
        """
        if self.questions is None:
            raise InputError("no model that answers questions is loaded: start the demo with --questions")
        sampling = self.index.sampling(segment)
        return dict(self.questions.answer(question[:MAX_TEXT], self.index.file(segment.file), **sampling))

    @property
    def describes(self) -> bool:
        """Whether there are captions of results."""
        return bool(self.captioner or self.index.manifest.captions)

    def describe(self, hit: Hit) -> str:
        """What happens in a result: the caption that the index has, or one that is written now; "" without either.

        Raises:
            InputError: the video cannot be decoded.
        """
        if hit.description or self.captioner is None:
            return hit.description
        return self.captioner.model.describe(self.index.file(hit.file), **self.index.sampling(hit)).caption

    def compare(self, query: str, segment: Segment) -> tuple[str, str]:
        """Compare the estimator with the exact interaction.

        Returns:
            The correlation of the two at each level as a table in Markdown, and both as one figure in HTML.
        """
        estimator, exact = (self.look(query, segment, exact=exact) for exact in (False, True))
        rows = ["| level | players | correlation |", "| --- | --- | --- |"]
        for guess, truth in zip(estimator.bands, exact.bands, strict=True):
            players = f"{len(truth.words)} x {len(truth.frames)}"
            rows.append(f"| {truth.name} | {players} | {correlation(guess.interaction, truth.interaction)} |")
        figure = comparison_figure(estimator, exact)
        return "\n".join(rows), as_html(figure, "the estimator next to the exact interaction")

    def add(self, key: str) -> str:
        """Add an uploaded video to the folder and the index; returns its path within the folder.

        Raises:
            InputError: it is no video, cannot be decoded, or its name is taken.
        """
        name, source = self.uploads.name(key), self.uploads.path(key)
        if source.suffix in PICTURE_SUFFIXES:
            raise InputError(f"{name}: is a picture; only videos are added")
        captioner = self.captioner if self.index.manifest.captions else None
        check_captioner(captioner, self.index.model, self.index.manifest)
        decode_clip(source, **self._sizes())  # before anything changes
        target = Path(self.index.manifest.folder, ADDED, name)
        if target.exists():
            raise InputError(f"{name}: a video of this name was added before; rename the file")
        with atomic_write(target, "wb") as file, source.open("rb") as content:
            shutil.copyfileobj(content, file)
        build_index(self.index.model, self.index.path, self.index.manifest, captioner=captioner)
        self.index = self._open_index()
        logger.info("added %s", name)
        return f"{ADDED}/{name}"


def correlation(one: np.ndarray, other: np.ndarray) -> str:
    """Pearson's correlation of two arrays of one shape; "-" if one is constant."""
    if min(one.std(), other.std()) == 0:
        return "-"
    return f"{np.corrcoef(one.ravel(), other.ravel())[0, 1]:.2f}"


def as_html(figure: Figure, description: str) -> str:
    """A figure as HTML, which scrolls on narrow pages."""
    with io.BytesIO() as file:
        figure.savefig(file, format="png", dpi=DOTS_PER_INCH)
        data = base64.b64encode(file.getvalue()).decode()
    return f'<div class="figure"><img alt="{html.escape(description)}" src="data:image/png;base64,{data}"></div>'
