"""Handlers of the page's events."""

import html
from pathlib import PurePosixPath

import gradio
from torch import Tensor

from scripts.searching.query import Hit, clock
from scripts.webdemo.addresses import address
from scripts.webdemo.explorer import Explorer
from utils.errors import InputError, printable

INTERACTIONS = {"estimator": False, "exact": True}
CHOOSE = "Search, and choose a result."
Found = tuple[str, list[Hit]]
"""The words of a search, empty if it was for a file, and its hits."""
Chosen = tuple[str, Hit] | None
"""The words of the search and the chosen hit."""


class Handlers:
    """Handlers of the page's events.

    `search`, `search_alike` and `follow_link` return values for, in this order: found results, the chosen result,
    gallery, player, caption, figure and answers.
    """

    def __init__(self, explorer: Explorer):
        self.explorer = explorer

    def search(self, words: str, top: int, request: gradio.Request) -> tuple:
        """Search by a sentence."""
        return self._show(words, self.explorer.search(words, top=top), self.explorer.sought(words), request)

    def search_alike(self, key: str, top: int, request: gradio.Request) -> tuple:
        """Search for segments similar to an uploaded file."""
        key = key or "none"
        return self._show("", self.explorer.search("", key, top), self.explorer.sought("", key), request)

    def _show(self, words: str, hits: list[Hit], sought: Tensor, request: gradio.Request) -> tuple:
        base = f"{request.request.url.scheme}://{request.headers['host']}"
        pictures = [self.explorer.thumbnail(hit, sought) for hit in hits]
        cards = [card(base, hit, key, whole=whole) for hit, (key, whole) in zip(hits, pictures, strict=True)]
        return (words, hits), None, gradio.Gallery(cards, selected_index=None, visible=True), CHOOSE, "", "", None

    def follow_link(self, words: str, top: int, request: gradio.Request) -> tuple:
        """Repeat the search in the page's address, if any; the first two values are query and `top`."""
        unchanged = ((words, []), None, gradio.skip(), CHOOSE, "", "", None)
        return words, top, *(self.search(words, top, request) if words else unchanged)

    def choose(self, event: gradio.SelectData, found: Found) -> tuple:
        """Choose a result: returns it, the player, no caption and no answers."""
        words, hits = found
        hit = hits[event.index]
        return (words, hit), play(hit, address(self.explorer.index, hit)), "", None

    def describe(self, chosen: Chosen) -> str:
        """Caption the chosen result."""
        _, hit = require(chosen)
        return self.explorer.describe(hit)

    def draw(self, kind: str, chosen: Chosen) -> str:
        """Draw the figure of the chosen result; a search for a file has no words, and no figure."""
        if not chosen or not chosen[0]:
            return ""
        return self.explorer.hierarchy(*chosen, exact=INTERACTIONS[kind])

    def ask(self, question: str, chosen: Chosen) -> dict[str, float]:
        """Answer a question about the chosen result."""
        _, hit = require(chosen)
        return self.explorer.answer(question, hit)

    def add_video(self, key: str) -> gradio.Textbox:
        """Add an uploaded video to the index."""
        name = self.explorer.add(key or "none")
        gradio.Info(f"{html.escape(name)} is in the index now.")
        return gradio.Textbox(label=f"Search {self.explorer.size}")

    def compare(self, chosen: Chosen) -> tuple[str, str]:
        """Compare the estimator with the exact interaction of the chosen result: table and figure."""
        return self.explorer.compare(*require(chosen))


def require(chosen: Chosen) -> tuple[str, Hit]:
    """The query and the chosen result; an InputError if there is none."""
    if chosen is None:
        raise InputError("no result is chosen: search, and click one")
    return chosen


def card(base: str, hit: Hit, thumbnail: str, *, whole: bool) -> tuple[str, str]:
    """Address of the picture of a result, and its caption."""
    line = f"{hit.similarity:.3f} · {span(hit)} · {printable(PurePosixPath(hit.file).name)}"
    return f"{base}/thumbnail/{thumbnail}", line if whole else f"{line} · moved or damaged"


def span(hit: Hit) -> str:
    """Start and end of a segment."""
    return f"{clock(hit.start)}-{clock(hit.end)}"


def play(hit: Hit, source: str | None) -> str:
    """A result as HTML: the video, from the start of the segment, and its name."""
    line = f"{html.escape(printable(hit.file))}, {span(hit)}, similarity {hit.similarity:.3f}"
    if source is None:
        return f'<div class="player"><p>{line}: moved, damaged or outside of the folder, so it is not played.</p></div>'
    return (
        f'<div class="player"><video controls autoplay muted playsinline src="{html.escape(source)}">'
        f"</video><p>{line}</p></div>"
    )
