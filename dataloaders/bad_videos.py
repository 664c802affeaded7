"""Broken training videos: skipped, logged and counted; too many of them stop the run."""

import logging
import os
from pathlib import Path

from utils.errors import InputError

logger = logging.getLogger("hbi")  # the run's log; loading processes inherit it


class BadVideos:
    """The broken videos of a run, one per line in a file that the loading processes of all ranks share."""

    def __init__(self, path: Path, max_count: int):
        self.path = path
        self.max_count = max_count

    def add(self, video_id: str, reason: str) -> None:
        """Count a video, once, and log it.

        Raises:
            InputError: there are more than allowed, or the file cannot be written.
        """
        if video_id in self.known():
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            # One write in append mode is not interleaved with those of other processes.
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o666)
            with os.fdopen(descriptor, "wb", buffering=0) as file:
                file.write(f"{video_id}\t{reason}\n".encode())
        except OSError as error:
            raise InputError(f"{self.path}: cannot be written ({error.strerror}); free space") from error
        count = len(self.known())
        if count > self.max_count:
            remedy = "repair them, give the --skip_list of scripts/check_data.py or raise --max_bad_videos"
            allowed = f"{count} broken videos, {self.max_count} allowed"
            raise InputError(f"{self.path}: {allowed}; {remedy}; the last: {reason}")
        logger.warning("broken video %d of %d allowed is skipped: %s", count, self.max_count, reason)

    def known(self) -> set[str]:
        """Ids of the videos counted so far."""
        try:
            lines = self.path.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return set()
        return {line.partition("\t")[0] for line in lines}
