"""Clustering of tokens; its numbers are in tests/test_golden.py."""

import pytest
import torch

from models.token_merge import dpc_knn


@pytest.mark.parametrize("over_batch", [False, True])
def test_a_far_batch_mate_counts_only_where_padding_is_filled_over_the_batch(over_batch):
    """Of two valid tokens the third neighbour is padding: if that is far away, their density is 0 like padding's."""
    torch.manual_seed(0)
    tokens, mask = torch.randn(4, 5, 8), torch.tensor([[0, 0, 1, 1, 0]] * 4)
    tokens[0] *= 1e4
    _, alone = dpc_knn(tokens[1:], 2, mask[1:], fill_over_batch=over_batch)
    _, with_mate = dpc_knn(tokens, 2, mask, fill_over_batch=over_batch)
    assert torch.equal(alone.sort().values, torch.tensor([[2, 3]] * 3))
    assert torch.equal(alone, with_mate[1:]) != over_batch
