"""No file of the user is destroyed, no foreign code is run, no foreign file is served."""

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import lancedb
import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import banzhaf_estimator
import main_retrieval
import main_vqa
from dataloaders.frame_cache import FrameCache
from models import CLIP, HBI, load_model
from models.tokenizer import Tokenizer
from scripts import check_data, compare_methods, compress_videos, export, make_shapes, search, shard_frames
from scripts.searching.query import VideoIndex
from scripts.searching.store import ABOUT, SEGMENTS
from tests.conftest import SMALL, write_video
from tests.retrieval_case import build_corpus
from utils.checkpoint import released_state, save_weights
from utils.errors import InputError, printable
from utils.files import MARKER, atomic_write, claim_folder, open_own, remove
from utils.logger import make_logger, table

ROOT = Path(__file__).parents[1]


def snapshot(folder):
    """Every file of a folder with its bytes, and every link with its target."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        found[name] = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
    return found


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return build_corpus(tmp_path_factory.mktemp("shapes"), train=2, test=2)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A checkpoint of a small model."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "pytorch_model.bin.0"
    save_weights(released_state(HBI(CLIP(SMALL), temporal_layers=1)), path)
    return path


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


def attempts(corpus, weights, users, elsewhere):
    """Every script that writes, with folder options that name the user's files."""
    data = ["--anno_path", str(corpus.annotations), "--base_encoder", str(corpus.clip), "--max_words", "8"]
    data += ["--max_frames", "2", "--workers", "0", "--augment", "none", "--num_hidden_layers", "1"]
    own = ["--video_path", str(corpus.videos), "--output_dir", str(elsewhere / "out")]
    train = [*data, "--do_train", "1", "--epochs", "1", "--batch_size", "2", "--teacher", "exact"]
    model = ["--checkpoint", str(weights)]
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
def test_no_script_touches_a_users_files(name, corpus, weights, users, tmp_path):
    before, outside = snapshot(users), snapshot(tmp_path / "outside")
    call, words = attempts(corpus, weights, users, tmp_path)[name]
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


# Hostile files


@pytest.fixture(scope="module")
def index(weights, tmp_path_factory):
    """An index of one video, made by the script."""
    root = tmp_path_factory.mktemp("index")
    write_video(root / "videos" / "one.mp4", seconds=1)
    words = ["--checkpoint", str(weights), "--max_frames", "2", "--max_words", "8", "--workers", "0"]
    search.main(["index", str(root / "videos"), "--index", str(root / "index"), *words])
    return root / "index"


