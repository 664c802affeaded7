"""Video question answering: an answer head for each of HBI's levels.

A questions, C answers.
Source: Video-Text as Game Players, arXiv 2303.14369 (CVPR 2023), section 3.4, in the form of the released code.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from models import losses
from models.answering import AnswerMethod
from models.attended_head import ANSWER_HEADS
from models.clip import CLIP
from models.encoder import Tokens, TokensLike, init_normal
from models.hbi import HBI
from models.hbi_options import LEVELS, HBIVQAOptions, add_hbi_vqa_arguments
from models.method import full_precision


class HBIVQA(AnswerMethod, HBI):
    """Open-ended video question answering as classification over a vocabulary of answers."""

    Options = HBIVQAOptions
    options: HBIVQAOptions
    add_arguments = staticmethod(add_hbi_vqa_arguments)

    def __init__(self, clip: CLIP, answers: Sequence[str], **options: Any):
        """Args: answers: in the order of their labels; options: of `HBI`, with the defaults of `HBIVQAOptions`."""
        super().__init__(clip, answers, **options)
        width = clip.config.embed_dim
        make = ANSWER_HEADS[self.options.answer_head]
        heads = (make(width, len(self.answers), self.options.dropout) for _ in self.levels)
        self.answer_heads = nn.ModuleList(heads)
        for modules in (self.levels, self.answer_heads):
            modules.apply(init_normal)
        for head in self.answer_heads[self.options.trained_levels :]:
            head.requires_grad_(False)

    @classmethod
    def options_of_state(cls, state: Mapping[str, Tensor]) -> dict[str, Any]:
        """Keywords that the keys of a checkpoint determine."""
        attended = any(name.startswith("answer_heads.0.attention.") for name in state)
        return super().options_of_state(state) | {"answer_head": "attended" if attended else "pooled"}

    def freeze(self) -> None:
        """Freeze the lower layers of both towers, and what `HBI` freezes."""
        super().freeze()
        self.clip.freeze(self.options.freeze_layer_num)

    def losses(
        self, text: Tokens, video: Tokens, video_ids: Int[Tensor, " A"], labels: Int[Tensor, " A"]
    ) -> dict[str, Tensor]:
        """Loss terms of questions, each with its video and the label of its answer; see `weights`.

        The released code does not mask padding in the Banzhaf alignment of questions; the corrected recipe does.
        """
        outputs, logits = [], {}
        sets = self.level_sets(text, video, self.options.trained_levels)
        for (level, *pair), head in zip(sets, self.answer_heads, strict=False):
            outputs.append(level(*pair))
            logits[level.name] = head(*pair)
        masks = (None, None) if self.recipe.masked_logits_in_kl else (text.mask, video.mask)
        answered = {f"{name}.answer_ce": F.cross_entropy(logit, labels) for name, logit in logits.items()}
        return self.level_losses(outputs, *masks, video_ids) | answered | losses.answer_distillation(logits)

    @property
    def weights(self) -> dict[str, float]:
        """Weight of each term in the loss: those of `HBI` count half."""
        levels = {name: weight / 2 for name, weight in super().weights.items()}
        answered = {f"{name}.answer_ce": 1.0 for name in LEVELS}
        return levels | answered | {f"kl_answer_{name}_{LEVELS[0]}": self.options.kl for name in LEVELS[1:]}

    @full_precision
    def answer_logits(
        self, text: TokensLike, video: TokensLike, levels: int = len(LEVELS)
    ) -> dict[str, Float[Tensor, "A C"]]:
        """Logits of the answers at each of the first `levels` levels, by name."""
        sets = self.level_sets(Tokens(*text), Tokens(*video), levels)
        return {level.name: head(*pair) for (level, *pair), head in zip(sets, self.answer_heads, strict=False)}

    def mixed_logits(self, text: TokensLike, video: TokensLike) -> Float[Tensor, "A C"]:
        """Logits of the answers, levels mixed by `rates`."""
        logits = self.answer_logits(text, video, self.used_levels).values()
        return sum(rate * logit for rate, logit in zip(self.rates, logits, strict=False))
