"""Expectations over random coalitions, in closed form where there is one.

Every token joins a coalition with probability 1/2. `docs/banzhaf.md` derives the formulas.

B pairs, N tokens of the side that carries the weights, M tokens of the other side, C coalitions, S quadrature nodes.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

ENUMERABLE = 12  # valid tokens of a side up to which all coalitions (4096) are enumerated rather than drawn


def expected_maxima(
    sim: Float[Tensor, "B N M"], column_mask: Bool[Tensor, "B M"]
) -> tuple[Float[Tensor, "B N M"], Float[Tensor, "B N M"]]:
    """Expected maximum of every row with column j left out, and with column j forced into the coalition.

    In descending order the element of rank r is the maximum with probability 2^-(r+1). The empty coalition counts 0;
    the two results agree at padding.
    """
    ordered, order = sim.masked_fill(column_mask.logical_not().unsqueeze(1), -torch.inf).sort(dim=-1, descending=True)
    ordered = ordered.masked_fill(ordered == -torch.inf, 0.0)
    chance = torch.exp2(-torch.arange(sim.shape[-1], dtype=sim.dtype, device=sim.device))
    larger = (ordered * chance / 2).cumsum(-1) - ordered * chance / 2
    smaller = (ordered * chance).flip(-1).cumsum(-1).flip(-1) - ordered * chance
    without = torch.empty_like(sim).scatter(-1, order, larger + smaller)
    within = torch.empty_like(sim).scatter(-1, order, larger + ordered * chance)
    return without, within


def expected_weights(
    score: Float[Tensor, "B N"], mask: Bool[Tensor, "B N"], span: float | None = None
) -> tuple[Float[Tensor, "B N N"], Float[Tensor, "B N N"]]:
    """Expected softmax weight of token k, at [b, i, k], with token i left out, and with it forced into the coalition.

    1 / X = integral of exp(-s X) over s > 0 turns the softmax into a product over tokens. With s = exp(y) the
    integrand is analytic, and the trapezoidal rule with step pi^2 / log(1 / eps) is exact to about the rounding error
    eps of the dtype; the number of nodes grows with the range of the scores. Weights are 0 where k is padding; the two
    results agree where i is.

    `span` bounds the range of scores in a row, and so the number of nodes: lower scores are raised to that bound, which
    changes only coalitions without a larger score. None: the range itself, which needs a host-device sync.
    """
    digits = -math.log(torch.finfo(score.dtype).eps)
    step = math.pi**2 / digits
    padding = mask.logical_not()
    score = score.masked_fill(padding, -torch.inf)
    score = score - score.detach().amax(-1, keepdim=True)
    if span is None:
        span = -score.detach().masked_fill(padding, 0.0).amin().item()
    else:
        score = score.clamp(min=-span).masked_fill(padding, -torch.inf)
    nodes = torch.arange(-digits, math.log(digits) + span + step, step, dtype=score.dtype, device=score.device)

    scaled = (score.unsqueeze(-1) + nodes).exp()  # s e^w (B, N, S)
    fading = (-scaled).exp()
    absent = 1 / (1 + fading)
    empty_product = ((1 + fading) / 2).prod(dim=1, keepdim=True) * step  # (B, 1, S)
    joining = scaled * fading * absent * empty_product
    without = 2 * absent @ joining.mT
    within = 2 * (fading * absent) @ joining.mT
    others = 1 - torch.eye(score.shape[-1], dtype=score.dtype, device=score.device)
    return without * others, within * others + torch.diag_embed(2 * joining.sum(-1))


def renormalised_gain(
    weight: Float[Tensor, "B N"],
    mask: Bool[Tensor, "B N"],
    coalitions: int,
    memory: int,
    generator: torch.Generator | None,
) -> Float[Tensor, "B N N"]:
    """Expected gain of token k's weight, at [b, i, k], by a second softmax when token i joins the coalition C.

    Once: softmax of the weights over C + i. Twice: softmax over C, i's own weight, softmax over C + i. The expectation
    of the difference has no product form. All coalitions are enumerated where a pair has at most `ENUMERABLE` valid
    tokens; otherwise they are drawn together with their complements. The difference is averaged, not the weight, as
    most of the noise is common to both. It is 0 where i or k is padding.
    """
    counts = mask.sum(-1)
    by_count = counts.argsort()
    enumerable = max(ENUMERABLE, coalitions.bit_length())
    drawn = draw_coalitions(mask.shape[-1], coalitions, generator).to(weight)
    row_bytes = 3 * weight.element_size() * mask.shape[-1]
    short = int((counts <= enumerable).sum())
    enumerated = by_count[:short].split(max(1, memory // (row_bytes * 2 ** min(mask.shape[-1], enumerable))))
    sampled = by_count[short:].split(max(1, memory // (row_bytes * len(drawn))))
    gains = []
    for chosen in filter(len, (*enumerated, *sampled)):
        largest = int(counts[chosen[-1]])
        first = mask[chosen].byte().argsort(dim=-1, descending=True, stable=True)[:, :largest]
        place = F.one_hot(first, mask.shape[-1]).to(weight)  # (b, n, N): valid tokens first
        members = _all_coalitions(largest).to(weight) if largest <= enumerable else drawn[:, :largest]
        gain = _average_gain(weight[chosen].gather(-1, first), mask[chosen].gather(-1, first), members)
        gains.append(place.mT @ gain @ place)
    return torch.cat(gains)[by_count.argsort()]


def _average_gain(
    weight: Float[Tensor, "B N"], valid: Bool[Tensor, "B N"], members: Float[Tensor, "C N"]
) -> Float[Tensor, "B N N"]:
    # `renormalised_gain` over given coalitions, of which half must lack each token.
    odds = weight.exp() * valid
    own = (odds + ~valid).unsqueeze(1)  # (B, 1, N), no zeros
    total = (odds @ members.mT).clamp_min(torch.finfo(weight.dtype).eps ** 2).unsqueeze(-1)  # (B, C, 1)
    absent = 1 - members
    once = (total + own).reciprocal_().mul_(absent)
    once_gain = (once.mT @ members) * odds.unsqueeze(1)
    own_gain = -once.sum(1)
    del once
    member_odds = torch.addcmul(members.log(), 1 / total, odds.unsqueeze(1)).exp_()  # (B, C, N)
    twice = (member_odds @ valid.to(weight).unsqueeze(-1) + own).reciprocal_().mul_(absent)
    own_gain += twice.sum(1)
    gain = twice.mT @ member_odds - once_gain + torch.diag_embed(own_gain * odds)
    return gain * (valid.unsqueeze(1) & valid.unsqueeze(2)) / (len(members) / 2)


def _all_coalitions(tokens: int) -> Bool[Tensor, "2**{tokens} {tokens}"]:
    return (torch.arange(2**tokens).unsqueeze(-1) >> torch.arange(tokens)) % 2 == 1


def draw_coalitions(
    tokens: int, coalitions: int, generator: torch.Generator | None
) -> Bool[Tensor, "2*{coalitions} {tokens}"]:
    """Draw random coalitions and add their complements."""
    generator = generator or torch.Generator().manual_seed(0)
    half = torch.rand(coalitions, tokens, generator=generator, device=generator.device) > 0.5
    return torch.cat([half, ~half])
