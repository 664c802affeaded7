"""The tasks of the entry scripts, and how they are run."""

import argparse
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

from models import RetrievalMethod, Tokens
from models.export import model_digest
from utils.checkpoint import load_weights, read_weights, released_state
from utils.config import run_config, write_config
from utils.devices import autocast, set_precision, to_device
from utils.distributed import is_main, start
from utils.engine.builders import build_optimizer
from utils.engine.engine import Run, TrainingLoader
from utils.engine.options import TrainingOptions
from utils.engine.trainer import Trainer
from utils.gather import gather_shards
from utils.logger import make_logger, progress
from utils.randomness import seed_all

Results = TypeVar("Results", bound=tuple)


class Task(ABC, Generic[Results]):
    """A task such as retrieval: a model, its data, evaluation and report.

    Attributes:
        args: the command line.
        model: on `device`.
        scalars: figures of the last `select` by name, for the log.
        checkpoint: file of the model's weights; None: CLIP's alone.
        evaluate_every: batches between evaluations, counted over all epochs; None: after each epoch only.
    """

    evaluate_every: int | None = None

    def __init__(self, args: argparse.Namespace, device: torch.device, logger: logging.Logger):
        self.args, self.device, self.logger = args, device, logger
        self.scalars: dict[str, float] = {}
        self.checkpoint = args.init_model
        self.model = self.build_model()

    @abstractmethod
    def build_model(self) -> RetrievalMethod:
        """Build the model that the arguments describe."""

    @abstractmethod
    def training_loader(self) -> TrainingLoader:
        """Load the training batches."""

    @abstractmethod
    def evaluate(self) -> Results:
        """Evaluate; the results start with the metrics, and are the same on every process."""

    @abstractmethod
    def report(self, results: Results) -> None:
        """Print and write the results, in the main process."""

    @property
    @abstractmethod
    def counts(self) -> dict[str, int]:
        """Numbers of texts and videos that `evaluate` uses and leaves out, for `utils.logger.used`."""

    def about(self) -> dict[str, Any]:
        """Data, checkpoint and config of the run for metrics.json."""
        checkpoint = self.checkpoint and {"file": str(self.checkpoint), "sha256": model_digest(self.checkpoint)}
        config = run_config(self.args, self.model).model_dump(mode="json")
        return {**self.counts, "checkpoint": checkpoint, "config": config}

    @abstractmethod
    def select(self) -> float:
        """Evaluate during training; the score, higher is better, is the same on every process."""

    @cached_property
    def trained(self) -> nn.Module:
        """The trained module, which maps a batch to loss terms."""
        return self.model

    @property
    def schedule_epochs(self) -> int:
        """Horizon of the learning-rate schedule."""
        return self.model.schedule_epochs or self.args.epochs

    @property
    def later_of_equals(self) -> bool:
        """Whether the later of equal scores is the best."""
        return self.model.recipe.later_of_equals

    def state(self) -> dict[str, Tensor]:
        """The weights of a checkpoint, by their released names."""
        return released_state(self.trained)

    def encode_texts(self, loader: DataLoader) -> Tokens:
        """Word tokens of this process's texts."""

        def encode(batch: dict[str, Tensor]) -> Tokens:
            return Tokens(self.model.text_tokens(batch["ids"], batch["text_mask"]), batch["text_mask"])

        return Tokens(*self.encode(loader, encode, "captions"))

    def encode_clips(self, loader: DataLoader) -> Tokens:
        """Frame tokens of the clips of all processes."""

        def encode(batch: dict[str, Tensor]) -> Tokens:
            return Tokens(self.model.frame_tokens(batch["frames"], batch["video_mask"]), batch["video_mask"])

        return Tokens(*map(gather_shards, self.encode(loader, encode, "clips")))

    @torch.inference_mode()
    def encode(
        self, loader: DataLoader, encode_batch: Callable[[dict[str, Tensor]], tuple[Tensor, ...]], description: str
    ) -> tuple[Tensor, ...]:
        """Apply a function to all batches of this process's shard, which may be empty, and concatenate the results.

        Args:
            loader: batches of named tensors, over a `Subset`.
            encode_batch: called with a batch on the device, returns tensors (B, ...).
            description: for the progress bar.
        """

        def run(batch: dict[str, Tensor]) -> tuple[Tensor, ...]:
            with autocast(self.device, self.args.precision):
                return encode_batch(to_device(batch, self.device))

        parts = [run(batch) for batch in progress(loader, description, self.logger)]
        if not parts:  # take the shapes from an item of another process's shard
            assert isinstance(loader.dataset, Subset)
            example = run(loader.collate_fn([loader.dataset.dataset[0]]))
            parts = [tuple(tensor[:0] for tensor in example)]
        return tuple(torch.cat(tensors) for tensors in zip(*parts, strict=True))

    def train(self) -> None:
        """Train, and load the best weights."""
        options, loader = TrainingOptions.from_args(self.args), self.training_loader()
        steps = -(-len(loader) // options.gradient_accumulation_steps) * self.schedule_epochs
        optimizer = build_optimizer(self.trained, options, steps)
        run = Run(self, Trainer(self.trained, optimizer, device=self.device, options=options), loader, self.logger)
        run.resume()
        if is_main():
            write_config(run_config(self.args, self.model), self.args.output_dir)
        self.checkpoint = run.fit()
        self.load(read_weights(self.checkpoint), self.checkpoint)

    def load(self, state: dict[str, Tensor], source: str | Path) -> None:
        """Load weights in the form of `state`."""
        load_weights(self.trained, state, source)


def run_task(make: Callable[..., Task], args: argparse.Namespace) -> dict:
    """Train if requested, evaluate, report, and return the metrics."""
    device = start(args.device, args.local_rank)
    seed_all(args.seed, deterministic=args.deterministic)
    logger = make_logger(args.output_dir)
    for note in args.notes:
        logger.info(note)
    logger.info(set_precision(args.precision, device))
    task = make(args, device, logger)
    if args.do_train:
        task.train()
    results = task.evaluate()
    if is_main():
        task.report(results)
    return results[0]
