"""Signals that request a run to stop: SIGTERM, as schedulers and torchrun send it, SIGUSR1, and Ctrl-C."""

import multiprocessing
import os
import signal
import threading

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
PREEMPTED = os.EX_TEMPFAIL  # exit code 75: not finished, start it again


class Preempted(Exception):
    """The run was requested to stop and has saved its state; entry scripts print one line and exit with `PREEMPTED`."""


class StopRequest:
    """A context manager in which `SIGNALS` only set `received`; a second Ctrl-C ends the run at once."""

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


def ignore_foreign_signals(_worker: int) -> None:
    """In a loading process, ignore `SIGNALS` except SIGTERM from its parent.

    Schedulers and Ctrl-C signal every process of a job. The run still needs its loading processes for the current step,
    and ends them itself.
    """
    # Blocked in all threads, the signals are received by the one that checks their sender.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    while True:
        received = signal.sigwaitinfo(SIGNALS)
        if received.si_signo == signal.SIGTERM and parent is not None and received.si_pid == parent.pid:
            os._exit(0)
