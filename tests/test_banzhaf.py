"""Banzhaf interaction against its definition, by enumeration of every coalition, and against shapiq."""

import itertools
import math

import numpy as np
import pytest
import torch

from models.banzhaf import GameOptions, exact_interaction, sampled_interaction
from models.expectations import draw_coalitions, expected_maxima, expected_weights
from tests.banzhaf_case import FRAMES, WORDS, brute_force, players, seeded, standard_value


@pytest.mark.parametrize("game", ["standard", "released"])
def test_exact_is_the_average_over_all_coalitions(game):
    batch = players(game)
    torch.testing.assert_close(exact_interaction(*batch, game=game), brute_force(game, *batch), atol=1e-10, rtol=0)


@pytest.mark.parametrize("game", ["standard", "released"])
def test_five_by_five_and_masks_with_holes(game):
    batch = players(game, words=5, frames=5, lengths=((5, 5), (5, 5)), seed=1)
    batch[1][1, 2], batch[2][1, 0] = False, False
    batch[0][1, 2], batch[0][1, :, 0] = 0, 0
    torch.testing.assert_close(exact_interaction(*batch, game=game), brute_force(game, *batch), atol=1e-10, rtol=0)


@pytest.mark.parametrize("spread", [3.0, 12.0, 60.0])
def test_exact_holds_for_scores_far_apart(spread):
    batch = players("standard", spread=spread)
    torch.testing.assert_close(exact_interaction(*batch), brute_force("standard", *batch), atol=1e-6, rtol=0)


@pytest.mark.parametrize("game", ["standard", "released"])
def test_float32_is_close_to_float64(game):
    batch = players(game, words=24, frames=12, lengths=((24, 12), (11, 7)))
    single = [x.float() if x.is_floating_point() else x for x in batch]
    result = exact_interaction(*single, game=game)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result.double(), exact_interaction(*batch, game=game), atol=2e-6, rtol=0)


