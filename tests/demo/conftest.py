"""A server of the demo, and a browser."""

import json
import shutil
import threading
import time
from contextlib import contextmanager
from fractions import Fraction
from http.client import HTTPConnection

import av
import numpy as np
import pytest
import torch
import uvicorn
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from models import CLIP, HBI, HBIVQA
from scripts.searching.about import Manifest
from scripts.searching.build import build_index
from scripts.searching.captions import Captioner
from scripts.searching.query import Segment, VideoIndex
from scripts.webdemo.explorer import Explorer
from scripts.webdemo.playback import Converter
from scripts.webdemo.protection import Protection
from scripts.webdemo.serving import build_app
from scripts.webdemo.uploads import Uploads
from tests.caption_case import save_captioner
from tests.conftest import SMALL, write_video
from utils.checkpoint import released_state, save_weights, sha256

SECRET = "not for everyone"
EXAMPLES = ["a bright noise", "a dark noise"]
PATIENCE = 60  # seconds, on a busy machine


def write_late_picture(path, begins=2, seconds=3, rate=10):
    """A video whose sound begins `begins` seconds before its picture, which brightens from dark to light."""
    with av.open(str(path), "w") as container:
        sound, stream = container.add_stream("aac", rate=48000), container.add_stream("libx264", rate=rate)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range((begins + seconds) * 48000 // 1024):
            silence = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), format="fltp", layout="stereo")
            silence.rate, silence.pts = 48000, number * 1024
            container.mux(sound.encode(silence))
        for number in range(seconds * rate):
            picture = np.full((48, 64, 3), 250 * number // (seconds * rate), np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number + begins * rate, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux([*sound.encode(), *stream.encode()])
    return path


def make_site(root, seconds=12):
    """An index of short videos, a long one, AVI and MPEG-4 part 2, a late picture, a broken one and one moved away.

    Next to them are a file that is no video and a link out of the folder. The model is random.
    """
    videos = root / "videos"
    for number in range(2):
        write_video(videos / f"short {number}.mp4", hue=number)
    write_video(videos / "long.mp4", hue=2, seconds=seconds)
    write_video(videos / "old.avi", hue=3, codec="mpeg4")
    write_video(videos / "part 2.mp4", hue=4, codec="mpeg4")
    write_video(videos / "moved.mp4", hue=6)
    write_late_picture(videos / "late.mp4")
    (videos / "notes.txt").write_text(SECRET)
    (root / "outside.mp4").write_text(SECRET)
    (videos / "broken.mp4").write_text(SECRET)
    write_video(root / "private" / "real.mp4", hue=5)
    (videos / "linked.mp4").symlink_to(root / "private" / "real.mp4")
    torch.manual_seed(0)
    model = HBI(CLIP(SMALL), temporal_layers=1, recipe="corrected").eval()
    save_weights(released_state(model), root / "model.bin")
    options = {"checkpoint": str(root / "model.bin"), "options": {"recipe": "corrected"}}
    sampling = {"max_frames": 4, "framerate": 1, "segment": 6, "overlap": 1}
    digest = sha256(root / "model.bin")
    manifest = Manifest(folder=str(videos), model=options, digest=digest, sampling=sampling, max_words=16)
    build_index(model, root / "index", manifest)
    (videos / "moved.mp4").unlink()
    questions = HBIVQA(CLIP(SMALL), ["red", "blue", "green"], temporal_layers=1).eval()
    captioner = Captioner(save_captioner(root / "captions.bin"), sha256(root / "captions.bin"))
    return Explorer(lambda: VideoIndex(root / "index"), Uploads(root / "uploads"), questions, captioner)


@pytest.fixture(scope="module")
def explorer(tmp_path_factory):
    return make_site(tmp_path_factory.mktemp("demo"))


@pytest.fixture(scope="module")
def address(explorer, tmp_path_factory):
    """Address of the page on a server at a free port of this machine: (host, port)."""
    with serve(explorer, tmp_path_factory.mktemp("served")) as place:
        yield place


@contextmanager
def serve(explorer, folder):
    """Serve the page on a free port of this machine; gives (host, port)."""
    app = Protection(build_app(explorer, Converter(folder / "converted"), EXAMPLES), "127.0.0.1")
    server = uvicorn.Server(uvicorn.Config(
        app, host="127.0.0.1", port=0, log_level="error", timeout_graceful_shutdown=1
    ))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until = time.monotonic() + PATIENCE
    while not server.started and time.monotonic() < until:
        time.sleep(0.05)
    yield server.servers[0].sockets[0].getsockname()
    server.should_exit = True
    thread.join(PATIENCE)


def segments(index):
    """All segments of an index."""
    hits = index.search("noise", top=100)
    return [Segment(hit.file, hit.start, hit.end, hit.duration) for hit in hits]


def post(address, path, content):
    """Status and JSON of the server's response to a body."""
    connection = HTTPConnection(*address, timeout=PATIENCE)
    connection.request("POST", path, content)
    response = connection.getresponse()
    return response.status, json.loads(response.read())


def get(address, path, **headers):
    """Status and content of the server's response to a path, sent unchanged."""
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
