"""From the arguments of an entry script to its model and its training run."""

import argparse
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from models import RetrievalMethod, load_model
from utils.checkpoint import released_names, released_state
from utils.distributed import restarts
from utils.engine import Run
from utils.errors import InputError
from utils.memory import keep_freed_memory
from utils.optim import BertAdam, parameter_groups
from utils.trainer import Trainer
from utils.training_state import TrainingStates


def build_model(args: argparse.Namespace, device: torch.device, **options: Any) -> RetrievalMethod:
    """The model that the arguments describe.

    Args:
        args: of an entry script.
        device: where the model goes.
        **options: of `models.load_model`, on top of those that all entry scripts have.

    Raises:
        InputError: the weights cannot be loaded, or have no positions for that many words or frames.
    """
    if not args.init_model:
        options |= {"temporal": args.agg_module, "temporal_layers": args.num_hidden_layers}
    model = load_model(
        args.init_model,
        base_encoder=args.base_encoder,
        device=device,
        trust_checkpoint=args.trust_checkpoint,
        **options,
    )
    check_sizes(model, args.max_words, args.max_frames)
    save_memory(model, args.grad_checkpointing)
    if args.compile:
        compile_towers(model)
    return model


def check_sizes(model: RetrievalMethod, max_words: int, max_frames: int) -> None:
    """Refuse numbers of words and frames that a model has no positions for.

    Raises:
        InputError: one is too large, or there are fewer than 2 words.
    """
    words, frames = model.clip.config.context_length, model.temporal.max_frames
    if not 2 <= max_words <= words:
        raise InputError(f"--max_words {max_words}: the model has {words} positions; give 2 to {words}")
    if max_frames > frames:
        raise InputError(f"--max_frames {max_frames}: the model has {frames} positions; give 1 to {frames}")


def save_memory(model: RetrievalMethod, enabled: bool) -> None:
    """Trade time for memory: compute activations again, and give back what is freed, a megabyte or more at a time."""
    model.clip.set_grad_checkpointing(enabled)
    if enabled:
        keep_freed_memory(below=2**20)


def compile_towers(model: RetrievalMethod) -> None:
    """Have the blocks of both towers compiled when they first run, one for all that are alike; names stay as they are.

    Raises:
        InputError: nothing can be compiled on this machine.
    """
    try:
        torch.compile(torch.sin)(torch.ones(2, device=model.device))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"--compile: cannot compile here ({reason}); install a C++ compiler such as g++ or leave out --compile"
        ) from error
    for tower in (model.clip.visual, model.clip):
        for block in tower.transformer.resblocks:
            block.compile()


def build_optimizer(
    model: nn.Module, *, lr: float, coef_lr: float, weight_decay: float, warmup: float, total_steps: int
) -> BertAdam:
    """The released optimiser over the trainable parameters, grouped by their released names; see `utils.optim`."""
    names = released_names(model)
    named = ((names[name], parameter) for name, parameter in model.named_parameters())
    groups = parameter_groups(named, lr, coef_lr, weight_decay)
    return BertAdam(groups, lr=lr, total_steps=max(total_steps, 1), warmup=warmup)


def schedule_steps(loader: DataLoader, accumulation: int, epochs: int) -> int:
    """Optimiser steps of `epochs` passes over a loader of which `accumulation` batches make a step."""
    return -(-len(loader) // accumulation) * epochs


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
    """The training run that the arguments describe, at the step where it was saved if it is to resume.

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
    run = Run(
        trainer,
        loader,
        args.output_dir,
        logger,
        evaluate=evaluate,
        state=state or (lambda: released_state(model)),
        display=args.n_display,
        evaluate_every=evaluate_every,
        states=TrainingStates(Path(args.output_dir) / "training_state", args.keep),
        save_every=args.save_every,
        max_bad_steps=args.max_bad_steps,
        arguments=args,
    )
    begun = restarts() and run.states.find(logger) is not None
    run.resume("auto" if begun else args.resume)
    return run
