"""One process or several: starting them, their devices, and decisions that they take together."""

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
"""Environment variables with which a launcher describes several processes."""


def start(device: str | None = None, local_rank: int = 0, timeout: timedelta = timedelta(minutes=30)) -> torch.device:
    """Join the process group that the launcher describes in the environment, if it describes one of several processes.

    torchrun and torch.distributed.launch both do; a plain `python script.py` needs no group and gets none. NCCL
    carries CUDA tensors, gloo the others.

    Args:
        device: as PyTorch names it; None takes CUDA where there is one, else the CPU.
        local_rank: this process's number on its machine, and so the number of its GPU where `device` names none.
        timeout: how long a process waits for the others before it gives up.

    Returns:
        the device of this process.

    Raises:
        InputError: the device is unknown or not there, or the environment describes the process group in part.
    """
    _check_launcher()
    chosen = _choose_device(device, local_rank)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if _is_one_of_several():
        # What the processes agree on lies on the CPU whatever the device, so that no host-device sync is needed.
        backend, device_id = ("cpu:gloo,cuda:nccl", chosen) if chosen.type == "cuda" else ("gloo", None)
        store, number, processes = next(dist.rendezvous("env://"))
        store = dist.PrefixStore(_attempt(), store)
        dist.init_process_group(
            backend, store=store, rank=number, world_size=processes, timeout=timeout, device_id=device_id
        )
    return chosen


def _check_launcher() -> None:
    """Refuse an environment that describes several processes in part, as srun with a RANK alone does."""
    if wrong := _wrong_variables():
        raise InputError(
            f"environment: {', '.join(wrong)} not set, or no number; start several processes with torchrun, or set "
            f"{', '.join(LAUNCHER)}; for one process unset RANK and WORLD_SIZE"
        )


def _wrong_variables() -> list[str]:
    """The launcher's variables that are missing or no numbers, where it describes more than one process."""
    described = os.environ.keys() & {"RANK", "WORLD_SIZE"}
    if not described or os.environ.get("WORLD_SIZE") == "1":
        return []
    values = {name: os.environ.get(name, "") for name in LAUNCHER}
    return [name for name, value in values.items() if not (value if name == "MASTER_ADDR" else value.isdecimal())]


def _is_one_of_several() -> bool:
    """Whether a launcher started this process as one of several."""
    return os.environ.get("WORLD_SIZE", "1") != "1" and not _wrong_variables()


def _choose_device(device: str | None, local_rank: int) -> torch.device:
    """The named device, with the number of its GPU where it has one."""
    try:
        chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise InputError(f"--device {device}: no such device; give cpu, cuda or cuda:N, or leave it out") from error
    if chosen.type != "cuda":
        return chosen
    number = local_rank if chosen.index is None else chosen.index
    if chosen.index is None and torch.cuda.device_count() == 1 and not shares_no_machine():
        number = 0  # Slurm and Kubernetes may show each task its own GPU alone; NCCL refuses one that is used twice
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
    """End this process with an exit code; in one alone, 0 returns.

    One of several ends without the interpreter's own clearing up: DDP leaves threads of its group behind, and one that
    lets go of a tensor during that would abort the process. After a failure it does not wait for the others either.
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
    """Whether this process speaks for all: writes the log, the metrics and the checkpoints."""
    return rank() == 0


def barrier() -> None:
    """Wait until every process is here."""
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
    """What `make` returns in the main process, on all of them; an InputError there is one here.

    Args:
        make: returns what can be pickled; only the main process calls it.
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
    """Whether the launcher, if there is one, started this process alone on its machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) == 1


def restarts() -> int:
    """How often torchrun has restarted the processes because one of them failed."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def _attempt() -> str:
    """Prefix of keys in the launcher's store, which outlives a restart where torchrun shares its own.

    Machines count restarts each by itself, so the count serves only in a store that one machine uses.
    """
    return f"start_{restarts()}" if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" else "start"


def announce_failure(line: str) -> bool:
    """Tell the other processes that this one ends.

    Args:
        line: why.

    Returns:
        Whether no other process has ended with the same line, so that what all have to say is said once.
    """
    _count("failures", 1)
    return _count(line, 1) <= 1


def another_failed() -> bool:
    """Whether a process has announced its failure: collectives with it then fail here as well."""
    return _count("failures", 0) > 0


def _count(key: str, step: int) -> int:
    """Add to a number that all processes share, 0 at first, and return it; 0 where they share nothing.

    It lies in the launcher's key-value store, which is there before the process group is.
    """
    if not _is_one_of_several():
        return 0
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    try:
        store = dist.TCPStore(address, port, is_master=False, timeout=timedelta(seconds=5))
        return store.add(f"{_attempt()}: {key}", step)
    except dist.DistError:
        return 0
