"""Merging tokens: words into phrases and sentences, frames into clips and segments.

DPC-KNN clustering (Du et al., 2016; as in TCFormer, arXiv 2204.08680) finds the clusters, learned scores weigh their
members, and the merged tokens attend to the original ones (HBI, arXiv 2303.14369).

B samples, N tokens, N_0 tokens before any merge, C clusters, D width, H heads.
"""

import itertools
import math
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

NEIGHBOURS = 3
ATTENTION_HEADS = 8
WEIGHT_EPS = 1e-6
MERGED = 1024  # samples that evaluation merges at a time, which takes several times the memory of their tokens


@dataclass(frozen=True)
class Clusters:
    """Cluster of each original token after all merges so far, and the product of its weights in them."""

    index: Int[Tensor, "B N_0"]
    weight: Float[Tensor, "B N_0"]

    @classmethod
    def identity(cls, tokens: Float[Tensor, "B N D"]) -> "Clusters":
        """Put every token in a cluster of its own, with weight 1."""
        index = torch.arange(tokens.shape[1], device=tokens.device).expand(tokens.shape[:2])
        return cls(index, torch.ones_like(index, dtype=tokens.dtype))

    def merge(self, assignment: Int[Tensor, "B N"], weight: Float[Tensor, "B N"]) -> "Clusters":
        """Compose with one more merge, which assigns each current token."""
        return Clusters(assignment.gather(1, self.index), self.weight * weight.gather(1, self.index))


@torch.no_grad()
def dpc_knn(
    tokens: Float[Tensor, "B N D"],
    clusters: int,
    mask: Shaped[Tensor, "B N"] | None = None,
    *,
    noise: Float[Tensor, "#B N"] | Float[Tensor, " N"] | None = None,
    fill_over_batch: bool = True,
) -> tuple[Int[Tensor, "B N"], Int[Tensor, "B {clusters}"]]:
    """Cluster of each token, and the centre token of each cluster, by density peaks with k = 3 nearest neighbours.

    `noise` is added to the densities before masking; None breaks ties by index. The distance to padding is the largest
    of the batch plus one, or of the sample. Tokens are float32 for reproducible clusters.
    """
    distance = torch.cdist(tokens, tokens) / tokens.shape[-1] ** 0.5  # (B, N, N)
    if mask is not None:
        largest = distance.max() if fill_over_batch else distance.amax(dim=(1, 2), keepdim=True)
        distance = torch.where(mask.bool().unsqueeze(1), distance, largest + 1)
    nearest = distance.topk(min(NEIGHBOURS, tokens.shape[1]), dim=-1, largest=False).values
    density = (-nearest.square().mean(dim=-1)).exp()  # (B, N)
    if noise is not None:
        density = density + noise
    if mask is not None:
        density = density * mask
    denser = density.unsqueeze(1) > density.unsqueeze(2)  # (B, N, N)
    separation = torch.where(denser, distance, distance.amax(dim=(1, 2), keepdim=True)).amin(dim=-1)
    order = (density * separation).sort(dim=-1, descending=True, stable=True).indices
    centres = order.narrow(1, 0, clusters)  # (B, C)
    from_centre = distance.gather(1, centres.unsqueeze(-1).expand(-1, -1, tokens.shape[1]))  # (B, C, N)
    assignment = from_centre.argmin(dim=1)
    rank = torch.arange(clusters, device=tokens.device).expand_as(centres)
    return assignment.scatter(1, centres, rank), centres


@cache
def fixed_draw(tokens: int) -> Float[Tensor, " {tokens}"]:
    """Uniform numbers, the same in every process; cached, so that an exported graph holds them as constants."""
    return torch.rand(tokens, generator=torch.Generator().manual_seed(0), device="cpu")


