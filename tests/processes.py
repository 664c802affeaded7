"""Processes that run together, as under a launcher, without its time: they are forked from a server that has imported.

A new process spends more time on imports than most tests on their work.
"""

import importlib
import multiprocessing
import os
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from subprocess import CompletedProcess

import torch
import torch.distributed as dist

from utils import distributed
from utils.run import run

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload([
    "tests.conftest",  # before all others, so that shapes are checked in these processes, too
    "main_retrieval", "main_vqa", "main_captioning", "banzhaf_estimator", "open_clip", "torch.utils.tensorboard",
])  # fmt: skip
PATIENCE = 300  # seconds, on a busy machine


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


class Group(list[ForkServerProcess]):
    """Processes, and the store that a launcher gives them."""

    def __init__(self, count: int):
        super().__init__()
        self.store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
        self.environment = {
            "MASTER_ADDR": "localhost", "MASTER_PORT": str(self.store.port), "TORCHELASTIC_USE_AGENT_STORE": "True",
            "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count),
        }  # fmt: skip


def start(log: Path, count: int, function: Callable[..., None], *arguments) -> Group:
    """Start processes that call the function, in the environment of torchrun; their output is appended to `log`."""
    group, method = Group(count), multiprocessing.get_start_method()
    for rank in map(str, range(count)):
        environment = {**os.environ, **group.environment, "RANK": rank, "LOCAL_RANK": rank}
        place = _Place(environment, Path.cwd(), log, method)
        group.append(SERVER.Process(target=_enter, args=(place, function, arguments)))
        group[-1].start()
    return group


def finish(processes: Group) -> list[int | None]:
    """Wait until all have ended, and return their exit codes; none for one that had to be ended."""
    for process in processes:
        process.join(PATIENCE)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    return codes


def run_together(log: Path, count: int, function: Callable[..., None], *arguments) -> str:
    """Call the function in processes, wait until all have ended well, and return what they wrote."""
    running = start(log, count, function, *arguments)
    try:
        left = {process.sentinel: process for process in running}
        while left:
            ended = [left.pop(sentinel) for sentinel in wait(left, PATIENCE)]
            assert ended and not any(process.exitcode for process in ended), log.read_text()[-3000:]
    finally:
        for process in running:
            process.kill()
    return log.read_text()


def script(main: Callable[[Sequence[str] | None], object], *words: object) -> None:
    """An entry script with its command line."""
    sys.argv = [f"{main.__module__.rpartition('.')[2]}.py", *map(str, words)]
    run(main)


def script_runner(log: Path) -> Callable[[Sequence[str]], CompletedProcess]:
    """What can stand in for subprocess.run, where the command is Python with an entry script and its words."""

    def call(command: Sequence[str]) -> CompletedProcess:
        main = importlib.import_module(Path(command[1]).stem).main
        (code,) = finish(start(log, 1, script, main, *command[2:]))
        return CompletedProcess(command, code)

    return call


@dataclass(frozen=True)
class _Place:
    """What a process of the server does not share with the one that started it."""

    environment: dict[str, str]
    folder: Path
    log: Path
    start_method: str


def _enter(place: _Place, function: Callable[..., None], arguments: tuple) -> None:
    os.environ.clear()
    os.environ.update(place.environment)
    os.chdir(place.folder)
    multiprocessing.set_start_method(place.start_method, force=True)  # else its loading processes had their own server
    with open(place.log, "a") as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())
    torch.set_num_threads(1)
    function(*arguments)
    distributed.barrier()
    distributed.end(0)
