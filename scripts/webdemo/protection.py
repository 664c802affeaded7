"""Access to the server, and its limits."""

import asyncio
import hmac
import re
import secrets
import time
from collections import Counter
from urllib.parse import parse_qs, urlsplit

from starlette.requests import cookie_parser
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from scripts.webdemo.uploads import MAX_UPLOAD

LOOPBACK = ("127.0.0.1", "localhost", "::1")
COOKIE = "hbi_token"
UPLOAD = "/upload"
MAX_BODY = 2**20
"""Maximum bytes of a request, files sent to /upload excluded."""
MAX_RATE = 3000
"""Maximum requests with a body per minute from one address."""
OPEN = re.compile(
    r"/(config|theme\.css|favicon\.ico|manifest\.json|robots\.txt|upload|(static|assets|svelte|video|converted|thumbnail)/.+)?"
    r"|/gradio_api/(info|startup-events|app_id|queue/(join|data)|heartbeat/\w+|cancel|reset|call/\w+(/\w+)?)/?"
)
"""The paths that the page and programs use; gradio has many more, which read files and fetch addresses."""
LONGEST_NAME = 255
"""Bytes of a part of a path."""
PATIENCE = 60.0
"""Maximum seconds between two parts of a request."""


class Protection:
    """ASGI middleware: known host names, pages of the same origin, a token beyond loopback, limits of size, rate, time.

    Args:
        app: the protected app.
        host: address that the server listens at.
        max_rate: maximum requests with a body per minute from one address.
    """

    def __init__(self, app: ASGIApp, host: str, max_rate: int = MAX_RATE):
        self.app, self.max_rate = app, max_rate
        self._minute, self._counts = 0, Counter()
        self.hosts = {*LOOPBACK, host}
        self.token = None if host in LOOPBACK else secrets.token_urlsafe(24)
        if host in ("0.0.0.0", "::"):  # every address of the machine: the token protects
            self.hosts = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, or pass on to the app."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        refusal = self._refusal(scope, headers)
        if refusal is not None:
            await PlainTextResponse(refusal[1], refusal[0])(scope, receive, send)
            return
        if self.token and _given_token(scope):
            send = self._remembering(send)
        await self.app(scope, _Bounded(receive, _max_body(scope)), send)

    def _refusal(self, scope: Scope, headers: dict[str, str]) -> tuple[int, str] | None:
        """Status and reason of a refusal."""
        host = headers.get("host", "")
        if self.hosts is not None and _host_name(host) not in self.hosts:
            return 400, "unknown host name"
        if not _is_same_origin(scope, headers, host):
            return 403, "only the page of this server may send requests"
        if self.token and not self._knows_token(scope, headers):
            return 401, "open the address with the token that the server printed"
        names = scope["path"].encode("utf-8", "replace").split(b"/")
        if not OPEN.fullmatch(scope["path"]) or "\0" in scope["path"] or max(map(len, names)) > LONGEST_NAME:
            return 404, "no such path"
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > _max_body(scope):
            return 413, "too large"
        if scope.get("method") == "POST" and self._is_flooding(scope):
            return 429, "too many requests; wait a minute"
        return None

    def _is_flooding(self, scope: Scope) -> bool:
        """Count a request of an address; returns whether there are too many in this minute."""
        minute = int(time.monotonic() // 60)
        if minute != self._minute:
            self._minute, self._counts = minute, Counter()
        address = (scope.get("client") or ("",))[0]
        self._counts[address] += 1
        return self._counts[address] > self.max_rate

    def _knows_token(self, scope: Scope, headers: dict[str, str]) -> bool:
        """Whether the token is in the address, the cookie or the header "Authorization: Bearer TOKEN"."""
        cookie = cookie_parser(headers.get("cookie", "")).get(COOKIE)
        bearer = headers.get("authorization", "").removeprefix("Bearer ")
        given = _given_token(scope) or cookie or bearer
        return hmac.compare_digest(given.encode(), self.token.encode())

    def _remembering(self, send: Send) -> Send:
        """A `send` that stores the token in a cookie."""

        async def remember(message: Message) -> None:
            if message["type"] == "http.response.start":
                cookie = f"{COOKIE}={self.token}; HttpOnly; SameSite=Strict; Path=/"
                message = {**message, "headers": [*message["headers"], (b"set-cookie", cookie.encode())]}
            await send(message)

        return remember


class _Bounded:
    """A `receive` that ends a request whose body is too large or too slow, whatever its headers say."""

    def __init__(self, receive: Receive, max_body: int):
        self.receive, self.max_body, self.read, self.complete = receive, max_body, 0, False

    async def __call__(self) -> Message:
        if self.complete:  # only the end of the connection can follow
            return await self.receive()
        try:
            message = await asyncio.wait_for(self.receive(), PATIENCE)
        except asyncio.TimeoutError:
            return {"type": "http.disconnect"}
        self.read += len(message.get("body", b""))
        self.complete = not message.get("more_body", False)
        return {"type": "http.disconnect"} if self.read > self.max_body else message


def _max_body(scope: Scope) -> int:
    """Bytes that the body of a request may have."""
    return MAX_UPLOAD if scope["path"] == UPLOAD else MAX_BODY


def _host_name(host: str) -> str:
    """The name in a Host header, without the port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _given_token(scope: Scope) -> str:
    """The token in the address."""
    return parse_qs(scope.get("query_string", b"").decode("latin-1")).get("token", [""])[0]


def _is_same_origin(scope: Scope, headers: dict[str, str], host: str) -> bool:
    """Whether a request comes from a page of this server, from the address bar, or from no browser."""
    origin = headers.get("origin")
    if origin is not None and origin.partition("://")[2] != host:
        return False
    site = headers.get("sec-fetch-site", "none")
    opens_page = scope.get("method") == "GET" and scope["path"] == "/" and headers.get("sec-fetch-mode") == "navigate"
    return site in ("none", "same-origin") or opens_page
