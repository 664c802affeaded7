"""Banzhaf interaction against its definition, by enumeration of every coalition, and against shapiq."""

import itertools
import math

import numpy as np
import pytest
import torch

from models.banzhaf import LABEL_SCALE, BanzhafInteraction, GameOptions, exact_interaction, sampled_interaction
from models.expectations import draw_coalitions, expected_maxima, expected_weights

WORDS, FRAMES = 5, 4


def players(game, *, words=WORDS, frames=FRAMES, lengths=((5, 4), (3, 4), (2, 2), (4, 1)), spread=None, seed=0):
    """token_sim, masks and scores of a ragged batch in float64; `spread` fixes the range of the standard scores."""
    generator = torch.Generator().manual_seed(seed)
    text_mask = torch.stack([torch.arange(words) < text for text, _ in lengths])
    video_mask = torch.stack([torch.arange(frames) < video for _, video in lengths])
    sim = torch.randn(len(lengths), words, frames, generator=generator, dtype=torch.float64)
    sim *= text_mask[:, :, None] & video_mask[:, None]
    scores = []
    for mask in (text_mask, video_mask):
        score = torch.rand(mask.shape, generator=generator, dtype=torch.float64)
        if spread is not None:
            score = (score - score.amin(1, keepdim=True)) / (score.amax(1, keepdim=True) - score.amin(1, keepdim=True))
            score = score * spread
        if game == "released":
            score = (3 * score).masked_fill(~mask, -torch.inf).softmax(-1)
        scores.append(score)
    return sim, text_mask, video_mask, *scores


def seeded(seed, **options):
    return GameOptions(generator=torch.Generator().manual_seed(seed), **options)


def subsets(tokens):
    """Every subset of the tokens, as sets."""
    return [set(chosen) for size in range(len(tokens) + 1) for chosen in itertools.combinations(tokens, size)]


def softmax(scores, members):
    """Softmax over the members; a dictionary."""
    total = sum(math.exp(scores[k]) for k in members)
    return {k: math.exp(scores[k]) / total for k in members}


def standard_value(sim, w, u, words, frames):
    """v(C) of the literature."""
    if not words or not frames:
        return 0.0
    p, r = softmax(w, words), softmax(u, frames)
    text = sum(p[k] * max(sim[k][frame] for frame in frames) for k in words)
    return (text + sum(r[frame] * max(sim[k][frame] for k in words) for frame in frames)) / 2


def zeroed_value(sim, p, r):
    """Weighted maxima over a whole matrix in which absent similarities are zeros already."""
    text = sum(p[k] * max(sim[k]) for k in p)
    return (text + sum(r[frame] * max(row[frame] for row in sim) for frame in r)) / 2


def released_value(sim, w, u, words, frames):
    """v(C) of the published code."""
    kept = [[sim[k][f] if k in words and f in frames else 0.0 for f in range(len(u))] for k in range(len(w))]
    return zeroed_value(kept, softmax(w, words), softmax(u, frames))


def released_pair_value(sim, w, u, words, frames, i, j):
    """v(C + ij) of the published code: one cell restored, weights of C softmaxed once more with the raw w_i, u_j."""
    kept = [[sim[k][f] if k in words and f in frames else 0.0 for f in range(len(u))] for k in range(len(w))]
    kept[i][j] = sim[i][j]
    p = softmax({**softmax(w, words), i: w[i]}, words | {i})
    r = softmax({**softmax(u, frames), j: u[j]}, frames | {j})
    return zeroed_value(kept, p, r)


def brute_force(game, sim, text_mask, video_mask, text_score, video_score):
    """Mean of the definition over every coalition of the valid tokens."""
    labels = torch.zeros_like(sim)
    for b in range(len(sim)):
        cells, w, u = sim[b].tolist(), text_score[b].tolist(), video_score[b].tolist()
        words, frames = text_mask[b].nonzero().flatten().tolist(), video_mask[b].nonzero().flatten().tolist()
        for i, j in itertools.product(words, frames):
            differences = []
            for text in subsets([k for k in words if k != i]):
                for video in subsets([k for k in frames if k != j]):
                    if game == "standard":
                        value = standard_value
                        pair = value(cells, w, u, text | {i}, video | {j})
                    else:
                        value = released_value
                        pair = released_pair_value(cells, w, u, text, video, i, j)
                    single = value(cells, w, u, text | {i}, video) + value(cells, w, u, text, video | {j})
                    differences.append(pair - single + value(cells, w, u, text, video))
            labels[b, i, j] = math.fsum(differences) / len(differences)
    return labels


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
