"""Players of the Banzhaf games, and their interaction by its definition, from every coalition."""

import itertools
import math

import torch

from models.banzhaf import GameOptions

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
