"""The network that learns to predict Banzhaf interactions (arXiv 2303.14369, section 3.3).

B pairs, N_t words, N_v frames.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class BanzhafModule(nn.Module):
    """Convolution, self-attention over all cells of the similarity map, convolution.

    The state dict has the twelve keys of the released files. Batch normalisation is stored but never applied.
    """

    def __init__(self) -> None:
        super().__init__()
        planes = 64  # channels between the two convolutions
        self.Q = nn.Parameter(torch.empty(planes, planes))
        self.K = nn.Parameter(torch.empty(planes, planes))
        self.V = nn.Parameter(torch.empty(planes, planes))
        for projection in (self.Q, self.K, self.V):
            nn.init.xavier_uniform_(projection, gain=1.414)
        self.cnn1 = nn.Conv2d(1, planes, kernel_size=3, padding=1)
        self.bn = nn.BatchNorm2d(planes).requires_grad_(False)
        self.cnn2 = nn.Conv2d(planes, 1, kernel_size=3, padding=1)

    def forward(self, token_sim: Float[Tensor, "..."]) -> Float[Tensor, "B N_t N_v"]:
        """Predict the interaction from cosines (B, N_t, N_v), 0 at padding; predictions for padding are not masked."""
        if token_sim.dim() != 3:
            raise ValueError(f"token_sim must be (B, N_t, N_v), not of shape {tuple(token_sim.shape)}")
        features = self.cnn1(token_sim.unsqueeze(1)).relu()  # (B, planes, N_t, N_v)
        cells = features.flatten(2).mT.unsqueeze(1)  # (B, 1, N_t * N_v, planes)
        attended = F.scaled_dot_product_attention(cells @ self.Q, cells @ self.K, cells @ self.V, scale=1.0)
        cells = (cells + attended).squeeze(1).mT  # (B, planes, N_t * N_v)
        return self.cnn2(cells.reshape(features.shape)).squeeze(1)
