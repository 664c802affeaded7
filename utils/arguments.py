"""An argument parser with one-line errors, and types of numbers."""

import argparse
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

from utils.run import complain


class ArgumentParser(argparse.ArgumentParser):
    """An argparse.ArgumentParser whose errors are one line, and that does not accept abbreviated flags.

    Attributes:
        source: file of the command line, for messages; "" if it was typed.
        of_model: names of the flags that describe a trained model and its input.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, allow_abbrev=False)
        self.source = ""
        self.of_model: set[str] = set()

    def error(self, message: str) -> NoReturn:
        """Exit with code 2 and one line."""
        complain(f"{self.prog}: error: {self.source}{message} (--help lists the flags)")
        sys.exit(2)

    def names(self) -> set[str]:
        """Names of the flags' values."""
        return {action.dest for action in self._actions if action.default != argparse.SUPPRESS}

    def words(self, values: Mapping[str, Any]) -> Iterator[str]:
        """Write values of flags as words of a command line; None and False are left out."""
        for action in self._actions:
            value = values.get(action.dest)
            if action.default == argparse.SUPPRESS or value is None or value is False:
                continue
            if action.nargs == 0:
                yield action.option_strings[0]
            elif action.nargs and isinstance(value, list) and not any(str(part).startswith("--") for part in value):
                yield from (action.option_strings[0], *map(str, value))
            else:
                yield f"{action.option_strings[0]}={value}"


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows a flag's default if it has one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, False) else super()._get_help_string(action)


class _NoEffect(argparse.Action):
    """Accepts a flag, with or without values, and only records its name."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str | None = None) -> None:
        super().__init__(option_strings, dest, nargs="*", default=argparse.SUPPRESS, help=help)

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option_string: str = ""
    ) -> None:
        namespace.ineffective_flags = (*namespace.ineffective_flags, option_string)


def number_type(convert: type[int] | type[float], low: float, high: float = math.inf) -> Callable[[str], float]:
    """The argparse type of a finite number from `low` to `high`, both included."""
    kind = "a whole number" if convert is int else "a number"
    bounds = f"{low} or more" if high == math.inf else f"{low} to {high}"

    def parse_number(text: str) -> float:
        try:
            number = convert(text)
        except ValueError:
            number = math.nan
        if not (low <= number <= high and math.isfinite(number)):
            raise argparse.ArgumentTypeError(f"{kind} is needed, {bounds}, not {text!r}")
        return number

    return parse_number
COUNT = number_type(int, 1)
AMOUNT = number_type(float, 0)
SHARE = number_type(float, 0, 1)
WORKERS = number_type(int, 0)
"""The argparse type of a number of worker processes, 0 for none."""


def add_switch(group: argparse._ArgumentGroup, name: str, help: str, default: int = 0) -> None:
    """Add a published 0/1 flag; given without a value it is on."""
    group.add_argument(name, type=int, choices=(0, 1), nargs="?", const=1, default=default, help=help)


def add_ineffective_arguments(parser: argparse.ArgumentParser, *flags: str) -> None:
    """Accept published flags that have no effect here; the log names those that were given."""
    group = parser.add_argument_group("accepted for compatibility, no effect")
    for flag in flags:
        group.add_argument(flag, action=_NoEffect)
