"""Options of the Banzhaf interaction, its forms in training and in the published code, and players that are refused."""

import math

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from models.banzhaf import (
    LABEL_SCALE,
    BanzhafInteraction,
    GameOptions,
    Players,
    exact_interaction,
    exact_interaction_of_cosines,
    sampled_interaction,
)
from models.coalitions import Pairs, check_players
from tests.banzhaf_case import FRAMES, WORDS, brute_force, players, seeded


@pytest.mark.parametrize("spread", [0.1, 6.0, 40.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_fixed_span_is_as_exact_up_to_its_width(spread, dtype):
    batch = players("standard", spread=spread)
    given = [x.to(dtype) if x.is_floating_point() else x for x in batch]
    fixed = exact_interaction(*given, options=GameOptions(span=40.0, check=False))
    tolerance = 3e-6 if dtype is torch.float32 else 1e-12
    torch.testing.assert_close(fixed.double(), exact_interaction(*batch), atol=tolerance, rtol=0)


def test_scores_beyond_a_fixed_span_count_as_at_its_end():
    sim, text_mask, video_mask, w, u = players("standard", lengths=((5, 4), (4, 3)), spread=60.0)
    w, u = w.masked_fill(~text_mask, -torch.inf), u.masked_fill(~video_mask, -torch.inf)
    near = [score.maximum(score.amax(1, keepdim=True) - 10) for score in (w, u)]
    fixed = exact_interaction(sim, text_mask, video_mask, w, u, options=GameOptions(span=10.0))
    torch.testing.assert_close(fixed, exact_interaction(sim, text_mask, video_mask, *near), atol=1e-12, rtol=0)


@pytest.mark.parametrize(("words", "frames"), [(1, 4), (4, 1), (1, 1)])
def test_unchecked_standard_game_takes_a_side_of_one_token(words, frames):
    batch = players("standard", words=words, frames=frames, lengths=((words, frames),))
    expected = brute_force("standard", *batch)
    unchecked = exact_interaction(*batch, options=GameOptions(check=False))
    torch.testing.assert_close(unchecked, expected, atol=1e-12, rtol=0)
    with pytest.raises(ValueError, match="at least two"):
        exact_interaction(*batch)


@pytest.mark.parametrize("memory", [1, 5000, 2**24])
def test_memory_budget_changes_nothing_but_the_chunks(memory):
    batch = players("released")
    sampled = sampled_interaction(*batch, num=3, options=seeded(0, memory=memory))
    expected = sampled_interaction(*batch, num=3, options=seeded(0))
    torch.testing.assert_close(sampled, expected, atol=1e-12, rtol=0)
    chunked = exact_interaction(*batch, game="released", options=GameOptions(memory=memory))
    torch.testing.assert_close(chunked, exact_interaction(*batch, game="released"), atol=1e-12, rtol=0)


@pytest.mark.parametrize("game", ["standard", "released"])
def test_published_call_samples_scaled_similarities(game):
    sim, text_mask, video_mask, w, u = players(game)
    labels = BanzhafInteraction(WORDS, FRAMES, 7, game=game)(
        sim, text_mask.long(), video_mask.long(), w, u, generator=torch.Generator().manual_seed(3)
    )
    expected = sampled_interaction(LABEL_SCALE * sim, text_mask, video_mask, w, u, game, 7, seeded(3))
    assert labels.shape == sim.shape
    torch.testing.assert_close(labels, expected)


def test_autocast_computes_in_full_precision():
    batch = [x.float() if x.is_floating_point() else x for x in players("standard")]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = exact_interaction(*batch)
    assert torch.equal(inside, exact_interaction(*batch))
    assert exact_interaction(batch[0].bfloat16(), *batch[1:]).dtype == torch.float32


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("game", ["standard", "released"])
def test_cuda_agrees_with_cpu(game):
    batch = players(game, words=16, lengths=((16, 4), (3, 2)))
    moved = [x.cuda() for x in batch]
    torch.testing.assert_close(exact_interaction(*moved, game=game).cpu(), exact_interaction(*batch, game=game))
    assert sampled_interaction(*moved, game=game, num=2, options=seeded(0)).is_cuda


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b.update(game="shapley"), "game"),
        (lambda b: b.update(token_sim=b["token_sim"][0]), "token_sim"),
        (lambda b: b.update(token_sim=b["token_sim"] * math.nan), "NaN"),
        (lambda b: b.update(text_mask=b["text_mask"][:, :3]), "text_mask"),
        (lambda b: b.update(video_score=b["video_score"][:1]), "video_score"),
        (lambda b: b.update(video_score=b["video_score"] * math.inf), "video_score"),
        (lambda b: b.update(text_mask=b["text_mask"] * 0), "text_mask has a row without"),
        (lambda b: b.update(video_mask=b["video_mask"] * 0), "video_mask has a row without"),
        (lambda b: b.update(token_sim=b["token_sim"][:, :1]), "two text tokens"),
        (lambda b: b.update(token_sim=b["token_sim"][..., :1]), "two video tokens"),
    ],
)
@pytest.mark.parametrize("interaction", [exact_interaction, sampled_interaction])
def test_bad_players_are_refused(interaction, change, message, unchecked_shapes):
    names = ("token_sim", "text_mask", "video_mask", "text_score", "video_score")
    batch = dict(zip(names, players("released"), strict=True))
    change(batch)
    with pytest.raises(ValueError, match=message):
        interaction(**batch)


