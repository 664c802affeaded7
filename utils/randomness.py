"""Random draws, each seeded by a key such as (seed, step, rank), so that no generator state is saved."""

import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

INITIALISERS = {
    Tensor.normal_, Tensor.uniform_, nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_,
    nn.init.xavier_uniform_,
}  # fmt: skip
"""What torch's and our modules draw large weights with."""


def seed_all(seed: int, *, deterministic: bool = False) -> None:
    """Seed torch, numpy and Python; `deterministic` allows torch only reproducible kernels, some of them slower.

    All processes get the same seed, as each computes the loss of the whole batch.
    """
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)
    torch.use_deterministic_algorithms(deterministic)
    if deterministic:
        # cuBLAS reads it when the first CUDA kernel starts.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def derived_seed(*key: int) -> int:
    """A seed that depends on all numbers of a key, which are not negative."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)


@contextmanager
def draws_of(*key: int) -> Iterator[None]:
    """Inside this context CPU draws of torch, numpy and Python depend on `key` alone; afterwards they continue."""
    before = torch.get_rng_state(), np.random.get_state(), random.getstate()
    seeds = np.random.SeedSequence(key).generate_state(3).tolist()
    torch.default_generator.manual_seed(seeds[0])
    np.random.seed(seeds[1])
    random.seed(seeds[2])
    try:
        yield
    finally:
        torch.set_rng_state(before[0])
        np.random.set_state(before[1])
        random.setstate(before[2])


class Undrawn(TorchFunctionMode):
    """Inside this context new modules keep weights as allocated, for a file's to be loaded; nothing is drawn for them.

    Drawing takes longer than loading.
    """

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Return the tensor of an initialiser as it is, and call all other functions."""
        kwargs = kwargs or {}
        if function in INITIALISERS:
            return args[0] if args else kwargs["tensor"]
        return function(*args, **kwargs)
