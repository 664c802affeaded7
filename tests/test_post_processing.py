"""Dual softmax and QB-Norm against loops over queries and targets, with several captions a clip."""

import math

import pytest
import torch

from utils.metrics import retrieval_metrics
from utils.post_processing import dual_softmax, dual_softmax_metrics, query_bank_metrics, query_bank_norm


@pytest.fixture
def sims():
    """Cosines of 11 captions and 30 of a bank with 5 clips, and whose each caption is."""
    generator = torch.Generator().manual_seed(3)
    sim, bank = (torch.rand(rows, 5, generator=generator) * 0.6 - 0.1 for rows in (11, 30))
    return sim, bank, torch.tensor([0, 0, 0, 1, 2, 2, 3, 4, 4, 4, 4])


def test_dual_softmax_equals_a_loop(sims):
    sim = sims[0]
    result = dual_softmax(sim)
    for query in range(11):
        for target in range(5):
            share = math.exp(100 * sim[query, target]) / sum(math.exp(100 * sim[q, target]) for q in range(11))
            assert result[query, target].item() == pytest.approx(sim[query, target].item() * share, rel=1e-4)


def test_query_bank_norm_equals_a_loop(sims):
    sim, bank, _ = sims
    bank[:, 3] = -1  # no query of the bank finds clip 3
    result = query_bank_norm(sim, bank)
    found = {max(range(5), key=lambda target: row[target]) for row in bank.tolist()}
    kept = [max(range(5), key=lambda target: row[target]) not in found for row in sim.tolist()]
    assert 0 < sum(kept) < 11
    for query in range(11):
        for target in range(5):
            expected = sim[query, target].item()
            if not kept[query]:
                total = sum(math.exp(20 * row[target]) for row in bank.tolist())
                expected = math.log(math.exp(20 * expected) / total)
            assert result[query, target].item() == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_each_direction_is_normalised_over_its_own_queries(sims):
    sim, bank, owners = sims
    result = dual_softmax_metrics(sim, owners)
    assert result["t2v"] == retrieval_metrics(sim * (100 * sim).softmax(0), owners)["t2v"]
    assert result["v2t"] == retrieval_metrics(sim * (100 * sim).softmax(1), owners)["v2t"]
    assert set(query_bank_metrics(sim, owners, bank)) == {"t2v"}


def test_a_clip_that_every_query_finds_is_lowered():
    sim = torch.eye(4) * 0.3
    sim[:, 0] = 0.4  # a hub
    owners = torch.arange(4)
    assert retrieval_metrics(sim, owners)["t2v"]["R1"] == 25
    assert dual_softmax_metrics(sim, owners)["t2v"]["R1"] == 100
    bank = sim.repeat(3, 1)
    assert query_bank_metrics(sim, owners, bank)["t2v"]["R1"] == 100


def test_similarities_of_any_size_stay_finite():
    sim = torch.randn(6, 4) * 1e4
    assert dual_softmax(sim).isfinite().all()
    assert query_bank_norm(sim, sim * 2).isfinite().all()
