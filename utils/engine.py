"""The training run of all entry scripts."""

import argparse
import logging
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from utils.checkpoint import save_weights
from utils.distributed import any_rank, barrier, gather_shards, is_main, world_size
from utils.errors import InputError
from utils.logger import Scalars, progress
from utils.preemption import Preempted, StopRequest
from utils.trainer import Trainer
from utils.training_state import TrainingStates, check_state, compare_arguments, read_state


class Run:
    """A training run: epochs, log, checkpoints after each, the best one by a score, and states to resume from.

    A state is saved right after an optimiser step, before what follows that step (an evaluation, the checkpoint of an
    epoch), and a resumed run begins with that.
    """

    def __init__(
        self,
        trainer: Trainer,
        loader: DataLoader,
        output_dir: str | Path,
        logger: logging.Logger,
        *,
        evaluate: Callable[[], float],
        state: Callable[[], dict[str, Tensor]],
        states: TrainingStates,
        arguments: argparse.Namespace,
        max_bad_steps: int,
        save_every: int | None = None,
        display: int = 50,
        evaluate_every: int | None = None,
        prefix: str = "pytorch_model.bin.",
    ):
        """Prepare a run.

        Args:
            trainer: takes the steps.
            loader: batches of named tensors, in the order of a `dataloaders.sampling.TrainingSampler`.
            output_dir: for checkpoints and TensorBoard scalars.
            logger: where the lines go.
            evaluate: gives the score, higher is better, the same on every process.
            state: gives the weights that are written, name -> tensor.
            states: where the states go.
            arguments: what a resumed run is compared by.
            max_bad_steps: updates in a row without a finite loss and gradient that end the run.
            save_every: steps between states, beside those at the ends of epochs; None: only when asked to stop.
            display: steps between lines of the log.
            evaluate_every: steps between evaluations within an epoch; None: after each epoch only.
            prefix: `<prefix>N` is written after epoch N, `<prefix>best.N` whenever the score rises.
        """
        self.trainer, self.loader, self.output_dir, self.logger = trainer, loader, Path(output_dir), logger
        self.evaluate, self.state, self.display, self.evaluate_every = evaluate, state, display, evaluate_every
        self.prefix, self.best_score, self.best_file = prefix, float("-inf"), None
        self.states, self.save_every, self.arguments = states, save_every, arguments
        self.max_bad_steps, self.bad_steps = max_bad_steps, 0
        self.done = self.saved = 0  # batches trained on, and those of the last state

    def resume(self, source: str | Path | None) -> None:
        """Go back to a saved state.

        Args:
            source: its folder; "auto": the newest whole one of this run, or the beginning if there is none; None: the
                beginning.

        Raises:
            InputError: it is missing, damaged, or of a run with other decisive arguments; or there are later states,
                which the run would mix with its own.
        """
        newest = self.states.find(self.logger)
        if source is None and newest is not None:
            raise InputError(f"{newest}: is the state of an earlier run; give --resume auto or another --output_dir")
        folder = newest if source in (None, "auto") else Path(source)
        if folder is None:
            return
        description = check_state(folder)
        if newest not in (None, folder) and check_state(newest)["step"] > description["step"]:
            raise InputError(f"{newest}: is later than {folder}; to go back, remove it or give another --output_dir")
        compare_arguments(description["arguments"], self.arguments, lambda line: self.logger.info("resumed: %s", line))
        if description["processes"] != world_size():
            self.logger.warning(
                "resumed: %d processes in the state, %d now: the results differ", description["processes"], world_size()
            )
        state = read_state(folder)
        try:
            self.trainer.load_state(state)
        except (RuntimeError, ValueError) as error:
            raise InputError(f"{folder}: is the state of another model; give the arguments it was made with") from error
        if state["epoch"] != len(self.loader):
            raise InputError(
                f"{folder}: an epoch had {state['epoch']} steps, now {len(self.loader)}; give the same training data"
            )
        self.done, self.best_score = state["done"], state["best_score"]
        self.saved = self.done
        self.best_file = state["best_file"] and folder.parents[1] / state["best_file"]
        if self.best_file and not self.best_file.is_file():
            self.logger.warning("%s: is gone, the next evaluation finds the best checkpoint anew", self.best_file)
            self.best_score, self.best_file = float("-inf"), None
        self.logger.info("resumed from %s, after step %d", folder, self.done)

    def fit(self, epochs: int) -> Path:
        """Train for `epochs` passes over the loader and return the best checkpoint's path.

        Raises:
            Preempted: a signal asked to stop.
            InputError: too many steps without a finite loss and gradient.
        """
        with StopRequest() as stop, Scalars(self.output_dir / "tensorboard", self.done) as scalars:
            if self.done:
                self._follow_up(scalars)
            for epoch in range(self.done // len(self.loader), epochs):
                self._train(epoch, epochs, scalars, stop)
        barrier()  # the file is there for the processes that did not write it, too
        return self.best_file

    def _train(self, epoch: int, epochs: int, scalars: Scalars, stop: StopRequest) -> None:
        """The rest of one pass over the loader."""
        seen = self.done % len(self.loader)
        self.loader.sampler.set_epoch(epoch, seen * self.loader.batch_size)
        self.trainer.model.train()
        window, since_update = [], []
        batches = progress(self.loader, f"epoch {epoch + 1} of {epochs}", self.logger, total=len(self.loader) - seen)
        for step, batch in enumerate(batches, start=seen + 1):
            last = step == len(self.loader)
            update = last or step % self.trainer.accumulation == 0
            since_update.append(self.trainer.step(batch, update=update))
            self.done += 1
            if update and self.trainer.finite:
                window += since_update
                self.bad_steps = 0
            elif update:
                self._tell_bad_step(step, since_update)
            if window and (last or step % self.display == 0):
                means = _means(window)
                window = []
                self.logger.info("epoch %d, step %d of %d: loss %.4f", epoch + 1, step, len(self.loader), means["loss"])
                scalars.add(means, self.done)
            if update:
                since_update = []
                self._save_if_due(last, stop)
            self._follow_up(scalars)

    def _follow_up(self, scalars: Scalars) -> None:
        """What comes after the step just done, if anything: an evaluation, and after an epoch its checkpoint."""
        finished, step = divmod(self.done, len(self.loader))
        if step == 0:
            if is_main():
                save_weights(self.state(), self.output_dir / f"{self.prefix}{finished - 1}")
            scalars.add({"score": self._rate(finished - 1)}, self.done)
        elif self.evaluate_every and step % self.evaluate_every == 0:
            self._rate(finished)
            self.trainer.model.train()

    def _rate(self, epoch: int) -> float:
        """Evaluate, and keep the weights if none before were as good."""
        self.trainer.model.eval()
        score = self.evaluate()
        if score > self.best_score:
            previous, self.best_file = self.best_file, self.output_dir / f"{self.prefix}best.{epoch}"
            self.best_score = score
            if is_main():
                save_weights(self.state(), self.best_file)
                if previous != self.best_file and previous and previous.parent == self.output_dir:
                    previous.unlink(missing_ok=True)
        return score

    def _save_if_due(self, epoch_ends: bool, stop: StopRequest) -> None:
        """Save after every `save_every` steps and at the end of an epoch, and when any process is asked to stop."""
        stopping = any_rank(stop.received)
        if stopping or (self.save_every and (epoch_ends or self.done - self.saved >= self.save_every)):
            folder = self._save()
        if stopping:
            raise Preempted(f"asked to stop after step {self.done}: {folder} is saved, --resume auto goes on from it")

    def _save(self) -> Path:
        """Save the state after the step just done; when it returns, the state is there for every process."""
        best = self.best_file and self.best_file.name
        progress_made = {"done": self.done, "epoch": len(self.loader), "best_score": self.best_score, "best_file": best}
        state = {**self.trainer.state(), **progress_made}
        if is_main():
            self.states.save(self.done, state, vars(self.arguments), world_size())
        barrier()
        self.saved = self.done
        return self.states.path(self.done)

    def _tell_bad_step(self, step: int, since_update: list[dict[str, Tensor]]) -> None:
        """Log what was in a step that is not finite, and stop if there were too many in a row."""
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
        if self.bad_steps == self.max_bad_steps:
            raise InputError(
                f"{self.bad_steps} steps in a row without a finite loss and gradient: choose a smaller --lr or "
                f"--precision fp32 and --resume auto; the last good state is {self._save()}"
            )


def _means(steps: list[dict[str, Tensor]]) -> dict[str, float]:
    """The mean of each term over steps; the device is waited for."""
    return {name: torch.stack([terms[name] for terms in steps]).mean().item() for name in steps[0]}