def test_standard_game_against_shapiq():
    shapiq = pytest.importorskip("shapiq.game_theory.exact", reason="shapiq is not installed")
    sim, _, _, w, u = players("standard", lengths=((5, 4),), spread=6.0)

    def game(coalitions):
        members = [[set(np.flatnonzero(side)) for side in np.split(row, [WORDS])] for row in np.atleast_2d(coalitions)]
        return np.array([standard_value(sim[0].tolist(), w[0].tolist(), u[0].tolist(), *sides) for sides in members])

    index = shapiq.ExactComputer(game, n_players=WORDS + FRAMES)("BII", order=2)
    expected = torch.tensor([[index[(i, WORDS + j)] for j in range(FRAMES)] for i in range(WORDS)])
    ones = torch.ones(1, WORDS), torch.ones(1, FRAMES)
    torch.testing.assert_close(exact_interaction(sim, *ones, w, u)[0], expected.double(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("game", ["standard", "released"])
def test_sampling_all_coalitions_once_is_exact(game):
    words, frames = 4, 3
    batch = players(game, words=words, frames=frames, lengths=((4, 3), (3, 3), (2, 1)))
    every = torch.tensor(list(itertools.product([0, 1], repeat=words + frames)))
    shape = words, frames, len(every), len(batch[0]), words + frames
    masks = every[None, None, :, None].expand(shape).split((words, frames), dim=-1)
    sampled = sampled_interaction(*batch, game=game, options=GameOptions(coalitions=masks))
    torch.testing.assert_close(sampled, brute_force(game, *batch), atol=1e-12, rtol=0)


@pytest.mark.parametrize("game", ["standard", "released"])
def test_sampling_error_falls_with_the_root_of_the_samples(game):
    batch = players(game, lengths=((5, 4), (4, 3)) * 8, seed=2)
    exact = exact_interaction(*batch, game=game)
    valid = batch[1][:, :, None] & batch[2][:, None]
    errors = []
    for num in (16, 256):
        sampled = sampled_interaction(*batch, game=game, num=num, options=seeded(num))
        errors.append((sampled - exact)[valid].square().mean().sqrt().item())
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.15)


def test_drawn_coalitions_lack_each_token_half_of_the_time():
    """The average over them divides by half of their number."""
    for count in (1, 7, 64):
        drawn = draw_coalitions(9, count, None)
        assert drawn.shape == (2 * count, 9) and (drawn.sum(0) == count).all()


def test_drawn_weights_converge_to_enumerated_ones(monkeypatch):
    batch = players("released", words=9, lengths=((9, 4), (8, 3), (3, 4)) * 4)
    exact = exact_interaction(*batch, game="released")
    monkeypatch.setattr("models.expectations.ENUMERABLE", 3)
    errors = []
    for coalitions in (8, 128):
        drawn = exact_interaction(*batch, game="released", coalitions=coalitions)
        errors.append((drawn - exact).square().mean().sqrt().item())
    assert errors[1] < errors[0] / 2.5
    assert errors[0] < 0.05 * exact.square().mean().sqrt()
    again = exact_interaction(*batch, game="released", coalitions=128)
    assert torch.equal(drawn, again)
    everyone = exact_interaction(*batch, game="released", coalitions=256)
    torch.testing.assert_close(everyone, exact, atol=1e-12, rtol=0)


def test_standard_game_is_differentiable():
    sim, text_mask, video_mask, w, u = players("standard", words=4, frames=3, lengths=((4, 3), (2, 3)))
    inputs = [x.requires_grad_() for x in (sim, w, u)]
    assert torch.autograd.gradcheck(lambda a, w, u: exact_interaction(a, text_mask, video_mask, w, u), inputs)


def test_released_game_carries_no_gradient():
    batch = players("released")
    batch[0].requires_grad_()
    assert not exact_interaction(*batch, game="released").requires_grad


@pytest.mark.parametrize("game", ["standard", "released"])
def test_order_of_tokens_does_not_matter(game):
    sim, text_mask, video_mask, w, u = players(game)
    text, video = torch.randperm(WORDS), torch.randperm(FRAMES)
    moved = exact_interaction(
        sim[:, text][:, :, video], text_mask[:, text], video_mask[:, video], w[:, text], u[:, video], game=game
    )
    expected = exact_interaction(sim, text_mask, video_mask, w, u, game=game)[:, text][:, :, video]
    torch.testing.assert_close(moved, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("game", ["standard", "released"])
@pytest.mark.parametrize("interaction", [exact_interaction, sampled_interaction])
def test_scores_and_similarities_of_padding_are_ignored(game, interaction):
    sim, text_mask, video_mask, w, u = players(game, lengths=((3, 4), (5, 2)))
    expected = interaction(sim, text_mask, video_mask, w, u, game, options=seeded(0))
    sim = torch.where(text_mask[:, :, None] & video_mask[:, None], sim, 7.0)
    w, u = w.masked_fill(~text_mask, -torch.inf), u.masked_fill(~video_mask, math.nan)
    assert torch.equal(interaction(sim, text_mask, video_mask, w, u, game, options=seeded(0)), expected)


def test_padding_changes_nothing_in_the_standard_game():
    sim, text_mask, video_mask, w, u = players("standard", lengths=((5, 4), (5, 4)))
    pad = torch.nn.functional.pad
    padded = exact_interaction(
        pad(sim, (0, 2, 0, 3)),
        pad(text_mask, (0, 3)),
        pad(video_mask, (0, 2)),
        pad(w, (0, 3)),
        pad(u, (0, 2)),
    )
    expected = pad(exact_interaction(sim, text_mask, video_mask, w, u), (0, 2, 0, 3))
    torch.testing.assert_close(padded, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("game", ["standard", "released"])
def test_a_pair_does_not_depend_on_its_batch(game):
    batch = players(game, words=16, frames=6, lengths=((16, 6), (13, 2), (12, 5), (3, 6)), spread=9.0)
    whole = exact_interaction(*batch, game=game)
    for b in range(len(whole)):
        alone = exact_interaction(*(x[b : b + 1] for x in batch), game=game)
        torch.testing.assert_close(alone[0], whole[b], atol=1e-12, rtol=0)


def test_expected_weights_sum_to_the_chance_that_anyone_is_present():
    score = torch.randn(2, 30, dtype=torch.float64) * 5
    mask = torch.arange(30) < torch.tensor([[30], [4]])
    absent, present = expected_weights(score, mask)
    nobody = 0.5 ** (mask.sum(-1, keepdim=True).double() - 1)
    torch.testing.assert_close(absent.sum(-1)[mask], (1 - nobody).expand(2, 30)[mask], atol=1e-12, rtol=0)
    torch.testing.assert_close(present.sum(-1)[mask], torch.ones(34, dtype=torch.float64), atol=1e-12, rtol=0)


def test_expected_maxima_with_equal_similarities():
    without, within = expected_maxima(torch.full((1, 1, 3), 2.0), torch.ones(1, 3, dtype=torch.bool))
    torch.testing.assert_close(without, torch.full((1, 1, 3), 1.5))
    torch.testing.assert_close(within, torch.full((1, 1, 3), 2.0))
