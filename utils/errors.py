"""The one exception for what a user can correct, and text for messages."""

import re
import textwrap

TERMINAL_CODE = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)?|[ -/]*[0-~])?")


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message is one line: what is wrong, in which file and place, and what to do. Entry scripts print it and exit
    with code 2.
    """


def printable(text: str) -> str:
    """The text as it can stand in a line of a message: line breaks, terminal codes and undecodable bytes escaped."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def one_line(error: object, width: int = 300) -> str:
    """The message of another library's error on one line of at most `width` characters, its type if it has none."""
    message = without_terminal_codes(str(error)).strip()
    return textwrap.shorten(message, width, placeholder=" ...") or type(error).__name__


def without_terminal_codes(text: str) -> str:
    """The text without what a terminal would obey: colours, titles, moves of the cursor."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "", TERMINAL_CODE.sub("", text))
