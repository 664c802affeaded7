"""Random draws: each depends on a key such as (seed, step, rank), so none of their state is ever saved."""

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def seed_all(seed: int, *, deterministic: bool = False) -> None:
    """Seed the generators of torch, numpy and Python.

    All processes get the same seed, as each computes the loss of the whole batch.

    Args:
        seed: 0 or more.
        deterministic: have torch choose only kernels that give the same bits each time, some of them slower.
    """
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)
    torch.use_deterministic_algorithms(deterministic)
    if deterministic:
        # cuBLAS reads it when the first CUDA kernel starts.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def derived_seed(*key: int) -> int:
    """A seed that depends on all numbers of a key, each 0 or more."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)


@contextmanager
def draws_of(*key: int) -> Iterator[None]:
    """Inside, the CPU draws of torch, numpy and Python depend on `key` alone; afterwards they continue as before."""
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
