"""Decoding in a process of its own: whatever a file does to the decoder, training continues.

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
    """`decode_clip` in another process, which is started when first needed, and again after it failed.

    Copies in forked processes, such as loading workers, start one each. It ends with the process that started it. A
    file that broke it once is not tried again.

    Args:
        seconds: the longest that a clip may take.
    """

    def __init__(self, seconds: float):
        self.seconds = seconds
        self._broken: dict[str, str] = {}
        self._owner: int | None = None
        self._process: subprocess.Popen
        self._connection: Connection

    def __call__(self, path: str | Path, **sampling: Any) -> np.ndarray:
        """Decode as `decode_clip` does; it is an InputError, too, if the decoder crashed or took too long."""
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
            stderr=subprocess.DEVNULL,  # the last words of one that crashes
        )
        theirs.close()
        self._connection.recv_bytes()
        self._owner = os.getpid()


def serve(connection: Connection) -> None:
    """Decode what is requested until the other side is gone."""
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
