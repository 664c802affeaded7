"""Build model and optimiser from the arguments of an entry script."""

import argparse
from typing import Any

import torch
from torch import nn

from models import RetrievalMethod, load_model
from utils.checkpoint import released_names
from utils.engine.optim import BertAdam, parameter_groups
from utils.engine.options import TrainingOptions
from utils.errors import InputError
from utils.memory import keep_freed_memory

VARIANTS = 32
"""Compiled forms of a block: with and without gradient, mask, chosen queries, for one sample or many, of each width."""


def build_model(args: argparse.Namespace, device: torch.device, **options: Any) -> RetrievalMethod:
    """Build the model; `options` are those of `models.load_model` that not all entry scripts have.

    Raises:
        InputError: the weights cannot be loaded, or have no positions for that many words or frames.
    """
    if not args.init_model:
        options = {"temporal": args.agg_module, "temporal_layers": args.num_hidden_layers} | options
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
    """Raise an InputError for more words or frames than a model has positions, or fewer than 2 words."""
    words, frames = model.clip.config.context_length, model.max_frames
    if not 2 <= max_words <= words:
        raise InputError(f"--max_words {max_words}: the model has {words} positions; give 2 to {words}")
    if max_frames > frames:
        raise InputError(f"--max_frames {max_frames}: the model has {frames} positions; give 1 to {frames}")


def save_memory(model: RetrievalMethod, enabled: bool) -> None:
    """Trade time for memory: activation checkpointing, and freed blocks of a megabyte or more go back to the system."""
    model.clip.set_grad_checkpointing(enabled)
    if enabled:
        keep_freed_memory(below=2**20)


def compile_towers(model: RetrievalMethod) -> None:
    """Compile the blocks of both towers on their first run, equal ones once; parameter names stay.

    Raises:
        InputError: this machine cannot compile.
    """
    try:
        torch.compile(torch.sin)(torch.ones(2, device=model.device))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"--compile: cannot compile here ({reason}); install a C++ compiler such as g++ or leave out --compile"
        ) from error
    torch._dynamo.config.recompile_limit = VARIANTS  # ty: ignore[invalid-assignment]  # not its default alone
    for tower in (model.clip.visual, model.clip):
        for block in tower.transformer.resblocks:
            block.compile()


def build_optimizer(model: nn.Module, options: TrainingOptions, total_steps: int) -> BertAdam:
    """The released optimiser over the trainable parameters, grouped by their released names; see `optim`."""
    names = released_names(model)
    named = ((names[name], parameter) for name, parameter in model.named_parameters())
    groups = parameter_groups(named, options.lr, options.coef_lr, options.weight_decay)
    return BertAdam(groups, lr=options.lr, total_steps=max(total_steps, 1), warmup=options.warmup_proportion)
