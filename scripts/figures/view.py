"""Data of the figures of one pair: words, frames, and the players of each level.

N_t words, N_v frames, R CLIP's resolution.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models import RetrievalMethod
from models.level import LevelInteraction
from models.tokenizer import Tokenizer
from scripts.figures.words import Piece, split_pieces
from utils.engine.builders import check_sizes
from utils.video.decode import decode_clip
from utils.video.transforms import ClipTransform


@dataclass(frozen=True)
class Band:
    """One level of one pair, without padding.

    Attributes:
        name: "entity", "action" or "event"; "tokens" where a method has one level.
        sim: similarity of the pair.
        words: positions of the text tokens in each text player, players ordered by their first token.
        frames: the same for the frames of each video player.
        interaction: (text players, video players), Banzhaf interaction.
    """

    name: str
    sim: float
    words: tuple[tuple[int, ...], ...]
    frames: tuple[tuple[int, ...], ...]
    interaction: np.ndarray


@dataclass(frozen=True)
class View:
    """A caption and a video as the model sees them.

    Attributes:
        pieces: the text tokens.
        frames: uint8 (N_v, R, R, 3), the frames the model was given.
        bands: the levels, from entity upwards.
        exact: the bands hold the exact interaction, not the estimator's.
    """

    pieces: list[Piece]
    frames: np.ndarray
    bands: list[Band]
    exact: bool


def look(
    model: RetrievalMethod,
    caption: str,
    video: str | Path,
    *,
    max_words: int = 32,
    max_frames: int = 12,
    exact: bool = False,
    **sampling: float | None,
) -> View:
    """Compute a model's interactions of one pair; the video is decoded once.

    Args:
        model: in evaluation mode.
        caption: a sentence; what does not fit `max_words` is cut.
        video: file.
        max_words: text tokens, both special ones included; padding takes part in the merges.
        max_frames: frames; padding takes part in the merges, too.
        exact: the exact interaction in place of the estimator's.
        **sampling: further keywords of `utils.video.decode.decode_clip`.

    Raises:
        InputError: fewer than 2 words, more words or frames than the model has positions for, a video that cannot be
            decoded, or a method without such interactions.
    """
    check_sizes(model, max_words, max_frames)
    tokenizer = Tokenizer()
    ids, text_mask = tokenizer([caption], max_words)
    transform = ClipTransform(model.clip.config.resolution)
    frames = transform(decode_clip(video, max_frames=max_frames, **sampling))
    video_mask = (torch.arange(max_frames) < len(frames)).long().unsqueeze(0)
    with torch.no_grad():
        on_device = [tensor.to(model.device) for tensor in (ids, text_mask, frames, video_mask)]
        text = model.text_tokens(*on_device[:2]), on_device[1]
        tokens = model.frame_tokens(*on_device[2:]), on_device[3]
        levels = model.interactions(text, tokens, exact=exact)
    return View(
        split_pieces(tokenizer, ids[text_mask.bool()].tolist()),
        frames.permute(0, 2, 3, 1).numpy(),
        [band(level, text_mask[0], video_mask[0]) for level in levels],
        exact,
    )


def band(level: LevelInteraction, text_mask: Tensor, video_mask: Tensor) -> Band:
    """Reduce the first pair of a level to the players that contain a word or a frame; masks (N_t,) and (N_v,)."""
    words = _members(level.text.index[0], text_mask)
    frames = _members(level.video.index[0], video_mask)
    interaction = level.interaction[0].cpu()[list(words)][:, list(frames)]
    return Band(level.name, level.sim[0].item(), tuple(words.values()), tuple(frames.values()), interaction.numpy())


def _members(cluster: Tensor, mask: Tensor) -> dict[int, tuple[int, ...]]:
    """Valid positions by cluster, clusters in the order of their first member; both arguments (N,)."""
    found: dict[int, tuple[int, ...]] = {}
    for position in mask.nonzero().flatten().tolist():
        number = int(cluster[position])
        found[number] = (*found.get(number, ()), position)
    return found
