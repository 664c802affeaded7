"""The optimiser of the released code: Adam without bias correction, and a cosine learning rate with warmup.

Source: the released optimiser of HBI (arXiv 2303.14369, section 4.1), which is BERT's.
"""

import math
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

PORTION = 2**23
"""Elements of the parameters that are updated together."""
_NO_DECAY = ("bias", "LayerNorm.bias", "LayerNorm.weight")


def warmup_cosine(progress: float, warmup: float) -> float:
    """The learning rate as a share of its peak, in [0, 1].

    `progress` is steps done / all steps; beyond 1 the cosine rises again, as in the released code. `warmup` is the
    share of all steps in which the rate rises linearly from 0, in [0, 1].
    """
    return progress / warmup if progress < warmup else 0.5 * (1 + math.cos(math.pi * progress))


def parameter_groups(
    named_parameters: Iterable[tuple[str, nn.Parameter]], lr: float, coef_lr: float, weight_decay: float
) -> list[dict]:
    """Sort trainable parameters by their released names into groups for `BertAdam`, at most four.

    Names with "clip." learn at lr * coef_lr; names with "bias", "LayerNorm.bias" or "LayerNorm.weight" do not decay.
    CLIP's own layer norms are called ln_*, so their weights decay.
    """
    groups: dict[tuple[bool, bool], dict] = {}
    for name, parameter in named_parameters:
        if not parameter.requires_grad:
            continue
        decays, in_clip = not any(part in name for part in _NO_DECAY), "clip." in name
        settings = {"lr": lr * coef_lr if in_clip else lr, "weight_decay": weight_decay if decays else 0.0}
        groups.setdefault((decays, in_clip), {"params": [], **settings})["params"].append(parameter)
    return list(groups.values())


class BertAdam(Optimizer):
    """Adam as BERT was trained with: no bias correction, decoupled weight decay, each gradient clipped by itself.

    For a parameter p with gradient g (without one it is skipped, and its steps are not counted):

        g <- g * min(1, max_norm / (|g| + 1e-6))
        m <- beta1 * m + (1 - beta1) * g,   v <- beta2 * v + (1 - beta2) * g^2
        p <- p - lr * warmup_cosine(steps of p so far / total_steps, warmup) * (m / (sqrt(v) + eps) + weight_decay * p)

    A step runs over short lists of parameters, to save memory, and needs no host-device sync.

    Args:
        params: parameters, or groups with their own "lr" and "weight_decay".
        lr: peak learning rate.
        total_steps: steps until the cosine reaches 0.
        warmup: share of `total_steps` in which the rate rises, in [0, 1].
        betas: decays of the two moments, in [0, 1).
        eps: added to the root of the second moment.
        weight_decay: share of p that is subtracted at rate 1.
        max_norm: bound on the norm of each parameter's gradient.

    Raises:
        ValueError: a setting is outside its range.
    """

    def __init__(
        self,
        params: Iterable,
        lr: float,
        total_steps: int,
        warmup: float = 0.1,
        betas: tuple[float, float] = (0.9, 0.98),
        eps: float = 1e-6,
        weight_decay: float = 0.2,
        max_norm: float = 1.0,
    ) -> None:
        if total_steps < 1 or not 0 <= warmup <= 1 or not all(0 <= beta < 1 for beta in betas) or lr < 0:
            raise ValueError(f"{total_steps=} of 1 or more, {warmup=} in [0, 1], {betas=} in [0, 1) and {lr=} >= 0")
        settings = {"total_steps": total_steps, "warmup": warmup, "betas": betas, "eps": eps, "max_norm": max_norm}
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, **settings})
        # Made later, the moments would fragment the memory that the first step frees.
        for group in self.param_groups:
            for parameter in group["params"]:
                self._state_of(parameter)

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """Take one step, with gradients clipped in place; returns the loss of `closure`, which recomputes it."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameters in _portions([parameter for parameter in group["params"] if parameter.grad is not None]):
                self._step_portion(group, parameters)
        return loss

    def _step_portion(self, group: dict, parameters: list[Tensor]) -> None:
        """Update some parameters of one group, all with gradients."""
        states = [self._state_of(parameter) for parameter in parameters]
        first_moments = [state["first_moment"] for state in states]
        second_moments = [state["second_moment"] for state in states]
        gradients = [parameter.grad for parameter in parameters]
        beta_first, beta_second = group["betas"]

        torch._foreach_mul_(gradients, _clip_factors(gradients, group["max_norm"]))
        torch._foreach_lerp_(first_moments, gradients, 1 - beta_first)
        torch._foreach_mul_(second_moments, beta_second)
        torch._foreach_addcmul_(second_moments, gradients, gradients, 1 - beta_second)

        denominators = torch._foreach_sqrt(second_moments)
        torch._foreach_add_(denominators, group["eps"])
        updates = torch._foreach_div(first_moments, denominators)
        if group["weight_decay"]:
            torch._foreach_add_(updates, parameters, alpha=group["weight_decay"])

        shares = (warmup_cosine(state["steps"] / group["total_steps"], group["warmup"]) for state in states)
        rates = [group["lr"] * share for share in shares]
        group["rate"] = rates[0]  # for the log
        torch._foreach_mul_(updates, [-rate for rate in rates])
        torch._foreach_add_(parameters, updates)
        for state in states:
            state["steps"] += 1

    def _state_of(self, parameter: Tensor) -> dict:
        """The parameter's moments and the count of its steps, zeros at first."""
        state = self.state[parameter]
        if not state:
            state["steps"] = 0
            state["first_moment"] = torch.zeros_like(parameter)
            state["second_moment"] = torch.zeros_like(parameter)
        return state


def _portions(parameters: Iterable[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Divide parameters into lists of about `PORTION` elements, or of one larger parameter."""
    portion, elements = [], 0
    for parameter in parameters:
        if portion and elements + parameter.numel() > PORTION:
            yield portion
            portion, elements = [], 0
        portion.append(parameter)
        elements += parameter.numel()
    if portion:
        yield portion


def _clip_factors(gradients: list[Tensor], max_norm: float) -> list[Tensor]:
    """Factors, at most 1, that clip the norm of each gradient to `max_norm`, without host-device sync."""
    factors = list(torch._foreach_norm(gradients))
    torch._foreach_add_(factors, 1e-6)
    torch._foreach_reciprocal_(factors)
    torch._foreach_mul_(factors, max_norm)
    torch._foreach_clamp_max_(factors, 1.0)
    return factors
