"""An estimator of the Banzhaf interaction from ranks within rows and columns, whatever the order of the tokens.

B pairs, N_t words, N_v frames, H decays.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from models.estimator import BanzhafModule

SCALE = 100.0  # factor on the cosines' differences, which are small


def expected_gains(
    sim: Float[Tensor, "B N M"], valid: Bool[Tensor, "B M"], decay: Float[Tensor, " H"]
) -> Float[Tensor, "B N M H"]:
    """Expected gain of the maximum of a random subset of a row's other cells when each cell is added.

    A cell that is smaller than q others is the maximum with a probability proportional to decay^q; decay 1/2 is the
    expectation over coalitions of players that join with probability 1/2.
    """
    values, index = sim.masked_fill(valid.logical_not().unsqueeze(1), -torch.inf).sort(dim=-1, descending=True)
    values = values.where(values.isfinite(), 0).unsqueeze(-1)  # (B, N, M, 1)
    count = valid.sum(dim=1).view(-1, 1, 1, 1)
    rank = torch.arange(sim.shape[2], device=sim.device).view(1, 1, -1, 1)
    weight = (decay**rank).where(rank < count, 0)  # (B, 1, M, H)
    smaller = weight.sum(dim=2, keepdim=True) - weight.cumsum(dim=2)  # summed over the cells of higher rank
    product = weight * values
    nobody = decay ** (count - 1).clamp(min=0)  # the subset is empty, and its value 0
    gain = values * (smaller + nobody) - (product.sum(dim=2, keepdim=True) - product.cumsum(dim=2))
    return torch.empty_like(gain).scatter_(2, index.unsqueeze(-1).expand_as(gain), gain)


class RankedEstimator(nn.Module):
    """A weighted sum of expected gains in a cell's row and column, and of their means over its column and row.

    With equal token weights the standard game is such a sum, whose weights depend on the numbers of words and frames.
    It is equivariant to permutations of words and of frames, and ignores padding.
    """

    def __init__(self) -> None:
        super().__init__()
        decays, hidden = 4, 64  # H, and the width of the layer between the numbers of tokens and the weights
        self.decay = nn.Parameter(torch.linspace(-1, 1, decays))
        self.coefficients = nn.Sequential(nn.Linear(2, hidden), nn.ReLU(), nn.Linear(hidden, 4 * decays))

    def forward(self, token_sim: Float[Tensor, "B N_t N_v"]) -> Float[Tensor, "B N_t N_v"]:
        """Predict the interaction from cosines; both are 0 at padding."""
        token_sim, decay = token_sim.float(), self.decay.sigmoid()
        cells = token_sim != 0
        words, frames = cells.any(dim=2), cells.any(dim=1)
        valid = (words.unsqueeze(2) & frames.unsqueeze(1)).unsqueeze(-1)
        counts = torch.stack([words.sum(dim=1), frames.sum(dim=1)], dim=1).clamp(min=1).float()  # (B, 2)
        in_row = expected_gains(token_sim, frames, decay) * valid
        in_column = expected_gains(token_sim.mT, words, decay).transpose(1, 2) * valid
        of_frame = (in_row.sum(dim=1, keepdim=True) / counts[:, 0].view(-1, 1, 1, 1)).expand_as(in_row)
        of_word = (in_column.sum(dim=2, keepdim=True) / counts[:, 1].view(-1, 1, 1, 1)).expand_as(in_column)
        features = SCALE * torch.cat([in_row, in_column, of_frame, of_word], dim=-1)  # (B, N_t, N_v, 4 H)
        return torch.einsum("btvf,bf->btv", features * valid, self.coefficients(1 / counts))


# Estimators by their names on the command line.
NETWORKS: dict[str, type[nn.Module]] = {"released": BanzhafModule, "ranked": RankedEstimator}


def network_of(state: Mapping[str, Tensor], prefix: str = "") -> str:
    """The name of the estimator whose keys begin with `prefix`."""
    return "ranked" if f"{prefix}decay" in state else "released"