@pytest.mark.parametrize(
    ("text_shape", "video_shape", "message"),
    [
        ((5, 4, 2, 4, 4), (5, 4, 2, 4, 4), "text coalitions"),
        ((5, 4, 2, 4, 5), (5, 4, 3, 4, 4), "video coalitions"),
        ((5, 4, 4, 5), (5, 4, 4, 4), "text coalitions"),
        ((5, 4, 2, 4, 5), None, "together"),
        ((5, 4, 0, 4, 5), (5, 4, 0, 4, 4), "at least one sample"),
    ],
)
def test_bad_coalitions_are_refused(text_shape, video_shape, message, unchecked_shapes):
    masks = [None if shape is None else torch.zeros(shape) for shape in (text_shape, video_shape)]
    with pytest.raises(ValueError, match=message):
        BanzhafInteraction(WORDS, FRAMES, 2)(*players("released"), *masks)


def test_bad_counts_and_sizes_are_refused():
    batch = players("released")
    with pytest.raises(ValueError, match="at least one sample"):
        sampled_interaction(*batch, num=0)
    with pytest.raises(ValueError, match="coalitions must be at least 1"):
        exact_interaction(*batch, game="released", coalitions=0)
    with pytest.raises(ValueError, match="retrieve_logits"):
        BanzhafInteraction(WORDS + 1, FRAMES, 2)(*batch)


def test_players_swapped_twice_are_the_same():
    given = Players(
        torch.rand(2, 3, 4), *(torch.rand(2, count) > 0.5 for count in (3, 4)), torch.rand(2, 3), torch.rand(2, 4)
    )
    for field, again in zip(given, given.swapped().swapped(), strict=True):
        assert torch.equal(field, again)


@pytest.mark.parametrize("game", ["standard", "released"])
def test_two_tokens_on_each_side_are_enough(game):
    batch = players(game, words=2, frames=2, lengths=((2, 2), (2, 1)))
    torch.testing.assert_close(exact_interaction(*batch, game=game), brute_force(game, *batch), atol=1e-12, rtol=0)


def test_negative_similarities_of_one_full_pair():
    """Absent columns count 0 in the released game: only with all columns present is a maximum negative."""
    sim, *others = players("released", lengths=((5, 4), (3, 2)))
    sim = -sim.abs()
    expected = brute_force("released", sim, *others)
    torch.testing.assert_close(exact_interaction(sim, *others, game="released"), expected, atol=1e-12, rtol=0)


def test_missing_masks_are_of_ones():
    sim, _, _, w, u = players("standard", lengths=((5, 4), (5, 4)))
    masks = torch.ones(2, WORDS), torch.ones(2, FRAMES)
    expected = exact_interaction(LABEL_SCALE * sim, *masks, w, u)
    torch.testing.assert_close(exact_interaction_of_cosines(Pairs(sim, None, None, w, u)), expected)
    check_players(Pairs(sim, None, None, w, u), "standard")


def test_training_needs_no_sync_with_the_device():
    """Fake tensors have no values: what asks for one raises."""
    with FakeTensorMode() as mode:
        pairs = Pairs(*map(mode.from_tensor, players("standard")))
        assert exact_interaction_of_cosines(pairs).shape == (4, WORDS, FRAMES)


@pytest.mark.parametrize("interaction", [exact_interaction, sampled_interaction])
def test_draws_come_from_the_generator(interaction):
    batch = players("released", words=14, lengths=((14, 4), (13, 3)))
    first, again, other = (interaction(*batch, game="released", options=seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_one_pair_without_a_valid_token_is_refused():
    sim, text_mask, video_mask, w, u = players("standard")
    video_mask[1] = False
    with pytest.raises(ValueError, match="video_mask has a row without"):
        exact_interaction(sim, text_mask, video_mask, w, u)
