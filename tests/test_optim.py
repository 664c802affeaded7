import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from utils.engine import optim
from utils.engine.optim import BertAdam, parameter_groups, warmup_cosine

GOLDEN = Path(__file__).parent / "golden"


def naive_step(parameter, gradient, state, lr, decay, total_steps, warmup=0.1):
    """One released step on one array, number by number."""
    norm = math.sqrt(sum(value * value for value in gradient.flat))
    progress = state["steps"] / total_steps
    rate = progress / warmup if progress < warmup else 0.5 * (1 + math.cos(math.pi * progress))
    for place in np.ndindex(parameter.shape):
        clipped = gradient[place] * min(1, 1 / (norm + 1e-6))
        state["m"][place] = 0.9 * state["m"][place] + 0.1 * clipped
        state["v"][place] = 0.98 * state["v"][place] + 0.02 * clipped**2
        update = state["m"][place] / (math.sqrt(state["v"][place]) + 1e-6) + decay * parameter[place]
        parameter[place] -= lr * rate * update
    state["steps"] += 1


def make_model():
    torch.manual_seed(0)
    return torch.nn.ModuleDict(
        {
            "clip": torch.nn.ModuleDict({"ln_final": torch.nn.LayerNorm(5), "projection": torch.nn.Linear(5, 4)}),
            "transformerClip": torch.nn.Linear(4, 3),
            "LayerNorm": torch.nn.LayerNorm(3),
        }
    ).double()


def set_gradients(model, step, scale):
    for number, (name, parameter) in enumerate(model.named_parameters()):
        generator = torch.Generator().manual_seed(100 * step + number)
        gradient = scale * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        # One parameter is missing from every other step, and one has an all-zero gradient.
        absent = name == "transformerClip.weight" and step % 2
        parameter.grad = None if absent else torch.zeros_like(gradient) if "projection.w" in name else gradient


@pytest.mark.parametrize("scale", [0.01, 10.0])  # below and above the clipping norm
def test_steps_equal_a_naive_optimiser(scale):
    model = make_model()
    groups = parameter_groups(model.named_parameters(), lr=1e-2, coef_lr=1e-1, weight_decay=0.2)
    optimiser = BertAdam(groups, lr=1e-2, total_steps=20)
    expected = {name: parameter.detach().numpy().copy() for name, parameter in model.named_parameters()}
    states = {name: {"steps": 0, "m": 0 * array, "v": 0 * array} for name, array in expected.items()}
    for step in range(8):
        set_gradients(model, step, scale)
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                lr = 1e-3 if name.startswith("clip.") else 1e-2
                decay = 0.0 if "bias" in name or "LayerNorm.weight" in name else 0.2
                naive_step(expected[name], parameter.grad.numpy().copy(), states[name], lr, decay, total_steps=20)
        optimiser.step()
    for name, parameter in model.named_parameters():
        np.testing.assert_allclose(parameter.detach().numpy(), expected[name], rtol=1e-12, atol=1e-14, err_msg=name)
    counts = {name: optimiser.state[parameter]["steps"] for name, parameter in model.named_parameters()}
    assert counts.pop("transformerClip.weight") == 4 and set(counts.values()) == {8}


