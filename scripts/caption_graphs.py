"""A caption decoder as ONNX graphs: the memory of a video, and one step of decoding with a cache.

Dimension letters: B videos, N_v frames, D width, L blocks, H heads, M memory tokens, n words so far, V vocabulary.
"""

import torch
from torch import Tensor, nn
from torch.export import Dim

from models import HBICaptioning, Tokens
from models.caption_decoder import Cache, KeysValues
from models.transformer import HEAD_WIDTH

PAST = (3, 0, 6)
"""Numbers of words so far in the test inputs of `NextWord`; the first is used for tracing."""


class Memory(nn.Module):
    """Frame tokens (B, N_v, D) and mask (B, N_v) to the memory (B, L, 2, H, M, 64) and its mask (B, M)."""

    def __init__(self, model: HBICaptioning):
        """Args: model: gives levels and decoder."""
        super().__init__()
        self.model = model

    def forward(self, video: Tensor, video_mask: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        cache = self.model.decoder.read(self.model.memory_sets(Tokens(video, video_mask)))
        return pack(cache.memory), cache.mask.flatten(1).long()


class NextWord(nn.Module):
    """One step of decoding.

    The last token (B,), the memory and its mask, and the cache of the words so far (B, L, 2, H, n, 64), to the
    log-probabilities of the next token (B, V) and the cache with one more word.
    """

    def __init__(self, model: HBICaptioning):
        """Args: model: gives the decoder."""
        super().__init__()
        self.model = model

    def forward(self, token: Tensor, memory: Tensor, memory_mask: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        cache = Cache(unpack(memory), memory_mask.bool()[:, None, None], unpack(words))
        log_probs, cache = self.model.decoder.step(token, cache)
        return log_probs, pack(cache.words)


def pack(pairs: list[KeysValues]) -> Tensor:
    """Keys and values of all blocks in one tensor (B, L, 2, H, tokens, 64)."""
    return torch.stack([torch.stack(pair, dim=1) for pair in pairs], dim=1)


def unpack(packed: Tensor) -> list[KeysValues]:
    """Inverse of `pack`."""
    return [pair.unbind(1) for pair in packed.unbind(1)]


def word_inputs(model: HBICaptioning, videos: int, max_frames: int, past: int) -> dict[str, Tensor]:
    """Random inputs of `NextWord`, in the sizes that clips of `max_frames` frames give."""
    draw = torch.Generator().manual_seed(past)
    config = model.clip.config
    clips = Tokens(torch.randn(videos, max_frames, config.embed_dim, generator=draw), torch.ones(videos, max_frames))
    memory, mask = Memory(model)(*clips)
    shape = (*memory.shape[:4], past, HEAD_WIDTH)
    token = torch.randint(config.vocabulary, (videos,), generator=draw)
    return {"token": token, "memory": memory, "memory_mask": mask, "words": torch.randn(shape, generator=draw)}


def word_shapes(videos: Dim) -> dict[str, dict[int, Dim]]:
    """Dynamic dimensions of the inputs of `NextWord`."""
    shapes = {name: {0: videos} for name in ("token", "memory", "memory_mask", "words")}
    shapes["words"][4] = Dim("words_so_far", min=0)
    return shapes
