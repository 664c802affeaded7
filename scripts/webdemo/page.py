"""The page: search, the chosen result, questions, uploads, and the estimator next to the exact interaction."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import gradio

from scripts.webdemo.api import add_endpoints
from scripts.webdemo.explorer import MAX_TOP, Explorer
from scripts.webdemo.handlers import CHOOSE, INTERACTIONS, Handlers
from scripts.webdemo.messages import shown
from scripts.webdemo.uploads import MAX_UPLOAD

TITLE = "HBI video search"
HOW_TO = (
    "Describe what happens in a video, or give a similar picture or video. Click a result to play it from "
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
SEND = "async (_) => [await sendOwnFile()]"
SEND_AND_SEARCH = "async (_, top) => [await sendOwnFile(), top]"
SHOW_PLAYER = "() => bringIntoView('player')"
MAX_WAITING = 32
"""Requests that wait for the model; further ones are refused."""
IN_TURN = {"concurrency_id": "model", "concurrency_limit": 1}
"""The model answers one request after another."""
EXPLANATION = """
Words and frames are the players of a game; the value of a coalition is the similarity of its words and frames alone.
The Banzhaf interaction of a word and a frame is what they gain by joining a coalition together, beyond what each of
them gains alone, averaged over all coalitions of the others.

The paper considers that average too expensive, and trains a small network, the **estimator**, to predict it from the
similarities of words and frames. For this game it can be computed **exactly**, and as fast. Below are both for the
chosen result, in one colour map: where the colours agree, the estimator has learnt the game. The estimator is trained
through a softmax and has no fixed zero, so both are shown as deviations from their mean; the correlation measures how
well they agree.
"""


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
            connect_search(page, explorer, lay_out_search(explorer, examples), chosen)
        with gradio.Tab("Estimator"):
            build_comparison(explorer, chosen)
    return page.queue(max_size=MAX_WAITING, default_concurrency_limit=1)


class Widgets(NamedTuple):
    """The components of the search tab that events read or change."""

    query: gradio.Textbox
    button: gradio.Button
    top: gradio.Slider
    alike: gradio.Button
    add: gradio.Button
    shelf: gradio.Dataset | None
    results: gradio.Gallery
    player: gradio.HTML
    said: gradio.Textbox
    question: gradio.Textbox
    answers: gradio.Label
    kind: gradio.Radio
    figure: gradio.HTML


def lay_out_search(explorer: Explorer, examples: Sequence[str]) -> Widgets:
    """Query, own file, results, player, question and figure."""
    with gradio.Row(equal_height=True):
        hint = "what happens in the video"
        query = gradio.Textbox(label=f"Search {explorer.size}", placeholder=hint, scale=5, elem_id="query")
        button = gradio.Button("Search", variant="primary", scale=1, min_width=100, elem_id="search")
    with gradio.Row():
        top = gradio.Slider(1, MAX_TOP, 10, step=1, label="Results", elem_id="top", min_width=200)
        with gradio.Accordion("Your own picture or video", open=False, elem_id="own"):
            gradio.HTML(FILE_BOX)
            with gradio.Row():
                alike = gradio.Button("Search for similar segments", size="sm", elem_id="alike")
                add = gradio.Button("Add the video to the index", size="sm", elem_id="add")
    shelf = None
    if examples:
        samples = [[example] for example in examples]
        shelf = gradio.Dataset(components=[query], samples=samples, elem_id="examples", label="For example")
    look = {"columns": 5, "height": "auto", "object_fit": "contain", "buttons": [], "show_label": False}
    results = gradio.Gallery(**look, allow_preview=False, visible="hidden", elem_id="results")
    with gradio.Row():
        with gradio.Column(min_width=300):
            player = gradio.HTML(CHOOSE, elem_id="player")
            said = gradio.Textbox(label="Caption by the model", elem_id="said", visible=explorer.describes)
        with gradio.Column(min_width=300):
            question, answers = build_questions(explorer)
    kind = gradio.Radio(list(INTERACTIONS), value="exact", label="Lines show the interaction", elem_id="kind")
    figure = gradio.HTML(elem_id="hierarchy")
    return Widgets(query, button, top, alike, add, shelf, results, player, said, question, answers, kind, figure)


def connect_search(page: gradio.Blocks, explorer: Explorer, widgets: Widgets, chosen: gradio.State) -> None:
    """Say what each event of the search tab does; `chosen` receives the chosen result."""
    query, button, top, alike, add, shelf, results, player, said, question, answers, kind, figure = widgets
    found, handlers, respond = gradio.State(("", [])), Handlers(explorer), partial(shown, explorer)
    options = {"api_visibility": "private", **IN_TURN}
    inputs, outputs = [query, top], [found, chosen, results, player, said, figure, answers]
    search = respond(handlers.search)
    searches = [gradio.on([query.submit, button.click], search, inputs, outputs, **options)]
    if shelf:
        taken = shelf.click(lambda sample: sample[0], shelf, query, **options)  # gradio.Examples bypasses the queue
        searches.append(taken.then(search, inputs, outputs, **options))
    for searched in searches:
        searched.success(None, inputs, None, js=WRITE_LINK)
    alike.click(respond(handlers.search_alike), inputs, outputs, js=SEND_AND_SEARCH, **options)
    add.click(respond(handlers.add_video), query, query, js=SEND, **options)
    page.load(respond(handlers.follow_link), inputs, [*inputs, *outputs], js=READ_LINK, **options)
    choice = results.select(respond(handlers.choose), found, [chosen, player, said, answers], **options)
    draw = respond(handlers.draw)
    described = choice.success(None, js=SHOW_PLAYER).then(respond(handlers.describe), chosen, said, **options)
    described.success(draw, [kind, chosen], figure, **options)
    kind.change(draw, [kind, chosen], figure, **options)
    question.submit(respond(handlers.ask), [question, chosen], answers, **options)


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
    compare = shown(explorer, Handlers(explorer).compare)
    button.click(compare, chosen, [table, maps], api_visibility="private", **IN_TURN)
