"""What the entry scripts share: one task, one way to run it."""

import argparse
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from models import RetrievalMethod, Tokens
from models.export import model_digest
from utils.checkpoint import load_weights, read_weights, released_state
from utils.config import run_config, write_config
from utils.devices import autocast, set_precision, to_device
from utils.distributed import is_main, start
from utils.engine.builders import build_optimizer
from utils.engine.engine import Run
from utils.engine.options import TrainingOptions
from utils.engine.trainer import Trainer
from utils.gather import gather_shards
from utils.logger import make_logger, progress
from utils.randomness import seed_all

Results = TypeVar("Results", bound=tuple)


class Task(ABC, Generic[Results]):
    """Retrieval, question answering, the estimator: a model, its data, how it is evaluated and what is reported.

    Attributes:
        args: the command line.
        model: with encoders, on `device`.
        scalars: figures of the last `select` by name, for the log.
        checkpoint: whose weights it has; None: those of CLIP alone.
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
    def training_loader(self) -> DataLoader:
        """Load the training batches."""

    @abstractmethod
    def evaluate(self) -> Results:
        """Evaluate: the metrics first, then what else is reported; the same on every process."""

    @abstractmethod
    def report(self, results: Results) -> None:
        """Print and write the results; the main process calls it."""

    @property
    @abstractmethod
    def counts(self) -> dict[str, int]:
        """How many texts and videos `evaluate` uses, and how many are left out, as `utils.logger.used` reads them."""

    def about(self) -> dict[str, Any]:
        """What metrics.json says besides the metrics: the data used, the checkpoint, and the run's config."""
        checkpoint = self.checkpoint and {"file": str(self.checkpoint), "sha256": model_digest(self.checkpoint)}
        config = run_config(self.args, self.model).model_dump(mode="json")
        return {**self.counts, "checkpoint": checkpoint, "config": config}

    @abstractmethod
    def select(self) -> float:
        """Evaluate during training: a score, higher is better, the same on every process."""

    @cached_property
    def trained(self) -> nn.Module:
        """What is trained: called with a batch, returns loss terms."""
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
        """The weights that are written, by their released names."""
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
        """Apply a function to a whole loader.

        Args:
            loader: batches of named tensors, over a `Subset`: this process's shard, which may be empty.
            encode_batch: called with a batch on the device, returns tensors (B, ...).
            description: what is encoded, for the progress bar.

        Returns:
            What `encode_batch` returns, concatenated over batches.
        """

        def run(batch: dict[str, Tensor]) -> tuple[Tensor, ...]:
            with autocast(self.device, self.args.precision):
                return encode_batch(to_device(batch, self.device))

        parts = [run(batch) for batch in progress(loader, description, self.logger)]
        if not parts:  # an item of another process's shard has the shapes
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

    def load(self, state: dict[str, Tensor], source: object) -> None:
        """Load weights that `state` gave."""
        load_weights(self.trained, state, source)


def run_task(make: Callable[..., Task], args: argparse.Namespace) -> dict:
    """Train if the arguments say so, evaluate, report, and return the metrics."""
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
