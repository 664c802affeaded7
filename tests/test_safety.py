"""No file of the user is destroyed, no foreign code is run, no foreign file is served."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
import torch

import banzhaf_estimator
import main_retrieval
import main_vqa
from dataloaders.frame_cache import FrameCache
from models.tokenizer import Tokenizer
from scripts import check_data, compare_methods, compress_videos, export, make_shapes, search, shard_frames
from tests.conftest import write_video
from tests.damage import snapshot
from tests.retrieval_case import build_corpus
from utils.errors import InputError, printable
from utils.files import MARKER, atomic_write, claim_folder, open_own, remove
from utils.logger import make_logger, table

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return build_corpus(tmp_path_factory.mktemp("shapes"), train=2, test=2)


@pytest.fixture
def users(tmp_path, corpus):
    """A folder full of a user's files, some with names that the project uses, and links in and out."""
    folder, outside = tmp_path / "users", tmp_path / "outside"
    outside.mkdir()
    shutil.copytree(corpus.videos, folder)
    (outside / "secret.mp4").write_bytes(b"outside")
    for name in (
        "notes.txt", ".env", "sub/.env", "aa/.hidden", "aa/other.safetensors", "videos/kept.mp4", "log.txt", "bytes",
        "metrics.json", "manifest.json", "config.json", "model.safetensors", "bad_videos.txt", "made_with.json",
        "pytorch_model.bin.0", "training_state/step_1/mine.txt", "anns/MSRVTT_data.json", "skip_list.txt",
    ):  # fmt: skip
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"the user's {name}")
    write_video(folder / "MSRVTT_Videos" / "video0.mp4")
    (folder / "link.mp4").symlink_to(outside / "secret.mp4")
    (folder / "linked_folder").symlink_to(outside)
    return folder


def attempts(corpus, checkpoint, users, elsewhere):
    """Every script that writes, with folder options that name the user's files."""
    data = ["--anno_path", str(corpus.annotations), "--base_encoder", str(corpus.clip), "--max_words", "8"]
    data += ["--max_frames", "2", "--workers", "0", "--augment", "none", "--num_hidden_layers", "1"]
    own = ["--video_path", str(corpus.videos), "--output_dir", str(elsewhere / "out")]
    train = [*data, "--do_train", "1", "--epochs", "1", "--batch_size", "2", "--teacher", "exact"]
    model = ["--checkpoint", str(checkpoint)]
    users = str(users)
    questions = ["--do_train", "--epochs", "1", "--base_encoder", str(corpus.clip), "--features_path", users]
    questions += ["--train_csv", f"{corpus.folder}/qa/train.jsonl", "--val_csv", f"{corpus.folder}/qa/test.jsonl"]
    return {
        "index = videos": (search.main, ["index", users, "--index", users, *model]),
        "index in videos": (search.main, ["index", users, "--index", f"{users}/new", *model]),
        "index above videos": (search.main, ["index", f"{users}/MSRVTT_Videos", "--index", users, *model]),
        "index = other files": (search.main, ["index", str(corpus.videos), "--index", users, *model]),
        "cache = videos": (main_retrieval.main, [*train, *own, "--frame_cache", users]),
        "output = videos": (main_retrieval.main, [*train, "--video_path", users, "--output_dir", users]),
        "output = data": (main_retrieval.main, [*train, "--video_path", str(corpus.videos), "--output_dir", users]),
        "estimator's output = videos": (
            banzhaf_estimator.main,
            [*data, "--do_train", "1", "--epochs", "1", "--video_path", users, "--output_dir", users],
        ),
        "estimator's cache = videos": (
            banzhaf_estimator.main,
            [*data, *own, "--do_train", "1", "--epochs", "1", "--frame_cache", users],
        ),
        "questions' output = videos": (main_vqa.main, [*questions, "--output_dir", users]),
        "questions' cache = videos": (main_vqa.main, [*questions, *own[2:], "--frame_cache", users]),
        "corpus = videos": (make_shapes.main, ["--output", users, "--train", "1", "--test", "1"]),
        "compressed = videos": (compress_videos.main, ["--input", users, "--output", users]),
        "compressed = other files": (compress_videos.main, ["--input", str(corpus.videos), "--output", users]),
        "shards = videos": (shard_frames.main, ["--video_path", users, "--output", users]),
        "shards = other files": (shard_frames.main, ["--video_path", str(corpus.videos), "--output", users]),
        "export = videos": (export.main, [*model, "--output", users, "--without_onnx"]),
        "comparison = videos": (compare_methods.main, ["--output", users, "--methods", "hbi", "--seeds", "0"]),
        "report = videos": (check_data.main, [*data[:2], "--video_path", users, "--output_dir", users]),
    }


NAMES = list(attempts(type("", (), dict.fromkeys(("annotations", "clip", "videos", "folder"))), "", Path(), Path()))


@pytest.mark.parametrize("name", NAMES)
def test_no_script_touches_a_users_files(name, corpus, checkpoint, users, tmp_path):
    before, outside = snapshot(users), snapshot(tmp_path / "outside")
    call, words = attempts(corpus, checkpoint, users, tmp_path)[name]
    with pytest.raises(InputError) as refused:
        call(words)
    assert "\n" not in str(refused.value) and "give another" in str(refused.value)
    after = snapshot(users)
    assert {file: after.get(file) for file in before} == before
    assert snapshot(tmp_path / "outside") == outside


