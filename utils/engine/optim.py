"""The optimiser of the released code: Adam without bias correction, and a cosine learning rate with warmup.

Source: the released optimiser of HBI (arXiv 2303.14369, section 4.1), which is BERT's.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

PORTION = 2**23
"""Elements of the parameters that are updated together on the CPU; on a GPU those of a group are, in few kernels."""
BETAS = 0.9, 0.98  # decays of the two moments
EPSILON = 1e-6
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

        g <- g / max(1, |g| + 1e-6)
        m <- beta1 * m + (1 - beta1) * g,   v <- beta2 * v + (1 - beta2) * g^2
        p <- p - lr * warmup_cosine(steps of p so far / total_steps, warmup) * (m / (sqrt(v) + 1e-6) + weight_decay * p)

    A step runs over lists of parameters, short ones on the CPU to save memory, and needs no host-device sync.

    Args:
        params: parameters, or groups with their own "lr" and "weight_decay".
        lr: peak learning rate.
        total_steps: steps until the cosine reaches 0.
        warmup: share of `total_steps` in which the rate rises, in [0, 1].
        weight_decay: share of p that is subtracted at rate 1.

    Raises:
        ValueError: a setting is outside its range.
    """

    def __init__(
        self,
        params: Iterable,
        lr: float,
        total_steps: int,
        warmup: float = 0.1,
        weight_decay: float = 0.2,
    ) -> None:
        if total_steps < 1 or not 0 <= warmup <= 1 or lr < 0:
            raise ValueError(f"{total_steps=} of 1 or more, {warmup=} in [0, 1] and {lr=} of 0 or more")
        settings = {"lr": lr, "weight_decay": weight_decay, "total_steps": total_steps, "warmup": warmup}
        super().__init__(params, settings)
        # Made later, the moments would fragment the memory that the first step frees.
        for group in self.param_groups:
            for parameter in group["params"]:
                self._state_of(parameter)

    @torch.no_grad()
    def step(
        self, closure: Callable[[], Tensor] | None = None, *, norms: Sequence[float] | None = None
    ) -> Tensor | None:
        """Take one step, with gradients clipped in place; returns the loss of `closure`, which recomputes it.

        `norms` are those of the gradients, in the order of the groups; None computes them on their device, where
        clipping then takes a kernel for each parameter.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        first = 0
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            for _, alike in groupby(parameters, lambda parameter: self._state_of(parameter)["steps"]):
                for portion in _portions(alike):
                    some = slice(first, first := first + len(portion))
                    self._step_portion(group, portion, None if norms is None else norms[some])
        return loss

    def _step_portion(self, group: dict, parameters: list[Tensor], norms: Sequence[float] | None) -> None:
        """Update some parameters of one group, all with gradients and as many steps."""
        states = [self._state_of(parameter) for parameter in parameters]
        first_moments = [state["first_moment"] for state in states]
        second_moments = [state["second_moment"] for state in states]
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]

        _clip(gradients, norms)
        torch._foreach_lerp_(first_moments, gradients, 1 - BETAS[0])
        torch._foreach_mul_(second_moments, BETAS[1])
        torch._foreach_addcmul_(second_moments, gradients, gradients, 1 - BETAS[1])

        denominators = torch._foreach_sqrt(second_moments)
        torch._foreach_add_(denominators, EPSILON)
        updates = torch._foreach_div(first_moments, denominators)
        if group["weight_decay"]:
            torch._foreach_add_(updates, parameters, alpha=group["weight_decay"])

        progress = states[0]["steps"] / group["total_steps"]
        group["rate"] = group["lr"] * warmup_cosine(progress, group["warmup"])  # kept for the log
        torch._foreach_add_(parameters, updates, alpha=-group["rate"])
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


def _portions(parameters: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Divide parameters into lists of about `PORTION` elements, or of one larger parameter; on a GPU into one list."""
    portion, elements = [], 0
    for parameter in parameters:
        if portion and elements + parameter.numel() > PORTION and parameter.device.type == "cpu":
            yield portion
            portion, elements = [], 0
        portion.append(parameter)
        elements += parameter.numel()
    if portion:
        yield portion


def _clip(gradients: list[Tensor], norms: Sequence[float] | None) -> None:
    """Clip the norm of each gradient to 1, without host-device sync."""
    if norms is None:  # they stay on their device
        factors = list(torch._foreach_norm(gradients))
        torch._foreach_add_(factors, EPSILON)
        torch._foreach_reciprocal_(factors)
        torch._foreach_clamp_max_(factors, 1.0)
        torch._foreach_mul_(gradients, factors)
    elif max(norms) + EPSILON > 1:
        torch._foreach_mul_(gradients, [min(1.0, 1 / (norm + EPSILON)) for norm in norms])
