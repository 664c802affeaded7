"""Weights, inputs and recorded training of the golden cases of DiCoSA and DiffusionRet."""

import json

import numpy as np
import torch

from models.clip import CLIP
from tests.golden_case import GOLDEN, assert_close, fill, generator, golden, norm
from utils.checkpoint import load_weights, released_names
from utils.engine.builders import build_optimizer
from utils.engine.options import TrainingOptions
from utils.randomness import Undrawn

FOLDER = GOLDEN / "baselines"


def recorded(name: str) -> dict[str, np.ndarray]:
    """The arrays of one golden file."""
    return golden(f"baselines/{name}")


def draw(name: str, shape, scale: float = 1.0) -> torch.Tensor:
    """float32 numbers that belong to a name."""
    return torch.tensor((scale * generator(name).standard_normal(tuple(shape))).astype(np.float32))


def sinusoids(positions: int, width: int) -> torch.Tensor:
    """The table of positions (positions, 1, width), entry by entry."""
    place = np.arange(positions)[:, None] * np.exp(-np.arange(0, width, 2) * np.log(10000.0) / width)
    return torch.tensor(np.stack([np.sin(place), np.cos(place)], axis=2).reshape(positions, 1, width)).float()


def weight(name: str, shape) -> torch.Tensor:
    """The weight called `name` in the released spelling."""
    last = name.split(".")[-1]
    if last == "pe":
        return sinusoids(shape[0], shape[2])
    if "bias" not in last and name.startswith("weight_fc."):
        return draw(name, shape, 0.1)
    if "bias" not in last and name.startswith("diffusion_model"):
        return draw(name, shape, 0.04 if name.endswith("decoder.2.weight") else shape[1] ** -0.5)
    return fill(name, shape)


def keys(method: str, *changes: str) -> dict[str, list[int]]:
    """Keys and shapes of a released file, with the recorded changes of other options."""
    parts = json.loads((FOLDER / f"{method}_state_dict_keys_tiny.json").read_text())
    found = dict(next(iter(parts.values())))
    for change in changes:
        found |= parts.get(f"{change}_differs", {}) | parts.get(f"{change}_adds", {})
        for name in parts.get(f"{change}_lacks", []):
            del found[name]
    return found


def filled(method: str, *changes: str) -> dict[str, torch.Tensor]:
    """The state dict of a golden model in the released spelling."""
    return {name: weight(name, shape) for name, shape in keys(method, *changes).items()}


def build(cls, method: str, *changes: str, **options):
    """A golden model, in evaluation mode."""
    state = filled(method, *changes)
    with Undrawn():
        clip = CLIP.from_state_dict({name[5:]: x for name, x in state.items() if name.startswith("clip.")})
        model = cls(clip, **options)
    load_weights(model, state, method)
    return model.eval()


def released_parameters(model) -> dict[str, torch.nn.Parameter]:
    """Parameters by their released names."""
    names = released_names(model)
    return {names[name]: x for name, x in model.named_parameters()}


def check_gradients(model, names, reference) -> None:
    """Compare the gradient norms of parameters, in the order of `names`."""
    parameters = released_parameters(model)
    norms = np.array([norm(parameters[str(name)].grad) for name in names])
    exact = np.array([str(name).endswith("decoder.2.bias") for name in names])  # 0, but for rounding
    np.testing.assert_allclose(norms[~exact], reference[~exact], rtol=1e-4, atol=1e-6)
    assert (norms[exact] < 1e-5).all() and (reference[exact] < 1e-5).all()


def check_training(model, loss, parts, reference) -> None:
    """Repeat the recorded losses, gradients and optimiser steps.

    Args:
        model: at the recorded weights.
        loss: () -> named terms.
        parts: named terms -> (total, first part, second part).
        reference: the golden arrays.
    """
    parameters = released_parameters(model)
    names = [str(name) for name in reference["param_names"]]
    assert sorted(parameters) == sorted(names)
    assert [parameters[name].requires_grad for name in names] == reference["requires_grad"].tolist()
    initial = {name: x.detach().clone() for name, x in parameters.items()}
    optimizer = build_optimizer(model, TrainingOptions(), total_steps=10)
    for step in range(4):
        terms = loss()
        with torch.no_grad():
            np.testing.assert_allclose(parts(terms), reference["losses"][step], rtol=3e-5)
        if step == 3:
            break
        optimizer.zero_grad(set_to_none=True)
        terms["loss"].backward()
        if step == 0:
            assert [parameters[name].grad is not None for name in names] == reference["has_grad"].tolist()
            check_gradients(model, names, reference["grad_norm"])
        total = torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0)
        np.testing.assert_allclose(total.item(), reference["grad_total_norm"][step], rtol=1e-4)
        optimizer.step()
        model.after_step()
    compared = [not name.endswith("decoder.2.bias") for name in names]  # its gradient is rounding
    moved = np.array([norm(parameters[name] - initial[name]) for name in names])
    np.testing.assert_allclose(moved[compared], reference["delta_norm"][compared], rtol=2e-3, atol=1e-7)


__all__ = ["assert_close", "build", "check_gradients", "check_training", "draw", "filled", "keys", "recorded"]