def scripted_program(path, victim):
    """A TorchScript archive under a checkpoint's name: code that could run."""

    class Program(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    torch.jit.script(Program()).save(str(path))


def change(path, **values):
    content = json.loads(path.read_text())
    content.update(values)
    path.write_text(json.dumps(content))


@pytest.fixture
def copied(index, tmp_path):
    shutil.copytree(index, tmp_path / "index")
    return tmp_path / "index"


def manifest_of(address):
    return json.loads(lancedb.connect(address).open_table(ABOUT).to_arrow()["json"][0].as_py())


def write_manifest(address, text):
    lancedb.connect(address).create_table(ABOUT, pa.table({"json": [text]}), mode="overwrite")


def test_an_index_cannot_grant_trust_and_its_digest_comes_first(copied, tmp_path, monkeypatch):
    manifest = manifest_of(copied)
    model = manifest["model"]
    write_manifest(copied, json.dumps({**manifest, "model": {**model, "trust_checkpoint": True}}))
    with pytest.raises(InputError, match="model.trust_checkpoint"):
        search.main(["query", "noise", "--index", str(copied)])
    write_manifest(copied, json.dumps({**manifest, "model": {**model, "options": {"trust_checkpoint": True}}}))
    with pytest.raises(InputError, match="options.trust_checkpoint: unknown"):
        search.main(["query", "noise", "--index", str(copied)])
    program = tmp_path / "program.bin"
    scripted_program(program, tmp_path)
    write_manifest(copied, json.dumps({**manifest, "model": {**model, "checkpoint": str(program)}}))
    opened = []
    monkeypatch.setattr("scripts.searching.about.load_model", lambda *names, **options: opened.append(options))
    with pytest.raises(InputError, match="is not the model that the index was made with"):
        search.main(["query", "noise", "--index", str(copied)])
    assert not opened


@pytest.mark.parametrize("special", ["fifo", "zero", "folder", "deep", "digits", "huge"])
def test_special_files_are_refused_in_a_line(special, weights, tmp_path):
    load_model(weights).save_pretrained(tmp_path / "export")
    path = tmp_path / "export" / "config.json"
    path.unlink()
    if special == "fifo":
        os.mkfifo(path)
    elif special == "zero":
        path.symlink_to("/dev/zero")
    elif special == "folder":
        path.mkdir()
    elif special == "deep":
        path.write_text("[" * 200_000)
    elif special == "digits":
        path.write_text('{"format": ' + "9" * 100_000 + "}")
    else:
        with open(path, "wb") as handle:
            handle.truncate(2**33)
    started = time.monotonic()
    with pytest.raises(InputError) as refused:
        load_model(tmp_path / "export")
    assert "\n" not in str(refused.value) and time.monotonic() - started < 60


@pytest.mark.parametrize("text", ["[" * 200_000, '{"format": ' + "9" * 100_000 + "}", "", "[]", "null"])
def test_texts_that_are_no_manifest_are_refused_in_a_line(text, copied):
    write_manifest(copied, text)
    with pytest.raises(InputError) as refused:
        VideoIndex(copied)
    assert "\n" not in str(refused.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
KEYS = ("folder", "model", "digest", "sampling", "max_words", "bits", "decoder", "format", "trust_checkpoint")
EXPORT_KEYS = ("quick_gelu", "answers", "text_rates", "rates", "kl", "teacher", "recipe", "model_type", "checkpoint")
NESTED = st.sampled_from(["max_frames", "segment", "checkpoint", "rates", "../../x.mp4", "/etc/passwd.mp4"])
ODD = JSON | st.dictionaries(NESTED, JSON)
ODD |= st.sampled_from([10**30, -1, 0, "../..", "/dev/zero", {"one.mp4": [1, 2, 3]}])
ALLOWED = 1500  # megabytes


@pytest.fixture(autouse=True)
def bounded_memory():
    """No test of this file takes more than the allowed additional memory."""
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:  # the high-water mark falls to the present size
        file.write("5")
    before = megabytes("VmRSS")
    yield
    assert megabytes("VmHWM") - before < ALLOWED


def megabytes(kind):
    """A size of this process."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(kind))
    return int(line.split()[1]) / 1024


LIMITS = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))


@LIMITS
@given(st.dictionaries(st.sampled_from(KEYS), ODD, min_size=1))
def test_hostile_manifests_are_refused_in_a_line(index, tmp_path_factory, values):
    copied = tmp_path_factory.mktemp("hostile") / "index"
    shutil.copytree(index, copied)
    write_manifest(copied, json.dumps(manifest_of(copied) | values))
    before = snapshot(index.parent)
    try:
        search.main(["query", "noise", "--index", str(copied)])
    except InputError as error:
        assert "\n" not in str(error)
    assert snapshot(index.parent) == before


@LIMITS
@given(st.dictionaries(st.sampled_from(EXPORT_KEYS), ODD, min_size=1))
def test_hostile_exports_are_refused_in_a_line(exported, values):
    config = exported / "config.json"
    whole = config.read_text()
    change(config, **values)
    try:
        load_model(exported)
    except InputError as error:
        assert "\n" not in str(error)
    finally:
        config.write_text(whole)


@pytest.fixture(scope="module")
def exported(weights, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "export"
    load_model(weights).save_pretrained(folder)
    return folder


ARRAYS = st.sampled_from(["frames", "pictures", "lengths"])
DTYPES = st.sampled_from([np.uint8, np.float32, np.int64, np.bool_])
SHAPES = st.lists(st.integers(0, 4), max_size=5)


@LIMITS
@given(st.dictionaries(ARRAYS, st.tuples(DTYPES, SHAPES, st.integers(-3, 9)), max_size=3) | st.binary(max_size=60))
def test_hostile_cache_entries_are_made_again(tmp_path_factory, arrays):
    from safetensors.numpy import save

    root = tmp_path_factory.mktemp("hostile")
    video = write_video(root / "video.mp4", seconds=1) if not (root / "video.mp4").exists() else root / "video.mp4"
    frames = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    cache = FrameCache(root / "cache", 1)
    cache.get(video, {}, lambda: frames)
    (entry,) = (root / "cache").glob("??/*.safetensors")
    content = arrays if isinstance(arrays, bytes) else save(
        {name: np.full(shape, value).astype(dtype) for name, (dtype, shape, value) in arrays.items()}
    )
    entry.write_bytes(content)
    found = cache.get(video, {}, lambda: frames)
    assert found.dtype == np.uint8 and found.ndim == 4 and found.shape[3] == 3


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        ("tokens", pa.array([[1.0]], pa.list_(pa.float16(), 1)), "other columns"),
        ("video", pa.array([b"one.mp4"]), "other columns"),
        ("video", pa.array(["../../one.mp4"]), "names no video"),
        ("video", pa.array([None], pa.string()), "--rebuild"),
        ("start", pa.array([float("nan")]), "times that are none"),
        ("frames", pa.array([0], pa.int32()), "times that are none"),
        ("tokens", None, "not finite"),
    ],
)
def test_rows_of_other_shapes_and_numbers_are_refused(column, value, says, copied):
    table = lancedb.connect(copied).open_table(SEGMENTS).to_arrow()
    if value is None:
        kind = table.schema.field(column).type
        value = pa.array([[float("inf")] * kind.list_size], kind)
    table = table.set_column(table.schema.get_field_index(column), column, value)
    lancedb.connect(copied).create_table(SEGMENTS, table, mode="overwrite")
    with pytest.raises(InputError, match=says) as refused:
        VideoIndex(copied).search("noise")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_and_rates_that_are_not_finite_are_refused(value, weights, tmp_path):
    state = torch.load(weights, weights_only=True)
    state["clip.ln_final.weight"][3] = value
    save_weights(state, tmp_path / "broken.bin")
    with pytest.raises(InputError, match="1 weights are not finite, first clip.ln_final.weight"):
        load_model(tmp_path / "broken.bin")
    with pytest.raises(SystemExit):
        search.build_parser().parse_args(["index", "x", "--checkpoint", "y", "--rate", str(value), "0", "0"])


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
