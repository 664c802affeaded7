"""States on disk: which are kept and found, and their arguments against those of the run that resumes."""

import logging
from argparse import Namespace

import pytest
import torch

from utils.engine.training_state import TrainingStates, compare_arguments, read_state
from utils.errors import InputError
from utils.files import claim_folder

DECISIVE = """
method stage center diffusion_steps noise_schedule recipe agg_module num_hidden_layers interaction num_levels
reconstruct datatype msrvtt_split labels game decoder_layers retrieval_weight seed batch_size questions_per_clip
captions_per_clip gradient_accumulation_steps
"""


@pytest.mark.parametrize("name", DECISIVE.split())
def test_what_decides_the_model_or_its_batches_must_not_change(name):
    with pytest.raises(InputError, match=f"^--{name}: 1 in the state, 2 now; give the same"):
        compare_arguments({name: 1, "lr": 0.1}, Namespace(**{name: 2, "lr": 0.1}), pytest.fail)


def test_what_else_changes_is_reported():
    said = []
    then = {"lr": 0.1, "keep": 2, "seed": 1, "rates": [1, 2]}
    compare_arguments(then, Namespace(lr=0.2, epochs=3, seed=1, rates=(1, 2), resume="auto"), said.append)
    changes = "epochs: None in the state, 3 now", "keep: 2 in the state, None now", "lr: 0.1 in the state, 0.2 now"
    assert said == [f"--{change}" for change in changes]


@pytest.fixture
def states(tmp_path):
    claim_folder(tmp_path, "run", flag="--output_dir")
    return TrainingStates(tmp_path / "training_state", keep=2)


def save(states, *steps):
    for step in steps:
        states.save(step, {"weight": torch.full((2,), float(step))}, {"lr": 0.1}, processes=1)


def test_older_states_go_with_what_a_killed_writer_left_and_other_files_stay(states):
    save(states, 1, 2)
    (states.path(1) / ".state.pt.abcd1234").write_bytes(b"half")
    (states.path(2) / "notes.txt").write_text("mine")
    save(states, 3, 4)
    assert sorted(path.name for path in states.folder.iterdir()) == ["step_2", "step_3", "step_4"]
    assert [path.name for path in states.path(2).iterdir()] == ["notes.txt"]


def test_the_newest_intact_state_is_found_and_the_damaged_one_named(states, caplog):
    save(states, 1, 2)
    with (states.path(2) / "state.pt").open("ab") as file:
        file.write(b"more")
    with caplog.at_level(logging.WARNING):
        found = states.find(logging.getLogger("states"))
    assert found == states.path(1) and torch.equal(read_state(found)["weight"], torch.ones(2))
    assert "state.pt: is damaged" in caplog.text and "left out, the state before is taken" in caplog.text
