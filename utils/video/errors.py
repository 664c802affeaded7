"""What can be wrong with a video file."""

from pathlib import Path

from utils.errors import InputError, printable


class VideoError(InputError):
    """A video that cannot be used.

    `problem` is its kind, a key of `scripts.inspection.PROBLEMS`, `reason` says it without the file and the remedy.
    """

    problem: str
    reason: str

    @classmethod
    def of(cls, path: Path, problem: str, reason: str, remedy: str = "replace the file") -> "VideoError":
        """Make the error of a file."""
        error = cls(f"{printable(str(path))}: {reason}; {remedy}")
        error.problem, error.reason = problem, reason
        return error
