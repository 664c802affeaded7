"""DiCoSA: text and video compared concept by concept, the video pooled by the text.

Dimension letters: A texts, B videos or pairs, N_v frames, D width, C concepts, d = D / C.
Source: Text-Video Retrieval with Disentangled Conceptualization and Set-to-Set Alignment, arXiv 2305.12218 (IJCAI
2023), in the form of the released code (see `models.recipe`).
"""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from models.baselines.pooling import frame_weights, pool_frames
from models.encoder import Tokens, TokensLike, init_normal
from models.method import SIMILARITY_MEMORY, MethodOptions, RetrievalMethod, full_precision
from models.released.dicosa import released_name
from models.similarity import in_blocks
from utils.arguments import AMOUNT, COUNT, add_switch
from utils.schema import Amount, Size

CPU_MEMORY = 8 * 2**20
"""Maximum bytes of a block in evaluation on the CPU, so that it fits the caches."""

EPS = 1e-8
"""Minimum length of a vector in a cosine, as in torch.cosine_similarity."""


@dataclass(frozen=True)
class DiCoSAOptions(MethodOptions):
    """Keywords of `DiCoSA`.

    Attributes:
        center: C, slices of the sentence vector and of the pooled video.
        temp: temperature of the frames' softmax; every published command says 3, the released default is 5.
        alpha, beta: weights of the correlation of equal and of different concepts.
        qbnorm: evaluate after QB-Norm with the training pairs as banks, as published.
        t2v_*, v2t_*: see `utils.post_processing.query_bank_norm`; beta is 50 in the published command for ActivityNet.
    """

    center: Size = 8
    temp: Amount = 3.0
    alpha: Amount = 0.01
    beta: Amount = 0.005
    qbnorm: int = 1
    t2v_k: int = 1
    t2v_beta: float = 70.0
    t2v_theta: int = 3
    v2t_k: int = 1
    v2t_beta: float = 70.0
    v2t_theta: int = 5


class _Videos(NamedTuple):
    """Frames (B, N_v, C, d), mask (B, N_v), and what does not depend on the text.

    Attributes:
        gram: (B, C, N_v, N_v), products of the frames of each concept.
        hidden: (B, N_v, C * 4d), the frames' part of the hidden layer of the concept weights.
    """

    frames: Tensor
    mask: Tensor
    gram: Tensor
    hidden: Tensor


