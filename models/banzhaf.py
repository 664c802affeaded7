"""Banzhaf interaction of every word with every frame: sampled, exact, and learned (arXiv 2303.14369, section 3).

I(i, j) = E[v(C + ij) - v(C + i) - v(C + j) + v(C)] over coalitions C of the other tokens, each a member with
probability 1/2. The games v are those of `models.coalitions`; `docs/banzhaf.md` derives the exact formulas.

B pairs, N_t words, N_v frames, S sampled coalitions per cell.
"""

import torch
from torch import Tensor, nn

from models.coalitions import check_players, half_interaction, one_hot
from models.estimator import BanzhafModule
from models.expectations import expected_maxima, expected_weights, renormalised_gain

__all__ = [
    "LABEL_SCALE",
    "BanzhafInteraction",
    "BanzhafModule",
    "exact_interaction",
    "exact_interaction_of_cosines",
    "sampled_interaction",
]

LABEL_SCALE = 1000.0
"""Factor on the cosine similarities from which the estimator's labels are made."""

SCORE_SPAN = 40.0
"""Scores of tokens further apart than this differ in weight by more than the 17 digits of a float64 can hold."""

MEMORY = 2**24
"""Default bytes for intermediate tensors: about what a processor's cache holds."""


def exact_interaction(
    token_sim: Tensor,
    text_mask: Tensor,
    video_mask: Tensor,
    text_score: Tensor,
    video_score: Tensor,
    game: str = "standard",
    coalitions: int | None = None,
    *,
    memory: int = MEMORY,
    generator: torch.Generator | None = None,
    span: float | None = None,
    check: bool = True,
) -> Tensor:
    """Banzhaf interaction by the closed form of each game.

    Computed in float32, or float64 where `token_sim` is, under autocast too. The standard game is exact for any scores
    and differentiable with respect to `token_sim` and both scores. The released game carries no gradient; it is exact
    where a side has at most 12 valid tokens, and otherwise samples the one factor that has no closed form.

    With `span` and without `check` the standard game needs no host-device sync, as suits every step of training.

    Args:
        token_sim: similarities (B, N_t, N_v), times `LABEL_SCALE` for labels; values at padding are ignored.
        text_mask: 1 for valid words (B, N_t).
        video_mask: 1 for valid frames (B, N_v).
        text_score: word scores (B, N_t): before the softmax in "standard", softmax weights in "released".
        video_score: frame scores (B, N_v), in the same form.
        game: "standard" or "released".
        coalitions: coalitions drawn for each token of a side that has more, and more than 12 valid tokens; None: 64.
        memory: bytes for intermediate tensors of the released game; the work is cut into chunks, down to one pair.
        generator: source of the draws; None for a fixed one, so that results repeat.
        span: how far apart the scores of a pair are taken to be; see `models.expectations.expected_weights`.
        check: refuse bad players; False where they are known to be good. The standard game unchecked also takes a side
            of one token: its interaction with a token is what that token adds to it.

    Returns:
        Interactions (B, N_t, N_v), 0 at padding.

    Raises:
        ValueError: see `models.coalitions.check_players`; or `coalitions` below 1.
    """
    if coalitions is not None and coalitions < 1:
        raise ValueError(f"coalitions must be at least 1, not {coalitions}")
    if check:
        check_players(token_sim, text_mask, video_mask, text_score, video_score, game)
    with torch.autocast(token_sim.device.type, enabled=False):
        text, video, sim, word, frame = _prepare(token_sim, text_mask, video_mask, text_score, video_score)
        if game == "standard":
            return _standard_half(sim, text, video, word, span) + _standard_half(sim.mT, video, text, frame, span).mT
        with torch.no_grad():
            options = (span, coalitions or 64, memory, generator)
            text_half = _released_half(sim, text, video, word, *options)
            video_half = _released_half(sim.mT, video, text, frame, *options)
            return (text_half + video_half.mT) * (text.unsqueeze(2) & video.unsqueeze(1))


