"""Normalisation of similarities over many queries, a protocol whose figures are reported separately.

Dimension letters: Q queries, T targets, P queries of a bank, A captions, B clips.
"""

import torch
from torch import Tensor

from utils.metrics import rank_statistics, retrieval_metrics, text_to_video_ranks

SHARPNESS = 100.0
"""Scale of the dual softmax, CLIP's own."""
BANK_SHARPNESS = 20.0
"""beta of the inverted softmax, as published with QB-Norm."""


def dual_softmax(sim: Tensor) -> Tensor:
    """Multiply similarities (Q, T) by their softmax over queries (CAMoE, arXiv 2109.04290).

    It needs all queries of the test at once, which an application does not have.
    """
    return sim * (SHARPNESS * sim).softmax(dim=0)


def query_bank_norm(
    sim: Tensor, bank: Tensor, *, k: int = 1, beta: float = BANK_SHARPNESS, theta: int = 1
) -> Tensor:
    """Lower the targets that many queries of a bank find (QB-Norm, arXiv 2112.12777, dynamic inverted softmax).

    A query whose best target is among the k best of at least theta queries in the bank gets the logarithms of the
    inverted softmax, exp(beta s(q, t)) / sum over p of exp(beta s(p, t)); the others keep their similarities. So only
    rows can be ranked, not columns.

    `sim` is (Q, T), `bank` (P, T) the similarity of training queries to the same targets.
    """
    found = bank.topk(min(k, bank.shape[1]), dim=1).indices.flatten().bincount(minlength=sim.shape[1]) >= theta
    normalised = beta * sim - (beta * bank).logsumexp(dim=0)
    return torch.where(found[sim.argmax(dim=1)][:, None], normalised, sim)


def dual_softmax_metrics(sim: Tensor, clip_of_caption: Tensor) -> dict[str, dict[str, float]]:
    """`retrieval_metrics` of both directions, each normalised over its own queries."""
    return {
        "t2v": retrieval_metrics(dual_softmax(sim), clip_of_caption)["t2v"],
        "v2t": retrieval_metrics(dual_softmax(sim.T).T, clip_of_caption)["v2t"],
    }


def query_bank_metrics(sim: Tensor, clip_of_caption: Tensor, bank: Tensor) -> dict[str, dict[str, float]]:
    """Metrics of text-to-video retrieval alone, with a bank of training captions.

    `sim` is (A, B), `clip_of_caption` (A,), `bank` (P, B) the similarity of training captions and the same clips.
    """
    return {"t2v": rank_statistics(text_to_video_ranks(query_bank_norm(sim, bank), clip_of_caption))}