class DiCoSA(RetrievalMethod):
    """Text-video retrieval by disentangled concepts."""

    method = "dicosa"
    Options = DiCoSAOptions
    options: DiCoSAOptions
    released_name = staticmethod(released_name)

    def build(self) -> None:
        """Make the head that weighs concepts, shared by all of them."""
        width, concepts = self.clip.config.embed_dim, self.options.center
        if width % concepts:
            raise ValueError(f"center {concepts} does not divide the width {width}")
        size = width // concepts
        self.concept_weight = nn.Sequential(nn.Linear(2 * size, 4 * size), nn.ReLU(), nn.Linear(4 * size, 1))

    def reset_parameters(self) -> None:
        """Initialise the concept weights, which start near 0, and the temporal encoder."""
        self.concept_weight.apply(init_normal)
        super().reset_parameters()

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        """Add the flags of DiCoSA."""
        default = DiCoSAOptions()
        group = parser.add_argument_group("DiCoSA")
        group.add_argument("--center", type=COUNT, default=default.center, help="concepts")
        group.add_argument("--temp", type=AMOUNT, default=default.temp, help="temperature of the pooling of frames")
        group.add_argument("--alpha", type=AMOUNT, default=default.alpha, help="weight of equal concepts' correlation")
        group.add_argument("--beta", type=AMOUNT, default=default.beta, help="weight of other concepts' correlation")
        add_switch(group, "--qbnorm", "evaluate after QB-Norm with the training videos, as published", default.qbnorm)
        for side in ("t2v", "v2t"):
            for name, kind, help_ in (
                ("k", COUNT, "targets that a query of the bank finds"),
                ("beta", AMOUNT, "sharpness"),
                ("theta", COUNT, "queries of the bank that must find a target"),
            ):
                flag = f"{side}_{name}"
                group.add_argument(f"--{flag}", type=kind, default=getattr(default, flag),
                                   help=f"QB-Norm of {side}: {help_}")

    @classmethod
    def options_from(cls, args: argparse.Namespace) -> dict[str, Any]:
        """Keywords of the constructor from the command line."""
        return {field.name: getattr(args, field.name) for field in fields(DiCoSAOptions)}

    @classmethod
    def recognises(cls, state: Mapping[str, Tensor]) -> bool:
        """Whether a checkpoint has the keys of DiCoSA."""
        return "weight_fc.0.weight" in state

    @classmethod
    def options_of_state(cls, state: Mapping[str, Tensor]) -> dict[str, Any]:
        """Number of concepts, from the width and the concept weights of a checkpoint."""
        if not cls.recognises(state):
            return {}
        return {"center": 2 * state["clip.text_projection"].shape[1] // state["weight_fc.0.weight"].shape[1]}

    @property
    def weights(self) -> dict[str, float]:
        """Weight of each term in the loss."""
        return {"ce_t2v": 0.5, "ce_v2t": 0.5, "on_diag": self.options.alpha, "off_diag": self.options.beta}

    @property
    def bank_norms(self) -> dict[str, dict[str, float]]:
        """Settings of QB-Norm in evaluation, for each direction; see `RetrievalMethod.bank_norms`."""
        if not self.options.qbnorm:
            return {}
        names = ("k", "beta", "theta")
        return {side: {name: getattr(self.options, f"{side}_{name}") for name in names} for side in ("t2v", "v2t")}

    @full_precision
    def similarity(
        self, text: TokensLike, video: TokensLike, *, memory: int | None = SIMILARITY_MEMORY,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:  # fmt: skip
        """Similarity (A, B): sum over concepts of weight times cosine, not bounded by 1."""
        width, frames = video[0].shape[2], video[0].shape[1]
        sentences = Tokens(Tokens(*text).last(), text[1].any(dim=1))
        if memory and self.device.type == "cpu" and not torch.is_grad_enabled():
            memory = min(memory, CPU_MEMORY)
        pair_bytes = 4 * (4 * width + 4 * self.options.center * frames)
        with torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not torch.float32):
            return in_blocks(self._compare, sentences, Tokens(*video), memory, pair_bytes, prepare=self._prepare)

    def _prepare(self, video: Tokens) -> _Videos:
        """Compute all that does not depend on the text."""
        frames = video.tokens.unflatten(2, (self.options.center, -1))
        by_concept = frames.transpose(1, 2)
        from_video = self.concept_weight.get_parameter("0.weight")[:, frames.shape[3] :]
        return _Videos(frames, video.mask, by_concept @ by_concept.mT, (frames @ from_video.T).flatten(2))

    def _compare(self, text: Tokens, video: _Videos) -> Tensor:
        """Similarity (A, B) without the pooled videos (A, B, D).

        The pooled video is linear in its frames, so products and hidden layer are weighted sums of those of the frames,
        and its length follows from `gram`.
        """
        concepts = text.tokens.unflatten(1, (self.options.center, -1))  # (A, C, d)
        products = torch.einsum("acd,bfcd->bacf", concepts, video.frames)
        scores, padding = products.sum(dim=2), self.recipe.padding_in_pooling
        weight = frame_weights(scores, video.mask.unsqueeze(1), self.options.temp, padding=padding)  # (B, A, N_v)
        product = (products * weight.unsqueeze(2)).sum(dim=3)  # (B, A, C)
        square = ((weight.unsqueeze(1) @ video.gram) * weight.unsqueeze(1)).sum(dim=3).mT  # (B, A, C)
        cosine = product / (concepts.norm(dim=2).clamp(min=EPS) * square.clamp(min=EPS**2).sqrt())  # (B, A, C)

        _, activation, last = self.concept_weight
        weight_of_text, bias = (self.concept_weight.get_parameter(f"0.{name}") for name in ("weight", "bias"))
        from_text = torch.nn.functional.linear(concepts, weight_of_text[:, : concepts.shape[2]], bias).flatten(1)
        hidden = torch.baddbmm(from_text.unsqueeze(0), weight, video.hidden).unflatten(2, (self.options.center, -1))
        return (last(activation(hidden)).squeeze(3) * cosine).sum(dim=2).T

    def losses(
        self, text: Tokens, video: Tokens, video_ids: Tensor, labels: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Contrastive terms, and the distance of the concepts' correlation from the identity."""
        correlation = self.correlation(text, video)
        on_diag = (correlation.diagonal() - 1).square().sum()
        off_diag = correlation.square().sum() - correlation.diagonal().square().sum()
        return super().losses(text, video, video_ids) | {"on_diag": on_diag, "off_diag": off_diag}

    def correlation(self, text: Tokens, video: Tokens) -> Tensor:
        """Correlation (C, C) of text concepts and video concepts of true pairs, text b with video b."""
        sentence = text.last()
        padding = self.recipe.padding_in_pooling
        pooled = pool_frames(sentence.unsqueeze(1), *video, self.options.temp, padding=padding).squeeze(1)
        concepts = (x.unflatten(1, (self.options.center, -1)) for x in (sentence, pooled))
        texts, videos = ((x - x.mean(dim=2, keepdim=True)) / x.std(dim=2, keepdim=True) for x in concepts)
        divisor = text.mask.shape[1] if self.recipe.correlation_over_words else texts.shape[2] - 1
        return torch.einsum("bid,bjd->ij", texts, videos) / (len(texts) * divisor)
