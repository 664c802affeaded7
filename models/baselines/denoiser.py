"""The network that predicts a distribution over candidates from a noisy one.

Dimension letters: n queries, K candidates, D width.
Source: DiffusionRet, arXiv 2303.09867 (ICCV 2023), in the form of the released code.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

POSITIONS = 5000


class Conditions(NamedTuple):
    """Queries and candidates, ready for every step.

    Attributes:
        query: (n, 1, D), or (n, K, D) where the query has a vector for each candidate.
        key, value: (n, K, D).
        logits: (n, K), products of query and key.
        hidden: (n, K, 2D), the candidates' part of the decoder's hidden layer.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    logits: Tensor
    hidden: Tensor


def sinusoids(width: int) -> Tensor:
    """Position table (POSITIONS, 1, D): sines in even columns, cosines in odd ones."""
    rate = torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width))
    angle = torch.arange(POSITIONS).unsqueeze(1) * rate
    return torch.stack([angle.sin(), angle.cos()], dim=2).view(POSITIONS, 1, width)


class TimeEmbedding(nn.Module):
    """Embeds step numbers."""

    positions: Tensor

    def __init__(self, width: int):
        super().__init__()
        self.register_buffer("positions", sinusoids(width))
        self.layers = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, steps: Tensor) -> Tensor:
        """Embed steps (n,) as (n, D)."""
        return self.layers(self.positions[steps, 0])


class Denoiser(nn.Module):
    """Attention of each query over its candidates, to whose logits the noisy distribution is added.

    Layers before the softmax, and the decoder's first, are linear: queries and candidates are projected once for all
    steps, and the step's embedding is added afterwards.
    """

    def __init__(self, width: int):
        """Args: width: D."""
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.project = nn.Linear(width, width)
        self.register_buffer("positions", sinusoids(width))  # released files hold the table twice
        self.time = TimeEmbedding(width)
        self.decoder = nn.Sequential(nn.Linear(2 * width, 2 * width), nn.ReLU(), nn.Linear(2 * width, 1))

    def condition(self, query: Tensor, candidates: Tensor) -> Conditions:
        """Project queries (n, 1 or K, D) and their candidates (n, K, D) for `forward`."""
        query, key = self.query(query), self.key(candidates)
        weight, bias = (self.decoder.get_parameter(f"0.{name}") for name in ("weight", "bias"))
        hidden = F.linear(candidates, weight[:, candidates.shape[2] :], bias)
        return Conditions(query, key, self.value(candidates), (query * key).sum(dim=2), hidden)

    def forward(self, x: Tensor, steps: Tensor, conditions: Conditions) -> Tensor:
        """Predict the clean distribution (n, K) from a noisy one x (n, K), in which -inf leaves a candidate out.

        `steps` are (n,), or (1,) for all.
        """
        time = self.time(steps)
        query, key, value = (layer(time).unsqueeze(2) for layer in (self.query, self.key, self.value))
        # The product of the step's query and key is the same for all candidates: the softmax ignores it.
        logits = conditions.logits + (conditions.key @ query + conditions.query @ key).squeeze(2)
        weight = (logits + x).softmax(dim=1)
        attended = self.project((weight.unsqueeze(1) @ conditions.value).squeeze(1) + value.squeeze(2))
        from_query = F.linear(attended, self.decoder.get_parameter("0.weight")[:, : attended.shape[1]])
        hidden = conditions.hidden + from_query.unsqueeze(1)
        return self.decoder[2](self.decoder[1](hidden)).squeeze(2) + weight