@pytest.mark.parametrize("scale", [0.01, 0.4, 10.0])  # the largest norm below 1, between 1 and 2, and far above
def test_given_norms_clip_as_those_that_are_computed(scale):
    weights = []
    for given in (False, True):
        model = make_model()
        optimiser = BertAdam(parameter_groups(model.named_parameters(), 1e-2, 0.1, 0.2), lr=1e-2, total_steps=20)
        for step in range(4):
            set_gradients(model, step, scale)
            parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
            norms = [parameter.grad.norm().item() for parameter in parameters if parameter.grad is not None]
            optimiser.step(norms=norms if given else None)
        weights.append([parameter.detach() for parameter in model.parameters()])
    for found, expected in zip(*reversed(weights), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


class Kernels(TorchDispatchMode):
    """Names the operations of a step, and refuses lists whose tensors differ in shape, which a GPU takes singly."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        if "profiler::" not in function.name():
            self.names.append(function.name())
        lists = [each for each in arguments if isinstance(each, list | tuple) and torch.is_tensor(each[0])]
        assert all([x.shape for x in one] == [x.shape for x in lists[0]] for one in lists), function
        return function(*arguments, **(options or {}))


def test_a_step_on_a_gpu_takes_few_kernels_over_all_parameters(monkeypatch):
    monkeypatch.setattr(optim, "PORTION", 10)
    parameters = [torch.nn.Parameter(torch.empty(3, number, device="meta")) for number in range(1, 31)]
    optimiser = BertAdam(parameters, lr=0.1, total_steps=10)
    for parameter in parameters:
        parameter.grad = torch.empty_like(parameter)
    with Kernels() as kernels:
        optimiser.step(norms=[2.0] * len(parameters))
    assert len(kernels.names) <= 12 and all("_foreach_" in name for name in kernels.names), kernels.names


def test_first_step_moves_nothing_and_zero_gradients_decay():
    parameter = torch.nn.Parameter(torch.ones(3))
    optimiser = BertAdam([parameter], lr=0.1, total_steps=10, weight_decay=0.2)
    for expected in (1.0, 1 - 0.1 * 0.2 * warmup_cosine(0.1, 0.1)):
        parameter.grad = torch.zeros(3)
        optimiser.step()
        torch.testing.assert_close(parameter.detach(), torch.full((3,), expected))


def test_schedule_matches_the_recorded_factors():
    assert [round(warmup_cosine(step / 10, 0.1), 5) for step in range(3)] == [0, 0.97553, 0.90451]
    assert warmup_cosine(0.05, 0.1) == 0.5
    assert warmup_cosine(1, 0.1) == 0
    assert warmup_cosine(1.5, 0.1) > 0.4  # beyond the horizon the cosine rises again
    assert warmup_cosine(0, 0) == 1  # without warmup the first step is a full one


@pytest.mark.parametrize("case", ["a1", "a2", "a5"])
def test_groups_are_those_of_the_released_code(case):
    with np.load(GOLDEN / f"train_A_{case}.npz") as golden:
        names, trainable, recorded = golden["param_names"], golden["requires_grad"], golden["optim_group"]
    parameters = {
        name: torch.nn.Parameter(torch.zeros(1), requires_grad=bool(flag))
        for name, flag in zip(names, trainable, strict=True)
    }
    groups = parameter_groups(parameters.items(), lr=1.0, coef_lr=0.5, weight_decay=0.2)
    settings = {
        id(parameter): (group["lr"], group["weight_decay"]) for group in groups for parameter in group["params"]
    }
    meaning = [(0.5, 0.2), (1.0, 0.2), (0.5, 0.0), (1.0, 0.0)]
    for name, flag, number in zip(names, trainable, recorded, strict=True):
        assert settings.get(id(parameters[name])) == (meaning[number] if flag else None), name


def test_empty_groups_are_left_out():
    groups = parameter_groups([("head.weight", torch.nn.Parameter(torch.zeros(1)))], 1.0, 0.1, 0.2)
    assert len(groups) == 1


def test_a_reloaded_optimiser_goes_on_where_it_stopped():
    torch.manual_seed(0)
    first = torch.nn.Parameter(torch.randn(4, 2))
    optimiser = BertAdam([first], lr=0.1, total_steps=10)
    gradients = torch.randn(6, 4, 2)
    for gradient in gradients[:3]:
        first.grad = gradient.clone()
        optimiser.step()
    second = torch.nn.Parameter(first.detach().clone())
    resumed = BertAdam([second], lr=0.7, total_steps=99)
    resumed.load_state_dict(copy.deepcopy(optimiser.state_dict()))
    for gradient in gradients[3:]:
        for parameter, taker in ((first, optimiser), (second, resumed)):
            parameter.grad = gradient.clone()
            taker.step()
    assert torch.equal(first, second)


def test_a_closure_is_evaluated_with_gradients():
    parameter = torch.nn.Parameter(torch.tensor([3.0]))
    optimiser = BertAdam([parameter], lr=0.1, total_steps=10, warmup=0.0)

    def closure():
        optimiser.zero_grad()
        loss = (parameter**2).sum()
        loss.backward()
        return loss

    assert optimiser.step(closure).item() == 9
    assert parameter.item() < 3


@pytest.mark.parametrize(
    "settings", [{"total_steps": 0}, {"warmup": -0.1}, {"warmup": 1.1}, {"lr": -1.0}]
)
def test_settings_outside_their_range_are_refused(settings):
    with pytest.raises(ValueError, match="total_steps"):
        BertAdam([torch.nn.Parameter(torch.zeros(1))], **{"lr": 0.1, "total_steps": 10, **settings})


@pytest.mark.parametrize("settings", [{"total_steps": 1}, {"warmup": 0.0}, {"warmup": 1.0}, {"lr": 0.0}])
def test_settings_at_the_ends_of_their_range_are_allowed(settings):
    group = BertAdam([torch.nn.Parameter(torch.zeros(1))], **{"lr": 0.1, "total_steps": 10, **settings}).param_groups[0]
    assert settings.items() <= group.items()
