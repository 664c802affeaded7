"""Reconstructed tokens: the closed form against a direct one, padding, independence of pairs, and HBI with them."""

import pytest
import torch

from models import CLIP, HBI, Tokens, load_model
from models.interaction import unit
from models.recipe import CORRECTED
from models.reconstruction import Reconstruction, pooled, reconstructed
from tests.conftest import SMALL
from utils.checkpoint import released_names, released_state, save_weights
from utils.engine.optim import parameter_groups

WORDS, FRAMES, WIDTH = 7, 5, 16


def random_sides(texts=4, videos=3, seed=0):
    draw = torch.Generator().manual_seed(seed)
    found, weights = [], []
    for count, tokens in ((texts, WORDS), (videos, FRAMES)):
        mask = (torch.arange(tokens) < torch.randint(1, tokens + 1, (count, 1), generator=draw)).float()
        found.append(unit(torch.randn(count, tokens, WIDTH, generator=draw), mask))
        scores = torch.randn(count, tokens, generator=draw).masked_fill(mask == 0, -9e15)
        weights.append(scores.softmax(dim=-1))
    return *found, *weights


def with_shares(alpha, beta):
    module = Reconstruction(None)
    module.shares = lambda: (alpha, beta)
    return module


def direct(text, video, text_weight, video_weight, alpha, beta):
    """Every pair by itself, from tokens of that pair."""
    rows = []
    for one in range(len(text)):
        row = []
        for other in range(len(video)):
            words, frames = text[one : one + 1], video[other : other + 1]
            queries = pooled(words, text_weight[one : one + 1]), pooled(frames, video_weight[other : other + 1])
            row.append(reconstructed(words, queries[1], alpha) @ reconstructed(frames, queries[0], beta).mT)
        rows.append(torch.cat(row))
    return torch.stack(rows)


@pytest.mark.parametrize(("alpha", "beta"), [(0.0, 0.0), (0.3, 0.0), (0.0, 0.5), (0.2, 0.6), (1.0, 1.0)])
def test_the_closed_form_equals_the_direct_one(alpha, beta):
    sides = random_sides()
    found = with_shares(alpha, beta).all_pairs(*sides)
    assert torch.allclose(found, direct(*sides, alpha, beta), atol=1e-5)
    if alpha == beta == 0:
        assert torch.allclose(found, torch.einsum("atd,bvd->abtv", *sides[:2]), atol=1e-6)


def test_true_pairs_are_the_diagonal():
    sides = random_sides(texts=4, videos=4)
    module = Reconstruction(0.3)
    pairs = module.pairs(*sides)
    assert pairs.shape == (4, WORDS, FRAMES)
    everything = module.all_pairs(*sides)
    assert torch.allclose(pairs, torch.stack([everything[pair, pair] for pair in range(4)]), atol=1e-5)


def test_a_pair_depends_on_its_text_and_video_alone():
    text, video, text_weight, video_weight = random_sides()
    module = with_shares(0.4, 0.2)
    whole = module.all_pairs(text, video, text_weight, video_weight)
    order = torch.tensor([2, 0])
    part = module.all_pairs(text[order], video[1:], text_weight[order], video_weight[1:])
    assert torch.allclose(part, whole[order, 1:], atol=1e-6)
    options = {"padding_in_maxima": False}
    sides = [text, video, text_weight, video_weight]
    blocks, at_once = (module.similarity(sides, **options, memory=memory) for memory in (1, 2**30))
    assert torch.allclose(blocks, at_once, atol=1e-6)


@pytest.mark.parametrize("padding_in_maxima", [True, False])
def test_similarity_is_the_weighted_best_match(padding_in_maxima):
    sides = random_sides()
    sim = direct(*sides, 0.3, 0.3)
    found = with_shares(0.3, 0.3).similarity(list(sides), padding_in_maxima=padding_in_maxima, memory=2**20)
    lengths = [side.any(dim=-1).sum(dim=1).tolist() for side in sides[:2]]
    for one, words in enumerate(lengths[0]):
        for other, frames in enumerate(lengths[1]):
            values = sim[one, other] if padding_in_maxima else sim[one, other, :words, :frames]
            text_weight, video_weight = sides[2][one, : values.shape[0]], sides[3][other, : values.shape[1]]
            expected = (values.amax(1) @ text_weight + values.amax(0) @ video_weight) / 2
            assert found[one, other].item() == pytest.approx(expected.item(), abs=1e-5)


def test_the_gradient_is_finite_where_nothing_is_added():
    module = Reconstruction(None)
    with torch.no_grad():
        module.bias.fill_(-60.0)  # a share of 0
    text, video, *weights = random_sides()
    text.requires_grad_()
    module.all_pairs(text, video, *weights).sum().backward()
    assert text.grad.isfinite().all() and module.bias.grad.isfinite().all()


