"""The options of DiffusionRet, and their flags."""

import argparse
from dataclasses import dataclass, fields
from typing import Any

from models.baselines.diffusion import SCHEDULES
from models.method import MethodOptions
from utils.arguments import AMOUNT, COUNT, SHARE
from utils.errors import InputError
from utils.schema import Amount, Share, Size

STAGES = ("discrimination", "generation")


@dataclass(frozen=True)
class DiffusionRetOptions(MethodOptions):
    """Keywords of `models.baselines.diffusionret.DiffusionRet`.

    Attributes:
        stage: "discrimination" trains the encoder; "generation" trains the denoisers on the frozen encoder.
        diffusion_steps: T, in training and evaluation; every published command says 50.
        noise_schedule: "cosine" or "linear".
        temp: temperature of the pooling of frames by a text.
        d_temp: factor of the denoised distribution in the cross-entropy.
        neg: value of the negatives in the distribution to be denoised, 0 or -1.
        num: hardest negatives of a training pair, fewer than the pairs of a batch over all processes.
        t2v_num, v2t_num: candidates that evaluation reranks.
        t2v_temp, v2t_temp: factor of the sampled distribution before its softmax.
        t2v_alpha, v2t_alpha: weight of that softmax next to the similarity.
        moment: decay of the moving average of the weights, which is evaluated as well.
    """

    stage: str = "generation"
    diffusion_steps: Size = 50
    noise_schedule: str = "cosine"
    temp: Amount = 1.0
    d_temp: Amount = 100.0
    neg: int = 0
    num: Size = 127
    t2v_num: Size = 32
    v2t_num: Size = 32
    t2v_temp: float = 1.0
    v2t_temp: float = 1.0
    t2v_alpha: float = 1.0
    v2t_alpha: float = 1.0
    moment: Share = 0.99

    def __post_init__(self) -> None:
        if self.stage not in STAGES:
            raise ValueError(f"unknown stage {self.stage!r}: choose {' or '.join(STAGES)}")


HELP = {
    "diffusion_steps": (COUNT, "steps of the diffusion, in training and evaluation"),
    "temp": (AMOUNT, "temperature of the pooling of frames"),
    "d_temp": (AMOUNT, "factor of the denoised distribution in the loss"),
    "num": (COUNT, "hardest negatives of a training pair"),
    "t2v_num": (COUNT, "videos of a text that are ranked again"),
    "v2t_num": (COUNT, "texts of a video that are ranked again"),
    "t2v_temp": (AMOUNT, "factor of the distribution sampled over videos"),
    "v2t_temp": (AMOUNT, "factor of the distribution sampled over texts"),
    "t2v_alpha": (AMOUNT, "weight of the distribution sampled over videos"),
    "v2t_alpha": (AMOUNT, "weight of the distribution sampled over texts"),
    "moment": (SHARE, "decay of the averaged weights, which are evaluated as well"),
}


def add_diffusionret_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of DiffusionRet, which reads frames by the cv2 rule and without augmentation."""
    default = DiffusionRetOptions()
    parser.set_defaults(frame_rule="cv2", augment="none")
    group = parser.add_argument_group("DiffusionRet")
    group.add_argument("--stage", choices=STAGES,
                       help="left out: generation in training, what the checkpoint is of in evaluation")
    group.add_argument("--noise_schedule", choices=SCHEDULES, default=default.noise_schedule, help="of the diffusion")
    group.add_argument("--neg", type=int, choices=(-1, 0), default=default.neg,
                       help="value of the negatives in the distribution that is denoised")
    for name, (kind, help_) in HELP.items():
        group.add_argument(f"--{name}", type=kind, default=getattr(default, name), help=help_)


def diffusionret_options_from(args: argparse.Namespace) -> dict[str, Any]:
    """Keywords of the constructor from the command line.

    Raises:
        InputError: generation without a trained discriminative stage, or more negatives than a batch has.
    """
    stage = args.stage or ("generation" if args.do_train or not args.init_model else None)
    if stage == "generation" and not args.init_model:
        raise InputError(
            "--stage generation starts from a trained discriminative stage; "
            "give its checkpoint as --init_model, or --stage discrimination"
        )
    if stage == "generation" and args.do_train:
        check_num(args.num, args.batch_size)
    options = {field.name: getattr(args, field.name) for field in fields(DiffusionRetOptions)}
    return {name: value for name, value in (options | {"stage": stage}).items() if value is not None}


def check_num(num: int, batch: int) -> None:
    """Raise an InputError unless `num` negatives are fewer than the pairs of a batch."""
    if num >= batch:
        raise InputError(
            f"--num {num}: a batch of {batch} pairs has {batch - 1} negatives; "
            "give a smaller --num or a larger --batch_size"
        )
