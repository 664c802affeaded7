"""DRL: token-wise interaction of four kinds, and decorrelation of the channels of matching features.

Dimension letters: A texts, B videos or pairs, N_t words, N_v frames, D width.
Source: DRL, arXiv 2203.07111, as released (see `models.recipe`): without hierarchical interaction and MLP.
"""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from models.baselines.cdcr import Match, best_matches, correlation, random_matches
from models.baselines.clip4clip import cosine_with_mean, mean_frame
from models.baselines.cross import LAYERS, NAMES, PairEncoder, layers_of
from models.encoder import Tokens, TokensLike, init_normal
from models.level import TokenSet, WeightedInteraction
from models.losses import contrastive
from models.method import SIMILARITY_MEMORY, MethodOptions, RetrievalMethod, full_precision
from models.released import spelling
from utils.arguments import AMOUNT
from utils.errors import InputError
from utils.gather import gather_features
from utils.schema import Size

INTERACTIONS = ("dp", "xti", "ti", "wti")
released_name = spelling([*NAMES, *((rf"tokens\.{side}_weight\.", f"{side}_weight_fc.") for side in ("text", "video"))])


@dataclass(frozen=True)
class DRLOptions(MethodOptions):
    """Keywords of `DRL`; the defaults are those of the released flags, the published commands differ from them.

    Attributes:
        interaction: "dp" (sentence, mean frame), "xti" (transformer of a pair), "ti" (best matches), "wti" (weighted).
        wti_arch: layers of the heads of "wti", 1 to 3.
        cross_num_hidden_layers: blocks of the pair encoder of "xti".
        cdcr: samples of the decorrelation: 0 none, 1 one random word and frame of each pair, 2 every token with its
            best match, 3 the same, weighted; with "dp" 1 to 3 all take sentence and mean frame; "xti" has none.
        cdcr_alpha1, cdcr_alpha2: weights of equal and of different channels; published 0.11 to 0.16 and 0.
        cdcr_lambda: weight in the loss.
    """

    interaction: str = "wti"
    wti_arch: int = 2
    cross_num_hidden_layers: Size = LAYERS
    cdcr: int = 3
    cdcr_alpha1: float = 1.0
    cdcr_alpha2: float = 0.06
    cdcr_lambda: float = 0.001

    def __post_init__(self) -> None:
        if self.interaction not in INTERACTIONS:
            raise InputError(f"interaction {self.interaction!r}: the released code has {', '.join(INTERACTIONS)} alone")
        if self.wti_arch not in (1, 2, 3) or self.cdcr not in (0, 1, 2, 3):
            raise InputError(f"wti_arch {self.wti_arch}, cdcr {self.cdcr}: give 1 to 3 and 0 to 3")
        if self.interaction == "ti" and self.cdcr == 3:
            raise InputError("cdcr 3 needs the token weights of interaction wti; with ti give cdcr 2, 1 or 0")


