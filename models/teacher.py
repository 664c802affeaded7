"""What the students of the levels are aligned with: the Banzhaf interaction of true pairs, or a control.

B pairs, N_t words, N_v frames.
"""

import torch
from torch import Tensor, nn

from models.banzhaf import exact_interaction_of_cosines

TEACHERS = ("estimator", "exact", "shuffled", "constant")
"""A trained network; the exact interaction; as controls the exact one with its cells shuffled, and a constant."""


@torch.no_grad()
def teacher_interaction(
    kind: str,
    estimator: nn.Module,
    token_sim: Tensor,
    text_score: Tensor,
    video_score: Tensor,
    text_mask: Tensor | None,
    video_mask: Tensor | None,
) -> Tensor:
    """The interaction (B, N_t, N_v) by one of `TEACHERS`; arguments as for `exact_interaction_of_cosines`."""
    if kind == "estimator":
        return estimator(token_sim)
    if kind == "constant":
        return torch.zeros_like(token_sim)
    exact = exact_interaction_of_cosines(token_sim, text_score, video_score, text_mask, video_mask)
    return exact if kind == "exact" else shuffle_cells(exact, text_mask, video_mask)


def shuffle_cells(interaction: Tensor, text_mask: Tensor | None, video_mask: Tensor | None) -> Tensor:
    """Exchange the values of each pair's valid cells at random."""
    values = interaction.flatten(1)
    padding = torch.zeros_like(values, dtype=torch.bool)
    if text_mask is not None:
        padding = (text_mask.unsqueeze(2) * video_mask.unsqueeze(1)).flatten(1) == 0
    places = padding.float().argsort(dim=1, stable=True)  # the valid cells in order, then padding
    drawn = (torch.rand_like(values) + 2 * padding).argsort(dim=1)  # the valid cells in random order, then padding
    return torch.empty_like(values).scatter_(1, places, values.gather(1, drawn)).view_as(interaction)
