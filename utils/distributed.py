"""One or several processes: start and end, devices, joint decisions."""

import gc
import os
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from utils.errors import InputError

Value = TypeVar("Value")

LAUNCHER = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Environment variables that launchers of several processes set."""


def start(device: str | None = None, local_rank: int = 0, timeout: timedelta = timedelta(minutes=30)) -> torch.device:
    """Join the launcher's process group, if it started several processes, and return this process's device.

    torchrun and torch.distributed.launch set the environment; `python script.py` needs no group. NCCL transfers CUDA
    tensors, gloo the others.

    Args:
        device: as PyTorch names it; None: CUDA if there is one, else the CPU.
        local_rank: this process's number on its machine, the number of its GPU where `device` has none.
        timeout: how long a process waits for the others before it fails.

    Raises:
        InputError: the device is unknown or not there, or the environment describes the group incompletely.
    """
    _check_launcher()
    chosen = _choose_device(device, local_rank)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if _is_one_of_several():
        # Joint decisions are exchanged on the CPU, whatever the device, to need no host-device sync.
        backend, device_id = ("cpu:gloo,cuda:nccl", chosen) if chosen.type == "cuda" else ("gloo", None)
        store, number, processes = next(dist.rendezvous("env://"))
        store = dist.PrefixStore(_attempt(), store)
        dist.init_process_group(
            backend, store=store, rank=number, world_size=processes, timeout=timeout, device_id=device_id
        )
    return chosen


def _check_launcher() -> None:
    """Refuse an incomplete environment, as srun leaves it with RANK alone."""
    if wrong := _wrong_variables():
        raise InputError(
            f"environment: {', '.join(wrong)} not set, or no number; start several processes with torchrun, or set "
            f"{', '.join(LAUNCHER)}; for one process unset RANK and WORLD_SIZE"
        )


def _wrong_variables() -> list[str]:
    """Missing or malformed variables of a launcher of several processes."""
    described = os.environ.keys() & {"RANK", "WORLD_SIZE"}
    if not described or os.environ.get("WORLD_SIZE") == "1":
        return []
    values = {name: os.environ.get(name, "") for name in LAUNCHER}
    return [name for name, value in values.items() if not (value if name == "MASTER_ADDR" else value.isdecimal())]


def _is_one_of_several() -> bool:
    """Whether a launcher started this process as one of several."""
    return os.environ.get("WORLD_SIZE", "1") != "1" and not _wrong_variables()


def _choose_device(device: str | None, local_rank: int) -> torch.device:
    """The named device, with the number of its GPU."""
    try:
        chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise InputError(f"--device {device}: no such device; give cpu, cuda or cuda:N, or leave it out") from error
    if chosen.type != "cuda":
        return chosen
    number = local_rank if chosen.index is None else chosen.index
    if chosen.index is None and torch.cuda.device_count() == 1 and not shares_no_machine():
        number = 0  # Slurm and Kubernetes may show each task only its own GPU; NCCL refuses one that is used twice
    if number >= torch.cuda.device_count():
        raise InputError(
            f"GPU number {number} is not there, {torch.cuda.device_count()} can be seen: start fewer processes "
            "(--nproc_per_node), or give --device cpu"
        )
    return torch.device("cuda", number)


def stop() -> None:
    """Leave the process group, if this process is in one."""
    if dist.is_initialized():
        gc.collect()  # a model under DDP holds the group
        dist.destroy_process_group()


def end(code: int) -> None:
    """End this process with an exit code; 0 returns if it is the only one.

    One of several skips the interpreter's cleanup, in which threads that DDP leaves behind could abort the process.
    After a failure it does not wait for the others.
    """
    several = _is_one_of_several()
    if not code:
        stop()
    if several:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    if code:
        sys.exit(code)


def rank() -> int:
    """This process's number among all, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this process writes the log, the metrics and the checkpoints."""
    return rank() == 0


def barrier() -> None:
    """Wait for all processes."""
    if dist.is_initialized():
        dist.barrier()


def any_rank(*flags: bool) -> list[bool]:
    """Whether each flag is set on any process; all processes call it together."""
    if world_size() == 1:
        return [bool(flag) for flag in flags]
    found = torch.tensor([int(flag) for flag in flags])
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return found.bool().tolist()


def from_main(make: Callable[[], Value]) -> Value:
    """Call `make` in the main process, and return its result, or raise its InputError, on all processes.

    The result must be picklable.
    """
    if world_size() == 1:
        return make()
    answer: list[Any] = [None, None]
    if is_main():
        try:
            answer[0] = make()
        except InputError as error:
            answer[1] = str(error)
    dist.broadcast_object_list(answer, src=0, device=torch.device("cpu"))
    if answer[1] is not None:
        raise InputError(answer[1])
    return answer[0]


def shares_no_machine() -> bool:
    """Whether this is the launcher's only process on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) == 1


def restarts() -> int:
    """How often torchrun has restarted the processes after a failure."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def _attempt() -> str:
    """Prefix of keys in the launcher's store, which survives a restart where torchrun shares its own.

    Each machine counts restarts itself, so the count is used only in a store of one machine.
    """
    return f"start_{restarts()}" if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" else "start"


def announce_failure(line: str) -> bool:
    """Announce that this process fails with `line`; returns whether it is the first one with this line."""
    _count("failures", 1)
    return _count(line, 1) <= 1


def another_failed() -> bool:
    """Whether a process has announced its failure, with which collectives fail here as well."""
    return _count("failures", 0) > 0


def _count(key: str, step: int) -> int:
    """Add to a counter of all processes in the launcher's key-value store, and return it; 0 without a store."""
    if not _is_one_of_several():
        return 0
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    try:
        store = dist.TCPStore(address, port, is_master=False, timeout=timedelta(seconds=5))
        return store.add(f"{_attempt()}: {key}", step)
    except dist.DistError:
        return 0
