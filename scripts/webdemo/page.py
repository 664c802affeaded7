"""The page: search, the chosen result, questions, one's own files, and the estimator next to the exact interaction."""

import html
from collections.abc import Sequence
from functools import partial
from pathlib import PurePosixPath

import gradio

from scripts.searching.query import Hit, clock
from scripts.webdemo.addresses import address
from scripts.webdemo.api import add_endpoints
from scripts.webdemo.explorer import MAX_TOP, Explorer
from scripts.webdemo.messages import shown
from scripts.webdemo.uploads import MAX_UPLOAD
from utils.errors import InputError, printable

TITLE = "HBI video search"
HOW_TO = (
    "Describe what happens in a video, or give a picture or a video that looks like it. Click a result to play it from "
    "its start, to see which words and frames belong together, and to ask a question about it. The address of this "
    "page then repeats the search."
)
STYLE = """
#results .grid-wrap { max-height: none; overflow: visible; }
#results .caption-label { max-width: 100%; white-space: normal; overflow-wrap: anywhere; }
#correlations th { white-space: nowrap; }
.figure { overflow-x: auto; }
.figure img { width: 100%; min-width: 40rem; max-width: 64rem; margin: 0 auto; display: block; background: white; }
.player video { width: 100%; max-height: 22rem; background: black; }
.player p { margin: 0.25rem 0; overflow-wrap: anywhere; }
#player, #results { scroll-margin-top: 0.5rem; }
#own-file { max-width: 100%; }
@media (max-width: 40rem) { #results .grid-container { grid-template-columns: repeat(2, 1fr) !important; } }
"""
SCRIPT = f"""<script>
async function sendOwnFile() {{
  const file = document.getElementById("own-file").files[0];
  if (!file) return "";
  if (file.size > {MAX_UPLOAD}) {{ alert("The file is larger than {MAX_UPLOAD >> 20} MB."); return ""; }}
  const answer = await fetch("/upload?name=" + encodeURIComponent(file.name), {{method: "POST", body: file}});
  const result = await answer.json().catch(() => ({{error: "The file was not received."}}));
  if (result.error) alert(result.error);
  return result.key || "";
}}
function bringIntoView(id) {{
  const place = document.getElementById(id).getBoundingClientRect();
  if (place.top < 0 || place.top > innerHeight / 2) document.getElementById(id).scrollIntoView({{behavior: "smooth"}});
}}
</script>"""
FILE_BOX = (
    '<label>File: <input type="file" id="own-file" accept="image/jpeg,image/png,image/webp,video/*"></label>'
)
READ_LINK = """() => {
  const given = new URLSearchParams(location.search);
  return [given.get("q") || "", Number(given.get("top")) || 10];
}"""
WRITE_LINK = """(words, top) => {
  if (words) history.replaceState(null, "", "?" + new URLSearchParams({q: words, top}));
  bringIntoView("results");
}"""
SHOW_PLAYER = "() => bringIntoView('player')"
INTERACTIONS = {"estimator": False, "exact": True}
CHOOSE = "Search, and choose a result."
MAX_WAITING = 32
"""Requests that wait for the model; further ones are refused."""
IN_TURN = {"concurrency_id": "model", "concurrency_limit": 1}
"""The model answers one request after another."""
EXPLANATION = """
Words and frames are the players of a game: a coalition of some of them is worth what the model makes of it when it sees
these alone. The Banzhaf interaction of a word and a frame is what they gain by joining a coalition together, beyond
what each of them gains alone, on average over all coalitions of the others.

The paper holds that average to be too much to compute and trains a small network, the **estimator**, to guess it from
the similarities of words and frames. For this game it can be computed **exactly**, and as fast. Below are both for the
chosen result, in one colour map: where their colours agree, the estimator has learnt the game. The estimator is trained
through a softmax, which leaves its zero open, so both are shown as deviations from their mean; the correlation tells
how far the two agree.
"""
Found = tuple[str, list[Hit]]
"""The words of a search, empty if it was for a file, and its hits."""
Chosen = tuple[str, Hit] | None
"""The words of the search and the chosen hit."""


