"""The options of HBI, and their flags."""

import argparse
import logging
from dataclasses import dataclass
from typing import Any, Literal

from models.answering import add_freeze_argument
from models.attended_head import ANSWER_HEADS
from models.method import MethodOptions
from models.ranked_estimator import NETWORKS
from models.reconstruction import SCOPES
from models.teacher import TEACHERS
from utils.arguments import AMOUNT, SHARE
from utils.schema import Amount, Share

LEVELS = ("entity", "action", "event")

logger = logging.getLogger("hbi")


@dataclass(frozen=True)
class HBIOptions(MethodOptions):
    """Keywords of `models.hbi.HBI`."""

    interaction: str = "wti"  # learned token weights, anything else for the unweighted mean
    text_rates: tuple[Share, Share] = (0.25, 0.5)  # clusters per word of the merges into the action and event level
    video_rates: tuple[Share, Share] = (0.25, 0.5)  # the same per frame
    rates: tuple[Amount, Amount, Amount] = (1.0, 0.0, 0.0)  # weight of each level's similarity in evaluation
    trained_levels: Literal[1, 2, 3] = len(LEVELS)  # from entity upwards, in the loss
    kl: Amount = 0.2  # weight of the distillation between levels
    skl: Amount = 1.0  # weight of the Banzhaf alignment; with 0 it is not computed
    network: str = "released"  # of the estimator, one of `models.ranked_estimator.NETWORKS`
    teacher: str = "estimator"  # one of `models.teacher.TEACHERS`; the estimator is frozen
    reconstruct: str = "none"  # one of `models.reconstruction.SCOPES`
    reconstruct_share: Share = 0.3  # of the reconstruction in the game; 0: there is none

    def __post_init__(self) -> None:
        if self.teacher not in TEACHERS:
            raise ValueError(f"unknown teacher {self.teacher!r}: choose one of {', '.join(TEACHERS)}")
        if self.reconstruct not in SCOPES:
            raise ValueError(f"unknown scope {self.reconstruct!r}: choose one of {', '.join(SCOPES)}")


@dataclass(frozen=True)
class HBIVQAOptions(HBIOptions):
    """Keywords of `models.hbi_vqa.HBIVQA`: merge rates and level weights as released for questions."""

    text_rates: tuple[Share, Share] = (0.25, 0.125)
    video_rates: tuple[Share, Share] = (0.25, 0.25)
    rates: tuple[Amount, Amount, Amount] = (0.4, 0.4, 0.2)
    dropout: Share = 0.1  # probability, before the classifiers
    freeze_layer_num: int = 0  # see `models.clip.CLIP.freeze`
    answer_head: str = "pooled"  # one of `models.attended_head.ANSWER_HEADS`


def add_interaction_argument(parser: argparse.ArgumentParser) -> None:
    """Add the flag of the token weights, which the estimator's training has too."""
    group = parser.add_argument_group("interaction")
    group.add_argument("--interaction", choices=("wti", "mean"), default="wti",
                       help="token-wise interaction: weighted by learned heads, or the plain mean")


def add_estimator_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the estimator's training."""
    add_interaction_argument(parser)
    group = parser.add_argument_group("estimator")
    group.add_argument("--network", choices=tuple(NETWORKS), default="released",
                       help="the paper's network, or a more accurate one, of ranks within rows and columns")


def add_level_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the levels and of the losses between them."""
    add_interaction_argument(parser)
    group = parser.add_argument_group("levels")
    group.add_argument("--rate", type=AMOUNT, nargs=3, default=[1.0, 0.0, 0.0], metavar=("ENTITY", "ACTION", "EVENT"),
                       help="weights of the levels in evaluation")
    group.add_argument("--teacher", choices=TEACHERS, default="estimator",
                       help="teacher of the levels: a trained estimator, or the exact one; as controls the exact "
                            "one with its cells shuffled, and a constant")
    group.add_argument("--estimator", help="file of the trained estimator")
    group.add_argument("--num_levels", type=int, choices=(1, 2, 3), default=3,
                       help="levels that take part in training; 1 is the entity level alone")
    group.add_argument("--kl", type=AMOUNT, default=0.2, help="weight of the distillation between levels")
    group.add_argument("--skl", type=AMOUNT, default=1.0, help="weight of the Banzhaf loss")


def add_hbi_vqa_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of HBI for questions, with their own weights of the levels."""
    add_level_arguments(parser)
    add_freeze_argument(parser)
    group = parser.add_argument_group("answer head")
    group.add_argument("--answer_head", choices=tuple(ANSWER_HEADS), default="pooled",
                       help="one vector a side for each level, as released, or words that attend to frames")
    parser.set_defaults(rate=list(HBIVQAOptions.rates))


def add_merge_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of how many tokens the action and the event level keep."""
    group = parser.add_argument_group("merging")
    for side, tokens in (("v", "frames"), ("t", "words")):
        group.add_argument(f"--{side}_rate0", type=SHARE, default=0.25,
                           help=f"merged {tokens} of the action level, as a share of the {tokens}")
        group.add_argument(f"--{side}_rate1", type=SHARE, default=0.5,
                           help=f"merged {tokens} of the event level, as a share of the action level's")


def add_reconstruction_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the reconstruction, an experiment."""
    group = parser.add_argument_group("reconstruction, an experiment")
    group.add_argument("--reconstruct", choices=SCOPES, default=HBIOptions.reconstruct,
                       help="reconstruct tokens by the other side: not, in the Banzhaf game, or in all similarities")
    group.add_argument("--reconstruct_share", type=SHARE, default=HBIOptions.reconstruct_share,
                       help="share of it in the game; in the similarities the share is learned")


def add_hbi_arguments(parser: argparse.ArgumentParser) -> None:
    """Add all flags of HBI for retrieval."""
    add_level_arguments(parser)
    add_merge_arguments(parser)
    add_reconstruction_arguments(parser)


def hbi_options_from(args: argparse.Namespace) -> dict[str, Any]:
    """Keywords of `load_model` for HBI from those of its flags that a script has."""
    options: dict[str, Any] = {"recipe": args.recipe, "interaction": args.interaction}
    if "rate" in args:
        if args.do_train and args.skl and args.teacher == "estimator" and not (args.estimator or args.init_model):
            logger.warning("no --estimator: the teacher of the Banzhaf loss is random, as in the released code")
        options |= {"rates": tuple(args.rate), "trained_levels": args.num_levels, "kl": args.kl, "skl": args.skl}
        options |= {"teacher": args.teacher, "estimator": args.estimator}
    if "answer_head" in args:
        options |= {"answer_head": args.answer_head, "freeze_layer_num": args.freeze_layer_num}
    if "t_rate0" in args:
        options |= {"text_rates": (args.t_rate0, args.t_rate1), "video_rates": (args.v_rate0, args.v_rate1)}
    if "reconstruct" in args:
        options |= {"reconstruct": args.reconstruct, "reconstruct_share": args.reconstruct_share}
    return options
