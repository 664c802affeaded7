"""Models and optimisers from the arguments."""

from functools import partial
from itertools import product

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
