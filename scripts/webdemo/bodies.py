"""Checks of JSON requests before gradio reads them, as it trusts those of its own page."""

import json
from typing import Any

import gradio
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

API = "/gradio_api/"
MAX_DEPTH = 20
"""Maximum nesting of lists and objects."""
EVENTS = (f"{API}queue/join", f"{API}call/")


class CheckedBodies:
    """ASGI middleware: requires finite numbers, encodable text, and events of the page with all their arguments.

    It refuses arguments that gradio would take for its own files, which gradio copies, or fetches from an address.

    Args:
        app: the protected app.
        page: of the events.
    """

    def __init__(self, app: ASGIApp, page: gradio.Blocks):
        self.app, self.page = app, page

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, or pass on to the app."""
        if scope["type"] != "http" or scope["method"] != "POST" or not scope["path"].startswith(API):
            await self.app(scope, receive, send)
            return
        message, content = {"more_body": True}, b""
        while message.get("more_body", False):
            message = await receive()
            content += message.get("body", b"")
        if message["type"] == "http.disconnect":
            await JSONResponse({"detail": "too large, or too slow"}, 413)(scope, receive, send)
        elif reason := self._fault(scope["path"], content):
            await JSONResponse({"detail": reason}, 400)(scope, receive, send)
        else:
            await self.app(scope, _once({"type": "http.request", "body": content}, receive), send)

    def _fault(self, path: str, content: bytes) -> str | None:
        """The error of a request, if any."""
        try:
            body = json.loads(content)
            json.dumps(body, allow_nan=False, ensure_ascii=False).encode()
        except (ValueError, RecursionError):
            return "JSON is expected, with finite numbers and text in Unicode"
        if not isinstance(body, dict):
            return "an object is expected"
        return self._fault_of_event(path, body) if path.startswith(EVENTS) else None

    def _fault_of_event(self, path: str, body: dict[str, Any]) -> str | None:
        """The error of a request for an event of the page, named in the path or numbered in the body."""
        wanted = body.get("fn_index", path.removeprefix(f"{API}call/").rstrip("/"))
        data = body.get("data")
        inputs = [event.inputs for number, event in self.page.fns.items() if wanted in (number, event.api_name)]
        if not inputs or not isinstance(data, list) or len(data) < len(inputs[0]):
            return "no such event, or arguments are missing"
        return None if all(map(_is_plain, data)) else "plain values are expected; files are sent to /upload"


def _is_plain(value: Any, depth: int = MAX_DEPTH) -> bool:
    """Whether a value has no part that gradio takes for a file, and limited nesting."""
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    is_file = isinstance(value, dict) and "meta" in value
    return depth > 0 and not is_file and all(_is_plain(part, depth - 1) for part in parts)


def _once(message: Message, receive: Receive) -> Receive:
    """A `receive` that first gives a message."""
    waiting = [message]

    async def given() -> Message:
        return waiting.pop() if waiting else await receive()

    return given
