"""DiffusionRet: a diffusion model reranks the candidates that a discriminative model finds.

Dimension letters: A texts, B videos or pairs, N_v frames, D width, n queries of a block, K candidates.
Source: DiffusionRet, arXiv 2303.09867 (ICCV 2023), in the form of the released code (see `models.recipe`).
"""

import logging
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models import losses
from models.baselines.denoiser import Conditions, Denoiser
from models.baselines.diffusion import Diffusion
from models.baselines.diffusionret_options import (
    DiffusionRetOptions,
    add_diffusionret_arguments,
    check_num,
    diffusionret_options_from,
)
from models.baselines.pooling import pool_frames
from models.encoder import Tokens, TokensLike, init_normal
from models.level import TokenSet, WeightedInteraction
from models.method import SIMILARITY_MEMORY, RetrievalMethod, full_precision
from models.released.diffusionret import released_name
from utils.checkpoint import released_state
from utils.distributed import rank, world_size
from utils.gather import gather_shards

DENOISERS = "diffusion_model"
NOISE_SEED = {"t2v": 0, "v2t": 1}
logger = logging.getLogger("hbi")


class DiffusionRet(RetrievalMethod):
    """Text-video retrieval by a discriminative stage, and a generative stage that reranks its candidates."""

    method = "diffusionret"
    Options = DiffusionRetOptions
    options: DiffusionRetOptions
    released_name = staticmethod(released_name)
    add_arguments = staticmethod(add_diffusionret_arguments)
    options_from = staticmethod(diffusionret_options_from)

    def build(self) -> None:
        """Make the weighted interaction and, for generation, a denoiser for each direction."""
        width = self.clip.config.embed_dim
        self.generates = self.options.stage == "generation"
        self.interaction = WeightedInteraction(width, recipe=self.recipe)
        if self.generates:
            self.diffusion = Diffusion(self.options.noise_schedule, self.options.diffusion_steps)
            self.denoisers: Any = nn.ModuleDict({side: Denoiser(width) for side in ("t2v", "v2t")})
        self.clamped: set[str] = set()

    def reset_parameters(self) -> None:
        """Initialise the heads and the denoisers, and the temporal encoder."""
        self.interaction.apply(init_normal)
        if self.generates:
            self.denoisers.apply(init_normal)
        super().reset_parameters()

    def freeze(self) -> None:
        """Freeze CLIP's patch convolution; for generation all but the denoisers."""
        super().freeze()
        if self.generates:
            for module in (self.clip, self.temporal, self.interaction):
                module.requires_grad_(False)

    @classmethod
    def recognises(cls, state: Mapping[str, Tensor]) -> bool:
        """Whether a checkpoint has the keys of one of the stages."""
        return "text_weight_fc.0.weight" in state and not any(name.startswith("banzhafteacher.") for name in state)

    @classmethod
    def options_of_state(cls, state: Mapping[str, Tensor]) -> dict[str, Any]:
        """The stage of a checkpoint."""
        return {"stage": "generation" if any(name.startswith(DENOISERS) for name in state) else "discrimination"}

    def complete(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Add untrained denoisers to the weights of the discriminative stage."""
        if not self.generates or any(name.startswith(DENOISERS) for name in state):
            return state
        logger.info("the denoisers start at random: the checkpoint is of the discriminative stage")
        own = {name: tensor for name, tensor in released_state(self).items() if name.startswith(DENOISERS)}
        return {**own, **state}

    @property
    def weights(self) -> dict[str, float]:
        """Weight of each term in the loss."""
        return {"ce_t2v": 0.5, "ce_v2t": 0.5, "generation_t2v": 1.0, "generation_v2t": 1.0}

    @property
    def moment(self) -> float:
        """See `RetrievalMethod.moment`."""
        return self.options.moment

    @torch.no_grad()
    @full_precision
    def similarity(
        self, text: TokensLike, video: TokensLike, *, memory: int = SIMILARITY_MEMORY,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:  # fmt: skip
        """Similarity (A, B) of the discriminative stage: weighted token-wise interaction."""
        return self.interaction.similarity(TokenSet.original(*text), TokenSet.original(*video), memory, dtype)

    def token_levels(self) -> list[WeightedInteraction]:
        """The interaction of words with frames of the discriminative stage."""
        return [self.interaction]

    def losses(
        self, text: Tokens, video: Tokens, video_ids: Tensor, labels: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Contrastive terms of the discriminative stage and, for generation, the terms of both denoisers."""
        sim = self.interaction(TokenSet.original(*text), TokenSet.original(*video)).sim
        terms = losses.contrastive(sim, self.scale, self.positives(video_ids))
        return terms | (self._generative_losses(sim, text, video, video_ids) if self.generates else {})

    def _generative_losses(
        self, sim: Tensor, text: Tokens, video: Tokens, video_ids: Tensor
    ) -> dict[str, Tensor]:
        """Cross-entropy of the denoised distributions over the true pair and its hardest negatives."""
        check_num(self.options.num, len(sim))
        own = torch.arange(len(sim), device=sim.device)
        steps, noises = self.draw(len(sim), self.options.num + 1)
        terms = {}
        for side, scores in (("t2v", sim), ("v2t", sim.T)):
            best, negatives = scores.masked_fill(losses.same_video(video_ids), -torch.inf).topk(self.options.num, dim=1)
            ids = torch.cat([own.unsqueeze(1), negatives], dim=1)
            x_start = torch.full_like(ids, self.options.neg, dtype=sim.dtype)
            x_start[:, 0] = 1
            left_out = F.pad(best.isinf() & (not self.recipe.same_video_negatives), (1, 0))
            x = self.diffusion.add_noise(x_start, steps, noises[side]).masked_fill(left_out, -torch.inf)
            found = self.denoisers[side](x, steps, self._condition(side, text.last(), video, own, ids))
            logits = (self.options.d_temp * found).masked_fill(left_out, -torch.inf)
            terms[f"generation_{side}"] = F.cross_entropy(logits, torch.zeros_like(own))
        return terms

    def draw(self, batch: int, width: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Draw steps (B,), common to both directions, and noise (B, width) for each; the same on every process."""
        steps = torch.randint(self.options.diffusion_steps, (batch,)).to(self.device)
        return steps, {side: torch.randn(batch, width).to(self.device) for side in ("t2v", "v2t")}

    def _condition(self, side: str, sentences: Tensor, video: Tokens, rows: Tensor, ids: Tensor) -> Conditions:
        """Condition a denoiser on the queries `rows` (n,) and their candidates `ids` (n, K)."""
        pool = partial(pool_frames, temp=self.options.temp, padding=self.recipe.padding_in_pooling)
        if side == "v2t":
            texts = sentences[ids]
            return self.denoisers[side].condition(pool(texts, *video.select(rows)), texts)
        query = sentences[rows].unsqueeze(1)
        each = query.expand(*ids.shape, -1).flatten(0, 1).unsqueeze(1)
        pooled = pool(each, *video.select(ids.flatten())).view(*ids.shape, -1)
        return self.denoisers[side].condition(query, pooled)

    @torch.no_grad()
    @full_precision
    def rerank(
        self, sim: Tensor, text: TokensLike, video: TokensLike, *, memory: int = SIMILARITY_MEMORY
    ) -> tuple[Tensor, Tensor]:
        """Raise the scores of each query's nearest candidates by the distribution that its denoiser samples."""
        if not self.generates:
            return sim, sim
        sentences, video = gather_shards(Tokens(*text).last()), Tokens(*video)
        t2v, v2t = (
            self._rerank(side, scores, sentences, video, memory) for side, scores in (("t2v", sim), ("v2t", sim.T))
        )
        return t2v, v2t.T

    def _rerank(self, side: str, sim: Tensor, sentences: Tensor, video: Tokens, memory: int) -> Tensor:
        """Scores (Q, T) of queries and their targets, from similarities (Q, T); each process samples its queries."""
        num = self._candidates(side, sim.shape[1])
        noise = self.start_noise(side, len(sim), num)
        frames, width = video.tokens.shape[1:]
        own = torch.arange(len(sim)).tensor_split(world_size())[rank()]
        values, ids = [], []
        for rows in own.split(max(1, memory // (4 * num * (frames + 6) * width))):
            best = sim[rows].to(self.device).topk(num, dim=1)
            conditions = self._condition(side, sentences, video, rows.to(self.device), best.indices)
            predict = partial(self.denoisers[side], conditions=conditions)
            sample = self.diffusion.sample(predict, noise[rows].to(self.device))
            alpha, temp = (getattr(self.options, f"{side}_{name}") for name in ("alpha", "temp"))
            values.append(best.values + alpha * (temp * sample).softmax(dim=1))
            ids.append(best.indices)
        ids, values = (gather_shards(torch.cat(parts)).to(sim.device) for parts in (ids, values))
        return sim.scatter(1, ids, values)

    def start_noise(self, side: str, queries: int, num: int) -> Tensor:
        """Draw the noise (queries, num) that sampling starts from: the same at each evaluation, on any device."""
        return torch.randn(queries, num, generator=torch.Generator().manual_seed(NOISE_SEED[side]))

    def _candidates(self, side: str, available: int) -> int:
        """Number of candidates of a query, at most those available."""
        num = getattr(self.options, f"{side}_num")
        if num > available and side not in self.clamped:
            self.clamped.add(side)
            logger.warning("--%s_num %d: there are %d candidates, all are taken", side, num, available)
        return min(num, available)
