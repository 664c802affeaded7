"""HBI: three levels of text-video interaction, aligned by the Banzhaf interaction.

A texts, B videos or pairs, N_t words, N_v frames, D width.
Source: Video-Text as Game Players, arXiv 2303.14369 (CVPR 2023); arXiv 2412.20964 (TPAMI 2024).
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import accumulate
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from models import losses
from models.coalitions import Pairs
from models.encoder import Tokens, TokensLike, init_normal
from models.hbi_options import LEVELS, HBIOptions, add_hbi_arguments, hbi_options_from
from models.level import Level, LevelOutput, TokenSet
from models.method import SIMILARITY_MEMORY, RetrievalMethod, full_precision
from models.ranked_estimator import NETWORKS, network_of
from models.released.hbi import released_name
from models.teacher import teacher_interaction
from utils.gather import gather_features, shard

RECONSTRUCTION = ".reconstruction."
"""Part of the names of the weights of `models.reconstruction`."""


class HBI(RetrievalMethod):
    """Text-video retrieval by hierarchical Banzhaf interaction."""

    method = "hbi"
    Options = HBIOptions
    options: HBIOptions
    add_arguments = staticmethod(add_hbi_arguments)
    options_from = staticmethod(hbi_options_from)
    released_name = staticmethod(released_name)

    def build(self) -> None:
        """Make the levels and the teacher."""
        options, width = self.options, self.clip.config.embed_dim
        self.rates = tuple(options.rates)
        merges = (None, *zip(options.text_rates, options.video_rates, strict=True))
        self.levels: Any = nn.ModuleList(  # torch leaves its items untyped
            Level(
                name,
                width,
                weighted=options.interaction == "wti",
                rates=rates,
                recipe=self.recipe,
                reconstruct=(options.reconstruct, options.reconstruct_share),
            )
            for name, rates in zip(LEVELS, merges, strict=True)
        )
        self.teacher = NETWORKS[options.network]()

    def reset_parameters(self) -> None:
        """Initialise the token weights as the released code does, and the temporal encoder."""
        for level in self.levels:
            for head in (level.text_weight, level.video_weight):
                if head is not None:
                    head.apply(init_normal)
        super().reset_parameters()

    def freeze(self) -> None:
        """Freeze CLIP's patch convolution and the teacher, and what no term of the loss reaches."""
        super().freeze()
        self.teacher.requires_grad_(False)
        for level in self.levels[self.options.trained_levels :]:
            level.requires_grad_(False)
        if not self.options.skl:
            for level in self.levels:
                level.student.requires_grad_(False)

    def use_estimator(self, network: str) -> None:
        """Make the teacher an untrained, frozen network, one of `NETWORKS`."""
        self.options = replace(self.options, network=network)
        self.teacher = NETWORKS[network]().to(self.device).requires_grad_(False)

    @classmethod
    def recognises(cls, state: Mapping[str, Tensor]) -> bool:
        """Whether a checkpoint has the keys of HBI."""
        return any(name.startswith("banzhafteacher.") for name in state)

    @classmethod
    def options_of_state(cls, state: Mapping[str, Tensor]) -> dict[str, Any]:
        """Keywords that the keys of a checkpoint determine."""
        interaction = "wti" if "text_weight_fc.0.weight" in state else "mean"
        found = {"interaction": interaction, "network": network_of(state, "banzhafteacher.")}
        return found | ({"reconstruct": "score"} if any(RECONSTRUCTION in name for name in state) else {})

    def complete(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Add untrained shares of reconstruction to weights that lack them."""
        shares = {name: tensor for name, tensor in self.state_dict().items() if RECONSTRUCTION in name}
        return {**shares, **state}

    def token_levels(self) -> list[Level]:
        """See `RetrievalMethod.token_levels`."""
        return list(self.levels)

    def token_sets(self, tokens: Tokens, side: str, levels: int) -> Iterator[TokenSet]:
        """Yield texts or videos (`side`: "text" or "video") at the first `levels` levels, from entity upwards."""
        stages = (getattr(level, f"{side}_merge") for level in self.levels[1:levels])
        return accumulate(stages, TokenSet.merged, initial=TokenSet.original(*tokens))

    @full_precision
    def level_outputs(
        self,
        text: Float[Tensor, "A N_t D"],
        text_mask: Shaped[Tensor, "A N_t"],
        video: Float[Tensor, "B N_v D"],
        video_mask: Shaped[Tensor, "B N_v"],
        levels: int = len(LEVELS),
    ) -> list[LevelOutput]:
        """Compare all texts with all videos at the first `levels` levels."""
        sets = self.level_sets(Tokens(text, text_mask), Tokens(video, video_mask), levels)
        return [level(texts, videos) for level, texts, videos in sets]

    def losses(
        self, text: Tokens, video: Tokens, video_ids: Int[Tensor, " B"], labels: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Contrastive and Banzhaf terms of each level, and the distillation between levels; see `weights`."""
        outputs = self.level_outputs(*text, *video, levels=self.options.trained_levels)
        terms = self.level_losses(outputs, text.mask, video.mask, video_ids)
        return terms | losses.distillation({output.name: output.sim for output in outputs})

    @property
    def weights(self) -> dict[str, float]:
        """Weight of each term in the loss."""
        level = {"ce_t2v": 0.5, "ce_v2t": 0.5, "kl_banzhaf": self.options.skl, "kl_banzhaf_reversed": self.options.skl}
        between = {f"kl_{way}_{name}_{LEVELS[0]}": self.options.kl for way in ("v2t", "t2v") for name in LEVELS[1:]}
        return {f"{name}.{term}": weight for name in LEVELS for term, weight in level.items()} | between

    def level_losses(
        self,
        outputs: list[LevelOutput],
        text_mask: Shaped[Tensor, "B N_t"] | None,
        video_mask: Shaped[Tensor, "B N_v"] | None,
        video_ids: Int[Tensor, " B"],
    ) -> dict[str, Tensor]:
        """The terms of each level; a mask of None masks no padding."""
        terms = {}
        for level, output in zip(self.levels, outputs, strict=False):
            masks = (text_mask, video_mask) if level.text_merge is None else (None, None)
            found = losses.contrastive(output.sim, self.scale, self.positives(video_ids))
            if self.options.skl:
                found |= self.alignment(level, output, *masks)
            terms |= {f"{output.name}.{name}": value for name, value in found.items()}
        return terms

    def alignment(
        self,
        level: Level,
        output: LevelOutput,
        text_mask: Shaped[Tensor, "B N_t"] | None,
        video_mask: Shaped[Tensor, "B N_v"] | None,
    ) -> dict[str, Tensor]:
        """Banzhaf alignment of a level's student with the teacher, on the true pairs.

        Each process runs student and teacher, the most expensive part of a step, on its shard of the pairs.
        """
        masks = (None if mask is None else shard(mask) for mask in (text_mask, video_mask))
        own = Pairs(shard(output.pair_sim), *masks, shard(output.text_score), shard(output.video_score))
        student, teacher = level.student(own.token_sim), teacher_interaction(self.options.teacher, self.teacher, own)
        return losses.banzhaf_alignment(
            gather_features(student, exact=True),
            gather_features(teacher, exact=True),
            text_mask,
            video_mask,
            masked_logits=self.recipe.masked_logits_in_kl,
            reversed_over_batch=self.recipe.reversed_kl_over_batch,
        )

    @property
    def schedule_epochs(self) -> int | None:
        """Horizon of the learning-rate schedule, by the recipe."""
        return self.recipe.schedule_epochs

    @torch.no_grad()
    @full_precision
    def similarity(
        self, text: TokensLike, video: TokensLike, *, memory: int = SIMILARITY_MEMORY,
        dtype: torch.dtype = torch.float32,
    ) -> Float[Tensor, "A B"]:
        """Similarity of every text with every video, levels mixed by `rates`; those of rate 0 are left out."""
        text, video = Tokens(*text), Tokens(*video)
        sim = None
        if len(text.mask) and len(video.mask):
            sets = self.level_sets(text, video, self.used_levels)
            for rate, (level, texts, videos) in zip(self.rates, sets, strict=False):
                if rate:
                    found = level.similarity(texts, videos, memory, dtype).mul_(rate)
                    sim = found if sim is None else sim.add_(found)
        return text.tokens.new_zeros(len(text.mask), len(video.mask)) if sim is None else sim
