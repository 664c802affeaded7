"""The similarity without padding, against the direct one."""

import pytest
import torch

from models import interaction, similarity
from models.level import Level, TokenSet, scored_at_once
from models.recipe import CORRECTED, RELEASED, Recipe

TEXTS, VIDEOS, WORDS, FRAMES, WIDTH = 23, 14, 9, 5, 64


def token_set(count: int, positions: int, *, holes: bool) -> TokenSet:
    """Tokens of random lengths, some of length 1, some with all positions; with `holes` padding anywhere."""
    lengths = torch.randint(1, positions + 1, (count, 1))
    lengths[:2, 0] = torch.tensor([1, positions])
    mask = torch.arange(positions) < lengths
    if holes:
        mask |= torch.rand(mask.shape) < 0.3
    return TokenSet.original(torch.randn(count, positions, WIDTH), mask.long())


def case(*, weighted: bool = True, holes: bool = False, recipe: Recipe = RELEASED) -> tuple[Level, TokenSet, TokenSet]:
    """An entity level and ragged sets, half of whose cosines are negative."""
    torch.manual_seed(0)
    level = Level("entity", WIDTH, weighted=weighted, rates=None, recipe=recipe).eval()
    return level, token_set(TEXTS, WORDS, holes=holes), token_set(VIDEOS, FRAMES, holes=holes)


@pytest.mark.parametrize("holes", [False, True])
@pytest.mark.parametrize("weighted", [True, False])
@torch.no_grad()
def test_packed_similarity_equals_the_plain_one(weighted, holes, monkeypatch):
    monkeypatch.setattr(similarity, "TEXT_ROWS", 30)
    monkeypatch.setattr(similarity, "VIDEO_ROWS", 18)
    monkeypatch.setattr(similarity, "rows_held", lambda device: 60)
    level, text, video = case(weighted=weighted, holes=holes)
    plain = level(text, video).sim
    assert torch.allclose(level.similarity(text, video, 2**20), plain, atol=1e-6)
    rounded = level.similarity(text, video, 2**20, torch.bfloat16)
    assert rounded.dtype is torch.float32
    assert torch.allclose(rounded, plain, atol=0.01) and not torch.equal(rounded, plain)


@pytest.mark.parametrize("recipe", [RELEASED, CORRECTED])
@pytest.mark.parametrize("weighted", [True, False])
@torch.no_grad()
def test_padding_is_a_best_match_only_as_released(weighted, recipe, monkeypatch):
    monkeypatch.setattr(similarity, "TEXT_ROWS", 30)
    monkeypatch.setattr(similarity, "VIDEO_ROWS", 18)
    level, text, video = case(weighted=weighted, holes=True, recipe=recipe)
    scores = [level.token_weights(tokens, side)[0] for tokens, side in ((text, "text"), (video, "video"))]
    expected = torch.empty(TEXTS, VIDEOS)
    for a in range(TEXTS):
        for b in range(VIDEOS):
            words, frames = text.mask[a].bool(), video.mask[b].bool()
            cosines = interaction.unit(text.tokens[a, words], None) @ interaction.unit(video.tokens[b, frames], None).mT
            padded = recipe is RELEASED and not frames.all(), recipe is RELEASED and not words.all()
            best = (
                cosines.amax(1).clamp(min=0 if padded[0] else -1),
                cosines.amax(0).clamp(min=0 if padded[1] else -1),
            )
            weights = scores[0][a, words].softmax(0), scores[1][b, frames].softmax(0)
            expected[a, b] = sum((x * weight).sum() for x, weight in zip(best, weights, strict=True)) / 2
    assert torch.allclose(level(text, video).sim, expected, atol=1e-6)
    assert torch.allclose(level.similarity(text, video, 2**20), expected, atol=1e-6)
    assert torch.allclose(level.similarity(text, video, 2**20, torch.bfloat16), expected, atol=0.01)


