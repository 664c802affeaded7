"""Cached frames: equal to decoded ones, once for each video and setting, within limits, and intact after a kill."""

import fcntl
import logging
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.numpy import save

from dataloaders import clips, frame_cache
from dataloaders.augment import RandAugment
from dataloaders.clips import read_clip
from dataloaders.frame_cache import FrameCache
from tests.conftest import write_video
from utils.errors import InputError
from utils.video.transforms import ClipTransform

ROOT = Path(__file__).parents[1]
FRAMES = np.random.default_rng(0).integers(0, 256, (3, 24, 32, 3), dtype=np.uint8)


@pytest.fixture
def decoded(monkeypatch):
    """Paths that were decoded."""
    paths, decode = [], clips.decode_clip
    monkeypatch.setattr(clips, "decode_clip", lambda path, **sampling: paths.append(path) or decode(path, **sampling))
    return paths


def entries(folder):
    return sorted(folder.glob("*/*"))


def test_lossless_frames_are_the_decoded_ones_and_decoded_once(video_file, tmp_path, decoded):
    transform, cache = ClipTransform(32), FrameCache(tmp_path, 1)
    expected = read_clip(video_file, transform, framerate=5)
    for _ in range(2):
        clip = read_clip(video_file, transform, framerate=5, cache=cache)
        assert torch.equal(clip, expected)
        assert clip.is_contiguous()
    assert len(decoded) == 2
    assert torch.equal(read_clip(video_file, transform, framerate=5, cache=FrameCache(tmp_path, 1)), expected)
    assert len(decoded) == 2


def test_augmentation_draws_again_from_the_kept_frames(video_file, tmp_path, decoded):
    cache = FrameCache(tmp_path, 1)
    options = {"transform": ClipTransform(32), "augment": RandAugment("rand-m9-n4-p1")}
    clips = [read_clip(video_file, cache=cache, **options) for _ in range(4)]
    assert len(decoded) == 1
    assert not all(torch.equal(clip, clips[0]) for clip in clips)
    options["augment"] = lambda frames: 255 - frames
    assert torch.equal(read_clip(video_file, cache=cache, **options), read_clip(video_file, **options))


def test_compact_frames_are_close_small_and_the_same_each_time(video_file, tmp_path):
    transform = ClipTransform(224)
    caches = {form: FrameCache(tmp_path / form, 1, form) for form in ("lossless", "compact")}
    exact = read_clip(video_file, transform, cache=caches["lossless"])
    first, again = (read_clip(video_file, transform, cache=caches["compact"]) for _ in range(2))
    assert torch.equal(first, again)
    assert first.shape == exact.shape
    assert 0 < (first.float() - exact.float()).abs().mean() < 2
    small, large = (entries(tmp_path / form)[0].stat().st_size for form in ("compact", "lossless"))
    assert small < large / 5


CHANGES = [
    *({"framerate": 2}, {"max_frames": 2}, {"start": 1.0}, {"end": 2.0}, {"rule": "by_second"}, {"slice_framepos": 0}),
    *({"transform": ClipTransform(16)}, {"augment": lambda frames: frames}),
]


@pytest.mark.parametrize("change", CHANGES)
def test_other_settings_are_other_entries(video_file, tmp_path, decoded, change):
    cache = FrameCache(tmp_path, 1)
    options = {"transform": ClipTransform(32), "cache": cache}
    read_clip(video_file, **options)
    changed = read_clip(video_file, **{**options, **change})
    assert len(decoded) == len(entries(tmp_path)) == 2
    assert torch.equal(changed, read_clip(video_file, **{**options, **change, "cache": None}))


def test_a_changed_video_is_decoded_again(tmp_path, decoded):
    path, cache = write_video(tmp_path / "a.mp4"), FrameCache(tmp_path / "cache", 1)
    read_clip(path, ClipTransform(32), cache=cache)
    os.utime(path, (1, 1))
    read_clip(path, ClipTransform(32), cache=cache)
    write_video(path, hue=5)
    clip = read_clip(path, ClipTransform(32), cache=cache)
    assert len(decoded) == 3
    assert torch.equal(clip, read_clip(path, ClipTransform(32)))


