"""Weights on disk: every road in, strict loading, the released spelling, and what is refused."""

import pickle
import zipfile

import pytest
import safetensors.torch
import torch
from torch import nn

from models import HBI, load_clip, load_model
from models.clip import CLIP
from tests.conftest import SMALL
from tests.golden_case import filled_state
from utils import checkpoint
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
def test_a_saved_model_loads_without_being_told_its_options(clip_state, tmp_path, temporal, interaction):
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
