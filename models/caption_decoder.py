"""A transformer decoder that writes captions from the tokens of a video's levels.

Dimension letters: B captions, n words decoded at once, N words so far, M memory tokens of all levels, H heads, W width
of CLIP's text tower, D width of the video tokens, V vocabulary.
Built after the description of HBI's journal version, arXiv 2412.20964, as a standard decoder (arXiv 1706.03762).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.clip import CLIP
from models.level import TokenSet
from models.transformer import HEAD_WIDTH, Perceptron

KeysValues = tuple[Tensor, Tensor]
"""Keys and values of tokens, each (B, H, tokens, 64)."""


class Cache(NamedTuple):
    """Keys and values of each block: of the M memory tokens, with mask (B, 1, 1, M), and of the words so far."""

    memory: list[KeysValues]
    mask: Tensor
    words: list[KeysValues]

    def select(self, index: Tensor) -> "Cache":
        """The captions at the positions `index`."""

        def choose(pairs: list[KeysValues]) -> list[KeysValues]:
            return [(keys[index], values[index]) for keys, values in pairs]

        return Cache(choose(self.memory), self.mask[index], choose(self.words))


class Decoded(NamedTuple):
    """Attributes: hidden: (B, n, W); attention: (B, n, M) over the memory, sums to 1; cache: with the new words."""

    hidden: Tensor
    attention: Tensor
    cache: Cache


class Attention(nn.Module):
    """Multi-head attention with separate keys and values, so that they can be cached."""

    def __init__(self, width: int, key_width: int):
        super().__init__()
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(key_width, 2 * width)
        self.project = nn.Linear(width, width)

    def keys_values(self, x: Tensor) -> KeysValues:
        """Keys and values of tokens (B, tokens, key width)."""
        return self.key_value(x).unflatten(-1, (2, -1, HEAD_WIDTH)).transpose(1, 3).unbind(2)

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Attend from words (B, n, W) to the tokens in `mask`: (B, n, W), and the weights, averaged over heads."""
        query = self.query(x).unflatten(-1, (-1, HEAD_WIDTH)).transpose(1, 2)  # (B, H, n, 64)
        logits = query @ keys.mT / HEAD_WIDTH**0.5
        weights = logits.masked_fill(~mask, -torch.inf).softmax(dim=-1)  # (B, H, n, tokens)
        return self.project((weights @ values).transpose(1, 2).flatten(2)), weights.mean(dim=1)


class DecoderBlock(nn.Module):
    """Pre-norm self-attention over the words, cross-attention over the memory, MLP."""

    def __init__(self, width: int, memory_width: int, dropout: float):
        super().__init__()
        self.norm, self.cross_norm, self.mlp_norm = (nn.LayerNorm(width) for _ in range(3))
        self.attention, self.cross = Attention(width, width), Attention(width, memory_width)
        self.mlp = Perceptron(width, quick_gelu=False)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, past: KeysValues, memory: KeysValues, causal: Tensor, mask: Tensor
    ) -> tuple[Tensor, KeysValues, Tensor]:
        """Map words (B, n, W) that follow `past`; also returns keys and values of all words, and weights (B, n, M)."""
        normed = self.norm(x)
        pairs = zip(past, self.attention.keys_values(normed), strict=True)
        keys, values = (torch.cat(pair, dim=2) for pair in pairs)  # (B, H, N, 64)
        x = x + self.dropout(self.attention(normed, keys, values, causal)[0])
        seen, weights = self.cross(self.cross_norm(x), *memory, mask)
        x = x + self.dropout(seen)
        return x + self.dropout(self.mlp.narrow(self.mlp.widen(self.mlp_norm(x)))), (keys, values), weights


class CaptionDecoder(nn.Module):
    """Maps the tokens of the first levels of a video, and the words so far, to the logits of the next word.

    Word embeddings and positions are initialised from CLIP; the output layer is tied to the embeddings.
    """

    def __init__(self, clip: CLIP, *, levels: int, layers: int, dropout: float):
        """Args: clip: gives the vocabulary; levels: number of levels read, from entity upwards; layers: blocks."""
        super().__init__()
        width, memory_width = clip.config.text_width, clip.config.embed_dim
        self.start, self.end = clip.config.vocabulary - 2, clip.config.vocabulary - 1
        self.embedding = nn.Embedding.from_pretrained(clip.token_embedding.weight.detach().clone(), freeze=False)
        self.positions = nn.Parameter(clip.positional_embedding.detach().clone())
        self.level_vectors = nn.Parameter(0.02 * torch.randn(levels, memory_width))
        self.memory_norm = nn.LayerNorm(memory_width)
        self.blocks: Any = nn.ModuleList(DecoderBlock(width, memory_width, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def read(self, videos: Sequence[TokenSet]) -> Cache:
        """Make the cache before the first word from the tokens of B videos at each level."""
        pairs = zip(videos, self.level_vectors, strict=True)
        memory = self.memory_norm(torch.cat([video.tokens + vector for video, vector in pairs], dim=1))  # (B, M, D)
        mask = torch.cat([video.valid() for video in videos], dim=1).bool()
        empty = memory.new_zeros(memory.shape[0], self.norm.normalized_shape[0] // HEAD_WIDTH, 0, HEAD_WIDTH)
        seen = [block.cross.keys_values(memory) for block in self.blocks]
        return Cache(seen, mask.unsqueeze(1).unsqueeze(1), [(empty, empty)] * len(self.blocks))

    def forward(self, ids: Tensor, cache: Cache) -> Decoded:
        """Decode words, int64 (B, n), that follow those in the cache."""
        done = cache.words[0][0].shape[2]
        count = ids.shape[1]
        causal = torch.ones(count, done + count, dtype=torch.bool, device=ids.device).tril(done)
        x = self.dropout(self.embedding(ids) + self.positions.narrow(0, done, count))
        words, attention = [], []
        for block, past, memory in zip(self.blocks, cache.words, cache.memory, strict=True):
            x, pair, weights = block(x, past, memory, causal, cache.mask)
            words.append(pair)
            attention.append(weights)
        return Decoded(self.norm(x), torch.stack(attention).mean(dim=0), cache._replace(words=words))

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits of the next word (..., V) of hidden states (..., W)."""
        return F.linear(hidden, self.embedding.weight)

    def step(self, ids: Tensor, cache: Cache) -> tuple[Tensor, Cache]:
        """Add a word (B,); log-probabilities of the next one (B, V), the start token excluded, and the new cache."""
        decoded = self(ids.unsqueeze(1), cache)
        logits = self.logits(decoded.hidden.squeeze(1))
        logits[:, self.start] = -torch.inf
        return logits.log_softmax(dim=-1), decoded.cache
