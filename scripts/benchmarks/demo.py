"""The demo's API under load: concurrent clients that search and inspect results."""

import signal
import socket
import subprocess
import sys
import time
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import chain, cycle, islice
from pathlib import Path
from typing import Any

import numpy as np

from scripts.benchmarks.measure import Row, count
from scripts.demo import QUICKSTART_QUERIES
from utils.errors import InputError

DEMO = Path(__file__).parents[1] / "demo.py"
HOST = "127.0.0.1"
Answer = tuple[str, float, bool]
"""Endpoint, seconds, and whether it ended in an error."""


def add_arguments(parser: ArgumentParser) -> None:
    """The index and the load."""
    parser.add_argument("--index", type=Path, help="that scripts/search.py index made; left out: the quickstart's")
    parser.add_argument("--clients", type=count, default=20, help="at once, each waits for its answer")
    parser.add_argument("--seconds", type=count, default=300, help="during which they go on")


def measure(index: Path | None, clients: int, seconds: int) -> Iterator[Row]:
    """Yield a row for each endpoint, and one for both together."""
    with served(["--index", str(index)] if index else []) as port, ThreadPoolExecutor(clients) as pool:
        began = time.monotonic()
        every = pool.map(partial(use, f"http://{HOST}:{port}/", began + seconds), range(clients))
        answers = list(chain.from_iterable(every))
        lasted = time.monotonic() - began
    for case in ("/search", "/interaction", "both"):
        if some := [answer for answer in answers if case in (answer[0], "both")]:
            _, times, failed = zip(*some, strict=True)
            tail = {f"p{share} s": float(np.percentile(times, share)) for share in (50, 99)}
            counts = {"clients": clients, "requests": len(some), "errors": sum(failed), "a second": len(some) / lasted}
            yield {"case": case, **counts, **tail}


@contextmanager
def served(words: Sequence[str], **options: Any) -> Iterator[int]:
    """Run the demo as a process, and yield its port once it answers.

    Args:
        words: of its command line.
        options: of `subprocess.Popen`.

    Raises:
        InputError: it ends before it answers.
    """
    with socket.create_server((HOST, 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen([sys.executable, str(DEMO), *words, "--port", str(port)], **options)
    try:
        while not _listens(port):
            if process.poll() is not None:
                raise InputError("the demo did not start; run python scripts/demo.py to see why")
            time.sleep(0.1)
        yield port
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()


def use(address: str, until: float, first: int) -> list[Answer]:
    """Search, and inspect the best result, repeatedly; the queries begin with number `first`."""
    from gradio_client import Client  # slow to import, and installed for the demo alone

    client, answers = Client(address, verbose=False, analytics_enabled=False), []

    def predict(endpoint: str, *values: Any) -> Any:
        began, result = time.monotonic(), None
        try:
            result = client.predict(*values, api_name=endpoint)
        except Exception:  # all errors of a client are counted
            answers.append((endpoint, time.monotonic() - began, True))
        else:
            answers.append((endpoint, time.monotonic() - began, False))
        return result

    for query in islice(cycle(QUICKSTART_QUERIES), first, None):
        if time.monotonic() > until:
            return answers
        if hits := predict("/search", query, 10):
            predict("/interaction", query, *(hits[0][name] for name in ("file", "start", "end")))


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0