def exact_interaction_of_cosines(
    token_sim: Tensor,
    text_score: Tensor,
    video_score: Tensor,
    text_mask: Tensor | None,
    video_mask: Tensor | None,
) -> Tensor:
    """Exact interaction of true pairs in the standard game, scaled as the estimator's labels.

    It needs no host-device sync, so it can be the teacher in every step of training. A side of one token has an
    interaction, too: what each token of the other side adds to that one.

    Args:
        token_sim: cosines (B, N_t, N_v).
        text_score: (B, N_t), before the softmax.
        video_score: (B, N_v).
        text_mask: (B, N_t), 1 for valid words; None: no padding.
        video_mask: (B, N_v), 1 for valid frames; None: no padding.

    Returns:
        (B, N_t, N_v).
    """
    scores = text_score, video_score
    masks = (
        torch.ones_like(score) if mask is None else mask
        for score, mask in zip(scores, (text_mask, video_mask), strict=True)
    )
    return exact_interaction(LABEL_SCALE * token_sim, *masks, *scores, span=SCORE_SPAN, check=False)


def _standard_half(sim: Tensor, row_mask: Tensor, column_mask: Tensor, score: Tensor, span: float | None) -> Tensor:
    """One half (B, N, M) of the standard interaction; sim (B, N, M), row_mask and score (B, N), column_mask (B, M)."""
    absent, present = expected_weights(score, row_mask, span)
    low, high = expected_maxima(sim, column_mask)
    return (present - absent) @ (high - low) / 2


def _released_half(
    sim: Tensor,
    row_mask: Tensor,
    column_mask: Tensor,
    weight: Tensor,
    span: float | None,
    coalitions: int,
    memory: int,
    generator: torch.Generator | None,
) -> Tensor:
    """One half of the released interaction, shapes as in `_standard_half`; not masked."""
    absent, present = expected_weights(weight, row_mask, span)
    low, high = expected_maxima(sim.relu(), column_mask)
    # A maximum may be negative only where no column is a zero: when all of them are valid and present.
    everyone = sim.amax(-1).clamp(max=0) * column_mask.all(-1, keepdim=True) / 2 ** (sim.shape[-1] - 1)
    high = high + everyone.unsqueeze(-1)
    gain = renormalised_gain(weight, row_mask, coalitions, memory, generator)
    own = (present + gain).diagonal(dim1=1, dim2=2).unsqueeze(-1)  # (B, N, 1)
    return (gain @ low + own * (sim.relu() - low) + absent @ (low - high)) / 2