def test_a_broken_video_is_refused_and_not_kept(tmp_path):
    cache = FrameCache(tmp_path / "cache", 1)
    (tmp_path / "text.mp4").write_text("no video")
    for name, reason in (("text.mp4", "cannot be decoded"), ("gone.mp4", "No such file")):
        with pytest.raises(InputError, match=reason):
            read_clip(tmp_path / name, ClipTransform(32), cache=cache)
    assert not entries(tmp_path / "cache")


BYTES = np.zeros(4, np.uint8)
NO_FRAMES = [
    *({"frames": frames} for frames in (FRAMES[0], FRAMES.astype(np.int16), FRAMES[..., :2].copy(), FRAMES[:0])),
    *({"pictures": BYTES, "lengths": np.array(lengths)} for lengths in ([3], [4, 0], [4.0], [[4]], [4])),
    *({"pictures": pictures, "lengths": np.array([4])} for pictures in (BYTES.astype(np.int8), BYTES[None])),
]


@pytest.mark.parametrize("left", [0, 5, -9, *NO_FRAMES])
def test_a_damaged_entry_is_made_again(video_file, tmp_path, left):
    cache = FrameCache(tmp_path, 1)
    cache.get(video_file, {}, lambda: FRAMES)
    entry = entries(tmp_path)[0]
    entry.write_bytes(save(left) if isinstance(left, dict) else entry.read_bytes()[:left])
    assert np.array_equal(cache.get(video_file, {}, lambda: FRAMES), FRAMES)
    assert np.array_equal(cache.get(video_file, {}, lambda: None), FRAMES)


def fill(folder, video_file, capacity, numbers):
    cache = FrameCache(folder, capacity / 1e9)
    for number in numbers:
        assert np.array_equal(cache.get(video_file, {"number": number}, lambda: FRAMES), FRAMES)


def test_space_is_bounded_and_counted_over_processes(video_file, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("hbi"), "propagate", True)
    size = FRAMES.nbytes + 100
    with ProcessPoolExecutor(3) as pool:
        list(pool.map(fill, [tmp_path] * 3, [video_file] * 3, [5 * size] * 3, [range(4), range(2, 6), range(5, 9)]))
    assert len(entries(tmp_path)) == 5
    assert sum(entry.stat().st_size for entry in entries(tmp_path)) <= 5 * size
    fill(tmp_path, video_file, 5 * size, range(20, 30))
    said = {id(record) for record in caplog.records if "; what is not there yet is decoded" in record.message}
    assert len(said) == 1
    fill(tmp_path, video_file, 7 * size, range(30, 40))
    assert len(entries(tmp_path)) == 7


def test_space_is_counted_again_at_the_start(video_file, tmp_path):
    size = FRAMES.nbytes + 100
    fill(tmp_path, video_file, 2 * size, range(2))
    entries(tmp_path)[0].unlink()
    fill(tmp_path, video_file, 2 * size, range(5, 6))
    assert len(entries(tmp_path)) == 2


def test_only_the_measuring_process_counts_again_unless_there_is_no_count(video_file, tmp_path):
    fill(tmp_path, video_file, 1e6, range(2))
    (entry, other), count = entries(tmp_path), tmp_path / "bytes"
    size = other.stat().st_size
    entry.unlink()
    FrameCache(tmp_path, 1, measure=False)
    assert int(count.read_text()) == 2 * size
    FrameCache(tmp_path, 1)
    assert int(count.read_text()) == size
    for content in ("", "two"):
        count.write_text(content)
        FrameCache(tmp_path, 1, measure=False)
        assert int(count.read_text()) == size


def test_a_count_that_is_lost_is_taken_again(video_file, tmp_path):
    cache = FrameCache(tmp_path, 1)
    cache.get(video_file, {"number": 0}, lambda: FRAMES)
    (tmp_path / "bytes").write_text("")  # its writer was killed
    cache.get(video_file, {"number": 1}, lambda: FRAMES)
    assert int((tmp_path / "bytes").read_text()) == sum(entry.stat().st_size for entry in entries(tmp_path))


DECODING, SYNCING, WRITING = 60, 30, 1  # milliseconds


