"""Each kind of file that decoders get wrong, and the right frames of it."""

import itertools
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from tests.numbered import decode_in_order, numbers_of, write_numbered
from utils.errors import InputError
from utils.video import stream
from utils.video.decode import Video, decode_clip

CORNERS = ((220, 30, 30), (30, 220, 30), (30, 30, 220), (220, 220, 30))  # red and green above blue and yellow
SHARED_VIDEOS = Path(__file__).parents[2] / "shared" / "data" / "videos"


def write_corners(path, *, matrix=None, width=64, height=48, shape=None, codec="libx264", pixels="yuv420p", colours=()):
    """Write a video of four colours; `matrix` are a, b, c, d of its display matrix, `shape` the shape of its pixels."""
    picture = np.repeat(np.repeat(np.array(CORNERS, np.uint8).reshape(2, 2, 3), height // 2, 0), width // 2, 1)
    with av.open(str(path), "w") as container:
        writer = container.add_stream(codec, rate=10)
        writer.width, writer.height, writer.pix_fmt = width, height, pixels
        if shape is not None:
            writer.sample_aspect_ratio = shape
        if matrix is not None:
            a, b, c, d = (number << 16 for number in matrix)
            writer.set_display_matrix([a, b, 0, c, d, 0, 0, 0, 1 << 30])
        for name, value in dict(colours).items():
            setattr(writer.codec_context, name, value)
        for _ in range(4):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame = frame.reformat(format=pixels, dst_color_range=dict(colours).get("color_range"))
            for name, value in dict(colours).items():
                setattr(frame, name, value)
            container.mux(writer.encode(frame))
        container.mux(writer.encode())
    return path


def corners_of(picture):
    """Which of the four colours stands in each corner, row by row."""
    height, width = picture.shape[:2]
    places = itertools.product((height // 4, -height // 4), (width // 4, -width // 4))
    return [int(np.abs(np.array(CORNERS) - picture[place].astype(int)).sum(1).argmin()) for place in places]


# Muxers guess or leave out the times that these decoders need, or call frames key frames that refer to earlier ones.
HARD = {
    "H.264 in AVI": (".avi", "libx264", {"bf": "3", "preset": "veryfast"}),
    "H.264 in a transport stream": (".ts", "libx264", {"bf": "3", "preset": "veryfast", "g": "12"}),
    "H.264 in a program stream": (".mpg", "libx264", {"bf": "2", "g": "20"}),
    "HEVC with open groups": (".mkv", "libx265", {"x265-params": "log-level=none:keyint=20:open-gop=1:bframes=4"}),
    "HEVC with open groups in MP4": (".mp4", "libx265", {"x265-params": "log-level=none:keyint=20:open-gop=1"}),
    "H.264 with open groups": (".mp4", "libx264", {"g": "20", "bf": "3", "x264-params": "open-gop=1"}),
    "refreshed without key frames": (".mp4", "libx264", {"g": "20", "x264-params": "intra-refresh=1"}),
    "MPEG-4 part 2": (".avi", "mpeg4", {"bf": "2", "g": "20"}),
    "MPEG-2": (".mpg", "mpeg2video", {"bf": "2", "g": "20"}),
    "Windows Media": (".wmv", "wmv2", {"g": "20"}),
    "VP8 with hidden frames": (".webm", "libvpx", {"auto-alt-ref": "1", "lag-in-frames": "16", "g": "40"}),
}


@pytest.mark.parametrize(("suffix", "codec", "options"), HARD.values(), ids=HARD)
def test_frames_are_those_of_their_time(tmp_path, suffix, codec, options):
    path = write_numbered(tmp_path / f"video{suffix}", 120, codec=codec, rate=Fraction(25), **options)
    for _ in range(2):
        assert numbers_of(decode_clip(path)) == [0, 25, 50, 75, 100]
    assert numbers_of(decode_clip(path, framerate=5)) == [0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 115]
    assert numbers_of(decode_clip(path, start=1.6, end=2, framerate=25, max_frames=50)) == list(range(40, 51))
    with Video(path) as video:
        assert (video.timeline.rate, len(video.timeline.times)) == (25, 120)


@pytest.mark.parametrize("kept", [0, 1 << 20])
def test_of_a_long_video_only_the_groups_of_the_wanted_frames_are_decoded(tmp_path, monkeypatch, kept):
    monkeypatch.setattr(stream, "KEPT_BYTES", kept)
    path = write_numbered(tmp_path / "video.mp4", 200, g="10", rate=Fraction(25), bf="2")
    decoded, whole = [], Video._decoded

    def counted(video, first):
        for frame in whole(video, first):
            decoded.append(frame.pts)
            yield frame

    monkeypatch.setattr(Video, "_decoded", counted)
    assert numbers_of(decode_clip(path, start=6.6, end=7.4, framerate=5)) == [165, 170, 175, 180, 185]
    assert len(decoded) <= 40


def test_a_key_frame_without_the_expected_stamp_is_not_trusted(tmp_path, monkeypatch):
    path = write_numbered(tmp_path / "video.mp4", 60, g="10", rate=Fraction(25))
    with Video(path) as video:
        key = video._keys[2]
        video._keys[2] = stream.Key(key.position + 3, key.packet)
        assert numbers_of(video.clip(start=1, end=1.2, framerate=25)) == [25, 26, 27, 28, 29, 30]


@pytest.mark.parametrize(
    ("codec", "options"),
    [
        ("libx264", {"g": "20", "bf": "3"}),
        ("libx265", {"x265-params": "log-level=none:keyint=20:open-gop=1"}),
        ("mpeg2video", {"bf": "2"}),
    ],
)
def test_a_recording_that_begins_within_a_group_begins_with_its_first_frame(tmp_path, codec, options):
    whole = write_numbered(tmp_path / "whole.ts", 100, codec=codec, rate=Fraction(25), **options)
    path = tmp_path / "cut.ts"
    path.write_bytes(whole.read_bytes()[188 * 50 :])
    numbers, _ = decode_in_order(path)
    assert numbers[0] > 0 and len(numbers) < 90
    assert numbers_of(decode_clip(path)) == numbers[::25]
    late = numbers_of(decode_clip(path, start=2, end=2.2, framerate=25))
    assert late == numbers[50:56]


def cut(source, target, first, **options):
    """Copy a video from packet number `first` on, to be shown from one second later; nothing is encoded again."""
    with av.open(str(source)) as reader, av.open(str(target), "w", options=options) as writer:
        pictures = reader.streams.video[0]
        copy = writer.add_stream_from_template(pictures)
        for number, packet in enumerate(reader.demux(pictures)):
            if number < first or packet.dts is None:
                continue
            shift = int(2 / pictures.time_base)
            packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, copy
            writer.mux(packet)
    return target


def test_frames_that_were_decoded_in_order_once_are_reached_from_key_frames(tmp_path, monkeypatch):
    path = write_numbered(tmp_path / "video.avi", 200, g="20", bf="3", rate=Fraction(25), preset="veryfast")
    with Video(path) as video:
        assert numbers_of(video.clip(start=4, end=4.4, framerate=5)) == [100, 105, 110]
        monkeypatch.setattr(Video, "_from_start", None)
        assert numbers_of(video.clip(start=6.6, end=7.4, framerate=5)) == [165, 170, 175, 180, 185]
        assert numbers_of(video.clip(start=0, end=0.2, framerate=25)) == [0, 1, 2, 3, 4, 5]


def test_what_an_edit_list_cuts_is_not_shown(tmp_path):
    whole = write_numbered(tmp_path / "whole.mp4", 40, g="10", bf="2")
    path = cut(whole, tmp_path / "cut.mp4", 12, avoid_negative_ts="disabled")
    with Video(path) as video:
        frames = video.clip(framerate=5, max_frames=20)
        assert numbers_of(frames) == list(range(20, 40, 2))
        assert video.timeline.duration == 2


def test_frames_of_variable_rate_are_chosen_by_time(tmp_path):
    times = np.cumsum([0, *[1] * 39, *[10] * 20, *[1] * 40]).tolist()  # ten frames a second, one, and ten
    path = write_numbered(tmp_path / "screen.mp4", 100, times=times)
    shown = [times[number] for number in numbers_of(decode_clip(path, start=2, end=8))]
    assert shown == [20, 30, 39, 49, 59, 69, 79]
    assert numbers_of(decode_clip(path, start=2.2, end=2.6, framerate=10)) == [22, 23, 24, 25, 26]
    with Video(path) as video:
        assert video.timeline.duration == pytest.approx(times[-1] / 10, abs=1.1)
        assert not video.timeline.is_constant


def test_a_recording_without_a_length_is_read(tmp_path):
    path = tmp_path / "live.webm"
    whole = write_numbered(tmp_path / "whole.webm", 40, codec="libvpx")
    with av.open(str(whole)) as reader, av.open(str(path), "w", options={"live": "1"}) as writer:
        copy = writer.add_stream_from_template(reader.streams.video[0])
        for packet in reader.demux(video=0):
            if packet.dts is not None:
                packet.stream = copy
                writer.mux(packet)
    with av.open(str(path)) as container:
        assert container.duration is None
    assert numbers_of(decode_clip(path)) == [0, 10, 20, 30]


def test_a_window_in_fractions_of_a_second(tmp_path):
    path = write_numbered(tmp_path / "video.mp4", 40)
    window = {"start": 0.2, "end": 0.6, "framerate": 10}
    assert numbers_of(decode_clip(path, **window)) == [2, 3, 4, 5, 6]
    assert numbers_of(decode_clip(path, **window, whole_seconds=True)) == list(range(11))
    assert numbers_of(decode_clip(path, **window, rule="by_second")) == [2, 3, 4, 5, 6]
    assert numbers_of(decode_clip(path, start=0.27, end=0.29)) == [2]  # the frame that is shown then


def test_time_begins_with_the_first_frame(tmp_path):
    path = write_numbered(tmp_path / "late.mkv", 40, times=range(50, 90))
    assert numbers_of(decode_clip(path)) == [0, 10, 20, 30]
    assert numbers_of(decode_clip(path, start=1, end=1.2, framerate=10)) == [10, 11, 12]


# a, b, c, d of x' = a x + c y, y' = b x + d y, and where the colours of the corners 0 1 above 2 3 are shown.
MATRICES = {
    "upright": ((1, 0, 0, 1), [0, 1, 2, 3]),
    "mirrored": ((-1, 0, 0, 1), [1, 0, 3, 2]),
    "upside down": ((1, 0, 0, -1), [2, 3, 0, 1]),
    "half turn": ((-1, 0, 0, -1), [3, 2, 1, 0]),
    "clockwise": ((0, 1, -1, 0), [2, 0, 3, 1]),
    "counterclockwise": ((0, -1, 1, 0), [1, 3, 0, 2]),
    "transposed": ((0, 1, 1, 0), [0, 2, 1, 3]),
    "transposed, half turn": ((0, -1, -1, 0), [3, 1, 2, 0]),
}


@pytest.mark.parametrize(("matrix", "shown"), MATRICES.values(), ids=MATRICES)
def test_pictures_are_turned_and_mirrored_as_the_file_says(tmp_path, matrix, shown):
    frames = decode_clip(write_corners(tmp_path / "video.mp4", matrix=matrix))
    assert frames.shape[1:3] == ((48, 64) if matrix[0] else (64, 48))
    assert corners_of(frames[0]) == shown


@pytest.mark.parametrize("width", [16, 24, 32, 48, 96, 144])
def test_pictures_of_any_shown_width_are_read(tmp_path, width):
    path = write_corners(tmp_path / "video.mp4", matrix=(0, 1, -1, 0), width=176, height=width)
    assert decode_clip(path).shape == (1, 176, width, 3)


@pytest.mark.parametrize(("shape", "width"), [(Fraction(4, 3), 85), (Fraction(1, 2), 32), (Fraction(448, 447), 64)])
def test_pixels_that_are_not_square_are_stretched(tmp_path, shape, width):
    frames = decode_clip(write_corners(tmp_path / "video.mp4", shape=shape))
    assert frames.shape[1:] == (48, width, 3)
    assert corners_of(frames[0]) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("codec", "pixels", "colours"),
    [
        ("libx264", "yuv420p", {}),
        ("libx264", "yuv420p", {"color_range": 2}),
        ("libx264", "yuv420p", {"color_range": 1, "colorspace": 6}),
        ("mjpeg", "yuvj420p", {"color_range": 2}),
        ("libx264", "yuv444p", {"color_range": 1}),
    ],
)
def test_colours_are_those_that_were_written(tmp_path, codec, pixels, colours):
    path = write_corners(tmp_path / "video.mkv", codec=codec, pixels=pixels, colours=colours)
    picture = decode_clip(path)[0]
    for corner, colour in zip(picture[12::24, 16::32].reshape(-1, 3), CORNERS, strict=True):
        assert np.abs(corner.astype(int) - colour).max() <= 6


def test_frames_larger_than_a_clip_may_be_are_scaled_down(tmp_path, monkeypatch):
    path = write_corners(tmp_path / "video.mp4", width=640, height=480)
    monkeypatch.setattr("utils.video.picture.MAX_CLIP_PIXELS", 4 * 320 * 240)
    frames = decode_clip(path, framerate=10)
    assert frames.shape == (4, 240, 320, 3)
    assert corners_of(frames[0]) == [0, 1, 2, 3]


def test_stamps_that_run_backwards_are_refused_by_name(tmp_path):
    whole = write_numbered(tmp_path / "whole.ts", 60, rate=Fraction(25), codec="mpeg2video")
    path = tmp_path / "twice.ts"
    path.write_bytes(whole.read_bytes() * 2)
    with pytest.raises(InputError, match="twice.ts: has time stamps that run backwards"):
        decode_clip(path)


REMUXED = (".avi", ".ts", ".mkv")
ENCODED = {".avi": "mpeg4", ".ts": "libx264", ".mpg": "mpeg2video", ".wmv": "wmv2", ".mkv": "libx265"}


def copy_video(source: Path, target: Path, codec: str | None) -> None:
    """Copy the packets of a video, or encode it again."""
    with av.open(str(source)) as reader, av.open(str(target), "w") as writer:
        pictures = reader.streams.video[0]
        if codec is None:
            copy = writer.add_stream_from_template(pictures)
            annex_b = av.BitStreamFilterContext("h264_mp4toannexb", pictures)
            for packet in reader.demux(pictures):
                for part in annex_b.filter(packet if packet.size else None) if target.suffix == ".avi" else [packet]:
                    if part.dts is not None:
                        part.stream = copy
                        writer.mux(part)
            return
        fast = {"preset": "ultrafast", "x265-params": "log-level=none"}
        copy = writer.add_stream(codec, rate=pictures.average_rate, options=fast)
        copy.width, copy.height, copy.pix_fmt, copy.bit_rate = pictures.width, pictures.height, "yuv420p", 4_000_000
        copy.sample_aspect_ratio = pictures.sample_aspect_ratio
        for frame in reader.decode(pictures):
            frame.pict_type = 0
            writer.mux(copy.encode(frame))
        writer.mux(copy.encode())


@pytest.mark.slow
@pytest.mark.parametrize(("suffix", "codec"), [*((suffix, None) for suffix in REMUXED), *ENCODED.items()])
def test_real_videos_in_other_containers_have_the_same_frames(tmp_path, suffix, codec):
    if not SHARED_VIDEOS.is_dir():
        pytest.skip(f"no folder {SHARED_VIDEOS}")
    for source in sorted(SHARED_VIDEOS.glob("*.mp4")):
        path = tmp_path / f"{source.stem}{suffix}"
        copy_video(source, path, codec)
        with Video(source) as one, Video(path) as other:
            expected, frames = one.clip(), other.clip()
            assert len(one.timeline.times) == len(other.timeline.times)
            width = min(expected.shape[2], frames.shape[2])  # MPEG-2 knows few shapes of pixels
            assert abs(expected.shape[2] - frames.shape[2]) <= 1
            assert len(expected) == len(frames)
            assert np.abs(expected[:, :, :width].astype(int) - frames[:, :, :width]).mean() < 12
