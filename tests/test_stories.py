"""Captions of the built-in videos, parsed by the grammar that made them, and scored."""

import json
import random

import pytest

from scripts import score_stories
from scripts.experiments.captions import caption_outcomes, score
from scripts.shapes.grammar import read_story, sentence
from scripts.shapes.scene import Action, Event, Scene, Thing
from utils.caption_metrics import caption_metrics
from utils.errors import InputError

STAR, RING = Thing("small", "red", "star", 30, 30), Thing("big", "blue", "ring", 90, 90)
SCENE = Scene(
    (STAR, RING),
    (Event(0, Action("move", "left"), 0, 1), Event(0, Action("turn", "green"), 1, 2), Event(1, Action("blink"), 2, 3)),
    4,
    0,
)


def test_stories_are_read_from_their_sentences():
    for seed in range(50):
        text = sentence(SCENE, random.Random(seed))
        assert read_story(text) == read_story(text.replace(",", " ,").upper()) == SCENE.story
        assert read_story(f"{text} now") is None and read_story(text.rpartition(" ")[0]) != SCENE.story
    assert read_story("it blinks") is None and read_story("") is None


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("a small red star slides left , then it turns green , and finally a large blue ring flashes", "all"),
        ("a big red star turns green , then it moves left and then the big blue ring blinks", "things events"),
        ("a small red star moves left , then the big blue ring blinks", "things"),
        ("a small red star moves left , then the big blue bar blinks", ""),
        ("a small red star moves a red", ""),
    ],
)
def test_stories_are_scored_by_things_events_and_order(text, right):
    found = score(read_story(text), SCENE.story)
    assert [name for name, fine in found.items() if fine] == right.replace("all", "things events story").split()


def test_runs_are_scored(tmp_path, capsys):
    captions = {f"video{seed}": sentence(SCENE, random.Random(seed)) for seed in range(8)}
    annotations = [{"image_id": name, "caption": caption} for name, caption in captions.items()]
    (tmp_path / "references.json").write_text(json.dumps({"annotations": annotations}))
    lines = [{"image_id": name, "caption": caption} for name, caption in (captions | {"video0": "a dog"}).items()]
    (tmp_path / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    score_stories.main([str(tmp_path)])
    outcomes = caption_outcomes(tmp_path)
    assert outcomes["things"].tolist() == [False] + [True] * 7
    expected = caption_metrics([line["caption"] for line in lines], [[caption] for caption in captions.values()])
    assert 100 * outcomes["CIDEr"].mean() == pytest.approx(expected["CIDEr"])
    assert json.loads((tmp_path / "stories.json").read_text()) == {"things": 87.5, "events": 87.5, "story": 87.5}
    assert "87.5" in capsys.readouterr().out


def test_captions_of_other_videos_are_refused(tmp_path):
    (tmp_path / "references.json").write_text('{"annotations": [{"image_id": "a", "caption": "a dog runs"}]}')
    (tmp_path / "captions.jsonl").write_text('{"image_id": "a", "caption": "a dog"}\n')
    with pytest.raises(InputError, match="its references are not of the built-in videos"):
        score_stories.score_run(tmp_path)
