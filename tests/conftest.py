"""Fixtures: small real videos, annotation folders and a model."""

import csv
import ctypes
import gc
import json
import os
from collections import Counter
from contextlib import suppress
from pathlib import Path

import av
import jaxtyping
import numpy as np
import pytest
import torch

from tests import typecheck

# Types and shapes in the signatures of models/ are checked by every test that runs in this process.
jaxtyping.install_import_hook("models", f"{typecheck.__name__}.check")

from models.clip import CLIP, CLIPConfig
from models.hbi import HBI
from utils.checkpoint import released_state, save_weights

SMALL = CLIPConfig(
    resolution=32, patch=8, vision_width=128, vision_layers=2, text_width=64, text_layers=2, embed_dim=64
)


def write_video(path: Path, *, seconds=3, fps=10, hue=0, width=64, height=48, codec="libx264", black=0) -> Path:
    """Write noise around a colour that brightens with time, so that clips and their frames can be distinguished.

    The first `black` frames are black.
    """
    draw = np.random.default_rng(hue)
    colour = 96 + 32 * np.array([hue & 1, hue >> 1 & 1, hue >> 2 & 1])
    path.parent.mkdir(parents=True, exist_ok=True)
    # The index in front, so that a file cut short can still be opened.
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream(codec, rate=fps)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(round(seconds * fps)):
            frame = draw.integers(0, 32, (height, width, 3)) + colour + 64 * number // round(seconds * fps)
            frame *= number >= black
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame.astype(np.uint8), format="rgb24")))
        container.mux(stream.encode())
    return path


def pytest_collection_modifyitems(items):
    """Under xdist, begin with the files that have the most slow tests, so that all workers end at about one time."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
        items.sort(key=lambda item: -slow[item.path])


def pytest_collection_finish():
    """What is imported stays: collections between tests need not look through it."""
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def freed_memory_goes_back():
    """Entry scripts let their process keep what it freed (utils/memory.py): tests would add up to gigabytes."""
    yield
    gc.collect()
    with suppress(AttributeError):  # a C library without it
        ctypes.CDLL(None).malloc_trim(0)


@pytest.fixture
def unchecked_shapes():
    """Turn the checks of shapes off, as outside the tests."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def video_file(tmp_path_factory) -> Path:
    """An H.264 video of 3 s, 10 frames a second, 64 x 48."""
    return write_video(tmp_path_factory.mktemp("video") / "noise.mp4")


@pytest.fixture(scope="session")
def msrvtt_folder(tmp_path_factory) -> Path:
    """A tree in MSR-VTT's format: anns/ and videos/, four training videos with two captions each, two test videos."""
    root = tmp_path_factory.mktemp("msrvtt")
    for number in range(6):
        write_video(root / "videos" / f"video{number}.mp4", hue=number, seconds=2 + number % 3)
    sentences = [
        {"video_id": f"video{number}", "caption": f"{manner} noise around colour {number}"}
        for manner in ("bright", "dark")
        for number in range(6)
    ]
    anns = root / "anns"
    anns.mkdir()
    videos = [{"video_id": f"video{number}", "url": ""} for number in range(6)]
    (anns / "MSRVTT_data.json").write_text(json.dumps({"sentences": sentences, "videos": videos}))
    (anns / "MSRVTT_train.9k.csv").write_text("video_id\n" + "".join(f"video{number}\n" for number in range(4)))
    with open(anns / "MSRVTT_JSFUSION_test.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["key", "vid_key", "video_id", "sentence", "subset"])
        writer.writerow(["ret0", "msr4", "video4", "a noise, around colour 4", ""])
        writer.writerow(["ret1", "msr5", "video5", "a noise around colour 5", "action"])
    return root


@pytest.fixture(scope="module")
def model() -> HBI:
    """A small model with random weights."""
    torch.manual_seed(0)
    return HBI(CLIP(SMALL), temporal_layers=1).eval()


@pytest.fixture(scope="module")
def checkpoint(model, tmp_path_factory) -> Path:
    """Its weights in the released format."""
    path = tmp_path_factory.mktemp("model") / "pytorch_model.bin.0"
    save_weights(released_state(model), path)
    return path
