"""Hundreds of malformed requests to the demo as a process: no server error, no data of the machine in responses."""

import json
import os
import socket
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from random import Random
from urllib.parse import quote

import pytest

from scripts.benchmarks.demo import HOST, served
from scripts.webdemo.playback import Converter
from scripts.webdemo.serving import build_app
from tests.demo import hostile
from tests.demo.conftest import EXAMPLES, PATIENCE, SECRET, make_site
from tests.demo.hostile import File, Request
from utils.checkpoint import released_state, save_weights

ROOT = Path(__file__).parents[2]
QUERY = "a bright noise"
SHORT = 2.0
"""Seconds for a path that may be a stream without end."""


@dataclass(frozen=True)
class Site:
    """A running demo: its port, the folder that all its files are in, and the paths that it knows with their methods.

    The index and the temporary folder of the process lie in `root` as all that it must not give out or change.
    """

    port: int
    root: Path
    known: list[tuple[str, set[str]]]

    def files(self) -> dict[str, tuple[int, int]]:
        """Size and time of change of every file that the demo may not change."""
        paths = (path for path in self.root.rglob("*") if path.relative_to(self.root).parts[0] not in OWN)
        return {str(path): (path.lstat().st_size, path.lstat().st_mtime_ns) for path in paths if not path.is_dir()}

    def log(self) -> str:
        return (self.root / "log.txt").read_text(errors="replace")

    def send(self, request: Request, patience: float = PATIENCE) -> tuple[int | None, str]:
        """Status and content of an answer; no status where the server ended the connection."""
        connection = HTTPConnection(HOST, self.port, timeout=patience)
        content, status = b"", None
        try:
            body = request.body() if callable(request.body) else request.body
            connection.request(request.method, request.path, body, request.headers)
        except OSError:
            pass  # it has answered before all was sent
        try:
            response = connection.getresponse()
            status = response.status
            while part := response.read1():
                content += part
        except (OSError, HTTPException):
            pass
        connection.close()
        return status, content.decode("utf-8", "replace")

    def call(self, endpoint: str, *data) -> str:
        """What an endpoint answers in the end."""
        body = json.dumps({"data": data}).encode()
        return list(self.answers(Request(endpoint, "POST", body, hostile.JSON)))[-1][1]

    def answers(self, request: Request, patience: float = PATIENCE) -> Iterator[tuple[int | None, str]]:
        """The answer to a request, and the result of the event if it began one."""
        status, content = self.send(request, patience)
        yield status, content
        if status == 200 and request.method == "POST" and "event_id" in content:
            event = json.loads(content)["event_id"]
            if "/call/" in request.path:
                yield self.send(Request(f"/gradio_api/call/search/{event}"))
            else:
                session = json.loads(request.body)["session_hash"]
                yield self.send(Request(f"/gradio_api/queue/data?session_hash={quote(str(session))}"))


OWN = ("index", "temporary", "log.txt")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    root = tmp_path_factory.mktemp("a private place")  # with spaces, as paths in messages may have them
    explorer = make_site(root)
    with (root / "private" / "real.mp4").open("ab") as file:  # to which a link leads
        file.write((8 + len(SECRET)).to_bytes(4, "big") + b"free" + SECRET.encode())
    for name in ("home", "here", "temporary", "vqa"):
        (root / name).mkdir()
    save_weights(released_state(explorer.questions), root / "vqa" / "model.bin")
    (root / "vqa" / "train_ans2label.json").write_text(json.dumps({"red": 0, "blue": 1, "green": 2}))
    app = build_app(explorer, Converter(root / "converted"), EXAMPLES)
    known = sorted((route.path, set(route.methods)) for route in app.routes if getattr(route, "methods", None))
    known += [(route.path, set(route.methods)) for route in inner_routes(app)]
    words = ["--index", str(root / "index"), "--questions", str(root / "vqa" / "model.bin"), "--device", "cpu"]
    temporary = {name: str(root / "temporary") for name in ("TMPDIR", "XDG_CACHE_HOME", "MPLCONFIGDIR")}
    environment = {**os.environ, **temporary, "HOME": str(root / "home"), "PYTHONDONTWRITEBYTECODE": "1"}
    with (root / "log.txt").open("w") as log:
        options = {"cwd": root / "here", "env": environment, "stdout": log, "stderr": log}
        with served(words, **options) as port:
            yield Site(port, root, known)