@pytest.mark.parametrize(("writers", "times_one"), [(8, 5), (32, 15)])
def test_writers_wait_for_each_other_neither_to_decode_nor_to_write(
    video_file, tmp_path, monkeypatch, writers, times_one
):
    """Latencies are summed instead of slept; those with the cache's lock held are serial."""
    cache, spent, write = FrameCache(tmp_path, 1), Counter(), frame_cache.atomic_write

    def wait(milliseconds):
        with open(tmp_path / "bytes") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                spent["apart"] += milliseconds
            except BlockingIOError:
                spent["locked"] += milliseconds

    @contextmanager
    def watched_write(*arguments, **options):
        with write(*arguments, **options) as file:
            yield SimpleNamespace(write=lambda content: wait(WRITING) or file.write(content), flush=file.flush)

    monkeypatch.setattr(os, "fsync", lambda descriptor: wait(SYNCING))
    monkeypatch.setattr(frame_cache, "atomic_write", watched_write)
    cache.get(video_file, {}, lambda: wait(DECODING) or FRAMES)
    assert len(entries(tmp_path)) == 1
    one = spent.total()
    assert one >= DECODING + WRITING
    assert min(writers, one / max(spent["locked"], 0.001)) >= times_one


LOADING = """
import os, sys
import numpy as np
from torch.utils.data import Dataset
from dataloaders.augment import RandAugment
from dataloaders.loading import LoaderOptions, build_dataloader

def threads(_):
    import cv2
    before = len(os.listdir("/proc/self/task"))
    RandAugment("rand-m9-n4-p1")(np.zeros((2, 480, 640, 3), np.uint8))
    cv2.warpAffine(np.zeros((2000, 2000, 3), np.uint8), np.eye(2, 3), (2000, 2000))
    return cv2.getNumThreads(), len(os.listdir("/proc/self/task")) - before

class Threads(Dataset):
    def __len__(self): return 1
    def __getitem__(self, index): return {"threads": threads(index)}

loader = build_dataloader(Threads(), LoaderOptions(1, 1, False, workers=int(sys.argv[1])))
print([value.item() for value in next(iter(loader))["threads"]])
"""


@pytest.mark.parametrize("workers", ["0", "1"])
def test_opencv_starts_no_threads_in_a_loading_process(workers):
    command = [sys.executable, "-c", LOADING, workers]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[1, 0]"


WRITER = """
import sys, time
from pathlib import Path
import numpy as np
import dataloaders.frame_cache
from dataloaders.augment import RandAugment
from dataloaders.frame_cache import FrameCache

class Slow:
    def __init__(self, file): self.file = file
    def write(self, content):
        self.file.write(content[: len(content) // 2]); self.file.flush()
        print("half", flush=True); time.sleep(60)
    def flush(self): pass

write = dataloaders.frame_cache.atomic_write
class slow_write:
    def __init__(self, *arguments, **options): self.context = write(*arguments, **options)
    def __enter__(self): return Slow(self.context.__enter__())
    def __exit__(self, *exception): return self.context.__exit__(*exception)

dataloaders.frame_cache.atomic_write = slow_write
FrameCache(sys.argv[1], 1).get(Path(sys.argv[2]), {}, lambda: np.ones((3, 24, 32, 3), np.uint8))
"""


def test_a_writer_killed_half_way_leaves_no_entry(video_file, tmp_path):
    command = [sys.executable, "-c", WRITER, str(tmp_path), str(video_file)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout.readline() == "half\n"
        writer.send_signal(signal.SIGKILL)
    (remainder,) = entries(tmp_path)
    assert remainder.stat().st_size > 0 and remainder.suffix != ".safetensors"
    cache = FrameCache(tmp_path, 1)
    assert np.array_equal(cache.get(video_file, {}, lambda: FRAMES), FRAMES)
    assert np.array_equal(cache.get(video_file, {}, lambda: None), FRAMES)
    assert remainder.exists()  # another process might be writing it
    os.utime(remainder, (time.time() - 23 * 3600,) * 2)
    FrameCache(tmp_path, 1)
    assert remainder.exists()
    os.utime(remainder, (time.time() - 25 * 3600,) * 2)
    FrameCache(tmp_path, 1)
    assert len(entries(tmp_path)) == 1 and not remainder.exists()


def test_impossible_caches_are_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="give another --frame_cache"):
        FrameCache(tmp_path / "file", 1)
    with pytest.raises(ValueError, match="form must be"):
        FrameCache(tmp_path, 1, "png")
