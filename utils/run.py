"""Start and end of an entry script."""

import gc
import os
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
"""Suppressed warnings: more workers than cores, as in the published commands, and letters missing in the font."""


def run(main: Callable[[Sequence[str]], object]) -> None:
    """Run an entry script; `main` takes the words after the script's name.

    An InputError ends it with one line and code 2, or with its traceback under --debug; a request to stop with one line
    and code 75 after the state is saved, or 130 after Ctrl-C without a state; a closed standard output with one line
    and code 141.
    """
    gc.freeze()  # what is imported stays: no collection looks through it, nor the one at the end, which took a second
    for message in QUIET:
        warnings.filterwarnings("ignore", message)
    if shares_no_machine():  # several processes need the memory more than the time
        keep_freed_memory()
    end(_outcome(main))


def _outcome(main: Callable[[Sequence[str]], object]) -> int:
    """Run `main`, free its objects, and return the exit code."""
    try:
        main(sys.argv[1:])
        sys.stdout.flush()
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
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is left in the buffer has no reader
        complain(f"{Path(sys.argv[0]).name}: the output was closed")
        return 128 + signal.SIGPIPE
    except RuntimeError:
        if another_failed():  # it has printed the reason; collectives with it fail here
            return 2
        raise
    return 0


def complain(line: str) -> None:
    """Print one line; of several processes with the same line only the first prints it."""
    line = without_terminal_codes(line)
    if announce_failure(line):
        print(line, file=sys.stderr)


def _reason(error: InputError) -> str:
    """The error's one line, which follows the traceback if a loading worker raised it."""
    return str(error).strip().split("\n")[-1].removeprefix(f"{InputError.__module__}.{InputError.__name__}: ")
