"""The options of captioning, and their flags."""

import argparse
from dataclasses import dataclass
from typing import Any

from models.hbi_options import HBIOptions, add_hbi_arguments, hbi_options_from
from utils.arguments import AMOUNT, COUNT, SHARE


@dataclass(frozen=True)
class CaptioningOptions(HBIOptions):
    """Keywords of `models.captioning.HBICaptioning`.

    Attributes:
        trained_levels: number of levels, from entity upwards, that the decoder reads, and that are in the loss.
        decoder_layers: blocks of the decoder.
        dropout: probability, in the decoder.
        label_smoothing: share of the target that is spread over the vocabulary.
        retrieval_weight: of HBI's own losses in the sum with the captions'; 0: they are not computed.
    """

    decoder_layers: int = 2
    dropout: float = 0.1
    label_smoothing: float = 0.1
    retrieval_weight: float = 0.5


def add_captioning_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of HBI and of the decoder."""
    add_hbi_arguments(parser)
    default = CaptioningOptions
    group = parser.add_argument_group("captions")
    group.add_argument("--decoder_layers", type=COUNT, default=default.decoder_layers, help="blocks of the decoder")
    group.add_argument("--dropout", type=SHARE, default=default.dropout, help="in the decoder")
    group.add_argument("--label_smoothing", type=SHARE, default=default.label_smoothing,
                       help="share of the target that is spread over the vocabulary")
    group.add_argument("--retrieval_weight", type=AMOUNT, default=default.retrieval_weight,
                       help="weight of HBI's own losses; 0 leaves them out")
    group.add_argument("--captions_per_clip", type=COUNT, default=1,
                       help="captions of each video in a training batch; with more a step encodes fewer videos")
    group.add_argument("--allow_seen_videos", action="store_true",
                       help="start from a checkpoint that was trained on videos of the test split")
    group.add_argument("--beams", type=COUNT, default=5, help="beams of the evaluation; 1 is greedy, as in selection")
    group.add_argument("--length_exponent", type=AMOUNT, default=1.0,
                       help="a sentence is scored by its log-probability / length ** exponent")


def captioning_options_from(args: argparse.Namespace) -> dict[str, Any]:
    """Keywords of `load_model` for captioning from its flags."""
    own = ("decoder_layers", "dropout", "label_smoothing", "retrieval_weight")
    return hbi_options_from(args) | {name: getattr(args, name) for name in own}
