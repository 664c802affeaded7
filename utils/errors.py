"""The one exception for what a user can mend."""


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message is one line: what is wrong, in which file and place, and what to do. Entry scripts print it and exit
    with code 2.
    """


def printable(text: str) -> str:
    """The text as it can stand in a line of a message: with what would break or hide it escaped."""
    return text if text.isprintable() else ascii(text)
