"""The options of a training run."""

import argparse
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class TrainingOptions:
    """Options of the trainer, named as the flags.

    Attributes:
        output_dir: for checkpoints, states and TensorBoard scalars.
        epochs: passes over the training data.
        lr, coef_lr, weight_decay, warmup_proportion: see `utils.engine.optim`.
        gradient_accumulation_steps: batches whose gradients are averaged into one optimiser step.
        precision: of the forward pass, a key of `utils.devices.PRECISIONS`.
        seed: of the random draws in a step.
        n_display: steps between lines of the log.
        save_every: steps between states, in addition to those at the ends of epochs; None: only when requested to stop.
        keep: number of states that are kept.
        max_bad_steps: the run ends after as many updates in a row without a finite loss and gradient.
        resume: "auto", a state's folder, or None.
        report_to: client that also gets the scalars, a key of `utils.logger.CLIENTS`, or None.
    """

    output_dir: Path = Path(".")
    epochs: int = 1
    lr: float = 1e-4
    coef_lr: float = 1e-3
    weight_decay: float = 0.2
    warmup_proportion: float = 0.1
    gradient_accumulation_steps: int = 1
    precision: str = "fp32"
    seed: int = 42
    n_display: int = 50
    save_every: int | None = None
    keep: int = 2
    max_bad_steps: int = 20
    resume: str | None = None
    report_to: str | None = None

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> "TrainingOptions":
        """Take the options from the flags of an entry script."""
        values: dict[str, Any] = {field.name: getattr(args, field.name) for field in fields(cls)}
        values["output_dir"] = Path(args.output_dir)
        return cls(**values)