def test_an_output_folder_may_hold_other_files_that_stay(corpus, tmp_path):
    """A shell writes its own log there before the run starts."""
    (tmp_path / "train.log").write_text("started")
    make_logger(tmp_path).info("a line")
    assert (tmp_path / "train.log").read_text() == "started" and "a line" in (tmp_path / "log.txt").read_text()
    make_logger(tmp_path)  # again: the folder is marked
    make_logger(tmp_path.parent / "elsewhere")


def test_removing_asks_for_a_marker_a_name_and_a_file(tmp_path):
    own = claim_folder(tmp_path / "own", "index")
    for name in ("mine.txt", "entry.bin"):
        (own / name).write_text(name)
    (own / "link.bin").symlink_to(own / "mine.txt")
    (tmp_path / "entry.bin").write_text("foreign")
    assert not remove(own / "mine.txt", r"entry\.bin")  # another name
    assert not remove(own / "link.bin", r"\w+\.bin")  # a link
    assert not remove(tmp_path / "entry.bin", r"entry\.bin")  # no marker
    assert not remove(own / "gone.bin", r"gone\.bin")
    assert remove(own / "entry.bin", r"entry\.bin") and not (own / "entry.bin").exists()
    assert (own / "mine.txt").exists() and (own / "link.bin").is_symlink() and (tmp_path / "entry.bin").exists()


@pytest.mark.parametrize("forged", ["link", "folder", "other kind"])
def test_a_forged_marker_marks_nothing(forged, tmp_path):
    folder, marker = tmp_path / "folder", tmp_path / "folder" / MARKER
    folder.mkdir()
    (tmp_path / "real").write_text("index\n")
    (folder / "mine.txt").write_text("mine")
    if forged == "link":
        marker.symlink_to(tmp_path / "real")
    elif forged == "folder":
        marker.mkdir()
    else:
        marker.write_text("corpus\n")
    with pytest.raises(InputError, match="give another folder"):
        claim_folder(folder, "index")


def test_nothing_is_written_through_links(tmp_path):
    target = tmp_path / "target"
    target.write_text("mine")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "log.txt").symlink_to(target)
    with pytest.raises(InputError, match="link"), atomic_write(folder / "log.txt") as file:
        file.write("theirs")
    with pytest.raises(OSError, match="symbolic links"):
        open_own(folder / "log.txt", "a")
    with pytest.raises(InputError):
        make_logger(folder)
    cache = claim_folder(tmp_path / "cache", "frame cache")
    (cache / "bytes").symlink_to(target)
    with pytest.raises(InputError, match="cannot be written"):
        FrameCache(cache, 1)
    assert target.read_text() == "mine"


def test_one_module_removes_and_renames():
    words = r"\.unlink\(|rmtree\(|os\.remove\(|os\.replace\(|os\.rename\(|\.rename\(|shutil\.move\("
    command = ["grep", "-rlE", words, "--include=*.py", "models", "dataloaders", "utils", "scripts"]
    sources = [*ROOT.glob("*.py")]
    found = subprocess.run([*command, *map(str, sources)], cwd=ROOT, capture_output=True, text=True).stdout.split()
    assert found == ["utils/files.py"]


# Names and text


def test_names_do_not_reach_the_terminal_as_they_are(tmp_path, capsys):
    name = "caf\udce9\x1b[31m\n.mp4"
    assert printable(name) == "caf\\udce9\\x1b[31m\\n.mp4" and printable("çafé 日本") == "çafé 日本"
    print(table(["video"], [[name]]))
    make_logger(tmp_path / "out").info("skipped %s", name)
    printed = capsys.readouterr()
    assert "\x1b" not in printed.out + printed.err and printed.out.count("\n") == 3
    assert (tmp_path / "out" / "log.txt").read_text(encoding="utf-8").count("\n") == 1


def test_a_word_of_any_length_takes_no_time():
    tokenizer = Tokenizer()
    started = time.monotonic()
    ids, mask = tokenizer(["x" * 2_000_000, "supercalifragilistic" * 5000, "a " * 500_000], 32)
    assert mask.sum() == 3 * 32 and time.monotonic() - started < 20
    assert torch.equal(ids[2], tokenizer(["a " * 40], 32)[0][0])


def test_slurm_script_checks_what_it_expands(tmp_path):
    script = ["bash", str(ROOT / "scripts" / "slurm_train.sh"), "main_retrieval.py"]
    environment = {"PATH": os.environ["PATH"], "SLURM_JOB_ID": "5$(touch pwned)", "SLURM_JOB_NODELIST": "n1"}
    result = subprocess.run(script, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 2 and "SLURM_JOB_ID is not set" in result.stderr
    scontrol = tmp_path / "scontrol"
    scontrol.write_text("#!/bin/sh\necho 'host; touch pwned'\n")
    scontrol.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "5", "SLURM_JOB_NODELIST": "n1"}
    result = subprocess.run(script, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 2 and "no host name" in result.stderr and not (tmp_path / "pwned").exists()
