"""The training loop and the encoding loop of all entry scripts.

Dimension letters: B items of a batch.
"""

import argparse
import logging
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from models import HBI, load_model
from utils.checkpoint import released_name, released_state, save_weights
from utils.distributed import barrier, gather_shards, is_main, world_size
from utils.logger import Scalars, progress
from utils.optim import BertAdam, parameter_groups

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
MAX_GRADIENT_NORM = 1.0


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The context in which a forward pass runs in `precision`, one of fp32, bf16, fp16."""
    dtype = PRECISIONS[precision]
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not torch.float32)


def to_device(batch: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Copy a batch to `device`, without waiting where its memory is pinned."""
    return {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}


def build_model(args: argparse.Namespace, device: torch.device, **options) -> HBI:
    """The model that the arguments describe.

    Args:
        args: of an entry script.
        device: where the model goes.
        **options: of `models.load_model`, beside those that all entry scripts have.
    """
    if not args.init_model:
        options |= {"temporal": args.agg_module, "temporal_layers": args.num_hidden_layers}
    model = load_model(
        args.init_model,
        base_encoder=args.base_encoder,
        device=device,
        trust_checkpoint=args.trust_checkpoint,
        interaction=args.interaction,
        recipe=args.recipe,
        **options,
    )
    model.clip.set_grad_checkpointing(args.grad_checkpointing)
    return model


def level_options(args: argparse.Namespace) -> dict:
    """The options of `build_model` that a script has which trains the levels."""
    return {
        "estimator": args.estimator,
        "rates": args.rate,
        "trained_levels": args.num_levels,
        "kl": args.kl,
        "skl": args.skl,
        "teacher": args.teacher,
    }


def build_optimizer(
    model: nn.Module, *, lr: float, coef_lr: float, weight_decay: float, warmup: float, total_steps: int
) -> BertAdam:
    """The released optimiser over the trainable parameters, grouped by their released names; see `utils.optim`."""
    named = ((released_name(name), parameter) for name, parameter in model.named_parameters())
    groups = parameter_groups(named, lr, coef_lr, weight_decay)
    return BertAdam(groups, lr=lr, total_steps=max(total_steps, 1), warmup=warmup)


