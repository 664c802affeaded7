"""The demo's server: files it serves, receives and converts, and responses of its endpoints."""

import asyncio
import io
import json
from dataclasses import replace
from types import SimpleNamespace
from urllib.parse import quote

import av
import numpy as np
import pytest
import torch.nn.functional as F
from fastapi.testclient import TestClient
from gradio_client import Client
from gradio_client.exceptions import AppError
from PIL import Image

from scripts.demo import build_parser
from scripts.demo import main as demo
from scripts.webdemo import uploads as uploads_module
from scripts.webdemo.addresses import address as playing
from scripts.webdemo.explorer import Explorer
from scripts.webdemo.playback import Converter
from scripts.webdemo.serving import build_app
from scripts.webdemo.uploads import Uploads
from tests.conftest import write_video
from tests.demo.conftest import SECRET, get, make_site, post, segments
from utils.errors import InputError
from utils.video.decode import decode_clip

QUERY = "a bright noise"


def test_videos_of_the_index_are_served_whole_and_in_part(explorer, address):
    for name in explorer.index.files:
        path = f"/video/{quote(name)}"
        if name in ("linked.mp4", "moved.mp4"):  # outside of the folder, and gone
            assert get(address, path)[0] == 404
            continue
        content = explorer.index.file(name).read_bytes()
        assert get(address, path) == (200, content)
        assert get(address, path, Range="bytes=100-199") == (206, content[100:200])


@pytest.mark.parametrize(
    ("suffix", "media_type"), [("mp4", "video/mp4"), ("ts", "video/mp2t"), ("webm", "video/webm"), ("avi", "video/x-")]
)
def test_videos_are_served_as_videos(tmp_path, suffix, media_type):
    path = tmp_path / f"video.{suffix}"
    path.write_bytes(b"content")
    manifest = SimpleNamespace(folder=str(tmp_path), skipped=0)
    index = SimpleNamespace(manifest=manifest, file=lambda name: tmp_path / name, files=[path.name], holds=bool)
    explorer = SimpleNamespace(index=index, questions=None, describes=False, size="1 video")
    app = build_app(explorer, Converter(tmp_path / "converted"), [])
    with TestClient(app) as client:
        response = client.get(f"/video/{path.name}")
    assert response.headers["content-type"].startswith(media_type) and response.content == b"content"


@pytest.mark.parametrize("name", ["old.avi", "part 2.mp4"])
def test_what_browsers_do_not_play_is_converted(explorer, address, tmp_path, name):
    (segment,) = (segment for segment in segments(explorer.index) if segment.file == name)
    where = playing(explorer.index, segment)
    assert where.startswith("/converted/") and get(address, "/video/" + quote(name))[0] == 200
    status, content = get(address, where)
    assert status == 200
    (tmp_path / "converted.mp4").write_bytes(content)
    with av.open(str(tmp_path / "converted.mp4")) as container:
        codec = container.streams.video[0].codec_context
        assert (codec.name, codec.pix_fmt) == ("h264", "yuv420p")
    ours, theirs = (
        decode_clip(path, framerate=5, max_frames=100)
        for path in (tmp_path / "converted.mp4", explorer.index.file(name))
    )
    assert len(ours) == len(theirs)
    assert np.abs(ours.mean((1, 2)) - theirs.mean((1, 2))).max() < 6
    for wrong in ("?start=0&end=nan", "?start=2&end=1", "?start=0&end=1e9", "?start=-1&end=2", "", "?start=x&end=1"):
        assert get(address, f"/converted/{quote(name)}{wrong}")[0] in (404, 422)


def test_a_segment_is_played_from_where_its_picture_is(explorer):
    times = {segment.file: playing(explorer.index, segment) for segment in segments(explorer.index)}
    (late,) = (segment for segment in segments(explorer.index) if segment.file == "late.mp4")
    assert times["late.mp4"] == f"/video/late.mp4#t=2,{late.end + 2:g}"
    assert "#t=0," in times["short 0.mp4"]
    assert times["moved.mp4"] is None


