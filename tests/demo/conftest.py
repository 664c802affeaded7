"""A server of the demo, and a browser."""

import shutil
import threading
import time
from http.client import HTTPConnection

import pytest
import torch
import uvicorn
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from models import CLIP, HBI, HBIVQA
from scripts.searching.build import build_index
from scripts.searching.query import VideoIndex
from scripts.searching.storage import Manifest
from scripts.webdemo.explorer import Explorer
from scripts.webdemo.protection import Protection
from scripts.webdemo.serving import build_app
from tests.conftest import SMALL, write_video
from utils.checkpoint import released_state, save_weights, sha256

SECRET = "not for everyone"
PATIENCE = 60  # seconds, on a machine that does much else


@pytest.fixture(scope="module")
def explorer(tmp_path_factory):
    """Two short videos, a long one, a broken one, a file that is none, and a link out of the folder; random models."""
    root = tmp_path_factory.mktemp("demo")
    videos = root / "videos"
    for number in range(2):
        write_video(videos / f"short {number}.mp4", hue=number)
    write_video(videos / "long.mp4", hue=2, seconds=12)
    (videos / "notes.txt").write_text(SECRET)
    (root / "outside.mp4").write_text(SECRET)
    (videos / "broken.mp4").write_text(SECRET)
    write_video(root / "private" / "real.mp4", hue=5)
    (videos / "linked.mp4").symlink_to(root / "private" / "real.mp4")
    torch.manual_seed(0)
    model = HBI(CLIP(SMALL), temporal_layers=1).eval()
    save_weights(released_state(model), root / "model.bin")
    options = {"checkpoint": str(root / "model.bin"), "base_encoder": None}
    sampling = {"max_frames": 4, "framerate": 1, "segment": 6, "overlap": 1}
    digest = sha256(root / "model.bin")
    manifest = Manifest(folder=str(videos), model=options, digest=digest, sampling=sampling, max_words=16)
    build_index(model, root / "index", manifest)
    return Explorer(VideoIndex(root / "index"), HBIVQA(CLIP(SMALL), ["red", "blue", "green"], temporal_layers=1).eval())


@pytest.fixture(scope="module")
def address(explorer):
    """Where a server on a free port of this machine has the page: (host, port)."""
    app = Protection(build_app(explorer), "127.0.0.1")
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until = time.monotonic() + PATIENCE
    while not server.started and time.monotonic() < until:
        time.sleep(0.05)
    yield server.servers[0].sockets[0].getsockname()
    server.should_exit = True
    thread.join(PATIENCE)


def get(address, path, **headers):
    """Status and content of what the server gives for a path, sent as it is."""
    connection = HTTPConnection(*address, timeout=PATIENCE)
    connection.request("GET", path, headers=headers)
    response = connection.getresponse()
    return response.status, response.read()


@pytest.fixture
def browser(tmp_path, request):
    """Chromium without a window; a parameter holds further flags."""
    programs = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
    if missing := [name for name, path in programs.items() if path is None]:
        pytest.skip(f"no {' and no '.join(missing)} is installed (Debian: apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = programs["chromium"]
    for flag in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "disable-background-networking",
                 "disable-component-update", "disable-sync", "no-first-run", f"user-data-dir={tmp_path}",
                 *getattr(request, "param", ())):  # fmt: skip
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    driver = webdriver.Chrome(options, Service(programs["chromedriver"]))
    yield driver
    driver.quit()
