"""The web demo: what its server gives out, and a real browser that searches, chooses a result and asks."""

import json
import shutil
import threading
import time
from http.client import HTTPConnection
from types import SimpleNamespace
from urllib.parse import quote, urlsplit

import pytest
import torch
import uvicorn
from fastapi.testclient import TestClient
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from models import CLIP, HBI, HBIVQA
from scripts.demo import build_parser
from scripts.demo import main as demo
from scripts.searching.build import build_index
from scripts.searching.query import VideoIndex
from scripts.searching.storage import Manifest
from scripts.webdemo.explorer import Explorer
from scripts.webdemo.serving import build_app
from tests.conftest import SMALL, write_video
from utils.checkpoint import released_state, save_weights, sha256
from utils.errors import InputError

SECRET = "not for everyone"
QUERY = "a bright noise"
PATIENCE = 60  # seconds, on a machine that does much else


@pytest.fixture(scope="module")
def explorer(tmp_path_factory):
    """Two short videos, a long one, and a file that is none, in the folder of an index; models of random weights."""
    root = tmp_path_factory.mktemp("demo")
    videos = root / "videos"
    for number in range(2):
        write_video(videos / f"short {number}.mp4", hue=number)
    write_video(videos / "long.mp4", hue=2, seconds=12)
    (videos / "notes.txt").write_text(SECRET)
    (root / "outside.mp4").write_text(SECRET)
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
    server = uvicorn.Server(uvicorn.Config(build_app(explorer), host="127.0.0.1", port=0, log_level="error"))
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


def test_videos_of_the_index_are_served_whole_and_in_part(explorer, address):
    for number, name in enumerate(explorer.index.manifest.files):
        content = explorer.index.file(name).read_bytes()
        assert get(address, f"/video/{number}") == (200, content)
        assert get(address, f"/video/{number}", Range="bytes=100-199") == (206, content[100:200])


@pytest.mark.parametrize(
    ("suffix", "media_type"), [("mp4", "video/mp4"), ("ts", "video/mp2t"), ("webm", "video/webm"), ("avi", "video/x-")]
)
def test_videos_are_served_as_videos(tmp_path, suffix, media_type):
    path = tmp_path / f"video.{suffix}"
    path.write_bytes(b"content")
    manifest = SimpleNamespace(files={path.name: (7, 0)}, folder=str(tmp_path))
    index = SimpleNamespace(manifest=manifest, file=lambda name: tmp_path / name, skipped={})
    with TestClient(build_app(SimpleNamespace(index=index, questions=None))) as client:
        response = client.get("/video/0")
    assert response.headers["content-type"].startswith(media_type) and response.content == b"content"


def test_no_other_file_is_served(explorer, address):
    videos = explorer.index.file("long.mp4").parent
    files = [videos / "notes.txt", videos.parent / "outside.mp4", explorer.index.path / "manifest.json", "/etc/passwd"]
    files += [explorer.index.manifest.model.checkpoint, videos / ".." / "outside.mp4"]
    paths = [f"{route}{quote(str(file))}" for file in files for route in ("/gradio_api/file=", "/file=", "/video/", "")]
    paths += ["/video/3", "/video/-1", "/video/notes.txt", "/video/../../outside.mp4", "/video/%2e%2e%2foutside.mp4"]
    paths += [f"/gradio_api/file=file://{videos / 'notes.txt'}", "/gradio_api/file=../videos/notes.txt"]
    for path in paths:
        status, content = get(address, path)
        assert 400 <= status < 500, path
        assert SECRET.encode() not in content and b"root:" not in content


def test_the_demo_listens_to_its_own_machine_alone_by_default():
    assert build_parser().parse_args([]).host == "127.0.0.1"


def test_without_an_index_it_says_what_to_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="run bash scripts/quickstart.sh") as error:
        demo([])
    assert "\n" not in str(error.value)


@pytest.fixture
def browser(tmp_path):
    """Chromium without a window."""
    programs = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
    if missing := [name for name, path in programs.items() if path is None]:
        pytest.skip(f"no {' and no '.join(missing)} is installed (Debian: apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = programs["chromium"]
    for flag in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "disable-background-networking",
                 "disable-component-update", "disable-sync", "no-first-run", f"user-data-dir={tmp_path}"):  # fmt: skip
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    driver = webdriver.Chrome(options, Service(programs["chromedriver"]))
    yield driver
    driver.quit()


def resize(browser, width, height):
    screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)


def find(browser, selector, count=1):
    """The elements that are shown and match, once there are `count` of them."""

    def shown(_):
        found = [element for element in browser.find_elements(By.CSS_SELECTOR, selector) if element.is_displayed()]
        return found if len(found) >= count else None

    return WebDriverWait(browser, PATIENCE).until(shown, f"{count} of {selector}")


def wait_until(browser, script, *arguments):
    WebDriverWait(browser, PATIENCE).until(lambda _: browser.execute_script(f"return {script}", *arguments), script)


def requested(browser):
    """Hosts that the page has asked for something."""
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    return {urlsplit(url).hostname for url in urls if url.startswith(("http", "ws"))}


@pytest.mark.slow
@pytest.mark.parametrize(("width", "height"), [(1280, 900), (390, 844)], ids=["desktop", "phone"])
def test_search_choose_look_and_ask_in_a_browser(explorer, address, browser, width, height):
    resize(browser, width, height)
    browser.get("http://{}:{}/".format(*address))
    (query,) = find(browser, "#query textarea, #query input")
    query.send_keys(QUERY)
    find(browser, "#search")[0].click()
    hits = explorer.index.search(QUERY)
    results = find(browser, "#results .thumbnail-item", len(hits))
    assert len(results) == len(hits)
    place, hit = next((place, hit) for place, hit in enumerate(hits) if hit.start)
    results[place].click()

    (figure,) = find(browser, "#hierarchy img")
    wait_until(browser, "arguments[0].naturalWidth > 1000", figure)
    assert figure.get_attribute("src") in explorer.hierarchy(QUERY, hit, exact=True)
    (video,) = find(browser, "#player video")
    wait_until(browser, "arguments[0].readyState >= 2 && arguments[0].currentTime >= arguments[1]", video, hit.start)
    assert browser.execute_script("return arguments[0].currentTime", video) <= hit.end + 0.5
    assert hit.file in find(browser, "#player")[0].text

    (question,) = find(browser, "#question textarea, #question input")
    question.send_keys("what colour is it?\n")
    find(browser, "#answers [data-testid$='-confidence-set']", 3)
    answer = next(iter(explorer.answer("what colour is it?", hit)))
    assert answer in find(browser, "#answers [data-testid$='-confidence-set']")[0].text
    assert browser.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")

    find(browser, "button[role=tab]", 2)[1].click()
    find(browser, "#compare")[0].click()
    find(browser, "#maps img", 2)
    assert [cell.text for cell in find(browser, "#correlations td:first-child", 3)] == ["entity", "action", "event"]
    assert browser.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
    assert requested(browser) == {"127.0.0.1"}
