"""What the options of HBI change in its structure and loss, and which of them a checkpoint determines."""

import argparse

import pytest
import torch

from models import HBI
from models.hbi_options import HBIOptions
from models.losses import banzhaf_alignment
from tests.test_hbi import batch, build
from utils.checkpoint import released_state


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_the_loss_has_the_terms_of_the_trained_levels(levels):
    names = ("entity", "action", "event")[:levels]
    terms = {name for name in build(trained_levels=levels)(**batch()) if name.startswith(("entity", "action", "event"))}
    assert {name.partition(".")[0] for name in terms} == {*names}


def test_texts_and_videos_are_merged_at_their_own_rates():
    model = build(text_rates=(0.5, 0.25), video_rates=(0.75, 0.1))
    rates = [(level.text_merge.merge.rate, level.video_merge.merge.rate) for level in model.levels[1:]]
    assert rates == [(0.5, 0.75), (0.25, 0.1)]


@pytest.mark.parametrize(
    "options",
    [{}, {"interaction": "mean"}, {"network": "ranked"}, {"reconstruct": "score"}],
    ids=lambda options: "".join(options.values()) or "default",
)
def test_a_checkpoint_determines_its_options(options):
    defaults = {"interaction": "wti", "network": "released"}
    assert HBI.options_of_state(released_state(build(**options))) == defaults | options


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"teacher": "best"}, "unknown teacher 'best': choose one of estimator, exact, shuffled, constant"),
        ({"reconstruct": "all"}, "unknown scope 'all': choose one of none, game, score"),
    ],
)
def test_unknown_kinds_are_refused(options, says):
    with pytest.raises(ValueError) as refused:
        HBIOptions(**options)
    assert str(refused.value) == says


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_each_number_of_levels_has_a_flag(levels):
    parser = argparse.ArgumentParser()
    HBI.add_arguments(parser)
    assert parser.parse_args(["--num_levels", str(levels)]).num_levels == levels


def test_the_alignment_multiplies_by_masks_by_default():
    student, teacher, mask = torch.randn(2, 3, 4), torch.randn(2, 3, 4), torch.tensor([[1, 1, 0], [1, 0, 0]])
    valid = (mask.unsqueeze(2) * torch.ones(2, 1, 4)).bool()
    found = banzhaf_alignment(student, teacher, mask, torch.ones(2, 4).long())
    expected = banzhaf_alignment(student * valid, teacher * valid, None, None)
    assert found == expected
