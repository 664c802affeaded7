"""Correctness of each caption of a run.

Q captions.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from scripts.shapes.grammar import Story, read_story
from utils.caption_metrics import caption_words, cider
from utils.texts import parse_json, read_json, read_text


def caption_outcomes(folder: Path) -> dict[str, np.ndarray]:
    """CIDEr of each caption (Q,), where 1 is 100 points; on the built-in videos also `story_outcomes`."""
    captions, references = read_captions(folder)
    words = [caption_words(caption) for caption in captions]
    true_words = [[caption_words(caption) for caption in of_video] for of_video in references]
    return {"CIDEr": cider(words, true_words)} | story_outcomes(captions, references)


def read_captions(folder: Path) -> tuple[list[str], list[list[str]]]:
    """Captions and references of each video of a run of main_captioning.py.

    Raises:
        InputError: a file is missing or no JSON.
    """
    path = folder / "captions.jsonl"
    lines = [parse_json(line, path, number) for number, line in enumerate(read_text(path).splitlines(), start=1)]
    references: dict[str, list[str]] = {line["image_id"]: [] for line in lines}
    for entry in read_json(folder / "references.json")["annotations"]:
        references.setdefault(entry["image_id"], []).append(entry["caption"])
    return [line["caption"] for line in lines], [references[line["image_id"]] for line in lines]


def story_outcomes(captions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, np.ndarray]:
    """Correctness (Q,) of captions by criterion; empty if the references are not of the built-in videos."""
    true = [read_story(of_video[0]) if of_video else None for of_video in references]
    if not true or not all(true):
        return {}
    scores = [score(read_story(caption), story) for caption, story in zip(captions, true, strict=True)]
    return {name: np.array([each[name] for each in scores]) for name in scores[0]}


def score(said: Story | None, true: Story) -> dict[str, bool]:
    """Whether the things, the events, and the order of the events are right."""
    said = said or ()
    return {
        "things": {event[:2] for event in said} == {event[:2] for event in true},
        "events": Counter(said) == Counter(true),
        "story": said == true,
    }
