"""The decoder in a separate process: the same frames, and a crash or a hang costs one video only."""

import os
import shutil
import signal
from subprocess import Popen

import numpy as np
import pytest

import main_retrieval
from dataloaders import isolation
from dataloaders.isolation import IsolatedDecoder
from tests.retrieval_case import build_corpus
from utils.errors import InputError
from utils.video.decode import decode_clip

# A decoding process in which one video aborts the decoder.
FRAGILE = """
import os, sys
from dataloaders import isolation

def decode(path, **sampling):
    if path.endswith("video1.mp4"):
        os.abort()
    return whole(path, **sampling)

whole, isolation.decode_clip = isolation.decode_clip, decode
isolation.serve(isolation.Connection(int(sys.argv[1])))
"""


@pytest.fixture(scope="module")
def decoder():
    return IsolatedDecoder(30)


def test_frames_and_errors_are_those_of_the_decoder(decoder, video_file, tmp_path):
    for options in ({}, {"max_frames": 2, "framerate": 5}, {"start": 1, "end": 2, "rule": "by_second"}):
        frames = decoder(video_file, **options)
        assert frames.flags.writeable and np.array_equal(frames, decode_clip(video_file, **options))
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(InputError, match=r"^\S+/empty.mp4: is empty; replace the file$"):
        decoder(tmp_path / "empty.mp4")


def test_a_process_that_ends_or_hangs_is_replaced(decoder, video_file, tmp_path):
    other = shutil.copy(video_file, tmp_path / "other.mp4")
    decoder(video_file)
    os.kill(decoder._process.pid, signal.SIGSEGV)
    with pytest.raises(InputError, match=r"other.mp4: crashes the decoder \(exit code -11\); replace the file"):
        decoder(other)
    assert len(decoder(video_file)) == 3
    os.kill(decoder._process.pid, signal.SIGSTOP)
    decoder.seconds = 0.1
    for _ in range(2):  # the second time nothing is tried
        with pytest.raises(InputError, match=r"noise.mp4: not decoded within 0.1 s; replace the file"):
            decoder(video_file)


def test_training_goes_on_without_a_video_that_breaks_the_decoder(tmp_path, monkeypatch):
    corpus = build_corpus(tmp_path, train=3, test=2)

    def start(command, **options):
        return Popen([command[0], "-c", FRAGILE, command[-1]], **options)

    monkeypatch.setattr(isolation.subprocess, "Popen", start)
    flags = {
        "--do_train": 1, "--base_encoder": corpus.clip, "--estimator": corpus.estimator, "--epochs": 1,
        "--anno_path": corpus.annotations, "--video_path": corpus.videos, "--output_dir": tmp_path / "output",
        "--batch_size": 4, "--max_words": 12, "--max_frames": 2, "--workers": 1, "--num_hidden_layers": 1,
        "--max_bad_videos": 0.5, "--isolate_decoder": 30,
    }  # fmt: skip
    metrics = main_retrieval.main([str(word) for flag in flags.items() for word in flag])
    assert metrics["t2v"]["R1"] >= 0
    bad = dict(line.split("\t") for line in (tmp_path / "output" / "bad_videos.txt").read_text().splitlines())
    assert bad.keys() == {"video1"} and "crashes the decoder (exit code -6)" in bad["video1"]