def schedule_steps(loader: DataLoader, accumulation: int, epochs: int) -> int:
    """Optimiser steps of `epochs` passes over a loader of which `accumulation` batches make a step."""
    return -(-len(loader) // accumulation) * epochs


class Trainer:
    """Steps of one model: forward, backward, clipping, optimiser, over one process or several."""

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
                `after_step()` runs after each optimiser step.
            optimizer: of its trainable parameters.
            device: of this process.
            precision: of the forward pass, fp32, bf16 or fp16 (with loss scaling).
            accumulation: batches whose gradients are averaged into one optimiser step.
        """
        self.model, self.optimizer, self.device = model, optimizer, device
        self.precision, self.accumulation = precision, accumulation
        self.parallel = DistributedDataParallel(model) if world_size() > 1 else model
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")

    def step(self, batch: dict[str, Tensor], *, update: bool) -> dict[str, Tensor]:
        """Learn from one batch; with `update` the optimiser moves, otherwise gradients only add up.

        Returns:
            The loss terms, detached, on the device: nothing here waits for it.
        """
        if isinstance(self.parallel, DistributedDataParallel):
            self.parallel.require_backward_grad_sync = update
        with autocast(self.device, self.precision):
            terms = self.parallel(**to_device(batch, self.device))
        self.scaler.scale(terms["loss"] / self.accumulation).backward()
        if update:
            self.scaler.unscale_(self.optimizer)
            trained = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
            nn.utils.clip_grad_norm_(trained, MAX_GRADIENT_NORM)
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.optimizer.zero_grad(set_to_none=True)
            self.model.after_step()
        return {name: value.detach() for name, value in terms.items()}


class Run:
    """A training run: epochs, log, checkpoints after each, and the best one by a score."""

    def __init__(
        self,
        trainer: Trainer,
        output_dir: str | Path,
        logger: logging.Logger,
        *,
        evaluate: Callable[[], float],
        state: Callable[[], dict[str, Tensor]],
        display: int = 50,
        evaluate_every: int | None = None,
        prefix: str = "pytorch_model.bin.",
    ):
        """Prepare a run.

        Args:
            trainer: takes the steps.
            output_dir: for checkpoints and TensorBoard scalars.
            logger: where the lines go.
            evaluate: gives the score, higher is better, the same on every process.
            state: gives the weights that are written, name -> tensor.
            display: steps between lines of the log.
            evaluate_every: steps between evaluations within an epoch; None: after each epoch only.
            prefix: `<prefix>N` is written after epoch N, `<prefix>best.N` whenever the score rises.
        """
        self.trainer, self.output_dir, self.logger = trainer, Path(output_dir), logger
        self.evaluate, self.state, self.display, self.evaluate_every = evaluate, state, display, evaluate_every
        self.prefix, self.best_score, self.best_file = prefix, float("-inf"), None

    def fit(self, loader: DataLoader, epochs: int) -> Path:
        """Train for `epochs` passes over `loader` (batches of named tensors) and return the best checkpoint's path."""
        with Scalars(self.output_dir / "tensorboard") as scalars:
            for epoch in range(epochs):
                self._train(loader, epoch, epochs, scalars)
                if is_main():
                    save_weights(self.state(), self.output_dir / f"{self.prefix}{epoch}")
                scalars.add({"score": self._rate(epoch)}, (epoch + 1) * len(loader))
        barrier()  # the file is there for the processes that did not write it, too
        return self.best_file

    def _train(self, loader: DataLoader, epoch: int, epochs: int, scalars: Scalars) -> None:
        """One pass over the loader; the device is waited for only where a line is written."""
        if hasattr(loader.sampler, "set_epoch"):
            loader.sampler.set_epoch(epoch)
        self.trainer.model.train()
        window = []
        for step, batch in enumerate(progress(loader, f"epoch {epoch + 1} of {epochs}", self.logger), start=1):
            last = step == len(loader)
            window.append(self.trainer.step(batch, update=last or step % self.trainer.accumulation == 0))
            if last or step % self.display == 0:
                means = {name: torch.stack([terms[name] for terms in window]).mean().item() for name in window[0]}
                window = []
                self.logger.info("epoch %d, step %d of %d: loss %.4f", epoch + 1, step, len(loader), means["loss"])
                scalars.add(means, epoch * len(loader) + step)
            if self.evaluate_every and step % self.evaluate_every == 0 and not last:
                self._rate(epoch)
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
                if previous not in (None, self.best_file):
                    previous.unlink(missing_ok=True)
        return score


def build_run(
    args: argparse.Namespace,
    model: nn.Module,
    loader: DataLoader,
    device: torch.device,
    logger: logging.Logger,
    *,
    schedule_epochs: int,
    evaluate: Callable[[], float],
    evaluate_every: int | None = None,
    state: Callable[[], dict[str, Tensor]] | None = None,
) -> Run:
    """The training run that the arguments describe.

    Args:
        args: of an entry script.
        model: see `Trainer`.
        loader: whose length gives the steps of an epoch.
        device: of this process.
        logger: where the lines go.
        schedule_epochs: horizon of the learning-rate schedule.
        evaluate: see `Run`.
        evaluate_every: see `Run`.
        state: see `Run`; None: the whole model's, in the released spelling.
    """
    optimizer = build_optimizer(
        model,
        lr=args.lr,
        coef_lr=args.coef_lr,
        weight_decay=args.weight_decay,
        warmup=args.warmup_proportion,
        total_steps=schedule_steps(loader, args.gradient_accumulation_steps, schedule_epochs),
    )
    trainer = Trainer(
        model,
        optimizer,
        device=device,
        precision=args.precision,
        accumulation=args.gradient_accumulation_steps,
    )
    return Run(
        trainer,
        args.output_dir,
        logger,
        evaluate=evaluate,
        state=state or (lambda: released_state(model)),
        display=args.n_display,
        evaluate_every=evaluate_every,
    )


@torch.inference_mode()
def encode(
    loader: DataLoader,
    encode_batch: Callable[[dict[str, Tensor]], tuple[Tensor, ...]],
    *,
    device: torch.device,
    precision: str,
    description: str,
    logger: logging.Logger,
) -> tuple[Tensor, ...]:
    """Encode a whole loader.

    Args:
        loader: batches of named tensors, over a `Subset`: this process's share, which may be empty.
        encode_batch: called with a batch on `device`, returns tensors (B, ...).
        device: where it runs.
        precision: fp32, bf16 or fp16.
        description: what is encoded, for the progress shown.
        logger: where the progress goes.

    Returns:
        What `encode_batch` returns, concatenated over batches.
    """

    def run(batch: dict[str, Tensor]) -> tuple[Tensor, ...]:
        with autocast(device, precision):
            return encode_batch(to_device(batch, device))

    parts = [run(batch) for batch in progress(loader, description, logger)]
    if not parts:  # an item of another process's share tells the shapes
        example = run(loader.collate_fn([loader.dataset.dataset[0]]))
        parts = [tuple(tensor[:0] for tensor in example)]
    return tuple(torch.cat(tensors) for tensors in zip(*parts, strict=True))


def encode_clips(
    model: nn.Module, loader: DataLoader, *, device: torch.device, precision: str, logger: logging.Logger
) -> tuple[Tensor, Tensor]:
    """Frame tokens (B, N_v, D) and mask (B, N_v) of all clips of all processes; arguments as for `encode`."""
    shard = encode(
        loader,
        lambda batch: (model.frame_tokens(batch["frames"], batch["video_mask"]), batch["video_mask"]),
        device=device,
        precision=precision,
        description="clips",
        logger=logger,
    )
    return tuple(gather_shards(tensor) for tensor in shard)
