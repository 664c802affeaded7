"""Who may use the server, and how much of it."""

import hmac
import secrets
from http.cookies import SimpleCookie
from urllib.parse import parse_qs, urlsplit

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = ("127.0.0.1", "localhost", "::1")
COOKIE = "hbi_token"
MAX_BODY = 2**20
"""Bytes of a request: the page sends only text."""


class Protection:
    """ASGI middleware: known host names, pages of the same origin, a token beyond loopback, small bodies, no uploads.

    Args:
        app: what is protected.
        host: address that the server listens at.
    """

    def __init__(self, app: ASGIApp, host: str):
        self.app = app
        self.hosts = {*LOOPBACK, host}
        self.token = None if host in LOOPBACK else secrets.token_urlsafe(24)
        if host in ("0.0.0.0", "::"):  # every address of the machine: the token protects
            self.hosts = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass on to the app."""
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
        await self.app(scope, _Bounded(receive), send)

    def _refusal(self, scope: Scope, headers: dict[str, str]) -> tuple[int, str] | None:
        """Status and reason of a refusal."""
        host = headers.get("host", "")
        if self.hosts is not None and _host_name(host) not in self.hosts:
            return 400, "unknown host name"
        if not _is_same_origin(scope, headers, host):
            return 403, "only the page of this server may ask"
        if self.token and not self._knows_token(scope, headers):
            return 401, "open the address with the token that the server printed"
        if scope["path"].rstrip("/").endswith("/upload") or "/proxy=" in scope["path"]:
            return 403, "there are no uploads and no proxy"
        if "\0" in scope["path"]:
            return 400, "no such path"
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > MAX_BODY:
            return 413, "too large"
        return None

    def _knows_token(self, scope: Scope, headers: dict[str, str]) -> bool:
        """Whether the token is in the address or in the cookie."""
        cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        given = _given_token(scope) or (cookie.value if cookie else "")
        return hmac.compare_digest(given.encode(), self.token.encode())

    def _remembering(self, send: Send) -> Send:
        """A `send` that has the browser keep the token."""

        async def remember(message: Message) -> None:
            if message["type"] == "http.response.start":
                cookie = f"{COOKIE}={self.token}; HttpOnly; SameSite=Strict; Path=/"
                message = {**message, "headers": [*message["headers"], (b"set-cookie", cookie.encode())]}
            await send(message)

        return remember


class _Bounded:
    """A `receive` that ends a request whose body grows beyond `MAX_BODY`, whatever its headers say."""

    def __init__(self, receive: Receive):
        self.receive, self.read = receive, 0

    async def __call__(self) -> Message:
        message = await self.receive()
        self.read += len(message.get("body", b""))
        return {"type": "http.disconnect"} if self.read > MAX_BODY else message


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
    if origin is not None and urlsplit(origin).netloc != host:
        return False
    site = headers.get("sec-fetch-site", "none")
    opens_page = scope.get("method") == "GET" and scope["path"] == "/" and headers.get("sec-fetch-mode") == "navigate"
    return site in ("none", "same-origin") or opens_page