def test_a_thumbnail_is_the_frame_nearest_to_the_query(explorer):
    model, (segment,) = explorer.index.model, [some for some in segments(explorer.index) if some.file == "late.mp4"]
    frames = decode_clip(explorer.index.file(segment.file), **explorer.index.sampling(segment))
    tokens, mask = model.encode_video(explorer.index.file(segment.file), **explorer.index.sampling(segment))
    best = set()
    for query in ("a bright noise", "dark", "a cat jumps over a fence", "two", "grey fog at night", "the end"):
        sought = explorer.sought(query)
        key, whole = explorer.thumbnail(segment, sought)
        assert whole
        nearest = int((F.normalize(tokens[0, mask[0] > 0], dim=-1) @ F.normalize(sought, dim=-1)).argmax())
        picture = np.asarray(Image.open(io.BytesIO(explorer.picture(key))).convert("RGB"))
        differences = [np.abs(picture - frame.astype(float)).mean() for frame in frames]
        assert int(np.argmin(differences)) == nearest
        best.add(nearest)
    assert len(best) > 1  # not the same frame for every query


def test_a_result_is_described_as_the_index_has_it_or_now(explorer):
    hit = next(hit for hit in explorer.search(QUERY, top=50) if hit.file == "long.mp4" and hit.start)
    sampling = {"max_frames": 4, "start": hit.start, "end": hit.end if hit.end < hit.duration else None}
    said = explorer.captioner.model.describe(explorer.index.file(hit.file), **sampling)
    assert said.caption and explorer.describe(hit) == said.caption
    assert explorer.describe(replace(hit, description="as the index has it")) == "as the index has it"
    silent = Explorer(lambda: explorer.index, explorer.uploads)
    assert not silent.describes and silent.describe(hit) == ""


def test_a_moved_video_does_not_fail_a_search(explorer):
    hits = explorer.search(QUERY, top=50)
    whole = {hit.file: explorer.thumbnail(hit, explorer.sought(QUERY))[1] for hit in hits}
    assert not whole.pop("moved.mp4") and all(whole.values())


def test_a_picture_or_a_video_is_searched_for(explorer, address, tmp_path):
    content = explorer.index.file("short 1.mp4").read_bytes()
    status, answer = post(address, "/upload?name=mine.mp4", content)
    assert status == 200
    assert explorer.search("", answer["key"])[0].file == "short 1.mp4"
    (frame,) = decode_clip(explorer.index.file("late.mp4"), start=2, end=2.1, max_frames=1)
    Image.fromarray(frame).save(tmp_path / "frame.png")
    status, answer = post(address, "/upload?name=frame.png", (tmp_path / "frame.png").read_bytes())
    assert status == 200 and len(explorer.search("", answer["key"], top=3)) == 3


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("page.html", b"<script>", "is no picture or video"),
        ("..%2f..%2fevil.sh", b"x", "is no picture or video"),
        (".hidden.mp4", b"x", "is no picture or video"),
        ("x" * 200 + ".mp4", b"x", "is no picture or video"),
    ],
)
def test_other_files_are_not_received(explorer, address, name, content, says):
    status, answer = post(address, f"/upload?name={name}", content)
    assert status == 400 and says in answer["error"]


def test_files_that_are_something_else_are_refused_in_one_line(explorer, address):
    for name in ("fake.png", "fake.mp4"):
        key = post(address, f"/upload?name={name}", SECRET.encode())[1]["key"]
        with pytest.raises(InputError) as error:
            explorer.search("", key)
        assert "\n" not in str(error.value)


def test_only_the_latest_files_are_kept(tmp_path):
    uploads = Uploads(tmp_path / "uploads")

    async def content():
        yield b"content"

    keys = [asyncio.run(uploads.receive(f"{number}.png", content())) for number in range(uploads_module.KEPT + 1)]
    assert len(list(uploads.folder.glob("*.png"))) == uploads_module.KEPT
    assert uploads.path(keys[-1]).read_bytes() == b"content"
    with pytest.raises(InputError, match="no longer kept"):
        uploads.path(keys[0])


def test_too_large_a_file_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(uploads_module, "MAX_UPLOAD", 10)
    uploads = Uploads(tmp_path / "uploads")

    async def content():
        for _ in range(3):
            yield b"12345"

    with pytest.raises(InputError, match="is larger than"):
        asyncio.run(uploads.receive("a.mp4", content()))
    assert not list(uploads.folder.glob("*.mp4"))


