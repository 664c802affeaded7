"""Weights on disk: all formats, strict loading, the released spelling, refused files."""

import logging
import pickle
import random
import zipfile

import numpy
import pytest
import safetensors.torch
import torch
from torch import nn

from models import HBI, load_clip, load_model
from models.clip import CLIP
from tests.conftest import SMALL
from tests.damage import damage_bytes
from tests.golden_case import filled_state
from utils import checkpoint
from utils.archives import read_torchscript
from utils.checkpoint import load_weights, read_weights, released_state, save_weights
from utils.errors import InputError


@pytest.fixture(scope="module")
def clip_state():
    torch.manual_seed(0)
    return CLIP(SMALL).state_dict()


class Towers(nn.Module):
    """Named like CLIP, to be scripted as OpenAI's archives are."""

    def __init__(self, state):
        super().__init__()
        self.visual = nn.Module()
        self.transformer = nn.Module()
        for name, tensor in state.items():
            owner, parts = self, name.split(".")
            for part in parts[:-1]:
                if not hasattr(owner, part):
                    owner.add_module(part, nn.Module())
                owner = getattr(owner, part)
            owner.register_parameter(parts[-1], nn.Parameter(tensor))
        self.register_buffer("input_resolution", torch.tensor(32))

    def forward(self, x: torch.Tensor):
        return x


@pytest.fixture
def archive(clip_state, tmp_path):
    path = tmp_path / "clip.pt"
    torch.jit.script(Towers(clip_state)).save(str(path))
    return path


def equal(clip, state):
    return all(torch.equal(tensor, state[name]) for name, tensor in clip.state_dict().items())


def test_clip_from_a_state_dict_in_float16(clip_state, tmp_path):
    half = {name: tensor.half() if tensor.dim() else tensor for name, tensor in clip_state.items()}
    torch.save(half, tmp_path / "clip.pt")
    clip = load_clip(tmp_path / "clip.pt")
    assert clip.visual.proj.dtype == torch.float32
    assert equal(clip, {name: tensor.float() for name, tensor in half.items()})


def test_clip_from_safetensors(clip_state, tmp_path):
    safetensors.torch.save_file(clip_state, tmp_path / "clip.safetensors")
    assert equal(load_clip(tmp_path / "clip.safetensors"), clip_state)


def test_torchscript_archive_needs_a_known_digest_or_trust(clip_state, archive, monkeypatch):
    with pytest.raises(InputError, match="--trust_checkpoint"):
        load_clip(archive)
    assert equal(load_clip(archive, trust=True), clip_state)
    monkeypatch.setitem(checkpoint.OPENAI_DIGESTS, "ViT-B/32", checkpoint.sha256(archive))
    assert equal(load_clip(archive), clip_state)


class Layers(nn.Module):
    """Nested modules, and tensors of every sort that a module may hold."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(3, 2), nn.LayerNorm(2)])
        self.turned = nn.Parameter(torch.randn(4, 3).T)
        self.tied = self.layers[0].weight
        self.none = nn.Parameter(torch.zeros(0, 2))
        for dtype in (torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool):
            self.register_buffer(f"{dtype}".replace("torch.", "as_"), torch.arange(6).to(dtype)[1::2])
        self.sizes = [3, 2]

    def forward(self, x: torch.Tensor):
        for layer in self.layers:
            x = layer(x)
        return x @ self.turned[:2] + self.sizes[0]


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize("make", [torch.jit.script, lambda module: torch.jit.trace(module, torch.ones(1, 3))])
def test_an_archive_is_read_as_torch_jit_reads_it(make, tmp_path):
    make(Layers()).save(tmp_path / "module.pt")
    expected = torch.jit.load(tmp_path / "module.pt").state_dict()
    found = read_torchscript(tmp_path / "module.pt")
    assert found.keys() == expected.keys() and len(found) == 13
    for name, tensor in expected.items():
        assert (found[name].dtype, found[name].stride()) == (tensor.dtype, tensor.stride())
        assert torch.equal(found[name], tensor)


def rewritten(source, path, compression=zipfile.ZIP_STORED, **entries):
    """Write the archive again, compressed, or with another content of the entries that end in these names."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w", compression) as new:
        for name in old.namelist():
            new.writestr(name, entries.get(name.rpartition("/")[2].replace(".", "_"), old.read(name)))
    return path


