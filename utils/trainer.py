"""Optimiser steps of all entry scripts."""

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from utils.devices import autocast, to_device
from utils.distributed import any_rank, world_size
from utils.randomness import random_state, restore_random_state

MAX_GRADIENT_NORM = 1.0


class Trainer:
    """Steps of one model: forward, backward, clipping, optimiser, over one process or several.

    Attributes:
        finite: whether the loss and the gradient of the last update were finite on every process. If not, it moved
            nothing.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        device: torch.device,
        precision: str = "fp32",
        accumulation: int = 1,
    ):
        """Prepare training.

        Args:
            model: called with a batch's tensors by name, returns named loss terms and "loss"; on `device` already. Its
                `after_step()` runs after each optimiser step; a `generator` that it draws from is part of the state.
            optimizer: of its trainable parameters.
            device: of this process.
            precision: of the forward pass, fp32, bf16 or fp16 (with loss scaling).
            accumulation: batches whose gradients are averaged into one optimiser step.
        """
        self.model, self.optimizer, self.device = model, optimizer, device
        self.precision, self.accumulation = precision, accumulation
        self.parallel = DistributedDataParallel(model) if world_size() > 1 else model
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
        self.finite, self._losses = True, []

    def step(self, batch: dict[str, Tensor], *, update: bool) -> dict[str, Tensor]:
        """Learn from one batch; with `update` the optimiser moves, otherwise gradients only add up.

        Returns:
            The loss terms, detached, on the device.
        """
        if isinstance(self.parallel, DistributedDataParallel):
            self.parallel.require_backward_grad_sync = update
        with autocast(self.device, self.precision):
            terms = self.parallel(**to_device(batch, self.device))
        self.scaler.scale(terms["loss"] / self.accumulation).backward()
        terms = {name: value.detach() for name, value in terms.items()}
        self._losses.append(terms["loss"].float())
        if update:
            self._update()
        return terms

    def _update(self) -> None:
        """Move the optimiser, unless a loss or the gradient is not finite on some process: then none moves.

        The decision is the one thing that the device is waited for in a step.
        """
        self.scaler.unscale_(self.optimizer)
        trained = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        norm = nn.utils.clip_grad_norm_(trained, MAX_GRADIENT_NORM)
        self.finite = not any_rank(not torch.stack([norm, *self._losses]).isfinite().all())
        self._losses.clear()
        if self.finite:
            self.scaler.step(self.optimizer)
            self.model.after_step()
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)

    def state(self) -> dict:
        """All that training changes; every process calls it, and the processes' random states are in it."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict()["state"],
            "scaler": self.scaler.state_dict(),
            "random": random_state(self.device, getattr(self.model, "generator", None)),
        }

    def load_state(self, state: dict) -> None:
        """Go on from what `state` gave; the optimiser's settings stay as they were built.

        Raises:
            RuntimeError: the state is that of another model.
        """
        self.model.load_state_dict(state["model"])
        settings = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state["optimizer"], "param_groups": settings})
        if state["scaler"]:  # empty without loss scaling
            self.scaler.load_state_dict(state["scaler"])
        restore_random_state(state["random"], self.device, getattr(self.model, "generator", None))
