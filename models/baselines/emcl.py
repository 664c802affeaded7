"""EMCL: sentence vectors and frames pooled by them, both reconstructed from common bases.

Dimension letters: A texts, B videos or pairs, N_v frames, D width.
Source: Expectation-Maximization Contrastive Learning for Compact Video-and-Language Representations, arXiv 2211.11427,
in the form of the released code (see `models.recipe`), there called EMCL-Net.
"""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from models.baselines.em import STATE, EMMethod, EMOptions, add_em_arguments
from models.baselines.pooling import frame_weights
from models.encoder import Tokens, TokensLike
from models.losses import contrastive
from models.method import SIMILARITY_MEMORY, full_precision
from models.similarity import in_blocks
from utils.arguments import AMOUNT
from utils.schema import Amount, Size


@dataclass(frozen=True)
class EMCLOptions(EMOptions):
    """Keywords of `EMCL`.

    Attributes:
        temp: temperature of the softmax that pools frames by a text.
        block: texts, and as many videos, that are reconstructed together in evaluation.
    """

    temp: Amount = 3.0
    block: Size = 32


class _Videos(NamedTuple):
    """Frames (B, N_v, D), mask (B, N_v), and the products of a video's frames with each other (B, N_v, N_v)."""

    frames: Tensor
    mask: Tensor
    gram: Tensor


class EMCL(EMMethod):
    """Text-video retrieval by sentence vectors and frames pooled by them, both reconstructed from common bases."""

    Options = EMCLOptions
    options: EMCLOptions

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        """Add the flags of EMCL."""
        parser.set_defaults(seed=0)
        add_em_arguments(parser, EMCLOptions())
        group = parser.add_argument_group("pooling")
        group.add_argument("--temp", type=AMOUNT, default=EMCLOptions().temp, help="temperature of the frames' softmax")

    @classmethod
    def recognises(cls, state: Mapping[str, Tensor]) -> bool:
        """Whether a checkpoint has the bases of EMCL, or its answer head; without both its keys are CLIP4Clip's."""
        return STATE in state or "mean_proj.weight" in state

    @classmethod
    def options_of_state(cls, state: Mapping[str, Tensor]) -> dict[str, Any]:
        """Number of bases, if the checkpoint has them."""
        return {"centerK": state[STATE].shape[1]} if STATE in state else {}

    @property
    def block(self) -> int | None:
        """See `RetrievalMethod.block`."""
        return self.options.block if self.recipe.em_in_evaluation else None

    @torch.no_grad()
    @full_precision
    def similarity(
        self, text: TokensLike, video: TokensLike, *, memory: int | None = SIMILARITY_MEMORY,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:  # fmt: skip
        """Cosine (A, B) of sentence and pooled video; the recipe may reconstruct both, block by block."""
        sentences, video = Tokens(*text).sentences(), Tokens(*video)
        with torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not torch.float32):
            if not self.recipe.em_in_evaluation:
                pair_bytes = 4 * 4 * video.mask.shape[1]
                return in_blocks(self._compare, sentences, video, memory, pair_bytes, prepare=_with_gram)
            side = self.options.block
            pairs = side * min(side, max(len(sentences.mask), 1))  # so that blocks have `side` videos
            return in_blocks(self.reconstructed_similarity, sentences, video, pairs, 1)

    def losses(
        self, text: Tokens, video: Tokens, video_ids: Tensor, labels: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Contrastive terms of the batch, reconstructed as a whole."""
        sim = self.reconstructed_similarity(text.sentences(), video)
        return contrastive(sim, self.scale, self.positives(video_ids))

    def frame_weights(self, sentence: Tensor, frames: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Products of sentences (A, D) with frames (B, N_v, D), and their softmax: (A, B, N_v) each."""
        scores = torch.einsum("ad,bnd->abn", sentence, frames)
        return scores, frame_weights(scores, mask, self.options.temp, padding=self.recipe.padding_in_pooling)

    def reconstructed_similarity(self, text: Tokens, video: Tokens) -> Tensor:
        """Cosine (A, B) of reconstructed sentences (A, D) and of videos (B, N_v, D) pooled by each of them."""
        texts, videos = len(text.tokens), len(video.tokens)
        _, weight = self.frame_weights(text.tokens, *video)
        pooled = torch.einsum("abn,bnd->abd", weight, video.tokens)
        rows = self.reconstruct(torch.cat([pooled.flatten(0, 1), text.tokens]))
        pooled, sentence = F.normalize(rows, dim=1).split([texts * videos, texts])
        return torch.einsum("ad,abd->ab", sentence, pooled.view(texts, videos, -1))

    def _compare(self, text: Tokens, video: _Videos) -> Tensor:
        """Cosine (A, B) without the pooled videos (A, B, D), from products of the frames."""
        scores, weight = self.frame_weights(text.tokens, video.frames, video.mask)
        length = torch.einsum("abn,bnm,abm->ab", weight, video.gram, weight).clamp(min=0).sqrt()
        product = (scores * weight).sum(dim=2)
        return product / (length * text.tokens.norm(dim=1, keepdim=True)).clamp(min=1e-12)


def _with_gram(video: Tokens) -> _Videos:
    return _Videos(*video, video.tokens @ video.tokens.mT)
