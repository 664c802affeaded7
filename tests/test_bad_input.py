"""Errors in the input end the retrieval script with one line and code 2."""

import csv
import json
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import main_retrieval
from tests.processes import finish, script, start
from tests.retrieval_case import Corpus, build_corpus
from utils.run import run

ROOT = Path(__file__).parents[1]
SCRIPT = "main_retrieval.py"


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    return build_corpus(tmp_path_factory.mktemp("whole"), train=2, test=8)


@pytest.fixture
def corpus(whole, tmp_path):
    """A copy that a test may break."""
    folder = shutil.copytree(whole.folder, tmp_path / "shapes")
    return Corpus(folder, folder / whole.clip.name, folder / whole.estimator.name)


def command_line(corpus, *words):
    """Words of a small evaluation, and `words` after them, which win."""
    flags = {
        "--do_eval": 1, "--base_encoder": corpus.clip, "--estimator": corpus.estimator,
        "--anno_path": corpus.annotations, "--video_path": corpus.videos, "--output_dir": corpus.folder / "output",
        "--batch_size": 4, "--batch_size_val": 4, "--max_words": 12, "--max_frames": 2, "--workers": 0,
    }
    return [str(word) for flag, value in flags.items() for word in (flag, value)] + [str(word) for word in words]


@pytest.fixture
def complain(corpus, monkeypatch, capsys):
    """Runs the script in this process, and returns the one line that it says, below the log, as it ends with code 2."""

    def call(*words):
        monkeypatch.setattr(sys, "argv", [SCRIPT, *command_line(corpus, *words)])
        with pytest.raises(SystemExit) as exit_:
            run(main_retrieval.main)
        said = capsys.readouterr()
        assert (exit_.value.code, said.out) == (2, "")
        *log, line = said.err.splitlines()
        assert all(re.match(r"[\d-]+ [\d:]+ ", entry) for entry in log) and line.startswith(f"{SCRIPT}: error: ")
        return line.removeprefix(f"{SCRIPT}: error: ").replace(str(corpus.folder), "FOLDER")

    return call


def cut_in_half(path):
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def rewrite_csv(path, change):
    with open(path, newline="") as file:
        rows = list(csv.reader(file))
    change(rows)
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows(rows)


def rewrite_json(path, change):
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def test_missing_annotation_file(corpus, complain):
    (corpus.annotations / "MSRVTT_JSFUSION_test.csv").unlink()
    line = complain()
    assert line.startswith("FOLDER/anns/MSRVTT_JSFUSION_test.csv: cannot be read (No such file or directory)")
    assert line.endswith("; check the path")


def test_missing_annotation_folder(corpus, complain):
    assert complain("--anno_path", corpus.folder / "none").startswith("FOLDER/none: no such folder of annotations")


def test_missing_column(corpus, complain):
    rewrite_csv(corpus.annotations / "MSRVTT_JSFUSION_test.csv", lambda rows: rows[0].__setitem__(3, "words"))
    line = complain()
    assert line.startswith("FOLDER/anns/MSRVTT_JSFUSION_test.csv, line 1: has no column 'sentence'")
    assert "the header must name" in line


def test_missing_key(corpus, complain):
    rewrite_json(corpus.annotations / "MSRVTT_data.json", lambda data: data["sentences"][1].pop("caption"))
    line = complain("--do_train", 1)
    assert line == "FOLDER/anns/MSRVTT_data.json, 'sentences', [1]: has no key 'caption'; fix the entry"


def test_caption_that_is_no_string(corpus, complain):
    rewrite_json(corpus.annotations / "MSRVTT_data.json", lambda data: data["sentences"][2].update(caption=7))
    line = complain("--do_train", 1)
    assert line == "FOLDER/anns/MSRVTT_data.json, 'sentences', [2], 'caption': expected str, found 7; fix the entry"


def test_unknown_datatype(complain):
    line = complain("--datatype", "msr-vtt")
    assert line.startswith("--datatype msr-vtt: unknown; choose one of msrvtt, ")


@pytest.mark.parametrize("flag", ["--init_model", "--estimator", "--base_encoder"])
def test_weights_of_another_architecture(flag, corpus, complain):
    other = corpus.clip if flag == "--estimator" else corpus.estimator
    line = complain(flag, other)
    assert line.startswith(f"FOLDER/{other.name}: ")
    assert re.search("no retrieval model|not the weights of a CLIP|another architecture", line)
    assert re.search("give a pytorch_model.bin|give another --base_encoder|Choose the file", line)