class TokenMerge(nn.Module):
    """Cluster tokens and average each cluster with learned weights."""

    def __init__(self, width: int, rate: float, *, noise: float = 0.0, fill_over_batch: bool = True):
        """Args: rate: clusters per token; noise: upper end of the density noise; see `dpc_knn`."""
        super().__init__()
        self.conv = nn.Conv1d(width, width, kernel_size=3, padding=1, bias=False)
        self.norm = nn.LayerNorm(width)
        self.score = nn.Linear(width, 1)
        self.rate, self.noise, self.fill_over_batch = rate, noise, fill_over_batch

    def forward(
        self, tokens: Float[Tensor, "B N D"], mask: Shaped[Tensor, "B N"] | None, clusters: Clusters
    ) -> tuple[Float[Tensor, "B C D"], Float[Tensor, "B N D"], Float[Tensor, "B N"], Clusters]:
        """Merged tokens, the convolved tokens and their scores, -inf for padding, and the new membership.

        A cluster of padding alone is the zero vector.
        """
        channels_first = tokens.transpose(1, 2).clone(memory_format=torch.contiguous_format)  # (B, D, N)
        tokens = self.norm(tokens + self.conv(channels_first).transpose(1, 2))
        score = self.score(tokens).squeeze(-1)  # (B, N)
        if mask is not None:
            score = score.masked_fill(mask == 0, -math.inf)
        count = min(max(math.ceil(tokens.shape[1] * self.rate), 1), tokens.shape[1])
        assignment, _ = dpc_knn(
            tokens.float(), count, mask, noise=self._density_noise(tokens), fill_over_batch=self.fill_over_batch
        )
        member = F.one_hot(assignment, count).to(tokens.dtype)  # (B, N, C)
        weight = score.exp().to(tokens.dtype)
        total = torch.einsum("bnc,bn->bc", member, weight) + WEIGHT_EPS
        share = weight / total.gather(1, assignment)  # (B, N)
        merged = torch.einsum("bnc,bnd->bcd", member, tokens * share.unsqueeze(-1))
        return merged, tokens, score, clusters.merge(assignment, share)

    def _density_noise(self, tokens: Tensor) -> Tensor | None:
        # The released code draws in evaluation, too; a fixed draw also breaks ties, and makes a result independent of
        # batch size and number of processes.
        if not self.noise:
            return None
        if self.training:
            return self.noise * torch.rand(tokens.shape[:2], device=tokens.device)
        return self.noise * fixed_draw(tokens.shape[1]).to(tokens.device)


class MergeAttention(nn.Module):
    """Attention of merged tokens over the original tokens, with the merge score as a bias."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.project = nn.Linear(width, width)
        for layer in (self.query, self.key_value, self.project):
            # The released code truncates at 2, a hundred standard deviations: in effect a plain normal distribution.
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def forward(
        self, merged: Float[Tensor, "B C D"], tokens: Float[Tensor, "B N D"], score: Float[Tensor, "B N"]
    ) -> Float[Tensor, "B C D"]:
        """Return `merged` + attention over `tokens` with key biases `score`."""
        query = self.query(self.norm(merged)).unflatten(-1, (ATTENTION_HEADS, -1)).transpose(1, 2)  # (B, H, C, D/H)
        packed = self.key_value(self.norm(tokens)).unflatten(-1, (2, ATTENTION_HEADS, -1))  # (B, N, 2, H, D/H)
        key, value = packed.transpose(1, 3).unbind(2)  # (B, H, N, D/H)
        bias = score.unsqueeze(1).unsqueeze(1).to(query.dtype).expand(-1, -1, query.shape[2], -1)  # (B, 1, C, N)
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return merged + self.project(out.transpose(1, 2).flatten(2))


class MergeStage(nn.Module):
    """Merge, then attend."""

    def __init__(self, width: int, rate: float, *, noise: float = 0.0, fill_over_batch: bool = True):
        super().__init__()
        self.merge = TokenMerge(width, rate, noise=noise, fill_over_batch=fill_over_batch)
        self.attention = MergeAttention(width)

    def forward(
        self, tokens: Float[Tensor, "B N D"], mask: Shaped[Tensor, "B N"] | None, clusters: Clusters
    ) -> tuple[Float[Tensor, "B C D"], Clusters]:
        """Merge tokens, and update the clusters.

        Evaluation merges some samples at a time, unless the distance to padding is the largest of the whole batch.
        """
        over_batch = mask is not None and self.merge.fill_over_batch
        if over_batch or torch.is_grad_enabled() or torch.compiler.is_exporting() or len(tokens) <= MERGED:
            return self._merged(tokens, mask, clusters)
        masks = itertools.repeat(None) if mask is None else mask.split(MERGED)
        memberships = map(Clusters, clusters.index.split(MERGED), clusters.weight.split(MERGED))
        parts = map(self._merged, tokens.split(MERGED), masks, memberships)
        merged, memberships = zip(*parts, strict=True)
        index, weight = (torch.cat([getattr(part, name) for part in memberships]) for name in ("index", "weight"))
        return torch.cat(merged), Clusters(index, weight)

    def _merged(self, tokens: Tensor, mask: Tensor | None, clusters: Clusters) -> tuple[Tensor, Clusters]:
        merged, tokens, score, clusters = self.merge(tokens, mask, clusters)
        return self.attention(merged, tokens, score), clusters
