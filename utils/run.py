"""How an entry script starts and ends."""

import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from utils.distributed import announce_failure, another_failed, end, shares_no_machine
from utils.errors import InputError, without_terminal_codes
from utils.memory import keep_freed_memory
from utils.preemption import PREEMPTED, Preempted

QUIET = (r"This DataLoader will create \d+ worker", r"Glyph \d+ .*missing from")
"""Warnings that nobody can act on: more workers than cores, as the published commands have, and letters that the
figures' font lacks."""


def run(main: Callable[[Sequence[str]], None]) -> None:
    """Run an entry script: an InputError ends it with one line and code 2, or with its traceback under --debug.

    A run that was asked to stop and has saved its state ends with one line and code 75, `PREEMPTED`; where there is no
    state to save, Ctrl-C ends with one line and code 130.

    Args:
        main: takes the words after the script's name.
    """
    for message in QUIET:
        warnings.filterwarnings("ignore", message)
    if shares_no_machine():  # several processes need the memory more than the time
        keep_freed_memory()
    end(_outcome(main))


def _outcome(main: Callable[[Sequence[str]], None]) -> int:
    """Run `main` and return the exit code; nothing that it made is in use any more."""
    try:
        main(sys.argv[1:])
    except InputError as error:
        if "--debug" in sys.argv:
            raise
        complain(f"{Path(sys.argv[0]).name}: error: {_reason(error)}")
        return 2
    except Preempted as stopped:
        complain(f"{Path(sys.argv[0]).name}: {stopped}")
        return PREEMPTED
    except torch.OutOfMemoryError:
        if "--debug" in sys.argv:
            raise
        advice = "give a smaller --batch_size, --precision bf16 or --grad_checkpointing"
        complain(f"{Path(sys.argv[0]).name}: error: the memory of the GPU is full; {advice}")
        return 2
    except KeyboardInterrupt:
        complain(f"{Path(sys.argv[0]).name}: interrupted")
        return 128 + signal.SIGINT
    except RuntimeError:
        if another_failed():  # it has said why; that a collective with it fails here is no news
            return 2
        raise
    return 0


def complain(line: str) -> None:
    """Print one line, which of several processes with the same one only the first prints."""
    line = without_terminal_codes(line)
    if announce_failure(line):
        print(line, file=sys.stderr)


def _reason(error: InputError) -> str:
    """The error's one line; one raised by a loading worker arrives below that worker's traceback."""
    return str(error).strip().split("\n")[-1].removeprefix(f"{InputError.__module__}.{InputError.__name__}: ")