def test_weights_that_are_not_there(complain, corpus):
    assert complain("--init_model", corpus.folder / "model.bin") == "FOLDER/model.bin: no such file; check the path"
    line = complain("--base_encoder", "ViT-B/64")
    assert line.startswith("--base_encoder ViT-B/64: no file and no model; give a path")


@pytest.mark.parametrize("flag", ["--max_words", "--max_frames"])
def test_more_words_or_frames_than_positions(flag, complain, corpus):
    shutil.rmtree(corpus.videos)  # no video has been looked for yet
    assert re.match(rf"{flag} 78: the model has 77 positions; give [12] to 77", complain(flag, 78))


@pytest.mark.parametrize("module", ["None", "seqLSTM"])
def test_other_temporal_encoders_take_any_number_of_frames(module, corpus):
    metrics = main_retrieval.main(command_line(corpus, "--max_frames", 78, "--agg_module", module))
    assert 0 <= metrics["t2v"]["R1"] <= 100


@pytest.fixture
def payload(tmp_path):
    """A pickle's content that makes a file when it is unpickled, and that file."""

    class Command:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    return {"video1": [["a", "caption"]], "visual.proj": Command()}, tmp_path / "ran"


@pytest.mark.parametrize("flag", ["--init_model", "--estimator", "--base_encoder"])
@pytest.mark.parametrize("write", [lambda value, path: path.write_bytes(pickle.dumps(value)), torch.save])
def test_weights_that_run_code_are_refused(flag, write, complain, corpus, payload):
    content, trace = payload
    write(content, corpus.folder / "trap.bin")
    line = complain(flag, corpus.folder / "trap.bin")
    assert line.startswith("FOLDER/trap.bin: not a plain file of tensors, refused") and "give a state dict" in line
    assert not trace.exists()
    pickle.loads(pickle.dumps(content))
    assert trace.exists()  # what was refused would have run


def test_captions_that_run_code_are_refused(complain, corpus, payload):
    content, trace = payload
    (corpus.annotations / "test_list.txt").write_text("video1\n")
    (corpus.annotations / "raw-captions.pkl").write_bytes(pickle.dumps(content))
    line = complain("--datatype", "msvd")
    assert line.startswith("FOLDER/anns/raw-captions.pkl: is no pickle of plain captions (it asks for pathlib")
    assert not trace.exists()


@pytest.mark.parametrize("flag", ["--init_model", "--base_encoder"])
def test_programs_are_run_only_if_trusted(flag, complain, corpus):
    torch.jit.script(torch.nn.Linear(2, 2)).save(corpus.folder / "program.pt")
    line = complain(flag, corpus.folder / "program.pt")
    assert line.startswith("FOLDER/program.pt: a TorchScript archive with an unknown SHA-256")
    assert "pass --trust_checkpoint" in line
    line = complain(flag, corpus.folder / "program.pt", "--trust_checkpoint")
    assert re.match("FOLDER/program.pt: (no retrieval model|not the weights of a CLIP)", line)


@pytest.mark.parametrize("video_id", ["../secret", "/SECRET", "MSRVTT_Videos/../../secret"])
def test_video_ids_do_not_leave_the_folder(video_id, complain, corpus):
    secret = str(shutil.copy(corpus.videos / "video4.mp4", corpus.folder / "secret.mp4"))
    video_id = video_id.replace("/SECRET", secret)
    rewrite_csv(corpus.annotations / "MSRVTT_JSFUSION_test.csv", lambda rows: rows[1].__setitem__(2, video_id))
    line = complain()
    assert re.match(r"FOLDER/MSRVTT_Videos: 1 of \d+ videos are missing: ", line)


@pytest.mark.parametrize(("flag", "words"), [("--batch_size", ["--do_train", "1"]), ("--batch_size_val", [])])
def test_batch_that_the_processes_do_not_divide(flag, words, complain, monkeypatch):
    monkeypatch.setattr("dataloaders.build.world_size", lambda: 3 if flag == "--batch_size_val" else 2)
    sizes = ["--batch_size", "5", "--batch_size_val", "4"]
    size, processes = (4, 3) if flag == "--batch_size_val" else (5, 2)
    remedy = f"choose a multiple of {processes} for {flag}"
    line = complain(*sizes, *words)
    assert line == f"batch size {size}: cannot be divided among {processes} processes; {remedy}"


