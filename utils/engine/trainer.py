"""Optimiser steps of all tasks."""

import math

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from utils.devices import autocast, to_device
from utils.distributed import any_rank, rank, world_size
from utils.engine.average import WeightAverage
from utils.engine.options import TrainingOptions
from utils.randomness import derived_seed

MAX_GRADIENT_NORM = 1.0


class Trainer:
    """Steps of one model: forward, backward, clipping, optimiser, over one process or several.

    The random draws of a step depend on the seed and the step's number, so nothing of them is saved. They are the same
    on every process, as each computes the loss of the whole batch; a `generator` of the model is seeded with the rank,
    too.

    Attributes:
        finite: whether the loss and the gradient of the last update were finite on every process. If not, it moved
            nothing.
        average: moving average of the weights, where the model has a `moment`.
        gradient_norm: of the last update, before clipping.
        overflowed: whether only the scaled gradient of float16 was not finite: the scale was too large.
    """

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, *, device: torch.device, options: TrainingOptions
    ):
        """Prepare training.

        Args:
            model: called with a batch's tensors by name, returns named loss terms and "loss"; on `device` already. Its
                `after_step()` runs after each optimiser step.
            optimizer: of its trainable parameters.
            device: of this process.
            options: of the run; float16 is trained with loss scaling.
        """
        self.model, self.optimizer, self.device, self.options = model, optimizer, device, options
        # The only buffers are constants and statistics that are never applied.
        ddp = {"broadcast_buffers": False, "gradient_as_bucket_view": True}
        self.parallel = DistributedDataParallel(model, **ddp) if world_size() > 1 else model
        self.scaler = torch.amp.GradScaler(device.type, enabled=options.precision == "fp16")
        self.finite, self.overflowed, self.gradient_norm, self._losses = True, False, 0.0, []
        moment = getattr(model, "moment", None)
        self.average = None if moment is None else WeightAverage(self._trained(), moment)

    def step(self, batch: dict[str, Tensor], number: int = 0, *, update: bool) -> dict[str, Tensor]:
        """Learn from one batch; with `update` the optimiser moves, otherwise gradients only add up.

        Args:
            batch: named tensors.
            number: batches trained on before.
            update: whether this is the last batch of an optimiser step.

        Returns:
            The loss terms, detached, on the device.
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
        """Move the optimiser, unless a loss or the gradient is not finite on some process: then none moves.

        The decision is the only host-device sync of a step.
        """
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self._trained(), MAX_GRADIENT_NORM)
        *losses, self.gradient_norm = torch.stack([*self._losses, norm]).tolist()
        self._losses.clear()
        failed = not all(map(math.isfinite, losses)), not math.isfinite(self.gradient_norm)
        loss_failed, norm_failed = any_rank(*failed)
        self.finite = not (loss_failed or norm_failed)
        self.overflowed = self.scaler.is_enabled() and norm_failed and not loss_failed
        if self.finite:
            self.scaler.step(self.optimizer)
            self.model.after_step()
            if self.average:
                self.average.update()
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)

    @property
    def learning_rate(self) -> float:
        """Outside of CLIP, in the last update."""
        return max(group.get("rate", group["lr"]) for group in self.optimizer.param_groups)

    def _trained(self) -> list[nn.Parameter]:
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def state(self) -> dict:
        """All that training changes."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict()["state"],
            "scaler": self.scaler.state_dict(),
            "average": self.average.values if self.average else [],
        }

    def load_state(self, state: dict) -> None:
        """Restore what `state` returned; the optimiser's settings stay as they were built.

        Raises:
            RuntimeError: the state is that of another model.
        """
        self.model.load_state_dict(state["model"])
        settings = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state["optimizer"], "param_groups": settings})
        if state["scaler"]:  # empty without loss scaling
            self.scaler.load_state_dict(state["scaler"])
        if self.average:
            self.average.load(state["average"])