def build_page(explorer: Explorer, examples: Sequence[str]) -> gradio.Blocks:
    """Lay out the page and the named endpoints.

    Args:
        explorer: answers what the page asks.
        examples: queries to click.
    """
    with gradio.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(3600, 3600)) as page:
        add_endpoints(explorer, **IN_TURN)  # first, so that no event takes their names
        gradio.Markdown(f"# {TITLE}\n{HOW_TO}", elem_id="how-to")
        chosen = gradio.State()
        with gradio.Tab("Search"):
            build_search(page, explorer, examples, chosen)
        with gradio.Tab("Estimator"):
            build_comparison(explorer, chosen)
    return page.queue(max_size=MAX_WAITING, default_concurrency_limit=1)


def build_search(page: gradio.Blocks, explorer: Explorer, examples: Sequence[str], chosen: gradio.State) -> None:
    """Query, own file, results, player, question and figure; `chosen` receives the chosen result."""
    found = gradio.State(("", []))
    with gradio.Row(equal_height=True):
        query = gradio.Textbox(label=f"Search {count_videos(explorer)}", scale=5, elem_id="query",
                               placeholder="what happens in the video")  # fmt: skip
        button = gradio.Button("Search", variant="primary", scale=1, min_width=100, elem_id="search")
    with gradio.Row():
        top = gradio.Slider(1, MAX_TOP, 10, step=1, label="Results", elem_id="top", min_width=200)
        with gradio.Accordion("Your own picture or video", open=False, elem_id="own"):
            gradio.HTML(FILE_BOX)
            with gradio.Row():
                alike = gradio.Button("Search for what looks like it", size="sm", elem_id="alike")
                add = gradio.Button("Add the video to the index", size="sm", elem_id="add")
    shelf = examples and gradio.Examples([[example] for example in examples], query, elem_id="examples",
                                         label="For example")  # fmt: skip
    results = gradio.Gallery(columns=5, height="auto", allow_preview=False, object_fit="contain", buttons=[],
                             show_label=False, visible="hidden", elem_id="results")  # fmt: skip
    with gradio.Row():
        with gradio.Column(min_width=300):
            player = gradio.HTML(CHOOSE, elem_id="player")
            said = gradio.Textbox(label="Caption by the model", elem_id="said", visible=explorer.describes)
        with gradio.Column(min_width=300):
            question, answers = build_questions(explorer)
    kind = gradio.Radio(list(INTERACTIONS), value="exact", label="Lines show the interaction", elem_id="kind")
    figure = gradio.HTML(elem_id="hierarchy")

    def search(words: str, top: int, request: gradio.Request) -> tuple:
        return show(words, explorer.search(words, top=top), explorer.sought(words), request)

    def search_alike(key: str, top: int, request: gradio.Request) -> tuple:
        key = key or "none"
        return show("", explorer.search("", key, top), explorer.sought("", key), request)

    def show(words: str, hits: list[Hit], sought, request: gradio.Request) -> tuple:
        base = f"{request.request.url.scheme}://{request.headers['host']}"
        pictures = [explorer.thumbnail(hit, sought) for hit in hits]
        cards = [card(base, hit, key, whole=whole) for hit, (key, whole) in zip(hits, pictures, strict=True)]
        return (words, hits), None, gradio.Gallery(cards, selected_index=None, visible=True), CHOOSE, "", "", None

    def follow_link(words: str, top: int, request: gradio.Request) -> tuple:
        unchanged = ((words, []), None, gradio.skip(), CHOOSE, "", "", None)
        return words, top, *(search(words, top, request) if words else unchanged)

    def choose(event: gradio.SelectData, found: Found) -> tuple:
        words, hits = found
        hit = hits[event.index]
        return (words, hit), play(hit, address(explorer.index, hit)), "", None

    def describe(chosen: Chosen) -> str:
        _, hit = require(chosen)
        return explorer.describe(hit)

    def draw(kind: str, chosen: Chosen) -> str:
        if not chosen or not chosen[0]:  # a search for a file has no words
            return ""
        return explorer.hierarchy(*chosen, exact=INTERACTIONS[kind])

    def ask(question: str, chosen: Chosen) -> dict[str, float]:
        _, hit = require(chosen)
        return explorer.answer(question, hit)

    def add_video(key: str) -> gradio.Textbox:
        name = explorer.add(key or "none")
        gradio.Info(f"{html.escape(name)} is in the index now.")
        return gradio.Textbox(label=f"Search {count_videos(explorer)}")

    respond = partial(shown, explorer)
    options = {"api_visibility": "private", **IN_TURN}
    outputs = [found, chosen, results, player, said, figure, answers]
    searches = [gradio.on([query.submit, button.click], respond(search), [query, top], outputs, **options)]
    if shelf:
        searches.append(shelf.load_input_event.then(respond(search), [query, top], outputs, **options))
    for searched in searches:
        searched.success(None, [query, top], None, js=WRITE_LINK)
    send = "async (_, top) => [await sendOwnFile(), top]"
    alike.click(respond(search_alike), [query, top], outputs, js=send, **options)
    add.click(respond(add_video), query, query, js="async (_) => [await sendOwnFile()]", **options)
    page.load(respond(follow_link), [query, top], [query, top, *outputs], js=READ_LINK, **options)
    choice = results.select(respond(choose), found, [chosen, player, said, answers], **options)
    described = choice.success(None, js=SHOW_PLAYER).then(respond(describe), chosen, said, **options)
    described.success(respond(draw), [kind, chosen], figure, **options)
    kind.change(respond(draw), [kind, chosen], figure, **options)
    question.submit(respond(ask), [question, chosen], answers, **options)


