"""Errors as shown to visitors."""

import html
import re
from collections.abc import Callable
from functools import wraps
from typing import Any

import gradio

from scripts.webdemo.explorer import Explorer
from utils.errors import InputError, printable


def shown(explorer: Explorer, respond: Callable) -> Callable:
    """Wrap a response so that its InputError is shown, escaped and without paths of the machine."""

    @wraps(respond)
    def wrapped(*values: Any, **named: Any) -> Any:
        try:
            return respond(*values, **named)
        except (InputError, TypeError, ValueError, OverflowError) as error:
            reason = str(error) if isinstance(error, InputError) else "a value of another kind is expected"
            raise gradio.Error(html.escape(without_paths(reason, explorer)), print_exception=False) from error

    return wrapped


def without_paths(message: str, explorer: Explorer) -> str:
    """Remove the folders of the machine from a message."""
    index, uploads = explorer.index, explorer.uploads
    for folder in map(str, (index.manifest.folder, index.path, uploads.folder, uploads.folder.parent)):
        message = message.replace(f"{folder}/", "").replace(folder, "the folder")
    return printable(re.sub(r"(?<![\w.])/(?:[^\s/:]+/)+", "", message))
