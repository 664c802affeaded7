"""Clustering of tokens; its numbers are in tests/test_golden.py."""

import pytest
import torch

from models import token_merge
from models.token_merge import Clusters, MergeStage, TokenMerge, dpc_knn


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


@pytest.mark.parametrize("over_batch", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_evaluation_merges_some_samples_at_a_time_where_they_do_not_depend_on_each_other(
    masked, over_batch, monkeypatch
):
    torch.manual_seed(0)
    stage, together = MergeStage(64, 0.5, fill_over_batch=over_batch), []
    stage.merge.register_forward_pre_hook(lambda _, inputs: together.append(len(inputs[0])))
    tokens, mask = torch.randn(10, 6, 64), (torch.arange(6) < torch.randint(1, 7, (10, 1))).long()
    given = tokens, mask if masked else None, Clusters.identity(tokens)
    with torch.no_grad():
        merged, clusters = stage(*given)
        monkeypatch.setattr(token_merge, "MERGED", 4)
        found, membership = stage(*given)
    assert together == [10, *([10] if masked and over_batch else [4, 4, 2])]
    torch.testing.assert_close(found, merged)
    assert torch.equal(membership.index, clusters.index)
    torch.testing.assert_close(membership.weight, clusters.weight)


def test_a_merge_is_the_published_one_by_default():
    merge = TokenMerge(8, 0.5)
    assert merge.fill_over_batch and not merge.noise
    assert [*merge.state_dict()] == ["conv.weight", "norm.weight", "norm.bias", "score.weight", "score.bias"]
