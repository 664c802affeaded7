"""Teachers of the levels' students: the Banzhaf interaction of true pairs, or a control.

B pairs, N_t words, N_v frames.
"""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from models.banzhaf import exact_interaction_of_cosines
from models.coalitions import Pairs

# A trained network; the exact interaction; as controls the exact one with shuffled cells, and a constant.
TEACHERS = ("estimator", "exact", "shuffled", "constant")


@torch.no_grad()
def teacher_interaction(kind: str, estimator: nn.Module, pairs: Pairs) -> Float[Tensor, "B N_t N_v"]:
    """The interaction by one of `TEACHERS`, without gradient; see `exact_interaction_of_cosines`."""
    if kind == "estimator":
        return estimator(pairs.token_sim)
    if kind == "constant":
        return torch.zeros_like(pairs.token_sim)
    exact = exact_interaction_of_cosines(pairs)
    return exact if kind == "exact" else shuffle_cells(exact, *pairs.masks())


def shuffle_cells(
    interaction: Float[Tensor, "B N_t N_v"], text_mask: Shaped[Tensor, "B N_t"], video_mask: Shaped[Tensor, "B N_v"]
) -> Float[Tensor, "B N_t N_v"]:
    """Exchange the values of each pair's valid cells at random."""
    values = interaction.flatten(1)
    padding = (text_mask.unsqueeze(2) * video_mask.unsqueeze(1)).flatten(1) == 0
    places = padding.float().argsort(dim=1, stable=True)  # the valid cells in order, then padding
    drawn = (torch.rand_like(values) + 2 * padding).argsort(dim=1)  # the valid cells in random order, then padding
    return torch.empty_like(values).scatter_(1, places, values.gather(1, drawn)).view_as(interaction)
