"""The exception for errors that a user can correct, and text for messages."""

import re
import textwrap

TERMINAL_CODE = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)?|[ -/]*[0-~])?")


class InputError(ValueError):
    """An error in the input.

    The message is one line: what is wrong, in which file and place, and the remedy. Entry scripts print it and exit
    with code 2.
    """


def printable(text: str) -> str:
    """Escape line breaks, terminal codes and undecodable bytes for a one-line message."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def one_line(error: object, width: int = 300) -> str:
    """Another library's message, or the error's type, as one line of at most `width` characters."""
    message = without_terminal_codes(str(error)).strip()
    return textwrap.shorten(message, width, placeholder=" ...") or type(error).__name__


def without_terminal_codes(text: str) -> str:
    """Remove terminal control codes: colours, titles, moves of the cursor."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "", TERMINAL_CODE.sub("", text))
