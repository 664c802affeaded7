"""The released spelling of names, and that each of ours has one."""

import pytest

from models import ANSWER_METHODS, CAPTION_METHODS, CLIP, METHODS
from models.released import spelling
from tests.conftest import SMALL
from utils.checkpoint import released_names

NAMES = [(r"levels\.(\d)\.(text|video)\.", "{}_level{}."), (r"level", "other"), (r"head\.", "")]


@pytest.mark.parametrize(
    ("ours", "released"),
    [
        ("levels.1.text.weight", "0_leveltext."),
        ("levels.0.video.bias", "_levelvideo."),
        ("levels.7.text.bias", "7_leveltext."),
        ("level.weight", "other."),
        ("head.weight", ""),
        ("temporal.transformer.x.weight", "transformerClip.x."),
        ("temporal.positions.weight", "frame_position_embeddings."),
        ("temporal.lstm.weight", "lstm_visual."),
        ("my.levels.1.text.weight", "my.levels.1.text."),
        ("clip.temporal.lstm.weight", "clip.temporal.lstm."),
    ],
)
def test_the_first_beginning_that_matches_is_replaced(ours, released):
    assert spelling(NAMES, {"0": "", "1": "0"})(ours) == released + ours.rpartition(".")[2]


def test_groups_without_suffixes_stay():
    assert spelling(NAMES)("levels.1.text.weight") == "1_leveltext.weight"


@pytest.mark.parametrize("method", {**METHODS, **CAPTION_METHODS}.values())
def test_no_two_names_are_spelt_alike(method):
    names = released_names(method(CLIP(SMALL), temporal_layers=1))
    assert len(set(names.values())) == len(names)
    assert all(names[name] == name for name in names if name.startswith("clip."))


@pytest.mark.parametrize("method", ANSWER_METHODS.values())
def test_no_two_names_of_answers_are_spelt_alike(method):
    names = released_names(method(CLIP(SMALL), ["yes", "no"], temporal_layers=1))
    assert len(set(names.values())) == len(names)
