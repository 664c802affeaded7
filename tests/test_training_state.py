"""Arguments of a saved state against those of the run that resumes from it."""

from argparse import Namespace

import pytest

from utils.engine.training_state import compare_arguments
from utils.errors import InputError

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