def test_a_video_is_added_to_the_index(tmp_path):
    explorer = make_site(tmp_path, seconds=2)
    before = set(explorer.index.files)
    path = write_video(tmp_path / "new.mp4", hue=7)

    async def content():
        yield path.read_bytes()

    key = asyncio.run(explorer.uploads.receive("my new.mp4", content()))
    assert explorer.add(key) == "uploads/my new.mp4"
    assert set(explorer.index.files) - before == {"uploads/my new.mp4"}
    assert explorer.search("", key)[0].file == "uploads/my new.mp4"
    with pytest.raises(InputError, match="added before"):
        explorer.add(key)
    for name, bad in (("a.png", "is a picture"), ("broken.mp4", "cannot be decoded")):
        key = asyncio.run(explorer.uploads.receive(name, chunks(SECRET.encode())))
        with pytest.raises(InputError, match=bad):
            explorer.add(key)
    assert {file.name for file in (tmp_path / "videos" / "uploads").iterdir()} == {"my new.mp4"}


async def chunks(content):
    yield content


def test_programs_get_what_the_page_shows(explorer, address):
    client = Client("http://{}:{}/".format(*address), verbose=False, analytics_enabled=False)
    hits = client.predict(QUERY, 3, api_name="/search")
    expected = explorer.search(QUERY, top=3)
    assert [(hit["file"], hit["start"]) for hit in hits] == [(hit.file, hit.start) for hit in expected]
    hit = next(hit for hit in client.predict(query=QUERY, top=50, api_name="/search") if hit["file"] == "long.mp4")
    segment = {name: hit[name] for name in ("file", "start", "end")}
    levels = client.predict(QUERY, **segment, api_name="/interaction")
    assert [level["level"] for level in levels] == ["entity", "action", "event"]
    for level, band in zip(levels, explorer.look(QUERY, explorer.segment(**segment), exact=True).bands, strict=True):
        np.testing.assert_allclose(level["interaction"], band.interaction, rtol=1e-5)
        assert len(level["words"]) == len(level["interaction"])
    answers = client.predict("what colour?", **segment, api_name="/ask")
    assert {answer["answer"] for answer in answers} == {"red", "blue", "green"}
    folder = str(explorer.index.path.parent)
    assert folder not in json.dumps([hits, levels, answers, client.view_api(return_format="dict", print_info=False)])


@pytest.mark.parametrize(
    ("endpoint", "arguments"),
    [
        ("/search", {"query": " "}),
        ("/search", {"query": "a", "top": "many"}),
        ("/search", {"example": "../../etc/passwd"}),
        ("/interaction", {"query": "", "file": "long.mp4", "start": 0, "end": 6}),
        ("/interaction", {"query": "a", "file": "moved.mp4", "start": 0, "end": 3}),
        ("/ask", {"question": "a", "file": "/etc/passwd", "start": 0, "end": 1}),
        ("/ask", {"question": "a", "file": "../outside.mp4", "start": 0, "end": 1}),
        ("/ask", {"question": "a", "file": "broken.mp4", "start": 0, "end": 1}),
        ("/ask", {"question": "a", "file": "long.mp4", "start": 3, "end": 1}),
        ("/ask", {"question": "a", "file": "long.mp4", "start": "x", "end": None}),
        ("/ask", {"question": " ", "file": "long.mp4", "start": 0, "end": 6}),
    ],
)
def test_wrong_requests_of_programs_get_one_line_without_paths(explorer, address, endpoint, arguments):
    client = Client("http://{}:{}/".format(*address), verbose=False, analytics_enabled=False)
    with pytest.raises(AppError) as error:
        client.predict(**arguments, api_name=endpoint)
    message = str(error.value)
    assert "verbose error reporting" not in message  # the error was handled
    assert "\n" not in message and str(explorer.index.path.parent) not in message and "/etc" not in message


def test_no_other_file_is_served(explorer, address):
    videos = explorer.index.file("long.mp4").parent
    files = [videos / "notes.txt", videos.parent / "outside.mp4", explorer.index.path / "about.lance", "/etc/passwd"]
    files += [explorer.index.manifest.model.checkpoint, videos / ".." / "outside.mp4"]
    routes = ("/gradio_api/file=", "/file=", "/video/", "/converted/", "/thumbnail/", "")
    paths = [f"{route}{quote(str(file))}" for file in files for route in routes]
    paths += ["/video/5", "/video/-1", "/video/notes.txt", "/video/../../outside.mp4", "/video/%2e%2e%2foutside.mp4"]
    paths += [f"/gradio_api/file=file://{videos / 'notes.txt'}", "/gradio_api/file=../videos/notes.txt"]
    paths += ["/converted/notes.txt?start=0&end=1", "/converted/linked.mp4?start=0&end=1"]
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
