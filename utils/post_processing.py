"""Similarities normalised over many queries: figures of another protocol, to be printed apart from the raw ones.

Dimension letters: Q queries, T targets, P queries of a bank, A captions, B clips.
"""

import torch
from torch import Tensor

from utils.metrics import rank_statistics, retrieval_metrics, text_to_video_ranks

SHARPNESS = 100.0
"""Of the dual softmax: CLIP's own scale of cosines."""
BANK_SHARPNESS = 20.0
"""Of the inverted softmax, as published with QB-Norm."""


def dual_softmax(sim: Tensor) -> Tensor:
    """Weigh each similarity by how far its target prefers this query to all others (CAMoE, arXiv 2109.04290).

    It compares a query with the other queries of the test, which an application does not have at once.

    Args:
        sim: (Q, T).

    Returns:
        (Q, T).
    """
    return sim * (SHARPNESS * sim).softmax(dim=0)


def query_bank_norm(
    sim: Tensor, bank: Tensor, *, k: int = 1, beta: float = BANK_SHARPNESS, theta: int = 1
) -> Tensor:
    """Lower the targets that many queries of a bank find (QB-Norm, arXiv 2112.12777, dynamic inverted softmax).

    A query whose best target is among the k best of at least theta queries in the bank gets the logarithms of the
    inverted softmax, exp(beta s(q, t)) / sum over p of exp(beta s(p, t)); the others keep their similarities. So rows
    can be ranked, columns cannot.

    Args:
        sim: (Q, T).
        bank: (P, T) similarity of other queries, those of the training split, to the same targets.
        k: targets that a query of the bank finds; more than there are means all.
        beta: sharpness of the softmax.
        theta: queries of the bank that must find a target.

    Returns:
        (Q, T).
    """
    found = bank.topk(min(k, bank.shape[1]), dim=1).indices.flatten().bincount(minlength=sim.shape[1]) >= theta
    normalised = beta * sim - (beta * bank).logsumexp(dim=0)
    return torch.where(found[sim.argmax(dim=1)][:, None], normalised, sim)


def dual_softmax_metrics(sim: Tensor, clip_of_caption: Tensor) -> dict[str, dict[str, float]]:
    """Metrics of both directions, each normalised over its own queries.

    Args:
        sim: (A, B) similarity of captions and clips.
        clip_of_caption: (A,), as for `retrieval_metrics`, which says what is raised too.

    Returns:
        As `retrieval_metrics`.
    """
    return {
        "t2v": retrieval_metrics(dual_softmax(sim), clip_of_caption)["t2v"],
        "v2t": retrieval_metrics(dual_softmax(sim.T).T, clip_of_caption)["v2t"],
    }


def query_bank_metrics(sim: Tensor, clip_of_caption: Tensor, bank: Tensor) -> dict[str, dict[str, float]]:
    """Metrics of text-to-video retrieval with a bank of training captions.

    Args:
        sim: (A, B) similarity of captions and clips.
        clip_of_caption: (A,), as for `retrieval_metrics`.
        bank: (P, B) similarity of training captions and the same clips.

    Returns:
        "t2v" alone: the queries of the other direction are videos, of which the bank has none.
    """
    return {"t2v": rank_statistics(text_to_video_ranks(query_bank_norm(sim, bank), clip_of_caption))}
