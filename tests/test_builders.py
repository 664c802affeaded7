"""Models and optimisers from the arguments."""

import pytest
import torch

from utils.engine.builders import compile_towers
from utils.errors import InputError


def test_every_block_of_both_towers_is_compiled_and_keeps_its_names(model, monkeypatch):
    names, compiled = list(model.state_dict()), []
    monkeypatch.setattr(torch, "compile", lambda call, **_: compiled.append(getattr(call, "__self__", None)) or call)
    compile_towers(model)
    assert compiled[1:] == [*model.clip.visual.transformer.resblocks, *model.clip.transformer.resblocks]
    assert list(model.state_dict()) == names


def test_a_machine_that_cannot_compile_is_reported_in_one_line(model, monkeypatch):
    def fail(_):
        raise RuntimeError("No working C++ compiler found\nmore about it")

    monkeypatch.setattr(torch, "compile", fail)
    with pytest.raises(InputError, match=r"^--compile: cannot compile here \(No working C\+\+ compiler found\); "):
        compile_towers(model)