def sampled_interaction(
    token_sim: Tensor,
    text_mask: Tensor,
    video_mask: Tensor,
    text_score: Tensor,
    video_score: Tensor,
    game: str = "released",
    num: int = 100,
    text_coalitions: Tensor | None = None,
    video_coalitions: Tensor | None = None,
    generator: torch.Generator | None = None,
    *,
    memory: int = MEMORY,
) -> Tensor:
    """Banzhaf interaction averaged over sampled coalitions, as published; no gradient.

    Args:
        token_sim: similarities (B, N_t, N_v), times `LABEL_SCALE` for labels.
        text_mask: 1 for valid words (B, N_t).
        video_mask: 1 for valid frames (B, N_v).
        text_score: word scores (B, N_t): before the softmax in "standard", softmax weights in "released".
        video_score: frame scores (B, N_v), in the same form.
        game: "released" or "standard".
        num: samples per cell, S; not used where coalitions are given.
        text_coalitions: which words are members, 0 or 1 (N_t, N_v, S, B, N_t), for each word, frame and sample;
            the players themselves and padding are removed.
        video_coalitions: which frames are members (N_t, N_v, S, B, N_v); given together with the text's.
        generator: source of the draws; None for PyTorch's own.
        memory: bytes for intermediate tensors; the work is cut into chunks, down to one coalition.

    Returns:
        Mean of the sampled differences (B, N_t, N_v), 0 at padding.

    Raises:
        ValueError: see `models.coalitions.check_players`; coalitions of another shape, or only one side's; `num`
            below 1.
    """
    check_players(token_sim, text_mask, video_mask, text_score, video_score, game)
    with torch.no_grad(), torch.autocast(token_sim.device.type, enabled=False):
        text, video, sim, word, frame = _prepare(token_sim, text_mask, video_mask, text_score, video_score)
        pairs, words, frames = sim.shape
        num = _samples(num, text_coalitions, video_coalitions, (pairs, words, frames))
        chunk = max(1, memory // (2 * sim.element_size() * sim.numel()))
        total = sim.new_zeros(words * frames, pairs)
        by_row, by_column = (sim.permute(axes).contiguous() for axes in ((1, 2, 0), (2, 1, 0)))
        for index in torch.arange(words * frames * num, device=sim.device).split(chunk):
            cell = index // num
            i, j = cell // frames, cell % frames
            if text_coalitions is None:
                device = sim.device if generator is None else generator.device
                joins = torch.rand(len(index), pairs, words + frames, generator=generator, device=device) > 0.5
                given = joins.split((words, frames), dim=-1)
            else:
                given = (x.flatten(0, 2)[index.to(x.device)].bool() for x in (text_coalitions, video_coalitions))
            rows, columns = (
                members.to(sim.device).permute(2, 0, 1) & mask.mT.unsqueeze(1) & ~one_hot(player, mask.shape[1])
                for members, mask, player in zip(given, (text, video), (i, j), strict=True)
            )
            text_half = half_interaction(by_row, word.mT, rows, columns, i, j, game)
            video_half = half_interaction(by_column, frame.mT, columns, rows, j, i, game)
            total.index_add_(0, cell, text_half + video_half)
        mean = (total / num).mT.reshape(sim.shape)
        return mean * (text.unsqueeze(2) & video.unsqueeze(1))


class BanzhafInteraction(nn.Module):
    """Labels of the estimator for given sizes, as the published code makes them: sampled, on scaled similarities."""

    def __init__(self, t_len: int, v_len: int, num: int, *, game: str = "released", memory: int = MEMORY) -> None:
        """Fix the sizes.

        Args:
            t_len: words, N_t.
            v_len: frames, N_v.
            num: sampled coalitions per cell, S.
            game: "released" or "standard".
            memory: bytes for intermediate tensors.
        """
        super().__init__()
        self.t_len, self.v_len, self.num = t_len, v_len, num
        self.game, self.memory = game, memory

    def forward(
        self,
        retrieve_logits: Tensor,
        text_mask: Tensor,
        video_mask: Tensor,
        text_weight: Tensor,
        video_weight: Tensor,
        text_coalitions: Tensor | None = None,
        video_coalitions: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Sample the interaction of `LABEL_SCALE` times the similarities.

        Args:
            retrieve_logits: cosine similarities of the true pairs (B, N_t, N_v).
            text_mask: 1 for valid words (B, N_t).
            video_mask: 1 for valid frames (B, N_v).
            text_weight: softmax weights of the words (B, N_t); in "standard", scores before the softmax.
            video_weight: softmax weights of the frames (B, N_v), in the same form.
            text_coalitions: see `sampled_interaction`.
            video_coalitions: see `sampled_interaction`.
            generator: source of the draws.

        Returns:
            Labels (B, N_t, N_v), 0 at padding.

        Raises:
            ValueError: sizes other than (t_len, v_len); see `sampled_interaction`.
        """
        if retrieve_logits.shape[1:] != (self.t_len, self.v_len):
            expected = f"(B, {self.t_len}, {self.v_len})"
            raise ValueError(f"retrieve_logits must be {expected}, not of shape {tuple(retrieve_logits.shape)}")
        return sampled_interaction(
            LABEL_SCALE * retrieve_logits,
            text_mask,
            video_mask,
            text_weight,
            video_weight,
            game=self.game,
            num=self.num,
            text_coalitions=text_coalitions,
            video_coalitions=video_coalitions,
            generator=generator,
            memory=self.memory,
        )


def _prepare(
    token_sim: Tensor, text_mask: Tensor, video_mask: Tensor, text_score: Tensor, video_score: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Boolean masks, and similarities and scores with zeros at padding in one dtype of at least float32."""
    dtype = torch.promote_types(token_sim.dtype, torch.float32)
    text, video = text_mask.bool(), video_mask.bool()
    sim = token_sim.to(dtype).masked_fill((text.unsqueeze(2) & video.unsqueeze(1)).logical_not(), 0.0)
    word = text_score.to(dtype).masked_fill(text.logical_not(), 0.0)
    frame = video_score.to(dtype).masked_fill(video.logical_not(), 0.0)
    return text, video, sim, word, frame


def _samples(num: int, text: Tensor | None, video: Tensor | None, sizes: tuple[int, int, int]) -> int:
    """Number of samples per cell, once the coalitions given, if any, are known to fit."""
    pairs, words, frames = sizes
    if (text is None) != (video is None):
        raise ValueError("text_coalitions and video_coalitions are given together or not at all")
    if text is not None:
        num = text.shape[2] if text.dim() == 5 else num
        for name, coalitions, tokens in (("text", text, words), ("video", video, frames)):
            expected = (words, frames, num, pairs, tokens)
            if coalitions.shape != expected:
                raise ValueError(f"{name}_coalitions must be of shape {expected}, not {tuple(coalitions.shape)}")
    if num < 1:
        raise ValueError(f"at least one sample is needed, not {num}")
    return num