def build(**options):
    torch.manual_seed(0)
    options = {"recipe": CORRECTED, "rates": (0.4, 0.3, 0.3), "teacher": "exact"} | options
    return HBI(CLIP(SMALL), temporal_layers=1, **options)


def random_tokens(count, tokens, seed):
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(3, tokens + 1, (count, 1), generator=draw)
    return Tokens(torch.randn(count, tokens, 64, generator=draw), (torch.arange(tokens) < lengths).long())


TEXT, VIDEO = random_tokens(5, 9, seed=0), random_tokens(5, 8, seed=1)
IDS = torch.arange(5)


@pytest.mark.parametrize("recipe", ["released", CORRECTED])
def test_a_share_of_zero_is_the_published_method_bit_for_bit(recipe):
    plain, without = build(recipe=recipe).eval(), build(recipe=recipe, reconstruct="game", reconstruct_share=0).eval()
    terms, expected = (model.losses(TEXT, VIDEO, IDS) for model in (without, plain))
    assert all(torch.equal(value, expected[name]) for name, value in terms.items())
    assert torch.equal(without.similarity(TEXT, VIDEO), plain.similarity(TEXT, VIDEO))


def test_in_the_game_only_the_game_changes():
    plain, game = build().eval(), build(reconstruct="game").eval()
    terms, expected = (model.losses(TEXT, VIDEO, IDS) for model in (game, plain))
    changed = {name for name, value in terms.items() if not torch.equal(value, expected[name])}
    # One frame is left at the event level, and a softmax over it is always 1.
    assert changed == {name for name in terms if "kl_banzhaf" in name} - {"event.kl_banzhaf"}
    assert torch.equal(game.similarity(TEXT, VIDEO), plain.similarity(TEXT, VIDEO))
    for ours, theirs in zip(game.interactions(TEXT, VIDEO), plain.interactions(TEXT, VIDEO), strict=True):
        assert ours.token_sim.shape == theirs.token_sim.shape
        assert not torch.equal(ours.interaction, theirs.interaction)


@pytest.mark.parametrize("recipe", ["released", CORRECTED])
def test_scores_in_training_and_evaluation_are_the_same(recipe):
    model = build(reconstruct="score", recipe=recipe).eval()
    outputs = model.level_outputs(*TEXT, *VIDEO)
    mixed = sum(rate * output.sim for rate, output in zip(model.rates, outputs, strict=True))
    assert torch.allclose(model.similarity(TEXT, VIDEO), mixed, atol=1e-6)
    assert torch.allclose(model.similarity(TEXT, VIDEO, memory=1), mixed, atol=1e-6)
    assert not torch.allclose(build(recipe=recipe).eval().similarity(TEXT, VIDEO), mixed, atol=1e-3)
    order = torch.tensor([3, 1])
    assert torch.allclose(model.similarity(TEXT.select(order), VIDEO), mixed[order], atol=1e-5) or recipe == "released"


def test_padding_changes_nothing():
    model = build(reconstruct="score").eval()
    junk = [tokens + 5 * (1 - mask).unsqueeze(-1) for tokens, mask in (TEXT, VIDEO)]
    changed = Tokens(junk[0], TEXT.mask), Tokens(junk[1], VIDEO.mask)
    # The merges convolve over neighbours, so padding is compared where nothing is merged.
    entity = build(reconstruct="score", rates=(1, 0, 0)).eval()
    assert torch.allclose(entity.similarity(*changed), entity.similarity(TEXT, VIDEO), atol=1e-6)
    assert model.similarity(*changed).isfinite().all()


def test_learned_shares_get_gradients_and_are_kept(tmp_path):
    model = build(reconstruct="score").train()
    model.loss(TEXT, VIDEO, IDS)["loss"].backward()
    assert all(level.reconstruction.bias.grad.abs().max() > 0 for level in model.levels)
    groups = parameter_groups(((released_names(model)[name], x) for name, x in model.named_parameters()), 1e-4, 1, 0.2)
    own = model.levels[0].reconstruction.bias
    assert [group["weight_decay"] for group in groups if any(x is own for x in group["params"])] == [0]
    path = tmp_path / "pytorch_model.bin.0"
    save_weights(released_state(model), path)
    loaded = load_model(path, recipe=CORRECTED, rates=model.rates)
    assert torch.equal(loaded.similarity(TEXT, VIDEO), model.eval().similarity(TEXT, VIDEO))
    save_weights(released_state(build()), path)
    begun = load_model(path, reconstruct="score")
    assert begun.levels[2].reconstruction.shares()[0].item() == pytest.approx(0.1)


def test_an_unknown_scope_is_refused():
    with pytest.raises(ValueError, match="unknown scope 'all': choose one of none, game, score"):
        build(reconstruct="all")
