"""Two hundred damaged inputs: each is refused in one line."""

import itertools

import pytest

from tests.fuzz import ATTEMPTS, outcome

COUNTS = {"header": 40, "pictures": 40, "annotations": 60, "checkpoints": 30, "arguments": 30}


@pytest.mark.parametrize("kind", COUNTS)
def test_damaged_inputs_are_refused_in_one_line(kind, tmp_path, monkeypatch):
    """Seeds are taken in order; an input that stays valid, as a video may, must work and does not count."""
    monkeypatch.chdir(tmp_path)
    attempt = ATTEMPTS[kind](tmp_path)
    refused, most = 0, 4 * COUNTS[kind]
    for seed in itertools.count():
        refused += outcome(attempt, seed) is not None
        assert seed < most, f"only {refused} of {most} damaged inputs were refused"
        if refused == COUNTS[kind]:
            break