def test_compressed_and_overlapping_archives_are_refused(archive, clip_state, tmp_path):
    torch.save(clip_state, tmp_path / "state.pt")
    for source in (archive, tmp_path / "state.pt"):
        assert read_weights(rewritten(source, tmp_path / "stored.pt"), trust=True).keys() == clip_state.keys()
        with pytest.raises(InputError, match=r"deflated.pt: its entry .* is compressed, refused"):
            read_weights(rewritten(source, tmp_path / "deflated.pt", zipfile.ZIP_DEFLATED), trust=True)
        with zipfile.ZipFile(rewritten(source, tmp_path / "overlapping.pt"), "a") as overlapping:
            overlapping.filelist *= 3
            overlapping.comment = b"writes the directory again"
        with pytest.raises(InputError, match="overlap"):
            read_weights(tmp_path / "overlapping.pt", trust=True)


def test_an_archive_runs_nothing(archive, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trap = rewritten(archive, tmp_path / "trap.pt", data_pkl=pickle.dumps(Payload(), protocol=2))
    with pytest.raises(InputError, match="asks for __builtin__.exec"):
        read_weights(trap, trust=True)
    assert not (tmp_path / "pwned").exists()


def test_a_damaged_archive_is_refused_or_holds_tensors(tmp_path):
    torch.jit.script(Layers()).save(tmp_path / "module.pt")
    with zipfile.ZipFile(tmp_path / "module.pt") as whole:
        content = whole.read("module/data.pkl")
    refused = 0
    for seed in range(200):
        damaged = damage_bytes(content, random.Random(seed))
        try:
            state = read_weights(rewritten(tmp_path / "module.pt", tmp_path / "x.pt", data_pkl=damaged), trust=True)
            assert all(isinstance(tensor, torch.Tensor) for tensor in state.values())
        except InputError as error:
            assert "\n" not in str(error) and str(error).isprintable()
            refused += 1
    assert refused > 100


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"state_dict": state, "best": 3.0, "optimizer": {"state": {}}},
        lambda state: {"model": state},
        lambda state: {"module": state},
        lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
        lambda state: {"epoch": 1, "model": {"state_dict": {f"module.{name}": state[name] for name in state}}},
    ],
)
def test_wrapped_weights_are_unwrapped_and_the_log_says_so(wrap, clip_state, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("hbi"), "propagate", True)
    torch.save(wrap(clip_state), tmp_path / "wrapped.pt")
    assert equal(load_clip(tmp_path / "wrapped.pt"), clip_state)
    assert "wrapped.pt: " in caplog.text
    if all(isinstance(tensor, torch.Tensor) for tensor in wrap(clip_state).values()):
        safetensors.torch.save_file(wrap(clip_state), tmp_path / "wrapped.safetensors")
        assert equal(load_clip(tmp_path / "wrapped.safetensors"), clip_state)
    caplog.clear()
    torch.save(clip_state, tmp_path / "plain.pt")
    assert equal(load_clip(tmp_path / "plain.pt"), clip_state) and not caplog.text


