"""The web demo: what its server gives out, and a real browser that searches, chooses a result and asks."""

import json
from types import SimpleNamespace
from urllib.parse import quote, urlsplit

import pytest
from fastapi.testclient import TestClient
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from scripts.demo import build_parser
from scripts.demo import main as demo
from scripts.webdemo.serving import build_app
from tests.demo.conftest import PATIENCE, SECRET, get
from utils.errors import InputError

QUERY = "a bright noise"


def test_videos_of_the_index_are_served_whole_and_in_part(explorer, address):
    for number, name in enumerate(explorer.index.manifest.files):
        if name in ("broken.mp4", "linked.mp4"):  # skipped, and outside of the folder
            assert get(address, f"/video/{number}")[0] == 404
            continue
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
    paths += ["/video/5", "/video/-1", "/video/notes.txt", "/video/../../outside.mp4", "/video/%2e%2e%2foutside.mp4"]
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
