"""Optimiser steps."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from utils.devices import autocast, to_device
from utils.distributed import any_rank, rank, world_size
from utils.engine.average import WeightAverage
from utils.engine.optim import BertAdam
from utils.engine.options import TrainingOptions
from utils.randomness import derived_seed

MAX_GRADIENT_NORM = 1.0


class Trainer:
    """Steps of one model: forward, backward, clipping, optimiser, over one process or several.

    Random draws of a step depend on the seed and the step's number alone. They are the same on every process, as each
    computes the loss of the whole batch; a `generator` of the model is seeded with the rank, too.

    Attributes:
        finite: whether loss and gradient of the last update were finite on all processes; if not, it was skipped.
        average: moving average of the weights, where the model has a `moment`.
        gradient_norm: of the last update, before clipping.
        overflowed: whether only the scaled gradient of float16 was not finite.
    """

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, *, device: torch.device, options: TrainingOptions
    ):
        """Prepare training; float16 uses loss scaling.

        `model` is on `device`, maps a batch's tensors by name to named loss terms and "loss", and has `after_step()`,
        called after each optimiser step.
        """
        self.model, self.optimizer, self.device, self.options = model, optimizer, device, options
        # The only buffers are constants and statistics that are never applied.
        ddp: dict[str, Any] = {"broadcast_buffers": False, "gradient_as_bucket_view": True}
        self.parallel = DistributedDataParallel(model, **ddp) if world_size() > 1 else model
        self.scaler = torch.amp.GradScaler(device.type, enabled=options.precision == "fp16")
        self.finite, self.overflowed, self.gradient_norm, self._losses = True, False, 0.0, []
        moment = getattr(model, "moment", None)
        self.average = None if moment is None else WeightAverage(self._trained(), moment)

    def step(self, batch: dict[str, Tensor], number: int = 0, *, update: bool) -> dict[str, Tensor]:
        """Accumulate the gradient of a batch, and with `update` take an optimiser step.

        `number` is that of the batch in the run, from 0. Returns the loss terms, detached, on the device.
        """
        torch.manual_seed(derived_seed(self.options.seed, number))
        if generator := getattr(self.model, "generator", None):
            generator.manual_seed(derived_seed(self.options.seed, number, rank()))
        if isinstance(self.parallel, DistributedDataParallel):
            self.parallel.require_backward_grad_sync = update
        with autocast(self.device, self.options.precision):
            terms = self.parallel(**to_device(batch, self.device))
        self.scaler.scale(terms["loss"] / self.options.gradient_accumulation_steps).backward()
        terms = {name: value.detach() for name, value in terms.items()}
        self._losses.append(terms["loss"].float())
        if update:
            self._update()
        return terms

    def _update(self) -> None:
        """Take an optimiser step, if loss and gradient are finite on all processes: the only host-device sync."""
        self.scaler.unscale_(self.optimizer)
        gradients = [parameter.grad for parameter in self._trained() if parameter.grad is not None]
        values = torch.stack([*self._losses, *torch._foreach_norm(gradients)]).tolist()
        losses, norms = values[: len(self._losses)], values[len(self._losses) :]
        self.gradient_norm = math.hypot(*norms)
        self._losses.clear()
        failed = not all(map(math.isfinite, losses)), not math.isfinite(self.gradient_norm)
        loss_failed, norm_failed = any_rank(*failed)
        self.finite = not (loss_failed or norm_failed)
        self.overflowed = self.scaler.is_enabled() and norm_failed and not loss_failed
        if self.finite:
            share = min(1.0, MAX_GRADIENT_NORM / (self.gradient_norm + 1e-6))
            if share < 1:
                torch._foreach_mul_(gradients, share)
            norms = {"norms": [share * norm for norm in norms]} if isinstance(self.optimizer, BertAdam) else {}
            self.scaler.step(self.optimizer, **norms)
            self.model.after_step()  # ty: ignore[not-callable]  # every trained model has it
            if self.average:
                self.average.update()
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)

    @property
    def learning_rate(self) -> float:
        """The learning rate outside CLIP in the last update."""
        return max(group.get("rate", group["lr"]) for group in self.optimizer.param_groups)

    def _trained(self) -> list[nn.Parameter]:
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def state(self) -> dict:
        """The state of training, for `load_state`."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict()["state"],
            "scaler": self.scaler.state_dict(),
            "average": self.average.values if self.average else [],
        }

    def load_state(self, state: dict) -> None:
        """Restore a state, the optimiser's settings excluded; that of another model is a RuntimeError."""
        self.model.load_state_dict(state["model"])
        settings = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state["optimizer"], "param_groups": settings})
        if state["scaler"]:  # empty without loss scaling
            self.scaler.load_state_dict(state["scaler"])
        if self.average:
            self.average.load(state["average"])
