"""Decoding in a separate process, so that a file that crashes the decoder does not end training.

n frames of a clip, H and W their height and width.
"""

import json
import os
import subprocess
import sys
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from utils.errors import InputError
from utils.video.decode import decode_clip

ROOT = Path(__file__).parents[1]


class IsolatedDecoder:
    """`decode_clip` in a separate process, which is started on demand, and again after a failure.

    Each loading worker has its own, which ends with it. A file that failed once is not tried again.

    Args:
        seconds: maximum time for a clip.
    """

    def __init__(self, seconds: float):
        self.seconds = seconds
        self._broken: dict[str, str] = {}
        self._owner: int | None = None
        self._process: subprocess.Popen
        self._connection: Connection

    def __call__(self, path: str | Path, **sampling: Any) -> np.ndarray:
        """Decode as `decode_clip` does; a crash or timeout of the decoder is an InputError, too."""
        request = {"path": str(path), **sampling}
        if request["path"] not in self._broken:
            if self._owner != os.getpid():
                self._start()
            try:
                return self._ask(request)
            except TimeoutError:
                self._process.kill()
                self._process.wait()
                reason = f"not decoded within {self.seconds:g} s"
            except (EOFError, ConnectionError):
                reason = f"crashes the decoder (exit code {self._process.wait()})"
            self._owner = None
            self._broken[request["path"]] = reason
        raise InputError(f"{path}: {self._broken[request['path']]}; replace the file")

    def _ask(self, request: dict[str, Any]) -> np.ndarray:
        self._connection.send_bytes(json.dumps(request).encode())
        if not self._connection.poll(self.seconds):
            raise TimeoutError
        answer = json.loads(self._connection.recv_bytes())
        if "error" in answer:
            raise InputError(answer["error"])
        return np.frombuffer(bytearray(self._connection.recv_bytes()), np.uint8).reshape(answer["shape"])

    def _start(self) -> None:
        self._connection, theirs = Pipe()
        search = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "dataloaders.isolation", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env={**os.environ, "PYTHONPATH": search},
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,  # messages of a crash
        )
        theirs.close()
        self._connection.recv_bytes()
        self._owner = os.getpid()


def serve(connection: Connection) -> None:
    """Answer requests until the connection closes."""
    connection.send_bytes(b"ready")
    while True:
        try:
            request = json.loads(connection.recv_bytes())
        except EOFError:
            return
        try:
            frames = decode_clip(**request)
        except InputError as error:
            connection.send_bytes(json.dumps({"error": str(error)}).encode())
        else:
            connection.send_bytes(json.dumps({"shape": frames.shape}).encode())
            connection.send_bytes(np.ascontiguousarray(frames).data.cast("B"))


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])))
