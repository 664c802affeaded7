"""Videos refused before decoding, and frames that a decoder conceals."""

import os

import av
import numpy as np
import pytest

from scripts.inspection import inspect_video
from tests.conftest import write_video
from tests.numbered import write_numbered
from utils.errors import InputError
from utils.video import stream
from utils.video.decode import decode_clip


def patch(path, box, offset, number):
    """Write a number of four bytes behind the name of a box of an MP4 file."""
    content = bytearray(path.read_bytes())
    place = content.index(box) + 4 + offset
    content[place : place + 4] = number.to_bytes(4, "big")
    path.write_bytes(content)


@pytest.fixture
def path(video_file, tmp_path):
    """A copy of a whole video."""
    (tmp_path / "video.mp4").write_bytes(video_file.read_bytes())
    return tmp_path / "video.mp4"


@pytest.mark.parametrize(
    ("limit", "value", "words"),
    [
        ("MAX_PIXELS", 64 * 48, "frames of 64 x 48"),
        ("MAX_FRAMES", 30, "30 frames"),
        ("MAX_SECONDS", 3, "lasts 3 s"),
    ],
)
def test_what_exceeds_a_limit_is_refused(path, limit, value, words, monkeypatch):
    monkeypatch.setattr(stream, limit, value)
    assert len(decode_clip(path)) == 3
    monkeypatch.setattr(stream, limit, value - 1)
    with pytest.raises(InputError, match=f"video.mp4: .*{words}.* allowed; cut or shrink the video"):
        decode_clip(path)
    assert inspect_video(path).problem == "too large"


def test_a_header_of_two_billion_frames_takes_no_memory(path):
    patch(path, b"stts", 8, 2**31 - 1)
    with pytest.raises(InputError, match="has 2147483647 frames, 10368000 are allowed"):
        decode_clip(path)


def test_frames_that_stand_in_for_lost_ones_are_refused(path):
    content = path.read_bytes()
    first = content.index(b"mdat") + 4
    picture = first + 4 + int.from_bytes(content[first : first + 4], "big") + 40  # behind the encoder's settings
    path.write_bytes(content[:picture] + bytes(400) + content[picture + 400 :])
    with pytest.raises(InputError, match="video.mp4: is damaged, its frame 0 is lost; replace the file"):
        decode_clip(path)


def test_a_fade_from_black_is_no_damage(tmp_path):
    path = write_video(tmp_path / "fade.mp4", black=5)
    frames = decode_clip(path)
    assert [bool(frame.max() < 10) for frame in frames] == [True, False, False]


@pytest.mark.parametrize(
    "playlist",
    ["ffconcat version 1.0\nfile {}\n", "#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\n{}\n#EXT-X-ENDLIST\n"],
)
def test_playlists_are_not_followed(path, tmp_path, playlist):
    (tmp_path / "list.mp4").write_text(playlist.format(path.name))
    with pytest.raises(InputError, match="list.mp4: cannot be decoded"):
        decode_clip(tmp_path / "list.mp4")


def test_pipes_are_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(InputError, match="pipe.mp4: cannot be read .not a regular file."):
        decode_clip(tmp_path / "pipe.mp4")
    assert inspect_video(tmp_path / "pipe.mp4").problem == "unreadable"


def test_the_limit_is_that_of_the_stream_which_is_decoded(tmp_path, monkeypatch):
    path = tmp_path / "two.mkv"
    with av.open(str(path), "w") as container:
        sizes = (64, 48), (320, 240)
        streams = [container.add_stream("libx264", rate=10) for _ in sizes]
        for writer, (width, height) in zip(streams, sizes, strict=True):
            writer.width, writer.height, writer.pix_fmt = width, height, "yuv420p"
        streams[0].disposition, streams[1].disposition = 0, av.stream.Disposition.default
        for writer, (width, height) in zip(streams, sizes, strict=True):
            frame = av.VideoFrame.from_ndarray(np.full((height, width, 3), 99, np.uint8), format="rgb24")
            container.mux([*writer.encode(frame), *writer.encode()])
    assert decode_clip(path).shape == (1, 240, 320, 3)
    monkeypatch.setattr(stream, "MAX_PIXELS", 64 * 48)
    with pytest.raises(InputError, match="has frames of 320 x 240"):
        decode_clip(path)


@pytest.mark.parametrize("part", [0, 1])
def test_a_lost_group_is_not_left_out(tmp_path, part):
    path = write_numbered(tmp_path / "video.mp4", 60, g="20", bf="0")
    with av.open(str(path)) as container:
        packets = list(container.demux(video=0))[part * 20 : part * 20 + 20]
        places = [(packet.pos, packet.size) for packet in packets]
    content = bytearray(path.read_bytes())
    for place, size in places:
        content[place : place + size] = bytes(size)
    path.write_bytes(content)
    with pytest.raises(InputError, match="video.mp4: (cannot be decoded|is damaged)"):
        decode_clip(path)
