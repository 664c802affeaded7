"""Errors of video files."""

from pathlib import Path

from utils.errors import InputError, printable


class VideoError(InputError):
    """An unusable video: `problem` is a key of `scripts.inspection.PROBLEMS`, `reason` the text without the remedy."""

    problem: str
    reason: str

    @classmethod
    def of(cls, path: Path, problem: str, reason: str, remedy: str = "replace the file") -> "VideoError":
        """Make the error of a file."""
        error = cls(f"{printable(str(path))}: {reason}; {remedy}")
        error.problem, error.reason = problem, reason
        return error
