"""A transformer over a sentence and the frames of a video together, which scores the pair.

Dimension letters: A texts, B videos, N_v frames, D width.
Source: CLIP4Clip, arXiv 2104.08860 (tightTransf); DRL, arXiv 2203.07111 (XTI).
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from models.clip import CLIP
from models.encoder import Tokens, copy_text_tower, init_normal
from models.similarity import in_blocks
from models.temporal import POSITIONS
from models.transformer import QUICK_GELU_SLOPE, Transformer
from utils.gather import gather_features, shard

LAYERS = 4
WIDTHS = 18
"""Memory of a token in a block, in multiples of the token's own."""
CPU_MEMORY = 64 * 2**20
"""Bytes of a block on the CPU, where larger ones are slower."""
NAMES = (
    (r"pairs\.positions\.", "cross.embeddings.position_embeddings."),
    (r"pairs\.transformer\.", "cross.transformer."),
    (r"pairs\.norm\.", "cross.pooler.ln_pool."),
    (r"pairs\.dense\.", "cross.pooler.dense."),
    (r"pairs\.score\.", "similarity_dense."),
)
"""Released names of a `PairEncoder` called `pairs`."""


class PairEncoder(nn.Module):
    """Scores every pair; the score is not a cosine and is unbounded."""

    def __init__(self, width: int, layers: int = LAYERS, positions: int = POSITIONS):
        """Args: width: D; layers: blocks; positions: most tokens, one text and the frames."""
        super().__init__()
        self.positions = nn.Embedding(positions, width)
        self.dropout = nn.Dropout(0.1)
        self.transformer = Transformer(width, layers, norm_eps=1e-12)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.dense = nn.Linear(width, width)
        self.score = nn.Linear(width, 1)

    @property
    def max_frames(self) -> int:
        """Longest clip in frames."""
        return self.positions.num_embeddings - 1

    def reset_parameters(self, clip: CLIP) -> None:
        """Initialise as the released code does: positions and blocks start from CLIP's text tower."""
        self.apply(init_normal)
        copy_text_tower(self, clip)

    def forward(self, text: Tokens, video: Tokens) -> Tensor:
        """Scores (A, B) of sentence vectors (A, D) with videos (B, N_v, D)."""
        texts, (videos, frames, width) = text.tokens.shape[0], video.tokens.shape
        sentence = text.tokens[:, None, None].expand(-1, videos, -1, -1)
        pairs = torch.cat([sentence, video.tokens.expand(texts, -1, -1, -1)], dim=2).flatten(0, 1)
        visible = torch.cat([video.mask.new_ones(videos, 1), video.mask], dim=1).bool()
        visible = visible.expand(texts, -1, -1).flatten(0, 1)[:, None, None]  # (A B, 1, 1, 1 + N_v)
        pairs = self.dropout(pairs + self.positions.weight.narrow(0, 0, 1 + frames))
        first = self.norm(self.transformer(pairs, visible, 1).view(-1, width))
        hidden = self.dense(first)
        return self.score(hidden * (QUICK_GELU_SLOPE * hidden).sigmoid()).view(texts, videos)

    def similarity(self, text: Tokens, video: Tokens, memory: int | None, dtype: torch.dtype = torch.float32) -> Tensor:
        """Score every text with every video in blocks, videos of one length together: float32 (A, B).

        A block takes `memory` bytes, at least one pair; None: all pairs in one. `dtype` is that of the products.
        """
        if video.mask.shape[1] > self.max_frames:
            raise ValueError(f"{video.mask.shape[1]} frames, but position embeddings for {self.max_frames}")
        if memory is None:
            return self(text.sentences(), video)
        if video.mask.device.type == "cpu":
            memory = min(memory, CPU_MEMORY)
        order = video.mask.sum(dim=1).argsort()
        pair_bytes = 4 * WIDTHS * (1 + video.mask.shape[1]) * video.tokens.shape[2]
        with torch.autocast(video.mask.device.type, dtype=dtype, enabled=dtype is not torch.float32):
            sim = in_blocks(self, text.sentences(), video.select(order), memory, pair_bytes, prepare=_without_padding)
        return sim.index_select(1, order.argsort())

    def sharded(self, text: Tokens, video: Tokens, memory: int) -> Tensor:
        """`similarity` of gathered texts and videos; each process scores its shard of the texts."""
        sim = self.similarity(Tokens(shard(text.tokens), shard(text.mask)), video, memory)
        return gather_features(sim, exact=True)


def _without_padding(video: Tokens) -> Tokens:
    """Cut off the positions that are padding in all videos."""
    longest = max(int(video.mask.sum(dim=1).max()), 1)
    return Tokens(video.tokens[:, :longest], video.mask[:, :longest])


def layers_of(state: Mapping[str, Tensor]) -> int:
    """Depth of the pair encoder in a checkpoint; 0 where it has none."""
    return len({name.split(".")[3] for name in state if name.startswith("cross.transformer.resblocks.")})


