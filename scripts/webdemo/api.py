"""The named endpoints for programs: /search, /interaction and /ask, in JSON."""

from typing import Any

import gradio

from scripts.figures.words import join_words
from scripts.searching.query import Hit
from scripts.webdemo.addresses import address
from scripts.webdemo.explorer import Explorer
from scripts.webdemo.messages import shown


def add_endpoints(explorer: Explorer, **queue: Any) -> None:
    """Add the endpoints to the page under construction; `queue` are keywords of `gradio.api`."""

    def search(query: str = "", top: int = 10, example: str = "") -> list[dict]:
        """Find segments by a sentence, or by an uploaded file (`example` is the key that /upload returned).

        Returns:
            {"file", "start", "end", "similarity", "video"} of each, the most similar first.
        """
        return [describe(hit) for hit in explorer.search(str(query), str(example), top)]

    def describe(hit: Hit) -> dict[str, Any]:
        times = {"start": hit.start, "end": hit.end, "similarity": hit.similarity}
        return {"file": hit.file, **times, "video": address(explorer.index, hit)}

    def interaction(query: str, file: str, start: float, end: float, exact: bool = True) -> list[dict]:
        """The Banzhaf interactions of a sentence and a segment.

        Returns:
            {"level", "similarity", "words", "frames", "interaction"} of each level: the words of each text player, the
            frames of each video player, and a number for each pair of these.
        """
        view = explorer.look(str(query), explorer.segment(str(file), start, end), exact=bool(exact))
        return [
            {
                "level": band.name,
                "similarity": band.sim,
                "words": [[word.label for word in join_words(view.pieces, player)] for player in band.words],
                "frames": [list(player) for player in band.frames],
                "interaction": band.interaction.tolist(),
            }
            for band in view.bands
        ]

    def ask(question: str, file: str, start: float, end: float) -> list[dict]:
        """Answer a question about a segment: {"answer", "probability"} of each, the most probable first."""
        found = explorer.answer(str(question), explorer.segment(str(file), start, end))
        return [{"answer": answer, "probability": probability} for answer, probability in found.items()]

    for endpoint in (search, interaction, ask):
        gradio.api(shown(explorer, endpoint), api_name=endpoint.__name__, **queue)
