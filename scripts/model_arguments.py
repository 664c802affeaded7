"""Flags of scripts that load a model."""

import argparse
from typing import Any

from models import METHODS
from utils.arguments import AMOUNT, SHARE


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of a checkpoint, and of options that neither weights nor config.json contain."""
    model = parser.add_argument_group("model, where no config.json next to the weights describes it")
    model.add_argument("--checkpoint", required=True,
                       help="pytorch_model.bin.N, the folder of a run or an export, or USER/MODEL on the Hub")
    model.add_argument("--method", choices=tuple(METHODS), help="left out: found by the weights' names")
    model.add_argument("--base_encoder", help="CLIP weights it was trained from, if not OpenAI's; the name is enough")
    model.add_argument("--recipe", choices=("released", "corrected"), help="as it was trained; left out: released")
    for side, tokens in (("text", "words"), ("video", "frames")):
        model.add_argument(f"--{side}_rates", type=SHARE, nargs=2, metavar=("ACTION", "EVENT"),
                           help=f"HBI's merged {tokens} of each level, as a share of those of the level below")
    model.add_argument("--rate", dest="rates", type=AMOUNT, nargs=3, metavar=("ENTITY", "ACTION", "EVENT"),
                       help="weights of HBI's levels")


def add_device_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the device and of error reports."""
    parser.add_argument("--device", help="as PyTorch names it; left out: CUDA where there is one, else the CPU")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error in the input")


def model_options(args: argparse.Namespace) -> dict[str, Any]:
    """Keywords of `models.load_model`, the device excluded, from the arguments of `add_model_arguments`."""
    names = ("checkpoint", "method", "base_encoder", "recipe", "text_rates", "video_rates", "rates")
    given = {name: value for name in names if (value := getattr(args, name)) is not None}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
