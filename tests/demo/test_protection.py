"""The demo answers only its own page, within limits."""

import asyncio
import http.server
import json
import os
import socket
import stat
import threading
from contextlib import suppress
from http.client import HTTPConnection
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote

import gradio
import pytest
import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from selenium.webdriver.support.ui import WebDriverWait

from scripts.demo import main as demo
from scripts.webdemo import protection
from scripts.webdemo.explorer import MAX_TEXT
from scripts.webdemo.messages import shown
from scripts.webdemo.protection import MAX_BODY, Protection
from scripts.webdemo.uploads import MAX_UPLOAD
from tests.demo.conftest import PATIENCE, SECRET, get
from utils.errors import InputError


def ask(address, method="GET", path="/", body=None, **headers):
    """Status and content of a request with the given headers."""
    connection = HTTPConnection(*address, timeout=PATIENCE)
    connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
    response = connection.getresponse()
    return response.status, response.read()


@pytest.mark.parametrize("host", ["evil.example", "evil.example:7860", "127.0.0.1.evil.example", "[::2]", "", "a b"])
def test_other_host_names_are_refused(address, host):
    for path in ("/", "/video/long.mp4", "/config"):
        assert ask(address, path=path, Host=host)[0] == 400
    assert ask(address, Host=f"localhost:{address[1]}")[0] == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec_Fetch_Site": "same-site"},
        {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "no-cors"},
    ],
)
def test_pages_of_other_origins_are_refused(address, headers):
    for path in ("/video/long.mp4", "/config", "/gradio_api/queue/join"):
        assert ask(address, path=path, **headers)[0] == 403
    assert ask(address, "POST", "/gradio_api/queue/join", "{}", Content_Type="text/plain", **headers)[0] == 403


