"""The page: search, the chosen result, questions, and the estimator next to the exact interaction."""

import html
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

import gradio

from scripts.searching.query import Hit, clock
from scripts.webdemo.explorer import Explorer
from utils.errors import InputError, printable

STYLE = """
#results .grid-wrap { max-height: none; overflow: visible; }
#results .caption-label { max-width: 100%; white-space: normal; overflow-wrap: anywhere; }
#correlations th { white-space: nowrap; }
.figure { overflow-x: auto; }
.figure img { width: 100%; min-width: 40rem; max-width: 64rem; margin: 0 auto; display: block; background: white; }
.player video { width: 100%; max-height: 22rem; background: black; }
.player p { margin: 0.25rem 0; overflow-wrap: anywhere; }
@media (max-width: 40rem) { #results .grid-container { grid-template-columns: repeat(2, 1fr) !important; } }
"""
INTERACTIONS = {"estimator": False, "exact": True}
CHOOSE = "Search, and choose a result."
MAX_TEXT = 1000
"""Letters of a query or a question that are read."""
MAX_WAITING = 32
"""Requests that wait for the model; further ones are refused."""
EXPLANATION = """
Words and frames are the players of a game: a coalition of some of them is worth what the model makes of it when it sees
these alone. The Banzhaf interaction of a word and a frame is what they gain by joining a coalition together, beyond
what each of them gains alone, on average over all coalitions of the others.

The paper holds that average to be too much to compute and trains a small network, the **estimator**, to guess it from
the similarities of words and frames. For this game it can be computed **exactly**, and as fast. Below are both for the
chosen result: where their colours agree, the estimator has learnt the game. The scales differ, because the estimator is
trained through a softmax, which leaves its zero open; the correlation tells how far the two agree.
"""


def build_page(explorer: Explorer, addresses: Mapping[str, str]) -> gradio.Blocks:
    """Lay out the page.

    Args:
        explorer: answers what the page asks.
        addresses: each video of the index that is served -> where.
    """
    with gradio.Blocks(title="HBI video search", analytics_enabled=False, delete_cache=(3600, 3600)) as page:
        chosen = gradio.State()  # the query and the hit, or None
        with gradio.Tab("Search"):
            build_search(explorer, addresses, chosen)
        with gradio.Tab("Estimator"):
            build_comparison(explorer, chosen)
    return page.queue(max_size=MAX_WAITING, default_concurrency_limit=1)


def build_search(explorer: Explorer, addresses: Mapping[str, str], chosen: gradio.State) -> None:
    """Query, results, player, question and figure; `chosen` receives the chosen result."""
    found = gradio.State(("", []))  # the query and its hits
    with gradio.Row(equal_height=True):
        query = gradio.Textbox(label=f"Search {len(addresses)} videos", placeholder="what happens in the video",
                               scale=5, elem_id="query")  # fmt: skip
        button = gradio.Button("Search", variant="primary", scale=1, min_width=100, elem_id="search")
    results = gradio.Gallery(columns=5, height="auto", allow_preview=False, object_fit="contain", buttons=[],
                             show_label=False, visible="hidden", elem_id="results")  # fmt: skip
    with gradio.Row():
        with gradio.Column(min_width=300):
            player = gradio.HTML(CHOOSE, elem_id="player")
        with gradio.Column(min_width=300):
            question = gradio.Textbox(label="Question about this video", submit_btn=True, elem_id="question",
                                      visible=explorer.questions is not None)  # fmt: skip
            answers = gradio.Label(label="Answers", show_heading=False, elem_id="answers",
                                   visible=explorer.questions is not None)  # fmt: skip
            if explorer.questions is None:
                gradio.Markdown("No model that answers questions is loaded: start the demo with --questions.")
    kind = gradio.Radio(list(INTERACTIONS), value="exact", label="Lines show the interaction", elem_id="kind")
    figure = gradio.HTML(elem_id="hierarchy")

    def search(words: str) -> tuple:
        words = words[:MAX_TEXT]
        hits = explorer.index.search(words)
        cards = [(explorer.thumbnail(hit), caption(hit)) for hit in hits]
        return (words, hits), None, gradio.Gallery(cards, selected_index=None, visible=True), CHOOSE, "", None

    def choose(event: gradio.SelectData, found: tuple[str, list[Hit]], kind: str) -> tuple:
        words, hits = found
        hit = hits[event.index]
        return (words, hit), play(hit, addresses.get(hit.file)), draw(kind, (words, hit)), None

    def draw(kind: str, chosen: tuple[str, Hit] | None) -> str:
        return explorer.hierarchy(*chosen, exact=INTERACTIONS[kind]) if chosen else ""

    def ask(question: str, chosen: tuple[str, Hit] | None) -> dict[str, float]:
        _, hit = require(chosen)
        return explorer.answer(question[:MAX_TEXT], hit)

    outputs = [found, chosen, results, player, figure, answers]
    gradio.on([query.submit, button.click], shown(explorer, search), query, outputs)
    results.select(shown(explorer, choose), [found, kind], [chosen, player, figure, answers])
    kind.change(shown(explorer, draw), [kind, chosen], figure)
    question.submit(shown(explorer, ask), [question, chosen], answers)


def build_comparison(explorer: Explorer, chosen: gradio.State) -> None:
    """The estimator next to the exact interaction of the `chosen` result."""
    gradio.Markdown(EXPLANATION)
    button = gradio.Button("Compare on the chosen result", elem_id="compare")
    table = gradio.Markdown(elem_id="correlations")
    maps = gradio.HTML(elem_id="maps")

    def compare(chosen: tuple[str, Hit] | None) -> tuple[str, str]:
        return explorer.compare(*require(chosen))

    button.click(shown(explorer, compare), chosen, [table, maps])


def require(chosen: tuple[str, Hit] | None) -> tuple[str, Hit]:
    """The query and the result that was chosen.

    Raises:
        InputError: none was.
    """
    if chosen is None:
        raise InputError("no result is chosen: search, and click one")
    return chosen


def shown(explorer: Explorer, respond: Callable) -> Callable:
    """A response to an event whose InputError is shown on the page, escaped and without paths of the machine."""

    @wraps(respond)
    def wrapped(*values: Any) -> Any:
        try:
            return respond(*values)
        except InputError as error:
            folder = explorer.index.manifest.folder
            message = str(error).replace(f"{folder}/", "").replace(folder, "the folder")
            raise gradio.Error(html.escape(printable(message)), print_exception=False) from error

    return wrapped


def caption(hit: Hit) -> str:
    """A result in a line."""
    return f"{hit.similarity:.3f} · {span(hit)} · {printable(hit.file)}"


def span(hit: Hit) -> str:
    """When a segment begins and ends."""
    return f"{clock(hit.start)}-{clock(hit.end)}"


def play(hit: Hit, address: str | None) -> str:
    """A result as HTML: the video, which begins where the segment does, and its name."""
    times = f"#t={hit.start:g},{hit.end:g}"
    line = f"{html.escape(printable(hit.file))}, {span(hit)}, similarity {hit.similarity:.3f}"
    if address is None:
        return f'<div class="player"><p>{line}: outside of the folder, so it is not played.</p></div>'
    return (
        f'<div class="player"><video controls autoplay muted playsinline src="{address}{times}">'
        f"</video><p>{line}</p></div>"
    )
