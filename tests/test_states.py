"""Saved states: the newest are kept, damaged ones give their place to those before."""

import logging
import resource

import pytest
import torch

from utils.engine.training_state import TrainingStates, check_state, read_state
from utils.errors import InputError
from utils.files import claim_folder

LOGGER = logging.getLogger("states")


@pytest.fixture
def states(tmp_path):
    """Three states, of which two are kept."""
    claim_folder(tmp_path, "output")
    states = TrainingStates(tmp_path / "training_state", keep=2)
    for step in (9, 10, 11):
        states.save(step, {"weight": torch.full((1000,), float(step))}, {"lr": 0.1, "resume": "auto"}, 1)
    return states


def test_the_newest_states_are_kept_and_found(states, caplog):
    assert sorted(path.name for path in states.folder.iterdir()) == ["step_10", "step_11"]
    assert states.find(LOGGER) == states.path(11)
    assert check_state(states.path(11))["arguments"] == {"lr": 0.1}
    assert read_state(states.path(10))["weight"][0] == 10


def flip_a_byte(folder):
    content = bytearray((folder / "state.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "state.pt").write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        flip_a_byte,
        lambda folder: (folder / "state.pt").unlink(),
        lambda folder: (folder / "state.json").unlink(),
        lambda folder: (folder / "state.json").write_text("{"),
        lambda folder: (folder / "state.json").write_text("[]"),
    ],
    ids=["flipped", "no_tensors", "no_description", "half_description", "other_description"],
)
def test_a_damaged_state_gives_its_place_to_the_one_before(damage, states, caplog):
    damage(states.path(11))
    with caplog.at_level("WARNING"):
        assert states.find(LOGGER) == states.path(10)
    assert "step_11" in caplog.text and "the state before is taken" in caplog.text
    with pytest.raises(InputError, match="step_11.*--resume"):
        check_state(states.path(11))


def test_a_damaged_state_takes_no_place_from_others(states):
    flip_a_byte(states.path(11))
    alone = TrainingStates(states.folder, keep=1)
    alone.save(10, {"weight": torch.zeros(1)}, {}, 1)
    assert [path.name for path in states.folder.iterdir()] == ["step_10"]
    assert alone.find(LOGGER) == states.path(10)


def test_a_full_disk_leaves_the_states_before(states):
    """A limit on the size of files stands in for the disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, before[1]))
    try:
        with pytest.raises(InputError, match="state.pt: cannot be written .File too large.; free space"):
            states.save(12, {"weight": torch.zeros(2**20)}, {}, 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(states.folder.glob("**/.*"))
    states.path(12).rmdir()  # which holds nothing
    assert states.find(LOGGER) == states.path(11) and read_state(states.path(11))["weight"][0] == 11
    assert states.path(10).is_dir()