@pytest.mark.parametrize("zipped", [True, False])
def test_what_is_refused_is_named(zipped, clip_state, tmp_path):
    content = {"state_dict": clip_state, "best": numpy.float64(3)}
    torch.save(content, tmp_path / "run.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(InputError) as error:
        read_weights(tmp_path / "run.pt")
    assert "holds numpy._core.multiarray.scalar" in str(error.value) and str(error.value).isprintable()


def test_an_unknown_key_of_the_towers_is_named(clip_state, tmp_path):
    state = released_state(HBI(CLIP.from_state_dict(clip_state)))
    save_weights({**state, "clip.visual.extra": torch.zeros(1)}, tmp_path / "model.bin")
    with pytest.raises(InputError, match="model.bin: no retrieval model .*visual.extra"):
        load_model(tmp_path / "model.bin")


class Payload:
    def __reduce__(self):
        return exec, ("open('pwned', 'w')",)


@pytest.mark.parametrize("name", ["a.pt", "a.bin.4"])
def test_pickles_with_a_payload_are_refused_and_not_run(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(pickle.dumps({"x": Payload()}))
    torch.save({"x": Payload()}, tmp_path / ("zip" + name))
    for path in (tmp_path / name, tmp_path / ("zip" + name)):
        with pytest.raises(InputError, match="refused"):
            read_weights(path)
    assert not (tmp_path / "pwned").exists()


def test_damaged_files_are_refused(clip_state, tmp_path):
    whole = tmp_path / "whole.pt"
    torch.save(clip_state, whole)
    damaged = {
        "empty.pt": b"",
        "text.pt": b"not weights",
        "cut.pt": whole.read_bytes()[:5000],
        "bad.safetensors": b"\x08\x00\x00\x00\x00\x00\x00\x00garbage!",
    }
    for name, content in damaged.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=name):
            read_weights(tmp_path / name)
    with pytest.raises(InputError, match="no such file"):
        read_weights(tmp_path / "absent.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(InputError, match="no plain map"):
        read_weights(tmp_path / "list.pt")
    with zipfile.ZipFile(tmp_path / "fake.pt", "w") as fake:
        fake.writestr("archive/code/x.py", "pass")
    with pytest.raises(InputError, match="damaged"):
        read_weights(tmp_path / "fake.pt", trust=True)


def test_base_encoder_that_is_no_clip(tmp_path):
    torch.save({"x": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(InputError, match="not the weights of a CLIP ViT"):
        load_clip(tmp_path / "other.pt")
    with pytest.raises(InputError, match="no file and no model"):
        load_clip("no-such-model")
    with pytest.raises(InputError, match=r"40d365715913c9da.*ViT-B-32\.pt"):
        load_clip("ViT-B/32")


@pytest.mark.parametrize("temporal", ["seqTransf", "seqLSTM", None])
@pytest.mark.parametrize("interaction", ["wti", "mean"])
def test_a_saved_model_loads_without_its_options(clip_state, tmp_path, temporal, interaction):
    model = HBI(CLIP.from_state_dict(clip_state), temporal=temporal, interaction=interaction, temporal_layers=2)
    save_weights(released_state(model), tmp_path / "model.bin.0")
    loaded = load_model(tmp_path / "model.bin.0")
    ours, theirs = model.state_dict(), loaded.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.slow
def test_a_released_vit_b32_checkpoint_loads_strictly_and_saves_the_same_keys(tmp_path):
    state = filled_state("state_dict_keys.json")
    torch.save(state, tmp_path / "pytorch_model.bin.4")
    model = load_model(tmp_path / "pytorch_model.bin.4")
    saved = released_state(model)
    assert saved.keys() == state.keys()
    assert all(torch.equal(saved[name], state[name]) for name in state)
    assert model.clip.config.resolution == 224 and model.clip.config.patch == 32


def test_wrong_weights_name_every_key(clip_state):
    model = HBI(CLIP.from_state_dict(clip_state))
    state = released_state(model)
    state["extra.weight"] = torch.zeros(1)
    state["text_weight_fc.0.weight"] = torch.zeros(2, 2)
    del state["v_ctm1.norm.bias"]
    with pytest.raises(InputError) as error:
        load_weights(model, state, "some_file")
    message = str(error.value)
    assert "some_file" in message and "missing v_ctm1.norm.bias" in message and "unexpected extra.weight" in message
    assert "text_weight_fc.0.weight is (2, 2), not" in message


def test_saving_to_a_full_or_forbidden_place_leaves_the_old_file(clip_state, tmp_path):
    path = tmp_path / "model.bin"
    save_weights({"x": torch.ones(1)}, path)
    before = path.read_bytes()

    class Full(dict):
        def items(self):
            raise OSError(28, "No space left on device")

        keys = __iter__ = items

    with pytest.raises(InputError, match="No space left"):
        save_weights(Full(), path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["model.bin"]
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        save_weights({}, tmp_path / "file" / "model.bin")