def test_a_link_to_the_page_and_its_own_requests_are_answered(address):
    own = f"http://127.0.0.1:{address[1]}"
    assert ask(address, Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate")[0] == 200
    assert ask(address, path="/config", Origin=own, Sec_Fetch_Site="same-origin")[0] == 200


def test_other_uploads_and_large_requests_are_refused(address):
    for path in ("/upload/", "/gradio_api/upload", "/gradio_api/upload/"):
        assert ask(address, "POST", path, b"x" * 100, Content_Type="multipart/form-data; boundary=x")[0] == 404
    assert ask(address, "POST", "/gradio_api/queue/join", b"x" * (MAX_BODY + 1))[0] == 413
    assert ask(address, "POST", "/upload?name=a.mp4", b"", Content_Length=str(MAX_UPLOAD + 1))[0] == 413
    assert ask(address, "POST", "/gradio_api/queue/join", b"", Content_Length="-5")[0] in (400, 413)

    def endless():
        for _ in range(3 * MAX_BODY // 2**16):
            yield b"x" * 2**16

    with suppress(OSError):  # without a length: the connection ends, or the app sees only a part
        assert ask(address, "POST", "/gradio_api/queue/join", endless(), Transfer_Encoding="chunked")[0] >= 400
    assert get(address, "/")[0] == 200


def test_beyond_loopback_a_token_is_needed():
    inner = FastAPI()
    inner.get("/")(lambda: "page")
    for host in ("0.0.0.0", "192.0.2.7"):
        app = Protection(inner, host)
        with TestClient(app, base_url="http://192.0.2.7") as client:
            assert client.get("/").status_code == 401
            assert client.get("/?token=wrong").status_code == 401
            assert client.get(f"/?token={app.token}").status_code == 200
            assert client.get("/").status_code == 200  # by the cookie
        with TestClient(app, base_url="http://192.0.2.7", headers={"Authorization": f"Bearer {app.token}"}) as program:
            assert program.get("/").status_code == 200
        with TestClient(app, base_url="http://192.0.2.7") as hostile:
            for cookie in (b"a@b=c", b"hbi_token", b"hbi_token=\xff\xfe", b"hbi_token=" + b"x" * 9999, b";=;,"):
                assert hostile.get("/", headers={b"Cookie": cookie}).status_code == 401
            for token in (b"", b"Bearer", b"Bearer \xff", b"Basic eDp4", b"Bearer " + b"x" * 9999):
                assert hostile.get("/", headers={b"Authorization": token}).status_code == 401
            for query in ("token=%ff", "token=%00", "token=a&token=b", "token[]=a", "token=" + "x" * 9999):
                assert hostile.get(f"/?{query}").status_code == 401
        with TestClient(app, base_url="http://192.0.2.7") as other:
            assert other.get("/", cookies={"hbi_token": "x"}).status_code == 401
    assert Protection(inner, "127.0.0.1").token is None


def test_one_address_cannot_flood_the_server():
    inner = FastAPI()
    inner.post("/")(lambda: "answer")
    with TestClient(Protection(inner, "127.0.0.1", max_rate=5), base_url="http://127.0.0.1") as client:
        answers = [client.post("/").status_code for _ in range(12)]
    assert answers[:5] == [200] * 5 and 429 in answers[5:]  # a minute may begin in between


def test_a_request_that_comes_too_slowly_is_ended(monkeypatch):
    monkeypatch.setattr(protection, "PATIENCE", 0.05)
    seen = []

    async def inner(scope, receive, send):
        seen.append(await receive())

    async def never():
        await asyncio.sleep(60)

    scope = {"type": "http", "method": "POST", "path": "/", "headers": [(b"host", b"127.0.0.1")], "query_string": b""}
    asyncio.run(Protection(inner, "127.0.0.1")(scope, never, None))
    assert seen == [{"type": "http.disconnect"}]


def test_messages_are_escaped_and_without_paths():
    index = SimpleNamespace(manifest=SimpleNamespace(folder="/home/some one/videos"), path="/home/some one/index")
    explorer = SimpleNamespace(index=index, uploads=SimpleNamespace(folder=Path("/tmp/x/uploads")))
    name = "<img src=//evil.example/x onerror=alert(1)>\x1b[31m.mp4"
    for folder in ("/home/some one/videos", "/home/some one/index", "/tmp/x/uploads", "/home/someone/models"):

        def fail(folder=folder):
            raise InputError(f"{folder}/{name}: cannot be decoded; replace the file")

        with pytest.raises(gradio.Error) as error:
            shown(explorer, fail)()
        message = error.value.message
        assert "<" not in message and "\x1b" not in message and "cannot be decoded" in message
        assert not any(part in message for part in ("/home", "some one", "someone", "/tmp"))


def test_long_queries_are_cut(explorer):
    hits = explorer.index.search(("a bright noise " * 1000)[:MAX_TEXT])
    assert hits


def test_what_visitors_send_is_private(explorer, monkeypatch, capsys):
    """The server's folder is private to its user, and the printed line counts used and skipped videos."""
    seen = {}

    def serve(app, **_):
        folder = Path(os.environ["GRADIO_TEMP_DIR"])
        (folder / "file").touch()
        seen.update({path: stat.S_IMODE(path.stat().st_mode) for path in (folder, folder / "file")})

    monkeypatch.setattr(uvicorn, "run", serve)
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")
    mask = os.umask(0o022)
    try:
        demo(["--index", str(explorer.index.path), "--device", "cpu"])
    finally:
        os.umask(mask)
    assert sorted(seen.values()) == [0o600, 0o700]
    assert not any(path.exists() for path in seen)
    assert f"{len(explorer.index.files)} videos, 1 skipped at http://127.0.0.1:7860" in capsys.readouterr().out


ROUTES = (
    "/video/", "/converted/", "/thumbnail/", "/upload?name=", "/gradio_api/file=", "/file=", "/gradio_api/proxy=",
    "/static/", "/assets/", "/theme.css?",
)  # fmt: skip
NAMES = (
    "../../outside.mp4", "%2e%2e%2foutside.mp4", "/etc/passwd", "-1", "99999999999999999999", "3", "1e3", "%00",
    "notes.txt", "..;/notes.txt", "broken.mp4", "file:///etc/passwd", "http://127.0.0.1:1/",
)  # fmt: skip
PATHS = st.text(max_size=40).map(lambda text: "/" + quote(text))
PATHS |= st.tuples(st.sampled_from(ROUTES), st.sampled_from(NAMES)).map("".join)
METHODS = st.sampled_from(["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
BODIES = (
    st.none()
    | st.binary(max_size=200)
    | st.dictionaries(
        st.sampled_from(["data", "fn_index", "session_hash", "event_data", "trigger_id"]),
        st.none() | st.integers() | st.text(max_size=9) | st.lists(st.none() | st.text(max_size=9), max_size=3),
    ).map(lambda value: json.dumps(value).encode())
)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(METHODS, PATHS | st.just("/gradio_api/queue/join") | st.just("/gradio_api/run/predict"), BODIES)
def test_hostile_requests_end_without_an_error_or_a_foreign_file(address, method, path, body):
    status, content = ask(address, method, path, body, Content_Type="application/json")
    assert status != 500
    assert SECRET.encode() not in content and b"root:" not in content and b"Traceback" not in content


@pytest.mark.parametrize(
    "body",
    [
        b'{"data": ["what?", {"path": "/etc/passwd", "meta": {"_type": "gradio.\\u0046ileData"}}, 0, 6]}',
        b'{"data": ["what?", [{"a": {"path": "http://127.0.0.1:1/", "meta": {"_type": "gradio.FileData"}}}], 0, 6]}',
        b'{"data": ["what?", "long.mp4", NaN, 6]}',
        b'{"data": ["what?", "long.mp4", 0, 1e999]}',
        b'{"data": ["what?", "\\ud800", 0, 6]}',
        b'{"data": ["what?", "long.mp4"]}',
        b'{"data": ["what?", ' + b"[" * 500 + b"]" * 500 + b", 0, 6]}",
        b'{"fn_index": 999, "data": []}',
        b"[]",
    ],
)
def test_what_gradio_would_trust_or_stumble_over_is_refused(address, body):
    good = b'{"data": ["what?", "long.mp4", 0, 6]}'
    assert ask(address, "POST", "/gradio_api/call/ask", good, Content_Type="application/json")[0] == 200
    assert ask(address, "POST", "/gradio_api/call/ask", body, Content_Type="application/json")[0] == 400


@pytest.fixture
def foreign_page():
    """A server on another port of this machine, with a page that sends all kinds of requests to the demo."""
    attempts = """<script>
      const found = [];
      async function attempt(demo) {
        for (const mode of ["cors", "no-cors"]) for (const path of ["/video/long.mp4", "/config"])
          try { const r = await fetch(demo + path, {mode}); found.push(r.status + (await r.text())); } catch (e) {}
        const video = document.createElement("video");
        video.onloadeddata = () => found.push("video"); video.onerror = () => document.title = "refused";
        video.src = demo + "/video/long.mp4"; document.body.append(video);
        document.found = found;
      }
    </script><body></body>"""

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(attempts.encode())

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()


@pytest.mark.slow
def test_a_foreign_page_in_a_browser_gets_nothing(address, foreign_page, browser):
    browser.get(f"http://127.0.0.1:{foreign_page}/")
    browser.execute_script(f"attempt('http://127.0.0.1:{address[1]}')")
    WebDriverWait(browser, PATIENCE).until(lambda _: browser.title == "refused")
    assert not [answer for answer in browser.execute_script("return document.found") if answer.startswith("200")]
    assert "video" not in browser.execute_script("return document.found")


@pytest.mark.slow
@pytest.mark.parametrize("browser", [["host-resolver-rules=MAP evil.test 127.0.0.1"]], indirect=True)
def test_a_rebound_name_in_a_browser_gets_nothing(address, browser):
    browser.get(f"http://evil.test:{address[1]}/video/long.mp4")
    assert "unknown host name" in browser.page_source
    browser.get(f"http://evil.test:{address[1]}/")
    assert "unknown host name" in browser.page_source


def test_the_server_answers_on_a_closed_connection(address):
    """A client that disconnects during a request does no damage."""
    with socket.create_connection(address) as client:
        client.sendall(b"POST /gradio_api/queue/join HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\nabc")
    assert get(address, "/")[0] == 200
