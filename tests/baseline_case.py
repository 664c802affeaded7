"""Weights, inputs and recorded training of the golden cases of CLIP4Clip, DRL and EMCL."""

import gc
import json
from functools import cache

import numpy as np
import torch

from models.clip import CLIP
from tests.golden_case import GOLDEN, fill, generator, golden, inputs, norm
from utils.checkpoint import load_weights, released_names
from utils.engine.builders import build_optimizer
from utils.engine.options import TrainingOptions
from utils.randomness import Undrawn

CASES = {
    "p1": ((16, 7, 4, 12, 9, 16), (8, 5, 8, 2, 6), 16, 8),
    "p2": ((5, 12, 3), (6, 1, 4, 3), 12, 6),
    "t1": ((16, 5, 9, 12), (8, 3, 6, 8), 16, 8),
    "t2": ((12, 4, 7, 9, 3, 12), (2, 6, 5, 6, 1, 4), 12, 6),
}
WIDE = ("cross.transformer.", "cross.pooler.", "similarity_dense.")


def recorded(name: str) -> dict[str, np.ndarray]:
    """The arrays of one golden file."""
    return golden(f"baselines/{name}")


def recorded_json(name: str):
    """The contents of one golden JSON file."""
    return json.loads((GOLDEN / "baselines" / f"{name}.json").read_text())


def batch(case: str):
    """Ids, text mask, frames and video mask of a case."""
    texts, videos, words, frames = CASES[case]
    return inputs(case, words, frames, lengths=(texts, videos))


@cache
def weight(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """The weight called `name` in the released spelling."""
    parts, mean, scale = name.split("."), 0, None
    if "bias" not in parts[-1]:
        if parts[-2:-1] == ["ln_pool"]:
            mean, scale = 1, 0.02
        elif parts[0] in ("t_w", "v_w"):
            scale = 0.05
        elif len(shape) == 2 and name.startswith(WIDE):
            scale = shape[1] ** -0.5
    if scale is None:
        return fill(name, shape)
    return torch.tensor((mean + scale * generator(name).standard_normal(shape)).astype(np.float32))


def keys(file: str, *parts: str) -> dict[str, list[int]]:
    """Keys and shapes of a released file: its first entry, with what `parts` add and lack."""
    known = recorded_json(file)
    found = dict(next(iter(known.values())) if isinstance(next(iter(known.values())), dict) else known)
    for part in parts:
        found |= known[part]
        for name in known.get("without", {}).get(part, ()):
            found.pop(name, None)
    return found


def filled(shapes: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    """The state dict of a golden model in the released spelling."""
    return {name: weight(name, tuple(shape)) for name, shape in shapes.items()}


def build(cls, shapes: dict[str, list[int]], *arguments, **options):
    """A golden model with all dropout off, in evaluation mode."""
    gc.collect()  # the model of the test before, which may hold itself
    state = filled(shapes)
    with Undrawn():
        clip = CLIP.from_state_dict({name[5:]: x for name, x in state.items() if name.startswith("clip.")})
        model = cls(clip, *arguments, **options)
    load_weights(model, state, "golden")
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model.eval()


@torch.no_grad()
def tokens(model, case: str):
    """Texts and videos of a case."""
    ids, text_mask, frames, video_mask = batch(case)
    return (model.text_tokens(ids, text_mask), text_mask), (model.frame_tokens(frames, video_mask), video_mask)


def by_released_name(model) -> dict[str, torch.nn.Parameter]:
    """Parameters by their names in files."""
    names = released_names(model)
    return {names[name]: parameter for name, parameter in model.named_parameters()}


def assert_gradients(model, reference: dict, key: str = "grad_norm") -> None:
    """Compare the gradient norm of each parameter, up to the rounding of the largest one."""
    parameters, names = by_released_name(model), [str(name) for name in reference["param_names"]]
    assert sorted(parameters) == sorted(names)
    ours = np.array([norm(parameters[name].grad) for name in names])
    compared = np.array([not vanishes(name, names) for name in names])
    rounding = np.finfo(np.float32).eps * 2 * reference[key].max()
    np.testing.assert_allclose(ours[compared], reference[key][compared], rtol=1e-4, atol=max(rounding, 1e-6))


def vanishes(name: str, names: list[str]) -> bool:
    """Whether a gradient is zero but for rounding: the last bias of a weight head, the bias of the pairs' score."""
    first, _, place = name.partition(".")
    if name == "similarity_dense.bias":
        return True
    if not name.endswith("bias") or not (first.endswith("_weight_fc") or first in ("t_w", "v_w")):
        return False
    return place == max(other.partition(".")[2] for other in names if other.startswith(f"{first}.") and "bias" in other)


def assert_training(model, loss, reference: dict) -> None:
    """Repeat the recorded losses, gradients and optimiser steps.

    Args:
        model: with the recorded weights.
        loss: () -> named terms.
        reference: the golden arrays.
    """
    parameters, names = by_released_name(model), [str(name) for name in reference["param_names"]]
    if "delta_norm" in reference:
        initial = {name: x.detach().clone() for name, x in parameters.items()}
        optimizer = build_optimizer(model, TrainingOptions(), 10)
    model.train()
    for step, expected in enumerate(reference["losses"]):
        terms = loss()
        np.testing.assert_allclose(terms["loss"].item(), expected, rtol=3e-5)
        if step == len(reference["grad_total_norm"]):
            break
        model.zero_grad(set_to_none=True)
        terms["loss"].backward()
        if step == 0:
            assert [parameters[name].grad is not None for name in names] == reference["has_grad"].tolist()
            assert_gradients(model, reference)
            for name in ("ce_t2v", "ce_v2t", "answer_ce"):
                if f"component.{name}" in reference:
                    np.testing.assert_allclose(
                        terms[name].item(), reference[f"component.{name}"], rtol=1e-5, atol=1e-7
                    )
        total = np.linalg.norm([norm(x.grad) for x in parameters.values()])  # in double precision, as recorded
        np.testing.assert_allclose(total, reference["grad_total_norm"][step], rtol=1e-4)
        if "delta_norm" not in reference:
            return
        torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0)
        optimizer.step()
        model.after_step()
    moved = np.array([norm(parameters[name] - initial[name]) for name in names])
    compared = np.array([not vanishes(name, names) for name in names])
    np.testing.assert_allclose(moved[compared], reference["delta_norm"][compared], rtol=2e-3, atol=1e-7)
