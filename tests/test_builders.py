"""Models and optimisers from the arguments."""

from argparse import Namespace
from functools import partial
from itertools import product

import pytest
import torch

from models.clip import CLIP
from tests.conftest import SMALL
from utils.checkpoint import save_weights
from utils.engine import builders
from utils.engine.builders import build_model, build_optimizer, check_sizes, compile_towers
from utils.engine.options import TrainingOptions
from utils.errors import InputError


def test_every_block_of_both_towers_is_compiled_and_keeps_its_names(model, monkeypatch):
    names, compiled = list(model.state_dict()), []
    monkeypatch.setattr(torch, "compile", lambda call, **_: compiled.append(getattr(call, "__self__", None)) or call)
    compile_towers(model)
    assert compiled[1:] == [*model.clip.visual.transformer.resblocks, *model.clip.transformer.resblocks]
    assert list(model.state_dict()) == names


@pytest.mark.slow
def test_a_block_may_have_more_than_eight_compiled_forms(model, monkeypatch):
    """With and without gradient, mask and chosen queries, for one sample and for many."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        compile_towers(model)
        block = model.clip.transformer.resblocks[0]
        for gradient, masked, queries, samples in product((False, True), (False, True), (None, 1), (1, 2, 3)):
            x = torch.randn(samples, 5, model.clip.config.text_width)
            mask = torch.ones(1, 1, queries or 5, 5, dtype=torch.bool).tril() if masked else None
            with torch.set_grad_enabled(gradient):
                assert block(x, mask, queries).shape == (samples, queries or 5, x.shape[2])


def test_a_machine_that_cannot_compile_is_reported_in_one_line(model, monkeypatch):
    def fail(_):
        raise RuntimeError("No working C++ compiler found\nmore about it")

    monkeypatch.setattr(torch, "compile", fail)
    with pytest.raises(InputError, match=r"^--compile: cannot compile here \(No working C\+\+ compiler found\); "):
        compile_towers(model)


def arguments(**changes):
    paths, switches = ("init_model", "base_encoder"), ("trust_checkpoint", "grad_checkpointing", "compile")
    flags = dict.fromkeys(paths) | dict.fromkeys(switches, False) | {"max_words": 12, "max_frames": 4}
    return Namespace(**flags | changes)


def test_flags_reach_a_model_that_starts_from_clip(tmp_path, monkeypatch):
    save_weights(CLIP(SMALL).state_dict(), tmp_path / "clip.pt")
    flags = {"base_encoder": tmp_path / "clip.pt", "agg_module": "seqTransf", "num_hidden_layers": 2, "compile": True}
    compiled, freed = [], []
    monkeypatch.setattr(builders, "compile_towers", compiled.append)
    monkeypatch.setattr(builders, "keep_freed_memory", lambda *, below: freed.append(below))
    model = build_model(arguments(**flags, grad_checkpointing=True), torch.device("meta"), trained_levels=2)
    assert all(parameter.is_meta for parameter in model.parameters())
    assert len(model.temporal.transformer.resblocks) == 2
    assert model.options.trained_levels == 2 and compiled == [model] and freed == [2**20]
    assert model.clip.transformer.grad_checkpointing and model.clip.visual.transformer.grad_checkpointing


def test_a_checkpoint_decides_and_nothing_is_compiled_or_recomputed(checkpoint, monkeypatch):
    monkeypatch.setattr(builders, "compile_towers", None)
    monkeypatch.setattr(builders, "keep_freed_memory", None)
    model = build_model(arguments(init_model=checkpoint), torch.device("cpu"))
    assert not model.clip.transformer.grad_checkpointing
    with pytest.raises(InputError, match="--max_words 78: the model has 77 positions"):
        build_model(arguments(init_model=checkpoint, max_words=78), torch.device("cpu"))


@pytest.mark.parametrize("trusted", [False, True])
def test_an_archive_is_trusted_only_if_the_flag_says_so(trusted, model, monkeypatch):
    given = {}
    monkeypatch.setattr(builders, "load_model", lambda _, **options: given.update(options) or model)
    build_model(arguments(init_model="archive", trust_checkpoint=trusted), torch.device("cpu"))
    assert given["trust_checkpoint"] is trusted


@pytest.mark.parametrize("words", [1, 78])
def test_words_beyond_a_model_s_positions_are_refused(words, model):
    with pytest.raises(InputError, match=f"--max_words {words}: the model has 77 positions; give 2 to 77"):
        check_sizes(model, words, 1)


def test_frames_beyond_a_model_s_positions_are_refused(model):
    most = model.max_frames
    for words in (2, 77):
        check_sizes(model, words, most)
    with pytest.raises(InputError, match=f"--max_frames {most + 1}: the model has {most} positions; give 1 to {most}"):
        check_sizes(model, 2, most + 1)


@pytest.mark.parametrize("steps", [0, 9])
def test_the_optimiser_s_settings_are_the_flags(model, steps):
    options = TrainingOptions(lr=0.5, coef_lr=0.1, weight_decay=0.3, warmup_proportion=0.2)
    optimiser = build_optimizer(model, options, steps)
    assert {(group["lr"], group["weight_decay"]) for group in optimiser.param_groups} == {
        (0.5, 0.3), (0.5, 0.0), (0.05, 0.3), (0.05, 0.0)
    }  # fmt: skip
    assert {(group["total_steps"], group["warmup"]) for group in optimiser.param_groups} == {(max(steps, 1), 0.2)}
    slow = {id(p) for group in optimiser.param_groups if group["lr"] == 0.05 for p in group["params"]}
    assert slow == {id(p) for p in model.clip.parameters() if p.requires_grad}
