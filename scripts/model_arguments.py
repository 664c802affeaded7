"""Which model a script loads, and how it was trained."""

import argparse
from pathlib import Path
from typing import Any

from models.hbi_options import add_merge_arguments


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """The checkpoint of a retrieval model, what its file does not tell, and the device."""
    model = parser.add_argument_group("model")
    model.add_argument("--checkpoint", required=True,
                       help="pytorch_model.bin.N, or the folder of an export, which tells the rest")
    model.add_argument("--base_encoder", help="CLIP weights it was trained from, if not OpenAI's; the name is enough")
    model.add_argument("--recipe", choices=("released", "corrected"), default="released", help="as it was trained")
    add_merge_arguments(parser)
    add_device_arguments(parser)


def add_device_arguments(parser: argparse.ArgumentParser) -> None:
    """Where the model runs, and how the script ends."""
    parser.add_argument("--device", help="as PyTorch names it; left out: CUDA where there is one, else the CPU")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error in the input")


def model_options(args: argparse.Namespace, **further: Any) -> dict[str, Any]:
    """The keywords of `models.load_model` that the arguments tell, all but the device.

    Args:
        args: of `add_model_arguments`.
        **further: keywords that count as the arguments do: not where the checkpoint is an export, which tells its own.
    """
    where = {"checkpoint": args.checkpoint, "base_encoder": args.base_encoder}
    if Path(args.checkpoint).is_dir():
        return where
    return {
        **where,
        "recipe": args.recipe,
        "text_rates": (args.t_rate0, args.t_rate1),
        "video_rates": (args.v_rate0, args.v_rate1),
        **further,
    }
