"""Malformed and hostile requests to the demo, random by seed."""

import json
import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from random import Random
from urllib.parse import quote

from scripts.webdemo.protection import MAX_BODY
from scripts.webdemo.uploads import MAX_UPLOAD

JSON = {"Content-Type": "application/json"}
ENDPOINTS = ("search", "interaction", "ask")
VIDEO = "long.mp4"
"""A video of the index, 12 s long."""
DEEP = 500


@dataclass(frozen=True)
class Request:
    """A request; `body` makes the chunks of one that is sent without a length."""

    path: str
    method: str = "GET"
    body: bytes | Callable[[], Iterator[bytes]] | None = None
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class File:
    """A hostile file, sent under a name; `is_video` where it may be decoded all the same."""

    name: str
    content: bytes
    is_video: bool = False


def values(root: Path) -> list:
    """Arguments of every wrong kind, and a few right ones; `root` is a folder of the machine with files outside."""
    deep: list = []
    for _ in range(DEEP):
        deep = [deep]
    paths = ["../../etc/passwd", "/etc/passwd", "..\\..\\etc\\passwd", "file:///etc/passwd", "%2e%2e%2foutside.mp4",
             "../outside.mp4", "linked.mp4", "notes.txt", "broken.mp4", "moved.mp4", str(root / "outside.mp4"),
             str(root / "private" / "real.mp4"), f"uploads/../../{root.name}/outside.mp4", "con", "."]  # fmt: skip
    texts = ["", " ", "\0", "a\0b", "\ud800", "\udc80", "\x1b[31m", "<script>alert(1)</script>", "a" * 200_000, "é" * 9,
             f"{VIDEO}' OR '1'='1", "'; DROP TABLE segments; --", "{{7*7}}", "$(id)", "a noise", VIDEO]  # fmt: skip
    marked = {"meta": {"_type": "gradio.FileData"}}  # what gradio takes for a file of its own
    numbers = [None, True, 0, -1, 3, 10**400, 2**63, -(2**63), 1e308, -1e308, 5e-324, float("nan"), float("inf"), 0.5]
    things = [[], {}, deep, [VIDEO], {"path": "/etc/passwd", **marked}, {"path": str(root / "outside.mp4"), **marked},
              [{"a": {"path": "http://127.0.0.1:1/", **marked}}], {"__type__": "update"}]  # fmt: skip
    return [*paths, *texts, *numbers, *things]


def calls(draw: Random, root: Path, count: int) -> Iterator[Request]:
    """Calls of the named endpoints: wrong kinds, missing and further arguments."""
    wrong = values(root)
    right = {"search": ["a noise", 3, ""], "interaction": ["a noise", VIDEO, 0, 6, True], "ask": ["what?", VIDEO, 0, 6]}
    for number in range(count):
        name = ENDPOINTS[number % len(ENDPOINTS)]
        data = list(right[name])
        for place in draw.sample(range(len(data)), draw.randint(1, len(data))):
            data[place] = draw.choice(wrong)
        data = draw.choice([data, data, data, data[:-1], [*data, draw.choice(wrong)], [], draw.choice(wrong)])
        yield Request(f"/gradio_api/call/{name}", "POST", json.dumps({"data": data}).encode(), JSON)


def events(draw: Random, root: Path, count: int) -> Iterator[Request]:
    """Events of the page, by number, with arguments and sessions that no page sends."""
    wrong = values(root)
    for number in range(count):
        body = {
            "data": [draw.choice(wrong) for _ in range(draw.randint(0, 3))],
            "fn_index": number % 20 - 2,
            "session_hash": draw.choice([f"session{number}", f"session{number}", None, 5, "../x"]),
            "event_data": draw.choice([None, {"index": draw.choice(wrong)}, {"path": "/etc/passwd"}]),
            "trigger_id": draw.choice([None, -1, "x"]),
        }
        yield Request("/gradio_api/queue/join", "POST", json.dumps(body).encode(), JSON)


def paths(root: Path) -> Iterator[Request]:
    """Ways to ask for a file that is not served."""
    outside = root / "outside.mp4"
    names = [
        "/etc/passwd", "../../outside.mp4", "%2e%2e%2foutside.mp4", "%252e%252e%252foutside.mp4", "..%5coutside.mp4",
        "%00", "long.mp4%00.txt", "notes.txt", "..;/notes.txt", "linked.mp4", "broken.mp4", "moved.mp4", "uploads/",
        "file:///etc/passwd", "http://127.0.0.1:1/", "%c0%ae%c0%ae/outside.mp4", "%ff%fe", "a" * 5000, "-1",
        quote(str(outside)), quote(str(outside), safe=""), quote(f"{root}/uploads/x.mp4"),
        quote(f"{root}/index/about.lance"), quote(f"{root}/model.bin"),
    ]  # fmt: skip
    routes = ("/video/", "/converted/", "/thumbnail/", "/gradio_api/file=", "/gradio_api/file/", "/static/", "/assets/")
    for route, name in product(routes, names):
        yield Request(f"{route}{name}" + ("?start=0&end=1" if route == "/converted/" else ""))
    for times in ("start=nan&end=1", "start=0&end=inf", "start=-1e308&end=1e308", "start=1&end=0", "start=x", "end=1"):
        yield Request(f"/converted/old.avi?{times}")
    yield Request(f"/video/{VIDEO}", headers={"Range": "bytes=99999999999-"})
    yield Request(f"/video/{VIDEO}", headers={"Range": "bytes=5-1," * 500})


