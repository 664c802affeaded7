"""Random draws: seeding them, keeping their state, and drawing for one batch without touching the rest.

Dimension letters: W processes.
"""

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from utils.distributed import gather_shards, rank


def seed_all(seed: int, *, deterministic: bool = False) -> None:
    """Seed the generators of torch, numpy and Python.

    All processes get the same seed, as each computes the loss of the whole batch. Where they must differ, their draws
    have a key or a generator of their own.

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


@contextmanager
def draws_of(*key: int) -> Iterator[None]:
    """Inside, the CPU draws of torch, numpy and Python depend on `key` alone; afterwards they go on as before."""
    before = _cpu_state()
    seeds = np.random.SeedSequence(key).generate_state(3).tolist()
    torch.default_generator.manual_seed(seeds[0])
    np.random.seed(seeds[1])
    random.seed(seeds[2])
    try:
        yield
    finally:
        _restore_cpu(before)


def random_state(device: torch.device, generator: torch.Generator | None = None) -> dict[str, Tensor]:
    """The state of every generator of every process: name -> (W, length), on the CPU.

    Args:
        device: of this process.
        generator: one more.
    """
    state = _cpu_state()
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    if generator is not None:
        state["generator"] = generator.get_state()
    return {name: gather_shards(tensor[None]) for name, tensor in state.items()}


def restore_random_state(
    state: dict[str, Tensor], device: torch.device, generator: torch.Generator | None = None
) -> None:
    """Set this process's generators to what `random_state` gave; with more processes than then they share states."""
    own = {name: tensor[rank() % len(tensor)].clone() for name, tensor in state.items()}
    _restore_cpu(own)
    if device.type == "cuda" and "cuda" in own:
        torch.cuda.set_rng_state(own["cuda"], device)
    if generator is not None:
        generator.set_state(own["generator"])


def _cpu_state() -> dict[str, Tensor]:
    """The state of the three generators: torch's bytes, and whole numbers of the others with the bits of a float."""
    _, words, position, has_gauss, gauss = np.random.get_state()
    _, python_words, python_gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "numpy": torch.tensor([*words.tolist(), position, has_gauss, _bits(gauss)]),
        "python": torch.tensor([*python_words, python_gauss is not None, _bits(python_gauss or 0.0)]),
    }


def _restore_cpu(state: dict[str, Tensor]) -> None:
    *words, position, has_gauss, gauss = state["numpy"].tolist()
    *python_words, python_has_gauss, python_gauss = state["python"].tolist()
    torch.set_rng_state(state["torch"])
    np.random.set_state(("MT19937", words, position, has_gauss, _from_bits(gauss)))
    random.setstate((3, tuple(python_words), _from_bits(python_gauss) if python_has_gauss else None))


def _bits(value: float) -> int:
    return int(np.float64(value).view(np.int64))


def _from_bits(bits: int) -> float:
    return float(np.int64(bits).view(np.float64))