class DRL(RetrievalMethod):
    """Text-video retrieval by disentangled interaction."""

    method = "drl"
    Options = DRLOptions
    options: DRLOptions

    def build(self) -> None:
        """Make the token weights, or the pair encoder."""
        config, options = self.clip.config, self.options
        self.pairs = self.tokens = None
        if options.interaction == "xti":
            self.pairs = PairEncoder(config.embed_dim, options.cross_num_hidden_layers, config.context_length)
        elif options.interaction != "dp":
            heads = {"weighted": options.interaction == "wti", "hidden": (config.embed_dim,) * (options.wti_arch - 1)}
            self.tokens = WeightedInteraction(config.embed_dim, recipe=self.recipe, **heads)

    def reset_parameters(self) -> None:
        """Initialise the heads, and both transformers from CLIP's text tower."""
        super().reset_parameters()
        if self.pairs is not None:
            self.pairs.reset_parameters(self.clip)
        elif self.tokens is not None:
            self.tokens.apply(init_normal)

    def freeze(self) -> None:
        """Freeze nothing, as released."""

    def released_name(self, name: str) -> str:
        """Spell a name as in released checkpoints, where a head of one layer has no number."""
        name = released_name(name)
        return name.replace("_weight_fc.0.", "_weight_fc.") if self.options.wti_arch == 1 else name

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        """Add the flags of DRL; training clips are not augmented."""
        default = DRLOptions()
        parser.set_defaults(augment="none", seed=0)
        group = parser.add_argument_group("DRL")
        group.add_argument("--interaction", choices=INTERACTIONS, default=default.interaction,
                           help="of pooled features, of pairs in a transformer, of tokens, or of weighted tokens")
        group.add_argument("--wti_arch", type=int, choices=(1, 2, 3), default=default.wti_arch, help="layers of a head")
        group.add_argument("--cross_num_hidden_layers", type=int, default=LAYERS, help="layers of xti")
        group.add_argument("--cdcr", type=int, choices=(0, 1, 2, 3), default=default.cdcr,
                           help="samples that are decorrelated: none, random tokens, best matches, weighted ones")
        parts = {"cdcr_alpha1": "equal channels", "cdcr_alpha2": "different channels", "cdcr_lambda": "the term"}
        for flag, text in parts.items():
            group.add_argument(f"--{flag}", type=AMOUNT, default=getattr(default, flag), help=f"weight of {text}")

    @classmethod
    def recognises(cls, state: Mapping[str, Tensor]) -> bool:
        """Whether a checkpoint has DRL's heads, whose last layer is as wide as the first, or its two transformers."""
        heads = "text_weight_fc.weight" in state or "text_weight_fc.0.weight" in state
        if heads and not any(name.startswith("banzhafteacher.") for name in state):
            first = state.get("text_weight_fc.0.weight")
            return first is None or first.shape[0] == first.shape[1]
        return "cross.pooler.dense.weight" in state and "frame_position_embeddings.weight" in state

    @classmethod
    def options_of_state(cls, state: Mapping[str, Tensor]) -> dict[str, Any]:
        """Interaction and depth of its heads, where the keys of a checkpoint determine them."""
        if layers := layers_of(state):
            return {"interaction": "xti", "cross_num_hidden_layers": layers}
        heads = sum(name.startswith("text_weight_fc.") and name.endswith("weight") for name in state)
        return {"interaction": "wti", "wti_arch": heads} if heads else {}

    def text_tokens(self, ids: Tensor, text_mask: Tensor) -> Tensor:
        """See `TokenEncoder.text_tokens`; the recipe may let padding attend to padding, and enter CDCR."""
        return super().text_tokens(ids, torch.ones_like(text_mask) if self.recipe.padding_in_cdcr else text_mask)

    @property
    def max_frames(self) -> float:
        """Longest clip in frames."""
        return super().max_frames if self.pairs is None else min(super().max_frames, self.pairs.max_frames)

    @full_precision
    def similarity(
        self, text: TokensLike, video: TokensLike, *, memory: int | None = SIMILARITY_MEMORY,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:  # fmt: skip
        """Similarity (A, B): for dp a cosine, for ti and wti a mean of cosines, for xti the score of the pair."""
        text, video = Tokens(*text), Tokens(*video)
        if self.pairs is not None:
            return self.pairs.similarity(text, video, memory, dtype)
        if self.tokens is None:
            return cosine_with_mean(text, video, dtype, unit_frames=self.recipe.unit_frames_in_mean)
        with torch.no_grad():
            return self.tokens.similarity(TokenSet.original(*text), TokenSet.original(*video), memory or 2**62, dtype)

    def token_levels(self) -> list[WeightedInteraction]:
        """The interaction of words with frames of ti and wti."""
        return [] if self.tokens is None else [self.tokens]

    @property
    def weights(self) -> dict[str, float]:
        """Weight of each term in the loss."""
        return {"ce_t2v": 0.5, "ce_v2t": 0.5, "cdcr": self.options.cdcr_lambda}

    def losses(
        self, text: Tokens, video: Tokens, video_ids: Tensor, labels: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Contrastive terms, and the decorrelation of channels unless `cdcr` is 0."""
        weights = None
        if self.tokens is not None:
            output = self.tokens(TokenSet.original(*text), TokenSet.original(*video))
            sim, weights = output.sim, (output.text_score.softmax(dim=-1), output.video_score.softmax(dim=-1))
        else:
            sim = self.pairs.sharded(text, video, SIMILARITY_MEMORY) if self.pairs else self.similarity(text, video)
        terms = contrastive(sim, self.scale, self.positives(video_ids))
        if self.options.cdcr and self.pairs is None:
            terms["cdcr"] = self.decorrelation(self.matches(text, video, weights))
        return terms

    def gather(self, tensor: Tensor) -> Tensor:
        """Gather a tensor over all processes, with the gradient of all for xti in any recipe."""
        return gather_features(tensor, exact=self.recipe.exact_gather or self.pairs is not None)

    def matches(self, text: Tokens, video: Tokens, weights: tuple[Tensor, Tensor] | None) -> list[Match]:
        """Features of true pairs for CDCR; `weights` are those of the tokens, None for dp."""
        if weights is None:
            mean = mean_frame(video, unit_frames=self.recipe.unit_frames_in_mean)
            return [(F.normalize(text.last(), dim=-1), mean, 1 / len(mean))]
        if self.options.cdcr == 1:
            return random_matches(text, video)
        weights = weights if self.options.cdcr == 3 else None
        return best_matches(text, video, weights, padding=self.recipe.padding_in_cdcr)

    def decorrelation(self, matches: list[Match]) -> Tensor:
        """Distance of the channels' correlation, averaged over `matches`, from the identity."""
        found = torch.stack([correlation(*x, over_samples=self.recipe.cdcr_over_samples) for x in matches])
        return self.channel_loss(found.mean(dim=0))

    def channel_loss(self, matrix: Tensor) -> Tensor:
        """Distance of a correlation matrix (D, D) from the identity, weighted on and off the diagonal."""
        diagonal = matrix.diagonal()
        off = matrix.square().sum() - diagonal.square().sum()
        return self.options.cdcr_alpha1 * (1 - diagonal).square().sum() + self.options.cdcr_alpha2 * off