@torch.no_grad()
def test_a_level_without_masks_compares_every_token():
    level, text, video = case()
    text, video = (TokenSet(x.tokens, None, x.lengths, x.clusters) for x in (text, video))
    assert torch.allclose(level.similarity(text, video, 2**20), level(text, video).sim, atol=1e-6)


def test_more_rows_are_held_where_memory_is_plenty():
    """All videos are laid out again for each part of the texts, and each part takes a kernel's start."""
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert similarity.rows_held(gpu) >= 16 * similarity.rows_held(cpu)
    assert scored_at_once(gpu) >= 16 * scored_at_once(cpu)


@pytest.mark.parametrize("memory", [1, 4000, 40_000])
@torch.no_grad()
def test_no_block_takes_more_than_the_memory(memory, monkeypatch):
    level, text, video = case()
    taken, compare = [], similarity.weighted_similarity

    def watched(words, frames):
        taken.append(4 * len(words.tokens) * len(frames.tokens))
        return compare(words, frames)

    monkeypatch.setattr(similarity, "weighted_similarity", watched)
    assert torch.allclose(level.similarity(text, video, memory), level(text, video).sim, atol=1e-6)
    assert max(taken) <= max(memory, 4 * WORDS * FRAMES)
    if memory == 1:  # one pair at a time: no padding at all
        assert sum(taken) == 4 * text.mask.sum() * video.mask.sum()


@pytest.mark.parametrize("count", [50, 500])
@torch.no_grad()
def test_blocks_come_in_few_shapes_however_many_sequences(count, monkeypatch):
    monkeypatch.setattr(similarity, "TEXT_ROWS", 40)
    monkeypatch.setattr(similarity, "VIDEO_ROWS", 20)
    monkeypatch.setattr(similarity, "VECTOR", 8)  # two videos in float32
    level, _, _ = case()
    words, frames, used, compare = set(), set(), [], similarity.weighted_similarity

    def watched(text, video):
        words.add(len(text.tokens))
        frames.add(video.weight.shape)
        used.append(text.weight.numel() / len(text.tokens))
        return compare(text, video)

    monkeypatch.setattr(similarity, "weighted_similarity", watched)
    level.similarity(token_set(count, WORDS, holes=False), token_set(count, FRAMES, holes=False), 2**20)
    assert words <= {10, 20, 30, 40}
    odd = {(longest, videos) for longest, videos in frames if videos % 2}
    assert len(odd) <= 1 and all(longest * videos <= 20 for longest, videos in frames)  # the last part alone
    assert sum(used) / len(used) > 0.8  # hardly any zeros are multiplied


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("value", [torch.nan, -torch.nan, torch.inf])
@pytest.mark.parametrize("memory", [2**20, 2000])  # one block of all, and short sequences with their padding cut off
@torch.no_grad()
def test_a_token_that_is_not_finite_is_seen(weighted, dtype, value, memory):
    level, text, video = case(weighted=weighted)
    text.tokens[3, 0, 5], video.tokens[4, 0, 6] = value, value
    broken = torch.zeros(TEXTS, VIDEOS, dtype=torch.bool)
    broken[3], broken[:, 4] = True, True
    assert torch.equal(level.similarity(text, video, memory, dtype).isnan(), broken)


def test_training_in_blocks_gives_the_same_gradients(monkeypatch):
    torch.manual_seed(0)
    text, video = interaction.unit(torch.randn(7, 5, 8), None), interaction.unit(torch.randn(6, 4, 8), None)
    inputs = [x.requires_grad_() for x in (text, video, torch.rand(7, 5), torch.rand(6, 4))]
    results = []
    for memory in (2**20, 4 * 6 * 5 * 4 * 2, 1):  # all texts at once, two, and one
        monkeypatch.setattr(interaction, "BLOCK_MEMORY", memory)
        sim = interaction.similarity_for_training(*inputs)
        results.append([sim, *torch.autograd.grad((sim**2).sum(), inputs)])
    for blocks in results[1:]:
        torch.testing.assert_close(blocks, results[0])