def build_questions(explorer: Explorer) -> tuple[gradio.Textbox, gradio.Label]:
    """The box of a question and that of its answers, hidden where no model answers."""
    visible = explorer.questions is not None
    question = gradio.Textbox(label="Question about this video", submit_btn=True, elem_id="question", visible=visible)
    answers = gradio.Label(label="Answers", show_heading=False, elem_id="answers", visible=visible)
    if not visible:
        gradio.Markdown("No model that answers questions is loaded: start the demo with --questions.")
    return question, answers


def build_comparison(explorer: Explorer, chosen: gradio.State) -> None:
    """The estimator next to the exact interaction of the `chosen` result."""
    gradio.Markdown(EXPLANATION)
    button = gradio.Button("Compare on the chosen result", elem_id="compare")
    table = gradio.Markdown(elem_id="correlations")
    maps = gradio.HTML(elem_id="maps")

    def compare(chosen: Chosen) -> tuple[str, str]:
        return explorer.compare(*require(chosen))

    button.click(shown(explorer, compare), chosen, [table, maps], api_visibility="private", **IN_TURN)


def require(chosen: Chosen) -> tuple[str, Hit]:
    """The query and the result that was chosen.

    Raises:
        InputError: none was.
    """
    if chosen is None:
        raise InputError("no result is chosen: search, and click one")
    return chosen


def count_videos(explorer: Explorer) -> str:
    """How many videos are searched, and how many cannot be."""
    skipped = explorer.index.manifest.skipped
    return f"{len(explorer.index.files)} videos" + (f", {skipped} skipped" if skipped else "")


def card(base: str, hit: Hit, thumbnail: str, *, whole: bool) -> tuple[str, str]:
    """Address of the picture of a result, and its caption."""
    line = f"{hit.similarity:.3f} · {span(hit)} · {printable(PurePosixPath(hit.file).name)}"
    return f"{base}/thumbnail/{thumbnail}", line if whole else f"{line} · moved or damaged"


def span(hit: Hit) -> str:
    """When a segment begins and ends."""
    return f"{clock(hit.start)}-{clock(hit.end)}"


def play(hit: Hit, source: str | None) -> str:
    """A result as HTML: the video, which begins where the segment does, and its name."""
    line = f"{html.escape(printable(hit.file))}, {span(hit)}, similarity {hit.similarity:.3f}"
    if source is None:
        return f'<div class="player"><p>{line}: moved, damaged or outside of the folder, so it is not played.</p></div>'
    return (
        f'<div class="player"><video controls autoplay muted playsinline src="{html.escape(source)}">'
        f"</video><p>{line}</p></div>"
    )
