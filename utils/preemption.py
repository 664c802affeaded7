"""Signals that ask a run to stop: SIGTERM, as schedulers and torchrun send it, SIGUSR1, and Ctrl-C."""

import multiprocessing
import os
import signal
import threading

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
PREEMPTED = os.EX_TEMPFAIL  # exit code 75: not finished, start it again


class Preempted(Exception):
    """The run was asked to stop and has saved its state; entry scripts print the one line and exit with `PREEMPTED`."""


class StopRequest:
    """A context manager in which `SIGNALS` are only noted, in `received`; a second Ctrl-C ends the run at once."""

    def __init__(self) -> None:
        self.received = False

    def __enter__(self) -> "StopRequest":
        self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: object) -> None:
        if number == signal.SIGINT and self.received:
            raise KeyboardInterrupt
        self.received = True


def heed_parent_only(_worker: int) -> None:
    """In a loading process, let SIGTERM end it only if it comes from its parent.

    A scheduler, and Ctrl-C in a terminal, signal every process of a job. The run still needs its loading processes for
    the step it is in, and ends them itself.
    """
    # Blocked in all threads, the signals wait for the one that asks who sent them.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    while True:
        received = signal.sigwaitinfo(SIGNALS)
        if received.si_signo == signal.SIGTERM and received.si_pid == multiprocessing.parent_process().pid:
            os._exit(0)
