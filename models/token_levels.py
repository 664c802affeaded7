"""Methods that compare words with frames, at one level or several.

B pairs, N_t words, N_v frames.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from typing import Any

import torch

from models.banzhaf import exact_interaction_of_cosines
from models.coalitions import Pairs
from models.encoder import Tokens, TokensLike
from models.level import LevelInteraction, TokenSet, WeightedInteraction
from utils.errors import InputError


def full_precision(function: Callable) -> Callable:
    """Decorate a method to run outside autocast, so that similarities and losses stay float32."""

    @wraps(function)
    def wrapped(self: Any, *arguments: Any, **options: Any) -> Any:
        with torch.autocast(self.device.type, enabled=False):
            return function(self, *arguments, **options)

    return wrapped


class TokenLevels:
    """The levels at which a method compares words with frames, if any."""

    rates: Sequence[float] = (1.0,)  # weight of each of `token_levels` in evaluation

    def token_levels(self) -> Sequence[WeightedInteraction]:
        """The levels at which words are compared with frames, from entity upwards."""
        return ()

    @property
    def used_levels(self) -> int:
        """Number of levels that evaluation computes: up to the last of a rate above 0."""
        return max((number for number, rate in enumerate(self.rates, start=1) if rate), default=0)

    def token_sets(self, tokens: Tokens, side: str, levels: int) -> Iterator[TokenSet]:
        """Yield texts or videos (`side`: "text" or "video") at the first `levels` of `token_levels`."""
        yield TokenSet.original(*tokens)

    def level_sets(
        self, text: Tokens, video: Tokens, levels: int
    ) -> Iterator[tuple[WeightedInteraction, TokenSet, TokenSet]]:
        """Yield the first `levels` of `token_levels` with their texts and videos."""
        sets = self.token_sets(text, "text", levels), self.token_sets(video, "video", levels)
        return zip(self.token_levels()[:levels], *sets, strict=False)

    @torch.no_grad()
    @full_precision
    def interactions(self, text: TokensLike, video: TokensLike, *, exact: bool = False) -> list[LevelInteraction]:
        """Inspect true pairs, text b with video b, level by level, by its student or the exact standard game."""
        name, levels, found = type(self).__name__, self.token_levels(), []
        if not levels:
            raise InputError(f"{name}: compares pooled features or whole pairs, not words with frames; nothing to show")
        if not exact and levels[0].student is None:
            raise InputError(f"{name}: has no estimator of the interaction; give --interaction exact (exact=True)")
        for level, texts, videos in self.level_sets(Tokens(*text), Tokens(*video), len(levels)):
            output = level(texts, videos)
            sim, scores = output.pair_sim, (output.text_score, output.video_score)
            if exact:
                interaction = exact_interaction_of_cosines(Pairs(sim, texts.mask, videos.mask, *scores))
            else:
                assert level.student is not None
                interaction = level.student(sim) * texts.valid().unsqueeze(2) * videos.valid().unsqueeze(1)
            own = output.sim.diagonal(), sim, interaction, output.text, output.video
            found.append(LevelInteraction(level.name, *own))
        return found
