"""Optimiser steps against a plain PyTorch loop: scaling, clipping, accumulation, skipped steps, draws."""

import copy

import pytest
import torch
import torch.distributed as dist
from torch import nn

from tests.processes import run_together
from utils.engine.average import WeightAverage
from utils.engine.optim import BertAdam
from utils.engine.options import TrainingOptions
from utils.engine.trainer import MAX_GRADIENT_NORM, Trainer

CPU = torch.device("cpu")


class Regression(nn.Module):
    """A linear model with a squared loss; `scale` multiplies the loss, and `offset`, without a gradient, adds to it."""

    offset = 0.0

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 1)
        with torch.no_grad():
            self.linear.weight.copy_(torch.tensor([[0.5, -0.25, 1.0]]))
            self.linear.bias.zero_()

    def forward(self, x, scale):
        return {"loss": (self.linear(x).squeeze(1).float() * scale).square().mean() + self.offset}

    def after_step(self):
        pass


def trainer(lr=0.1, **options):
    model = Regression()
    return Trainer(
        model, torch.optim.SGD(model.parameters(), lr=lr), device=CPU, options=TrainingOptions(**options)
    )


def batch(first=0, last=4, scale=1.0):
    x = torch.tensor([[1.0, 2.0, 0.5], [0.25, -1.0, 2.0], [4.0, 1.0, -1.0], [-2.0, 0.5, 1.0]])
    return {"x": x[first:last], "scale": torch.full((last - first,), scale)}


def plain_step(scale=1.0, lr=0.1):
    """The weights after one step of a loop written out."""
    model = Regression()
    model(**batch(scale=scale))["loss"].backward()
    norm = torch.cat([p.grad.flatten() for p in model.parameters()]).norm()
    factor = min(1.0, MAX_GRADIENT_NORM / (norm.item() + 1e-6))
    return [p.detach() - lr * factor * p.grad for p in model.parameters()], norm


@pytest.mark.parametrize("scale", [0.05, 5.0], ids=["below the limit", "clipped"])
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-6), ("bf16", 2e-2), ("fp16", 2e-3)])
def test_a_step_is_that_of_a_plain_loop_in_every_precision(precision, tolerance, scale):
    expected, norm = plain_step(scale)
    assert (norm > MAX_GRADIENT_NORM) == (scale > 1)
    trained = trainer(precision=precision)
    trained.scaler = torch.amp.GradScaler("cpu", init_scale=64.0, enabled=precision == "fp16")
    trained.step(batch(scale=scale), 0, update=True)
    assert trained.finite
    for found, wanted in zip(trained.model.parameters(), expected, strict=True):
        torch.testing.assert_close(found.detach(), wanted, atol=tolerance, rtol=0)