def inner_routes(app):
    """The routes of gradio."""
    mounted = (route.app for route in app.routes if hasattr(route, "app") and hasattr(route.app, "routes"))
    return (route for inner in mounted for route in inner.routes if getattr(route, "methods", None))


def faults(site: Site, request: Request | File | bytes, status: int | None, content: str) -> Iterator[str]:
    """Parts of a response that show a server error or data of the machine."""
    if status is not None and status >= 500:
        yield f"status {status}"
    yield from (word for word in (SECRET, "root:x:", "Traceback", "site-packages", str(ROOT)) if word in content)
    if site.root.name in content and quote(site.root.name) not in quote(str(request)):  # it may say what it was sent
        yield content[:200]


def ask_all(site: Site, requests: Iterable[Request], patience: float = PATIENCE, together: int = 1) -> list[str]:
    """Errors of the responses to requests, of which some are sent together, "" for right ones."""

    def ask(request: Request) -> str:
        wrong = [fault for answer in site.answers(request, patience) for fault in faults(site, request, *answer)]
        return f"{request!s:.300}: {wrong}" if wrong else ""

    with ThreadPoolExecutor(together) as pool:
        return list(pool.map(ask, requests))


@pytest.mark.slow
def test_hundreds_of_hostile_requests_change_nothing_and_give_nothing_out(site):
    draw = Random(0)
    good = site.call("/gradio_api/call/search", QUERY, 3, "")
    assert "event: complete" in good and hostile.VIDEO in good
    site.call("/gradio_api/call/interaction", QUERY, hostile.VIDEO, 0, 6)
    before = site.files()
    video = (site.root / "videos" / "short 0.mp4").read_bytes()
    found = ask_all(site, hostile.calls(draw, site.root, 150))
    found += ask_all(site, hostile.events(draw, site.root, 60))
    found += ask_all(site, [*hostile.paths(site.root), *hostile.kinds()])
    found += ask_all(site, hostile.routes(draw, site.known, site.root), SHORT, together=8)
    found += [send_file(site, file) for file in hostile.files(draw, video, site.root, 30)]
    found += [send_raw(site, line) for line in hostile.RAW]
    assert len(found) >= 300
    assert not (wrong := list(filter(None, found))), "\n".join([f"{len(wrong)} of {len(found)}", *wrong])
    assert site.files() == before
    assert not any(SECRET.encode() in path.read_bytes() for path in (site.root / "temporary").rglob("*.*"))  # no copy
    assert str(ROOT / "scripts") not in site.log()  # no error in code of the project
    assert site.call("/gradio_api/call/search", QUERY, 3, "") == good


def send_file(site: Site, file: File) -> str:
    """Send a file, and search for what looks like it: what is wrong with the answer, or "" """
    status, content = site.send(Request(f"/upload?name={quote(file.name)}", "POST", file.content))
    wrong = list(faults(site, file, status, content))
    if status == 200:
        answer = site.call("/gradio_api/call/search", "", 3, json.loads(content)["key"])
        wrong += faults(site, file, None, answer)
        if not file.is_video and "event: error" not in answer:
            wrong.append("is decoded")
    return f"{file.name}: {wrong}" if wrong else ""


def send_raw(site: Site, line: bytes) -> str:
    """Send what is no request: what is wrong with all that comes back, or "" """
    content = b""
    with socket.create_connection((HOST, site.port), timeout=SHORT) as client, suppress(OSError):
        client.sendall(line)
        client.shutdown(socket.SHUT_WR)
        while part := client.recv(2**16):
            content += part
    status = int(content.split(b" ", 2)[1]) if content.startswith(b"HTTP/") else None
    wrong = list(faults(site, line, status, content.decode("utf-8", "replace")))
    return f"{line[:100]}: {wrong}" if wrong else ""


@pytest.mark.slow
def test_a_file_of_another_session_is_not_given_out(site):
    key = json.loads(site.send(Request("/upload?name=secret.png", "POST", SECRET.encode()))[1])["key"]
    (path,) = (site.root / "temporary").rglob(f"{key}.png")
    names = [quote(str(path)), quote(str(path), safe=""), f"../uploads/{key}.png", f"uploads/{key}.png", f"{key}.png"]
    routes = ("/video/", "/thumbnail/", "/gradio_api/file=", "/gradio_api/file/", "/upload/", "/static/", "/")
    assert not any(ask_all(site, [Request(route + name) for route in routes for name in names]))
    for example in (str(path), f"{key}.png", f"../{path.parent.name}/{key}"):
        assert "event: error" in site.call("/gradio_api/call/search", "", 3, example)
