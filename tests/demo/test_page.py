"""The page in a real browser: search, choose a result, ask, follow a link, play old formats, send a file."""

import json
from urllib.parse import quote, urlsplit

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from tests.conftest import write_video
from tests.demo.conftest import PATIENCE, make_site, serve

QUERY = "a bright noise"
IN_VIEW = "(place => place.top >= 0 && place.bottom <= innerHeight)(arguments[0].getBoundingClientRect())"
BRIGHTNESS = """video => {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 1;
  const context = canvas.getContext("2d");
  context.drawImage(video, 0, 0, 1, 1);
  return context.getImageData(0, 0, 1, 1).data[0];
}"""


def resize(browser, width, height):
    screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)


def find(browser, selector, count=1):
    """The visible elements that match, once there are `count` of them."""

    def shown(_):
        found = [element for element in browser.find_elements(By.CSS_SELECTOR, selector) if element.is_displayed()]
        return found if len(found) >= count else None

    return WebDriverWait(browser, PATIENCE).until(shown, f"{count} of {selector}")


def wait_until(browser, script, *arguments):
    WebDriverWait(browser, PATIENCE).until(lambda _: browser.execute_script(f"return {script}", *arguments), script)


def requested(browser):
    """Hosts that the page has sent requests to."""
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    return {urlsplit(url).hostname for url in urls if url.startswith(("http", "ws"))}


def start_page(browser, address, path="/"):
    browser.get("http://{}:{}{}".format(*address, path))
    return find(browser, "#query textarea, #query input")[0]


def click_file(browser, name):
    """Click the result of a file."""
    for result in find(browser, "#results .thumbnail-item"):
        if name in result.find_element(By.XPATH, "..").text or name in result.text:
            result.click()
            return
    raise AssertionError(name)


@pytest.mark.slow
@pytest.mark.parametrize(("width", "height"), [(1280, 900), (390, 844)], ids=["desktop", "phone"])
def test_search_choose_look_and_ask_in_a_browser(explorer, address, browser, width, height):
    resize(browser, width, height)
    query = start_page(browser, address)
    assert "HBI video search" in find(browser, "#how-to h1")[0].text
    query.send_keys(QUERY)
    find(browser, "#search")[0].click()
    hits = explorer.index.search(QUERY)
    results = find(browser, "#results .thumbnail-item", len(hits))
    assert len(results) == len(hits)
    pictures = browser.find_elements(By.CSS_SELECTOR, "#results .thumbnail-item img")
    wait_until(browser, "arguments[0].every(picture => picture.naturalWidth > 0)", pictures)
    assert "moved or damaged" in find(browser, "#results")[0].text
    place, hit = next((place, hit) for place, hit in enumerate(hits) if hit.start)
    results[place].click()

    (figure,) = find(browser, "#hierarchy img")
    wait_until(browser, "arguments[0].naturalWidth > 1000", figure)
    assert figure.get_attribute("src") in explorer.hierarchy(QUERY, hit, exact=True)
    (video,) = find(browser, "#player video")
    wait_until(browser, "arguments[0].readyState >= 2 && arguments[0].currentTime >= arguments[1]", video, hit.start)
    assert browser.execute_script("return arguments[0].currentTime", video) <= hit.end + 0.5
    assert hit.file in find(browser, "#player")[0].text
    wait_until(browser, IN_VIEW, video)
    said = "document.querySelector('#said textarea, #said input').value == arguments[0]"
    wait_until(browser, said, explorer.describe(hit))

    (question,) = find(browser, "#question textarea, #question input")
    question.send_keys("what colour is it?\n")
    find(browser, "#answers [data-testid$='-confidence-set']", 3)
    answer = next(iter(explorer.answer("what colour is it?", hit)))
    assert answer in find(browser, "#answers [data-testid$='-confidence-set']")[0].text
    assert browser.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")

    find(browser, "button[role=tab]", 2)[1].click()
    find(browser, "#compare")[0].click()
    find(browser, "#maps img")
    assert [cell.text for cell in find(browser, "#correlations td:first-child", 3)] == ["entity", "action", "event"]
    assert browser.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
    assert requested(browser) == {"127.0.0.1"}


@pytest.mark.slow
def test_a_link_and_an_example_make_the_same_search(explorer, address, browser):
    start_page(browser, address, "/?q=a+dark+noise&top=3")
    assert len(find(browser, "#results .thumbnail-item", 3)) == 3
    assert find(browser, "#query textarea, #query input")[0].get_attribute("value") == "a dark noise"
    find(browser, "#examples button")[0].click()
    wait_until(browser, "location.search == '?q=a+bright+noise&top=3'")
    browser.get("about:blank")
    start_page(browser, address, "/?q=a+bright+noise&top=3")
    captions = [element.text for element in find(browser, "#results .caption-label", 3)]
    assert [text.split(" · ")[2] for text in captions] == [hit.file for hit in explorer.search("a bright noise", top=3)]


@pytest.mark.slow
def test_late_pictures_and_old_formats_play_in_a_browser(explorer, address, browser):
    resize(browser, 1280, 900)
    start_page(browser, address, f"/?q={quote(QUERY)}&top=50")
    find(browser, "#results .thumbnail-item", 8)
    for name in ("old.avi", "part 2.mp4", "late.mp4"):
        click_file(browser, name)
        wait_until(browser, "document.querySelector('#player p')?.textContent.includes(arguments[0])", name)
        (video,) = find(browser, "#player video")
        wait_until(browser, "arguments[0].readyState >= 2 && arguments[0].videoWidth > 0", video)
    browser.execute_script("arguments[0].pause(); arguments[0].currentTime = 2.05", video)  # the picture begins at 2 s
    wait_until(browser, f"!arguments[0].seeking && ({BRIGHTNESS})(arguments[0]) < 30", video)
    browser.execute_script("arguments[0].currentTime = 2 + 2.9", video)
    wait_until(browser, f"!arguments[0].seeking && ({BRIGHTNESS})(arguments[0]) > 200", video)


@pytest.mark.slow
def test_ones_own_file_is_searched_for_and_added_in_a_browser(tmp_path, browser):
    explorer = make_site(tmp_path, seconds=2)
    path = write_video(tmp_path / "mine.mp4", hue=7)
    with serve(explorer, tmp_path) as address:
        start_page(browser, address)
        find(browser, "#own button")[0].click()
        find(browser, "#own-file")[0].send_keys(str(path))
        find(browser, "#add")[0].click()
        wait_until(browser, "document.body.textContent.includes('uploads/mine.mp4 is in the index now')")
        find(browser, "#alike")[0].click()
        find(browser, "#results .thumbnail-item", 2)
        assert "mine.mp4" in find(browser, "#results .caption-label")[0].text
