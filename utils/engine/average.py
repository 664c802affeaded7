"""A moving average of the weights."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """Exponential moving average of parameters, initialised with them; `values` are in their order."""

    def __init__(self, parameters: Iterable[nn.Parameter], moment: float):
        """Args: parameters: those trained; moment: decay of the average in a step, in [0, 1]."""
        self.parameters: list[Tensor] = list(parameters)
        self.moment = moment
        self.values = [parameter.detach().clone() for parameter in self.parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Update the averages; called after each optimiser step."""
        torch._foreach_lerp_(self.values, self.parameters, 1 - self.moment)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside this context the parameters have the averages as their values."""
        trained = [parameter.detach().clone() for parameter in self.parameters]
        self._set(self.values)
        try:
            yield
        finally:
            self._set(trained)

    def load(self, values: Iterable[Tensor]) -> None:
        """Restore `values`."""
        for own, value in zip(self.values, values, strict=True):
            own.copy_(value)

    @torch.no_grad()
    def _set(self, values: list[Tensor]) -> None:
        torch._foreach_copy_(self.parameters, values)
