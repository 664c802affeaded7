"""The teachers of the Banzhaf loss, controls included."""

import torch

from models.banzhaf import exact_interaction_of_cosines
from models.coalitions import Pairs
from models.estimator import BanzhafModule
from models.teacher import TEACHERS, shuffle_cells, teacher_interaction


def pairs(words=7, frames=5):
    draw = torch.Generator().manual_seed(0)
    text_mask = (torch.arange(words) < torch.tensor([[7], [3], [2]])).long()
    video_mask = (torch.arange(frames) < torch.tensor([[4], [5], [2]])).long()
    token_sim = torch.rand(3, words, frames, generator=draw) * text_mask.unsqueeze(2) * video_mask.unsqueeze(1)
    scores = torch.rand(3, words, generator=draw), torch.rand(3, frames, generator=draw)
    return Pairs(token_sim, text_mask, video_mask, *scores)


def test_each_teacher_gives_what_its_name_says():
    torch.manual_seed(0)
    estimator, players = BanzhafModule(), pairs()
    exact = exact_interaction_of_cosines(players)
    assert torch.equal(teacher_interaction("exact", estimator, players), exact)
    assert torch.equal(teacher_interaction("estimator", estimator, players), estimator(players.token_sim))
    assert not teacher_interaction("constant", estimator, players).any()
    for kind in TEACHERS:
        trained = Pairs(*(tensor.requires_grad_(tensor.is_floating_point()) for tensor in players))
        assert not teacher_interaction(kind, estimator, trained).requires_grad
    shuffled = teacher_interaction("shuffled", estimator, players)
    assert torch.equal(shuffled.flatten(1).sort().values, exact.flatten(1).sort().values)
    assert not torch.equal(shuffled, exact)


def test_shuffling_keeps_padding_apart_and_reaches_every_order():
    torch.manual_seed(0)
    text_mask, video_mask = pairs().masks()
    valid = (text_mask.unsqueeze(2) * video_mask.unsqueeze(1)).bool()
    numbers = torch.arange(1.0, 1 + valid.numel()).view(valid.shape) * valid
    seen = set()
    for _ in range(300):
        shuffled = shuffle_cells(numbers, text_mask, video_mask)
        for before, after, cells in zip(numbers, shuffled, valid, strict=True):
            assert torch.equal(after[cells].sort().values, before[cells]) and not after[~cells].any()
        seen.add(tuple(shuffled[2][valid[2]].tolist()))
    assert len(seen) == 24  # the orders of the four cells of the last pair
    whole = shuffle_cells(numbers + 1, torch.ones_like(text_mask), torch.ones_like(video_mask))
    assert torch.equal(whole.flatten(1).sort().values, (numbers + 1).flatten(1).sort().values)