def routes(draw: Random, known: list[tuple[str, set[str]]], root: Path) -> Iterator[Request]:
    """Every path that the server knows, with every method of it and parameters and a body that it does not expect."""
    bodies = [b"", b"{}", b"[]", b'{"data": 5}', b"\xff\xfe", b'{"data": ' + b"[" * 2000, b"null"]
    names = ["x", "..%2f..%2fetc%2fpasswd", "-1", quote(str(root / "outside.mp4"), safe=""), "%00", "search"]
    for path, methods in known:
        for method in sorted(methods | {"PATCH"}):
            filled = re.sub(r"\{[^}]*\}", lambda _: draw.choice(names), path)
            body = None if method in ("GET", "HEAD") else draw.choice(bodies)
            yield Request(filled, method, body, JSON)


def kinds() -> Iterator[Request]:
    """Bodies that contradict their headers, or are too large."""
    good = json.dumps({"data": ["a noise", 3, ""]}).encode()
    content_types = ("text/plain", "multipart/form-data", "multipart/form-data; boundary=x", "application/xml",
                     "application/json; charset=utf-16", "application/x-www-form-urlencoded", "", "a/b;;")  # fmt: skip
    for kind, name in product(content_types, ("call/search", "queue/join")):
        yield Request(f"/gradio_api/{name}", "POST", good, {"Content-Type": kind})
    for body in (b"", b"null", b"5", b'"a"', b"[]", b"{", b"\xff", b'{"data": NaN}', b"[" * 100_000, good[:-1], b"\0"):
        yield Request("/gradio_api/call/search", "POST", body, JSON)
    yield Request("/gradio_api/call/search", "POST", good, {**JSON, "Content-Encoding": "gzip"})
    yield Request("/gradio_api/call/search", "POST", b'{"data": ["' + b"a" * MAX_BODY + b'"]}', JSON)
    yield Request("/gradio_api/call/search", "POST", lambda: (b"x" * 2**16 for _ in range(2 + MAX_BODY // 2**16)), JSON)
    yield Request("/upload?name=large.mp4", "POST", lambda: (b"x" * 2**20 for _ in range(2 + (MAX_UPLOAD >> 20))))
    for length in ("-1", "1e9", str(MAX_UPLOAD + 1), "9" * 400, "0x10", "\u00b2"):
        yield Request("/upload?name=a.mp4", "POST", b"", {"Content-Length": length})
    for name in ("", "..%2f..%2fevil.mp4", "%2fetc%2fcron.d%2fx", "a.sh", ".mp4", "a%00.mp4", "%ff.mp4", "a" * 300):
        yield Request(f"/upload?name={name}", "POST", b"x")
    yield Request("/upload", "POST", b"x")


def files(draw: Random, video: bytes, root: Path, count: int) -> Iterator[File]:
    """Videos that are damaged, lie about their size or name other files, and pictures of the same kind."""
    other = root / "private" / "real.mp4"
    playlist = "#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\n{}\n#EXT-X-ENDLIST\n"
    for name in ("list.mp4", "list.ts", "list.avi"):
        yield File(name, playlist.format(other).encode())
        yield File(name, playlist.format(f"file://{other}").encode())
        yield File(name, f"ffconcat version 1.0\nfile '{other}'\n".encode())
        yield File(name, f"{other}\n".encode())
    yield File("empty.mp4", b"")
    yield File("cut.mp4", video[: len(video) // 2])
    yield File("script.mp4", b"#!/bin/sh\nid\n")
    yield File("vector.png", b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>')
    size = struct.pack(">II", 60_000, 60_000)
    yield File("bomb.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + size + b"\x08\x02\0\0\0" + b"\0" * 99)
    yield File("large.mp4", video.replace(struct.pack(">II", 64 << 16, 48 << 16), b"\xff\xff\0\0\xff\xff\0\0"), True)
    yield File("movie.png", video)
    for number in range(count):
        content = bytearray(video)
        for _ in range(draw.choice([1, 20, 400])):
            content[draw.randrange(len(content))] = draw.randrange(256)
        yield File(f"damaged {number}.{draw.choice(['mp4', 'mkv', 'avi', 'ts'])}", bytes(content), True)


RAW = (
    b"GET /\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"GET / HTTP/9.9\r\nHost: 127.0.0.1\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.example\r\n\r\n",
    b"GET /../../../etc/passwd HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    b"GET http://evil.example/etc/passwd HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
    b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nCookie: \xff\xfe=\xfd; a:b=c; hbi_token\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: [\r\nOrigin: http://[\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nOrigin: http://[\r\n\r\n",
    b"POST /upload?name=a.mp4 HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
    b"POST /upload?name=a.mp4 HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"POST /upload?name=a HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: x\r\n\r\n",
)
"""Bytes that no HTTP client sends."""