def test_accumulated_halves_move_like_the_whole_batch():
    expected, _ = plain_step(scale=0.05)
    trained = trainer(gradient_accumulation_steps=2)
    trained.step(batch(0, 2, scale=0.05), 0, update=False)
    before = [p.detach().clone() for p in trained.model.parameters()]
    assert all(torch.equal(*pair) for pair in zip(before, Regression().parameters(), strict=True))
    trained.step(batch(2, 4, scale=0.05), 1, update=True)
    for found, wanted in zip(trained.model.parameters(), expected, strict=True):
        torch.testing.assert_close(found.detach(), wanted, atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize("broken", [0, 1])
def test_one_loss_that_is_not_finite_stops_the_whole_update(broken):
    """Its gradient may be finite: 3e38 squared overflows only in the loss."""
    trained = trainer(gradient_accumulation_steps=2)
    for number in (0, 1):
        scale = 3e38 if number == broken else 0.05
        trained.step(batch(2 * number, 2 * number + 2, scale=scale), number, update=number == 1)
    assert not trained.finite and not trained.overflowed
    assert all(torch.equal(*pair) for pair in zip(trained.model.parameters(), Regression().parameters(), strict=True))
    trained.step(batch(scale=0.05), 2, update=True)
    assert trained.finite


def test_a_scale_that_is_too_large_is_distinguished_from_a_bad_step():
    trained = trainer(precision="fp16")
    trained.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    trained.step(batch(), 0, update=True)
    assert trained.overflowed and not trained.finite
    assert trained.scaler.get_scale() < 2.0**127


class Drawing(Regression):
    """Notes what it draws in each step."""

    def __init__(self):
        super().__init__()
        self.generator, self.drawn = torch.Generator(), []

    def forward(self, x, scale):
        self.drawn.append((torch.rand(()).item(), torch.rand((), generator=self.generator).item()))
        return super().forward(x, scale)


def draws(numbers, seed=0):
    model = Drawing()
    trained = Trainer(model, torch.optim.SGD(model.parameters()), device=CPU, options=TrainingOptions(seed=seed))
    for number in numbers:
        trained.step(batch(), number, update=True)
    return model.drawn


def test_draws_depend_on_seed_and_step_alone():
    whole = draws([0, 1, 2, 3])
    torch.rand(5)
    assert draws([2, 3]) == whole[2:]
    for drawn, others in zip(zip(*whole, strict=True), zip(*draws([0, 1], seed=1), strict=True), strict=True):
        assert len(set(drawn)) == 4 and not set(drawn) & set(others)


def one_of_two(folder: str) -> None:
    """Train on two processes: in step 1 the loss of process 1 alone is infinite, and no gradient is."""
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    model = Drawing()
    trained = Trainer(model, torch.optim.SGD(model.parameters(), lr=0.1), device=CPU, options=TrainingOptions())
    weights = []
    for number in range(3):
        model.offset = torch.inf if (rank, number) == (1, 1) else 0.0
        trained.step(batch(2 * rank, 2 * rank + 2, scale=0.05), number, update=True)
        weights.append(model.linear.weight.detach().clone())
    torch.save({"weights": weights, "drawn": model.drawn}, f"{folder}/{rank}.pt")


def test_two_processes_skip_a_step_together_and_draw_apart(tmp_path):
    run_together(tmp_path / "log.txt", 2, one_of_two, str(tmp_path))
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert all(torch.equal(*pair) for pair in zip(first["weights"], second["weights"], strict=True))
    start, skipped, last = first["weights"]
    assert torch.equal(start, skipped) and not torch.equal(skipped, last)
    for (shared, own), (other_shared, other_own) in zip(first["drawn"], second["drawn"], strict=True):
        assert shared == other_shared and own != other_own


def test_every_loss_since_the_last_update_must_be_finite():
    """Of two batches that make a step the first has an infinite loss, and both have finite gradients."""
    trained = trainer(gradient_accumulation_steps=2)
    before = [p.detach().clone() for p in trained.model.parameters()]
    for number, offset in enumerate((torch.inf, 0.0)):
        trained.model.offset = offset
        trained.step(batch(), number, update=bool(number))
    assert not trained.finite
    assert all(torch.equal(p, old) for p, old in zip(trained.model.parameters(), before, strict=True))


def test_an_average_follows_the_weights_and_is_lent_to_the_model():
    weight = nn.Parameter(torch.tensor([1.0, 2.0]))
    average = WeightAverage([weight], moment=0.75)
    with torch.no_grad():
        weight += torch.tensor([4.0, 0.0])
    average.update()
    with pytest.raises(KeyError), average.applied():
        assert weight.tolist() == average.values[0].tolist() == [2.0, 2.0]
        raise KeyError
    assert weight.tolist() == [5.0, 2.0] and average.values[0].tolist() == [2.0, 2.0]
    average.load([torch.tensor([7.0, 8.0])])
    assert average.values[0].tolist() == [7.0, 8.0]
    with pytest.raises(ValueError):
        average.load([])


class Averaged(Regression):
    moment = 0.5


def averaged(lr, precision):
    model = Averaged()
    options = TrainingOptions(precision=precision)
    return Trainer(model, torch.optim.Adam(model.parameters(), lr=lr), device=CPU, options=options)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_restored_state_goes_on_as_the_saved_run_would(precision):
    """With the settings of its own optimiser."""
    first, second = averaged(0.1, precision), averaged(0.3, precision)
    first.scaler = torch.amp.GradScaler("cpu", init_scale=64.0, enabled=precision == "fp16")
    first.step(batch(scale=0.05), 0, update=True)
    second.load_state(copy.deepcopy(first.state()))
    assert second.optimizer.param_groups[0]["lr"] == 0.3 and second.scaler.get_scale() == first.scaler.get_scale()
    first.optimizer.param_groups[0]["lr"] = 0.3
    for trained in (first, second):
        trained.step(batch(1, 3, scale=0.05), 1, update=True)
    for found, expected in zip(second.model.parameters(), first.model.parameters(), strict=True):
        assert torch.equal(found, expected)
    assert all(torch.equal(*pair) for pair in zip(second.average.values, first.average.values, strict=True))


def test_the_state_of_another_model_is_refused():
    other = trainer()
    other.model.linear = nn.Linear(2, 1)
    with pytest.raises(RuntimeError):
        trainer().load_state(other.state())


def test_the_released_optimiser_gets_the_norms_of_the_clipped_gradients():
    model, plain = Regression(), Regression()
    optimisers = [BertAdam(each.parameters(), lr=0.1, total_steps=9, warmup=0.0) for each in (model, plain)]
    trained = Trainer(model, optimisers[0], device=CPU, options=TrainingOptions())
    for scale in (5.0, 0.05):
        trained.step(batch(scale=scale), update=True)
        optimisers[1].zero_grad()
        plain(**batch(scale=scale))["loss"].backward()
        nn.utils.clip_grad_norm_(plain.parameters(), MAX_GRADIENT_NORM)
        optimisers[1].step()
    for found, expected in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(found, expected)
