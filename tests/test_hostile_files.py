"""Manifests, exports, cache entries and rows that somebody made to do harm are refused in a line."""

import json
import os
import shutil
import time
from pathlib import Path

import lancedb
import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from dataloaders.frame_cache import FrameCache
from models import load_model
from scripts import search
from scripts.searching.query import VideoIndex
from scripts.searching.store import ABOUT, SEGMENTS
from tests.conftest import write_video
from tests.damage import snapshot
from utils.checkpoint import save_weights
from utils.errors import InputError


@pytest.fixture(scope="module")
def index(checkpoint, tmp_path_factory):
    """An index of one video, made by the script."""
    root = tmp_path_factory.mktemp("index")
    write_video(root / "videos" / "one.mp4", seconds=1)
    words = ["--checkpoint", str(checkpoint), "--max_frames", "2", "--max_words", "8", "--workers", "0"]
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
def test_special_files_are_refused_in_a_line(special, checkpoint, tmp_path):
    load_model(checkpoint).save_pretrained(tmp_path / "export")
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
def exported(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "export"
    load_model(checkpoint).save_pretrained(folder)
    return folder


ARRAYS = st.sampled_from(["frames", "pictures", "lengths"])
DTYPES = st.sampled_from([np.uint8, np.float32, np.int64, np.bool_])
SHAPES = st.lists(st.integers(0, 4), max_size=5)


@LIMITS
@given(st.dictionaries(ARRAYS, st.tuples(DTYPES, SHAPES, st.integers(-3, 9)), max_size=3) | st.binary(max_size=60))
def test_hostile_cache_entries_are_made_again(video_file, tmp_path_factory, arrays):
    root = tmp_path_factory.mktemp("hostile")
    frames = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    cache = FrameCache(root / "cache", 1)
    cache.get(video_file, {}, lambda: frames)
    (entry,) = (root / "cache").glob("??/*.safetensors")
    content = arrays if isinstance(arrays, bytes) else save(
        {name: np.full(shape, value).astype(dtype) for name, (dtype, shape, value) in arrays.items()}
    )
    entry.write_bytes(content)
    found = cache.get(video_file, {}, lambda: frames)
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
def test_weights_and_rates_that_are_not_finite_are_refused(value, checkpoint, tmp_path):
    state = torch.load(checkpoint, weights_only=True)
    state["clip.ln_final.weight"][3] = value
    save_weights(state, tmp_path / "broken.bin")
    with pytest.raises(InputError, match="1 weights are not finite, first clip.ln_final.weight"):
        load_model(tmp_path / "broken.bin")
    with pytest.raises(SystemExit):
        search.build_parser().parse_args(["index", "x", "--checkpoint", "y", "--rate", str(value), "0", "0"])
