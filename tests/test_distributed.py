import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.processes import free_port
from utils import distributed
from utils.errors import InputError
from utils.gather import gather_features, gather_shards

ROOT = Path(__file__).parents[1]

PROGRAM = """
import sys
import torch
from utils import distributed
from utils.gather import gather_features, gather_shards
from utils.run import run

def leaf(rank):
    return torch.arange(6.0).reshape(3, 2) + 10 * rank

def check(rank, world):
    assert (world, distributed.is_main()) == (2, rank == 0), (world, rank)

    # Uneven shards, among them an empty one and a strided one, of several types.
    for sizes in ((3, 1), (0, 2), (2, 2), (0, 0)):
        whole = torch.arange(2 * sum(sizes)).reshape(2, -1).T
        own = whole.split(sizes)[rank]
        for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool):
            gathered = gather_shards(own.to(dtype))
            assert gathered.dtype == dtype and torch.equal(gathered, whole.to(dtype)), (sizes, dtype, gathered)
    assert not gather_shards(leaf(rank).requires_grad_()).requires_grad

    # The loss of the whole batch, on each process with a factor of its own so that the slices of the gradient differ.
    everything = torch.cat([leaf(0), leaf(1)]).requires_grad_()
    (everything**3).sum().backward()
    own_gradient = everything.grad.split(3)[rank]
    for exact, factor in ((True, 1 + 2), (False, rank + 1)):
        features = leaf(rank).requires_grad_()
        gathered = gather_features(features, exact=exact)
        assert torch.equal(gathered, everything), gathered
        ((rank + 1) * gathered**3).sum().backward()
        assert torch.allclose(features.grad, factor * own_gradient), (exact, features.grad)

    # What carries no gradient is gathered the same way, and half precision flows back too.
    mask = torch.tensor([[1, 0], [1, rank]])
    assert gather_features(mask, exact=True).tolist() == [[1, 0], [1, 0], [1, 0], [1, 1]]
    half = torch.ones(2, 3, dtype=torch.bfloat16, requires_grad=True)
    gather_features(half, exact=True).sum().backward()
    assert half.grad.eq(2).all()

    # One linear layer under DDP, with a loss in which all pairs meet: the exact gradient is that of one process.
    inputs = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    def gradient(rows, network, gather):
        outputs = gather(network(rows))
        (outputs @ outputs.T).logsumexp(dim=1).mean().backward()
        return next(network.parameters()).grad
    def network():
        torch.manual_seed(1)
        return torch.nn.Linear(4, 3, bias=False)
    alone = gradient(inputs, network(), lambda outputs: outputs)
    for exact, share in ((True, 1.0), (False, 0.5)):
        parallel = torch.nn.parallel.DistributedDataParallel(network())
        own = inputs.chunk(2)[rank]
        together = gradient(own, parallel, lambda outputs: gather_features(outputs, exact))
        assert torch.allclose(together, share * alone, atol=1e-6), (exact, together, alone)

def main(_):
    distributed.start("cpu")
    rank = distributed.rank()
    check(rank, distributed.world_size())
    distributed.barrier()
    distributed.stop()
    assert (distributed.rank(), distributed.world_size()) == (0, 1)
    print(f"rank {rank} done\\n", end="")

run(main)
"""


@pytest.mark.parametrize("launcher", ["torch.distributed.run", "torch.distributed.launch"])
def test_two_processes_gather_values_and_gradients(launcher, tmp_path):
    program = tmp_path / "program.py"
    # torch.distributed.launch adds --local-rank to the command line; the program has no use for it.
    program.write_text(PROGRAM)
    result = subprocess.run(
        [sys.executable, "-m", launcher, "--nproc_per_node=2", f"--master_port={free_port()}", str(program)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    assert sorted(result.stdout.splitlines()) == ["rank 0 done", "rank 1 done"]


def test_one_process_needs_no_group(monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert distributed.start("cpu") == torch.device("cpu")
    assert not torch.distributed.is_initialized()
    assert (distributed.rank(), distributed.world_size(), distributed.is_main()) == (0, 1, True)
    features = torch.ones(2, 3, requires_grad=True)
    assert gather_features(features, exact=True) is features
    assert torch.equal(gather_shards(features), features)
    distributed.barrier()
    distributed.stop()


def test_one_process_under_a_launcher_needs_no_group_either(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    distributed.start("cpu")
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize(
    ("visible", "device", "local_rank", "expected"),
    [(0, None, 1, "cpu"), (2, None, 1, "cuda:1"), (2, "cuda", 0, "cuda:0"), (2, "cuda:1", 0, "cuda:1"),
     (2, "cpu", 1, "cpu")],
)
def test_device_is_the_local_gpu_unless_named(visible, device, local_rank, expected, monkeypatch):
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: visible > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: visible)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    assert distributed.start(device, local_rank) == torch.device(expected)
    assert chosen == ([torch.device(expected)] if "cuda" in expected else [])


@pytest.mark.parametrize(
    ("device", "local_rank", "reason"),
    [("gpu", 0, "--device gpu: no such device"), ("cuda", 2, "GPU number 2 is not there, 2 can be seen"),
     ("cuda:5", 0, "GPU number 5 is not there")],
)
def test_devices_that_are_not_there_are_named(device, local_rank, reason, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(InputError, match=reason):
        distributed.start(device, local_rank)