def test_batch_that_the_data_do_not_fill(complain):
    line = complain("--do_train", 1, "--batch_size", 64)
    assert line == "batch size 64: there are only 10 training pairs; give a smaller --batch_size"


def test_output_folder_that_is_a_file(corpus, complain):
    (corpus.folder / "output").write_text("")
    assert complain() == "FOLDER/output: cannot be written (File exists); give another --output_dir"


@pytest.fixture
def seven_missing(corpus):
    """Ids of the test videos whose files are gone, all but the last."""
    videos = sorted(corpus.videos.glob("*.mp4"), key=lambda path: int(path.stem.removeprefix("video")))
    for video in videos[2:-1]:
        video.unlink()
    return [video.stem for video in videos[2:-1]]


def test_missing_videos_are_listed(corpus, complain, seven_missing):
    line = complain()
    first = ", ".join(seven_missing[:5])
    assert line == (
        f"FOLDER/MSRVTT_Videos: 7 of 8 videos are missing: {first}, ... "
        "(all in FOLDER/output/missing_videos_test.txt); add them or give --skip_missing_videos"
    )
    assert (corpus.folder / "output" / "missing_videos_test.txt").read_text().split() == seven_missing


def test_missing_videos_are_left_out_on_request(corpus, seven_missing):
    metrics = main_retrieval.main(command_line(corpus, "--skip_missing_videos", "--save_similarity"))
    assert metrics["t2v"]["R1"] == 100  # of the one that is left
    assert "7 of 8 videos are missing" in (corpus.folder / "output" / "log.txt").read_text()


def test_broken_video(corpus, complain):
    cut_in_half(corpus.videos / "video4.mp4")
    for workers in (0, 1):
        line = complain("--workers", workers)
        assert re.fullmatch(
            r"FOLDER/MSRVTT_Videos/video4.mp4: is truncated, \d+ bytes are missing; replace the file", line
        )


@pytest.mark.parametrize("debug", [False, True])
def test_the_script_itself(corpus, debug):
    (corpus.annotations / "MSRVTT_JSFUSION_test.csv").unlink()
    words = command_line(corpus, *(["--debug"] if debug else []))
    result = subprocess.run([sys.executable, SCRIPT, *words], cwd=ROOT, capture_output=True, text=True)
    assert ("Traceback" in result.stderr) == debug
    assert "MSRVTT_JSFUSION_test.csv: cannot be read" in result.stderr.splitlines()[-1]
    said = [line for line in result.stderr.splitlines() if not re.match(r"\d{4}-", line)]  # without the log
    assert debug or (result.returncode, len(said)) == (2, 1)


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"RANK": "0"}, "WORLD_SIZE, MASTER_ADDR, MASTER_PORT"),
        ({"WORLD_SIZE": "2"}, "RANK, MASTER_ADDR, MASTER_PORT"),
        ({"RANK": "1", "WORLD_SIZE": "two", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}, "WORLD_SIZE"),
    ],
)
def test_a_launcher_that_sets_a_part_of_its_variables(environment, named, complain, monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert complain().startswith(f"environment: {named} not set, or no number; start several processes with torchrun")


def assert_one_complaint(said, reason):
    complaints = [line for line in said.splitlines() if line.startswith(f"{SCRIPT}: error: ")]
    assert len(complaints) == 1 and reason in complaints[0], said
    assert "[rank" not in said  # as torch begins each line of a process's traceback


def test_several_processes_complain_once(corpus, tmp_path):
    """Whether all of them find it, the first alone, or another than the first."""
    (corpus.folder / "file").write_text("")
    cut_in_half(corpus.videos / "video9.mp4")
    no_folder = ["--output_dir", corpus.folder / "file"]
    cases = {"unknown": ["--datatype", "msr-vtt"], "cannot be written": no_folder, "bytes are missing": []}
    for reason, words in cases.items():
        log = tmp_path / f"{reason}.txt"
        running = start(log, 2, script, main_retrieval.main, *command_line(corpus, *words))
        assert finish(running) == [2, 2], log.read_text()
        assert_one_complaint(log.read_text(), reason)


def test_a_launcher_tells_the_code(corpus):
    cut_in_half(corpus.videos / "video9.mp4")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", SCRIPT]
    result = subprocess.run([*launcher, *command_line(corpus)], cwd=ROOT, capture_output=True, text=True)
    assert_one_complaint(result.stderr, "bytes are missing")
    assert "exitcode  : 2 " in result.stderr
