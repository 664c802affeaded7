"""The training run of all tasks."""

import argparse
import logging
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from utils.checkpoint import save_weights
from utils.distributed import any_rank, barrier, from_main, is_main, restarts, world_size
from utils.engine.trainer import Trainer
from utils.engine.training_state import (
    TrainingStates,
    check_same_state,
    check_state,
    compare_arguments,
    read_state,
)
from utils.errors import InputError
from utils.files import remove
from utils.gather import gather_shards
from utils.logger import Scalars, progress
from utils.preemption import Preempted, StopRequest

PREFIX = "pytorch_model.bin."
"""`PREFIX + N` is written after epoch N, `PREFIX + best.N` when the score improves."""


class TrainedTask(Protocol):
    """Interface of a task in a run; see `utils.engine.task.Task`."""

    args: argparse.Namespace
    scalars: dict[str, float]

    @property
    def evaluate_every(self) -> int | None:
        """Batches between evaluations; None: after each epoch only."""

    @property
    def later_of_equals(self) -> bool:
        """Whether the later of equal scores is the best."""

    def select(self) -> float:
        """Evaluate; the score, higher is better, is the same on every process."""

    def state(self) -> dict[str, Tensor]:
        """The weights that are written, by name."""


class TrainingLoader(Protocol):
    """Batches of named tensors in the order of a `dataloaders.sampling.TrainingSampler`."""

    batch_size: Any
    dataset: Any
    sampler: Any

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[dict[str, Tensor]]: ...


