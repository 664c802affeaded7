"""Shapes in the signatures of models/ are checked in the tests, and nowhere else."""

import subprocess
import sys
from pathlib import Path

import jaxtyping
import pytest
import torch

from models.encoder import Tokens
from models.interaction import unit
from models.losses import contrastive
from models.token_merge import Clusters

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    "call",
    [
        lambda: unit(torch.ones(2, 3, 4), torch.ones(2, 4)),  # one letter, two sizes
        lambda: contrastive(torch.ones(2, 3), torch.tensor(1.0)),
        lambda: contrastive(torch.ones(2, 2).long(), torch.tensor(1.0)),  # another dtype
        lambda: Clusters(torch.zeros(2, 3).long(), torch.ones(2, 4)),  # a field of a dataclass
        lambda: Tokens(torch.ones(2, 3, 4), torch.ones(2, 3)).select("first"),
    ],
)
def test_a_wrong_shape_or_type_is_noticed(call):
    with pytest.raises(jaxtyping.TypeCheckError):
        call()


def test_a_wrong_result_is_noticed(monkeypatch):
    monkeypatch.setattr("torch.Tensor.float", lambda tensor: tensor[:1])
    with pytest.raises(jaxtyping.TypeCheckError, match="return"):
        unit(torch.ones(2, 3, 4), None)


def test_nothing_is_checked_outside_of_the_tests():
    code = (
        "import sys, torch; from models.interaction import unit; assert 'beartype' not in sys.modules;"
        "print(tuple(unit(torch.ones(2, 3, 4), torch.ones(1, 3)).shape))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "(2, 3, 4)"
