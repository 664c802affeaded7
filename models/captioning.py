"""Video captioning: a decoder on HBI's video hierarchy.

Dimension letters: A captions, B videos, N_t words, N_v frames, L words at most.
Built after the description of HBI's journal version, arXiv 2412.20964, whose decoder is not published: its form here,
and the losses' weights, are this project's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from models import losses
from models.caption_decoder import CaptionDecoder
from models.caption_options import CaptioningOptions, add_captioning_arguments, captioning_options_from
from models.decoding import Beams, beam_search
from models.encoder import Tokens
from models.hbi import HBI
from models.level import TokenSet
from models.method import full_precision
from models.token_merge import Clusters
from models.tokenizer import Tokenizer
from utils.errors import InputError
from utils.gather import gather_features, shard

DECODER = "decoder."
"""Prefix of the decoder's weights."""


@dataclass(frozen=True)
class DescribedWord:
    """A word, its probability given the words before, and by level its attention to each token: all sum to 1."""

    word: str
    probability: float
    attention: dict[str, list[float]]


@dataclass(frozen=True)
class Description:
    """A generated caption, and by level the numbers of the frames, from 0, that were merged into each token."""

    caption: str
    words: list[DescribedWord]
    frames: dict[str, list[list[int]]]


class HBICaptioning(HBI):
    """Video captioning from the tokens of the trained levels; HBI's own losses are optional."""

    Options = CaptioningOptions
    options: CaptioningOptions
    add_arguments = staticmethod(add_captioning_arguments)
    options_from = staticmethod(captioning_options_from)

    def build(self) -> None:
        """Make the hierarchy and the decoder."""
        super().build()
        options = self.options
        sizes = {"levels": options.trained_levels, "layers": options.decoder_layers}
        self.decoder = CaptionDecoder(self.clip, **sizes, dropout=options.dropout)

    def freeze(self) -> None:
        """Freeze the text side if HBI's own losses are off."""
        super().freeze()
        if not self.options.retrieval_weight:
            merges = (level.video_merge for level in self.levels[1 : self.options.trained_levels])
            video = (self.clip.visual, self.temporal, self.decoder, *merges)
            trained = {parameter for module in video for parameter in module.parameters() if parameter.requires_grad}
            for parameter in self.parameters():
                parameter.requires_grad_(parameter in trained)

    @classmethod
    def options_of_state(cls, state: Mapping[str, Tensor]) -> dict[str, Any]:
        """See `RetrievalMethod.options_of_state`; with a decoder also its sizes."""
        found = super().options_of_state(state)
        if has_decoder(state):
            blocks = {name.split(".")[2] for name in state if name.startswith(f"{DECODER}blocks.")}
            found |= {"trained_levels": len(state[f"{DECODER}level_vectors"]), "decoder_layers": len(blocks)}
        return found

    def complete(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Add an untrained decoder to the weights of a retrieval model."""
        state = super().complete(state)
        if has_decoder(state):
            return state
        return {**state, **{f"{DECODER}{name}": tensor for name, tensor in self.decoder.state_dict().items()}}

    def positives(self, video_ids: Tensor) -> Tensor:
        """Captions of one video are never negatives of each other."""
        return losses.same_video(video_ids)

    def losses(self, text: Tokens, video: Tokens, video_ids: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Cross-entropy of the captions, and HBI's own terms; `labels`, int64 (A, N_t), are the captions' token ids."""
        if not self.options.retrieval_weight:
            return {"caption_ce": self.caption_loss(labels, text.mask, self.memory_sets(video))}
        sets = list(self.level_sets(text, video, self.options.trained_levels))
        outputs = [level(*pair) for level, *pair in sets]
        terms = self.level_losses(outputs, text.mask, video.mask, video_ids)
        terms |= losses.distillation({output.name: output.sim for output in outputs})
        return terms | {"caption_ce": self.caption_loss(labels, text.mask, [videos for *_, videos in sets])}

    @property
    def weights(self) -> dict[str, float]:
        """Weight of each term in the loss."""
        share = self.options.retrieval_weight
        return {name: share * weight for name, weight in super().weights.items()} | {"caption_ce": 1.0}

    def memory_sets(self, video: Tokens) -> list[TokenSet]:
        """The levels of videos that the decoder reads."""
        return list(self.token_sets(video, "video", self.options.trained_levels))

    def caption_loss(self, ids: Tensor, mask: Tensor, videos: Sequence[TokenSet]) -> Tensor:
        """Cross-entropy with label smoothing of the next token, averaged over all captions' tokens and end tokens.

        Each process decodes its shard. The mask (A, N_t) distinguishes padding from token 0, which is "!".
        """
        ids, mask = shard(ids), shard(mask)
        videos = [own_shard(tokens) for tokens in videos]
        hidden = self.decoder(ids[:, :-1], self.decoder.read(videos)).hidden
        valid = mask[:, 1:].bool()
        smoothing: dict[str, Any] = {"label_smoothing": self.options.label_smoothing, "reduction": "sum"}
        total = F.cross_entropy(self.decoder.logits(hidden[valid]), ids[:, 1:][valid], **smoothing)
        totals, counts = (gather_features(x.unsqueeze(0), exact=True) for x in (total, valid.sum()))
        return totals.sum() / counts.sum()

    @torch.no_grad()
    @full_precision
    def generate(self, video: Tokens, *, beams: int = 5, max_words: int = 32, exponent: float = 1.0) -> Beams:
        """Generate captions of B videos, of at most `max_words` tokens, ends included; see `beam_search`.

        Raises:
            InputError: more tokens than the decoder has positions for.
        """
        positions = len(self.decoder.positions)
        if not 2 <= max_words <= positions:
            raise InputError(f"captions of {max_words} tokens: the decoder has {positions} positions; give 2 to them")
        sets = self.memory_sets(Tokens(*video))
        first = torch.full((len(video[1]),), self.decoder.start, device=self.device)
        options = {"beams": beams, "length": max_words - 1, "exponent": exponent}
        return beam_search(self.decoder.step, self.decoder.read(sets), first, end=self.decoder.end, **options)

    @torch.no_grad()
    def describe(self, video: str | Path, *, beams: int = 5, max_words: int = 32, **sampling: Any) -> Description:
        """Caption a video file, with each word's attention to the frames; `sampling` as for `encode_video`.

        Raises:
            InputError: the file is missing or cannot be decoded.
        """
        tokens = self.encode_video([video], **sampling)
        best = self.generate(tokens, beams=beams, max_words=max_words).best()
        return self.explain(best.ids[0], best.log_probs[0], self.memory_sets(tokens))

    def sentences(self, ids: Tensor) -> list[str]:
        """The captions that token ids (B, L) spell."""
        tokenizer = Tokenizer()
        written = (tokenizer.words(row[row != self.decoder.end].tolist()) for row in ids)
        return [" ".join(word for word, _ in words) for words in written]

    def explain(self, ids: Tensor, log_probs: Tensor, videos: Sequence[TokenSet]) -> Description:
        """The caption (L,) of one video, word by word."""
        start = ids.new_tensor([self.decoder.start])
        attention = self.decoder(torch.cat([start, ids])[None, :-1], self.decoder.read(videos)).attention[0]
        words, place = [], 0
        for word, count in Tokenizer().words(ids[ids != self.decoder.end].tolist()):
            own = slice(place, place := place + count)
            shares = attention[own].mean(dim=0).split([tokens.tokens.shape[1] for tokens in videos])
            by_level = {level.name: share.tolist() for level, share in zip(self.levels, shares, strict=False)}
            words.append(DescribedWord(word, log_probs[own].sum().exp().item(), by_level))
        count = int(videos[0].lengths[0])
        frames = {
            level.name: [
                (tokens.clusters.index[0, :count] == token).nonzero().flatten().tolist()
                for token in range(tokens.tokens.shape[1])
            ]
            for level, tokens in zip(self.levels, videos, strict=False)
        }
        return Description(" ".join(word.word for word in words), words, frames)


def has_decoder(state: Mapping[str, Tensor]) -> bool:
    """Whether a checkpoint has a caption decoder."""
    return f"{DECODER}level_vectors" in state


def own_shard(tokens: TokenSet) -> TokenSet:
    """This process's shard of the videos."""
    mask = None if tokens.mask is None else shard(tokens.mask)
    clusters = Clusters(shard(tokens.clusters.index), shard(tokens.clusters.weight))
    return TokenSet(shard(tokens.tokens), mask, shard(tokens.lengths), clusters)