class Run:
    """A training run: epochs, log, checkpoints, the best one by a score, and states to resume from.

    A state is saved right after an optimiser step, before any evaluation or checkpoint of that step, with which a
    resumed run begins.
    """

    def __init__(self, task: TrainedTask, trainer: Trainer, loader: TrainingLoader, logger: logging.Logger):
        """Prepare a run; the loader has a `dataloaders.sampling.TrainingSampler`."""
        self.task, self.trainer, self.loader, self.logger = task, trainer, loader, logger
        self.options = trainer.options
        self.output_dir = self.options.output_dir
        self.states = TrainingStates(self.output_dir / "training_state", self.options.keep)
        self.best_score, self.best_file = float("-inf"), None
        self.done = self.saved = 0  # batches trained on, now and in the last state
        self.bad_steps = 0

    def resume(self) -> None:
        """Restore the state that the options name; the main process chooses and checks it.

        Raises:
            InputError: it is missing, damaged, or of a run with other decisive arguments; or there are later states,
                which would be mixed with new ones; or the processes see different files.
        """
        chosen = from_main(self._choose)
        if chosen is None:
            return
        folder, description, size = chosen
        compare_arguments(description["arguments"], self.task.args, lambda line: self.logger.info("resumed: %s", line))
        if description["processes"] != world_size():
            self.logger.warning(
                "resumed: %d processes in the state, %d now: the results differ", description["processes"], world_size()
            )
        state = read_state(folder, size)
        check_same_state(state, folder)
        try:
            self.trainer.load_state(state)
        except (RuntimeError, ValueError) as error:
            raise InputError(f"{folder}: is the state of another model; give the arguments it was made with") from error
        if state["epoch"] != len(self.loader):
            raise InputError(
                f"{folder}: an epoch had {state['epoch']} steps, now {len(self.loader)}; give the same training data"
            )
        self.done = self.saved = state["done"]
        self.best_score, self.best_file = state["best_score"], state["best_file"]
        if self.best_file is not None:
            self.best_file = folder.parents[1] / self.best_file
            if not self.best_file.is_file():
                self.logger.warning("%s: is gone, the next evaluation finds the best checkpoint again", self.best_file)
                self.best_score, self.best_file = float("-inf"), None
        self.logger.info("resumed from %s, after step %d", folder, self.done)

    def _choose(self) -> tuple[Path, dict, int] | None:
        """The folder of the state to resume from, the content of its state.json, and the size of its state.pt."""
        newest, source = self.states.find(self.logger), self.options.resume
        if source is None and newest is not None and not restarts():
            raise InputError(f"{newest}: is the state of an earlier run; give --resume auto or another --output_dir")
        folder = newest if source in (None, "auto") else Path(source)
        if folder is None:
            return None
        description = check_state(folder)
        if newest not in (None, folder) and check_state(newest)["step"] > description["step"]:
            raise InputError(f"{newest}: is later than {folder}; to go back, remove it or give another --output_dir")
        return folder, description, (folder / "state.pt").stat().st_size

    def fit(self) -> Path:
        """Train to the last epoch and return the best checkpoint's path.

        Raises:
            Preempted: a signal requested to stop.
            InputError: too many steps without a finite loss and gradient.
        """
        log = Scalars(self.output_dir / "tensorboard", self.done, self.options.report_to)
        with StopRequest() as stop, log as scalars:
            if self.done:
                self._follow_up(scalars)
            for epoch in range(self.done // len(self.loader), self.options.epochs):
                self._train(epoch, scalars, stop)
        barrier()  # the file exists for all processes
        assert self.best_file is not None
        return self.best_file

    def _train(self, epoch: int, scalars: Scalars, stop: StopRequest) -> None:
        """Train for the rest of an epoch."""
        seen = self.done % len(self.loader)
        self.loader.sampler.set_epoch(epoch, seen * self.loader.batch_size)
        self.trainer.model.train()
        window, since_update, started = [], [], time.monotonic()
        title = f"epoch {epoch + 1} of {self.options.epochs}"
        batches = progress(self.loader, title, self.logger, total=len(self.loader) - seen)
        for step, batch in enumerate(batches, start=seen + 1):
            last = step == len(self.loader)
            update = last or step % self.options.gradient_accumulation_steps == 0
            since_update.append(self.trainer.step(batch, self.done, update=update))
            self.done += 1
            if update and self.trainer.finite:
                window += since_update
                self.bad_steps = 0
            elif update and self.trainer.overflowed:
                self.logger.debug("step %d is skipped, the loss scale of float16 was too large", self.done)
            elif update:
                self._report_bad_step(step, since_update)
            if window and (last or step % self.options.n_display == 0):
                means, started, taken = _means(window), time.monotonic(), time.monotonic() - started
                self.logger.info("epoch %d, step %d of %d: loss %.4f", epoch + 1, step, len(self.loader), means["loss"])
                scalars.add(means | self._pace(len(window), taken), self.done)
                window = []
            if update:
                since_update = []
                self._save_if_due(last, stop)
            self._follow_up(scalars)

    def _pace(self, steps: int, seconds: float) -> dict[str, float]:
        """Scalars of the last update, and of the speed: `steps` steps of all processes in `seconds`."""
        samples = steps * self.loader.batch_size * world_size()
        return {
            "learning_rate": self.trainer.learning_rate,
            "gradient_norm": self.trainer.gradient_norm,
            "samples_per_second": samples / seconds,
        }

    def _follow_up(self, scalars: Scalars) -> None:
        """Evaluate and write the epoch's checkpoint, if the step just done is due for it."""
        finished, step = divmod(self.done, len(self.loader))
        if step == 0:
            if is_main():
                save_weights(self.task.state(), self.output_dir / f"{PREFIX}{finished - 1}")
            scalars.add({"score": self._evaluate(finished - 1), **self.task.scalars}, self.done)
        elif self.task.evaluate_every and self.done % self.task.evaluate_every == 0:
            self._evaluate(finished)
            self.trainer.model.train()

    def _evaluate(self, epoch: int) -> float:
        """Evaluate the weights, and their average if there is one, and return the better score."""
        self.trainer.model.eval()
        score = self._keep_if_best(epoch)
        if self.trainer.average:
            with self.trainer.average.applied():
                score = max(score, self._keep_if_best(epoch))
        return score

    def _keep_if_best(self, epoch: int) -> float:
        """Evaluate, and keep the weights if they are the best so far."""
        score = self.task.select()
        if score > self.best_score or (score == self.best_score and self.task.later_of_equals):
            previous, self.best_file = self.best_file, self.output_dir / f"{PREFIX}best.{epoch}"
            self.best_score = score
            if is_main():
                save_weights(self.task.state(), self.best_file)
                if previous != self.best_file and previous and previous.parent == self.output_dir:
                    remove(previous, re.escape(PREFIX) + r"best\.\d+")
        return score

    def _save_if_due(self, epoch_ends: bool, stop: StopRequest) -> None:
        """Save after `save_every` steps and at the end of an epoch if that is set, and when any process must stop."""
        (stopping,) = any_rank(stop.received)
        every = self.options.save_every
        if stopping or (every and (epoch_ends or self.done - self.saved >= every)):
            folder = self._save()
        if stopping:
            line = f"stopped by a signal after step {self.done}: {folder} is saved, --resume auto resumes from it"
            raise Preempted(line)

    def _save(self) -> Path:
        """Save the state after the step just done; on return, every process can read it."""
        best = self.best_file and self.best_file.name
        progress_made = {"done": self.done, "epoch": len(self.loader), "best_score": self.best_score, "best_file": best}
        state = {**self.trainer.state(), **progress_made}
        if is_main():
            self.states.save(self.done, state, vars(self.task.args), world_size())
        barrier()
        self.saved = self.done
        return self.states.path(self.done)

    def _report_bad_step(self, step: int, since_update: list[dict[str, Tensor]]) -> None:
        """Log the terms and samples of a step that is not finite, and stop after too many in a row."""
        self.bad_steps += 1
        means = _means(since_update)
        values = gather_shards(torch.tensor([list(means.values())])).mean(0).tolist()
        places = slice((step - len(since_update)) * self.loader.batch_size, step * self.loader.batch_size)
        items = gather_shards(torch.tensor(self.loader.sampler.indices(places)))
        self.logger.warning(
            "step %d is skipped, its loss or gradient is not finite: %s; samples: %s",
            self.done,
            ", ".join(f"{name} {value:.4g}" for name, value in zip(means, values, strict=True)),
            ", ".join(self.loader.dataset.name(item) for item in items.tolist()),
        )
        if self.bad_steps == self.options.max_bad_steps:
            raise InputError(
                f"{self.bad_steps} steps in a row without a finite loss and gradient: choose a smaller --lr or "
                f"--precision fp32 and --resume auto; the last good state is {self._save()}"
            )


def _means(steps: list[dict[str, Tensor]]) -> dict[str, float]:
    """The mean of each term over steps; a host-device sync."""
    return {name: torch.stack([terms[name] for terms in steps]).mean().item() for name in steps[0]}
