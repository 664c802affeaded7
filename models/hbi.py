"""HBI: three levels of text-video interaction under a Banzhaf teacher.

Dimension letters: A texts, B videos or pairs, N_t words, N_v frames, D width, R resolution.
Source: Video-Text as Game Players, arXiv 2303.14369 (CVPR 2023); arXiv 2412.20964 (TPAMI 2024).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import wraps
from itertools import accumulate
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models import losses
from models.banzhaf import LABEL_SCALE, BanzhafModule, exact_interaction
from models.clip import CLIP, MAX_LOGIT_SCALE
from models.level import Level, LevelOutput, TokenSet
from models.recipe import Recipe, as_recipe
from models.temporal import build_temporal
from models.token_merge import Clusters
from models.tokenizer import Tokenizer
from utils.distributed import gather_features, own_share

LEVELS = ("entity", "action", "event")
SIMILARITY_MEMORY = 256 * 2**20
# Scores of tokens further apart than this differ in weight by more than the 17 digits of a float64 can hold.
SCORE_SPAN = 40.0


@dataclass(frozen=True)
class LevelInteraction:
    """What one level says of true pairs, for looking at.

    Attributes:
        name: "entity", "action" or "event".
        sim: (B,) similarity of each pair.
        token_sim, interaction: (B, N_t, N_v), cosine and Banzhaf interaction of each word and frame of this level.
        text, video: `Clusters` of the original words and frames.
    """

    name: str
    sim: Tensor
    token_sim: Tensor
    interaction: Tensor
    text: Clusters
    video: Clusters


def full_precision(method: Callable) -> Callable:
    """Run a method of `HBI` outside autocast: similarities and losses keep float32 whatever the towers run in."""

    @wraps(method)
    def wrapped(self, *arguments, **options):
        with torch.autocast(self.device.type, enabled=False):
            return method(self, *arguments, **options)

    return wrapped


class HBI(nn.Module):
    """Text-video retrieval by hierarchical Banzhaf interaction.

    The training forward reads like figure 2 of the paper: tokens, levels, losses.
    """

    def __init__(
        self,
        clip: CLIP,
        *,
        temporal: str | None = "seqTransf",
        temporal_layers: int = 4,
        interaction: str = "wti",
        text_rates: tuple[float, float] = (0.25, 0.5),
        video_rates: tuple[float, float] = (0.25, 0.5),
        rates: Sequence[float] = (1.0, 0.0, 0.0),
        trained_levels: int = len(LEVELS),
        kl: float = 0.2,
        skl: float = 1.0,
        teacher: str = "estimator",
        recipe: str | Recipe = "released",
    ):
        """Build the model on CLIP's towers; weights outside CLIP start at random.

        Args:
            clip: the towers; their patch convolution is frozen.
            temporal: temporal encoder, "seqTransf", "seqLSTM" or None.
            temporal_layers: blocks of seqTransf.
            interaction: "wti" for learned token weights, anything else for the unweighted mean.
            text_rates: clusters per word of the merges into the action and the event level.
            video_rates: clusters per frame, likewise.
            rates: weight of each level's similarity in evaluation.
            trained_levels: how many levels, from entity upwards, take part in the loss.
            kl: weight of the distillation between levels.
            skl: weight of the Banzhaf alignment; with 0 it is not computed.
            teacher: "estimator" (the frozen network) or "exact" (the exact interaction of the standard game).
            recipe: "released", "corrected" or a `Recipe`.
        """
        super().__init__()
        if teacher not in ("estimator", "exact"):
            raise ValueError(f"unknown teacher {teacher!r}: choose estimator or exact")
        self.recipe = as_recipe(recipe)
        self.rates, self.kl, self.skl, self.exact_teacher = tuple(rates), kl, skl, teacher == "exact"
        self.trained_levels = trained_levels
        width = clip.config.embed_dim
        self.clip = clip
        self.temporal = build_temporal(temporal, width, temporal_layers, clip.config.context_length)
        merge_rates = (None, *zip(text_rates, video_rates, strict=True))
        self.levels = nn.ModuleList(
            Level(name, width, weighted=interaction == "wti", rates=rates_in, recipe=self.recipe)
            for name, rates_in in zip(LEVELS, merge_rates, strict=True)
        )
        self.teacher = BanzhafModule()
        self.reset_parameters()
        self.freeze()

    def reset_parameters(self) -> None:
        """Start everything outside CLIP as the released code does, the temporal transformer from CLIP's text tower."""
        for level in self.levels:
            for head in (level.text_weight, level.video_weight):
                if head is not None:
                    head.apply(init_normal)
        self.temporal.apply(init_normal)
        if hasattr(self.temporal, "transformer"):
            start_from_text_tower(self.temporal, self.clip)

    def freeze(self) -> None:
        """Keep out of training what the method keeps fixed, and what no term of the loss reaches."""
        self.teacher.requires_grad_(False)
        self.clip.visual.conv1.requires_grad_(False)
        for level in self.levels[self.trained_levels :]:
            level.requires_grad_(False)
        if not self.skl:
            for level in self.levels:
                level.student.requires_grad_(False)

    # Tokens

    def text_tokens(self, ids: Tensor, text_mask: Tensor) -> Tensor:
        """Encode captions: int64 ids and mask (A, N_t) -> word tokens (A, N_t, D)."""
        return self.clip.encode_text(ids, text_mask).float()

    def frame_tokens(self, frames: Tensor, video_mask: Tensor) -> Tensor:
        """Encode clips, temporal encoder included.

        Padded frames are zeros after normalisation, all alike, so one of them is encoded for all where frames come
        packed.

        Args:
            frames: uint8, or float already normalised; (B, N_v, 3, R, R), or packed (M, 3, R, R): the valid frames of
                all clips one after another.
            video_mask: (B, N_v), 1 for valid frames, which come first.

        Returns:
            (B, N_v, D).
        """
        frames = self.clip.normalize(frames)
        if frames.dim() == 5:
            frames = (frames * video_mask.view(*video_mask.shape, 1, 1, 1).to(frames.dtype)).flatten(0, 1)
            tokens = self.clip.encode_frames(frames).unflatten(0, video_mask.shape)
        else:
            padded = len(frames) < video_mask.numel()
            if padded:
                frames = torch.cat([frames, frames.new_zeros(1, *frames.shape[1:])])
            place = video_mask.flatten().cumsum(dim=0).sub(1).view_as(video_mask)
            place = place.where(video_mask.bool(), len(frames) - 1)
            tokens = F.embedding(place, self.clip.encode_frames(frames))
        return self.temporal(tokens, video_mask).float()

    # Levels

    def text_sets(self, tokens: Tensor, mask: Tensor, levels: int = len(LEVELS)) -> Iterator[TokenSet]:
        """Yield texts, tokens (A, N_t, D) and mask (A, N_t), at each level from entity upwards, `levels` of them."""
        stages = (level.text_merge for level in self.levels[1:levels])
        return accumulate(stages, TokenSet.merged, initial=TokenSet.original(tokens, mask))

    def video_sets(self, tokens: Tensor, mask: Tensor, levels: int = len(LEVELS)) -> Iterator[TokenSet]:
        """Yield videos, tokens (B, N_v, D) and mask (B, N_v), likewise."""
        stages = (level.video_merge for level in self.levels[1:levels])
        return accumulate(stages, TokenSet.merged, initial=TokenSet.original(tokens, mask))

    def ascend(
        self, text: Tensor, text_mask: Tensor, video: Tensor, video_mask: Tensor, levels: int = len(LEVELS)
    ) -> Iterator[tuple[Level, TokenSet, TokenSet]]:
        """Yield each level with its text and video token sets, from entity upwards, `levels` of them."""
        texts, videos = self.text_sets(text, text_mask, levels), self.video_sets(video, video_mask, levels)
        return zip(self.levels[:levels], texts, videos, strict=False)

    @full_precision
    def level_outputs(
        self, text: Tensor, text_mask: Tensor, video: Tensor, video_mask: Tensor, levels: int = len(LEVELS)
    ) -> list[LevelOutput]:
        """Compare all texts with all videos at every level.

        Args:
            text: (A, N_t, D).
            text_mask: (A, N_t).
            video: (B, N_v, D).
            video_mask: (B, N_v).
            levels: how many, from entity upwards.
        """
        return [level(*sets) for level, *sets in self.ascend(text, text_mask, video, video_mask, levels)]

    def teach(self, token_sim: Tensor, *scores_and_masks: Tensor | None) -> Tensor:
        """The teacher's interaction of true pairs, without gradient; arguments and result as for `exact`."""
        if not self.exact_teacher:
            return self.teacher(token_sim.detach())
        with torch.no_grad():
            return self.exact(token_sim, *scores_and_masks)

    def exact(
        self,
        token_sim: Tensor,
        text_score: Tensor,
        video_score: Tensor,
        text_mask: Tensor | None,
        video_mask: Tensor | None,
    ) -> Tensor:
        """The exact interaction of true pairs in the standard game.

        Similarities are scaled as for the estimator's labels. A level that is left with one token on a side has an
        interaction too: what each token of the other side adds beside that one. The device is never waited for.

        Args:
            token_sim: (B, N_t, N_v).
            text_score: (B, N_t).
            video_score: (B, N_v).
            text_mask: (B, N_t), 1 for valid words; None: no padding.
            video_mask: (B, N_v), likewise.

        Returns:
            (B, N_t, N_v).
        """
        scores = text_score, video_score
        masks = (
            torch.ones_like(score) if mask is None else mask
            for score, mask in zip(scores, (text_mask, video_mask), strict=True)
        )
        return exact_interaction(LABEL_SCALE * token_sim, *masks, *scores, span=SCORE_SPAN, check=False)

    def forward(
        self, ids: Tensor, text_mask: Tensor, frames: Tensor, video_mask: Tensor, video_ids: Tensor
    ) -> dict[str, Tensor]:
        """Loss terms of a batch of true pairs, gathered over all processes.

        Args:
            ids: int64 (B, N_t).
            text_mask: (B, N_t).
            frames: see `frame_tokens`.
            video_mask: (B, N_v).
            video_ids: int64 (B,), equal for captions of one video.

        Returns:
            Every term by name, and their weighted sum "loss".
        """
        text, video = self.text_tokens(ids, text_mask), self.frame_tokens(frames, video_mask)
        text, text_mask, video, video_mask, video_ids = (
            gather_features(x, exact=self.recipe.exact_gather) for x in (text, text_mask, video, video_mask, video_ids)
        )
        outputs = self.level_outputs(text, text_mask, video, video_mask, levels=self.trained_levels)
        return self.loss(outputs, text_mask, video_mask, video_ids)

    @full_precision
    def loss(
        self, outputs: list[LevelOutput], text_mask: Tensor, video_mask: Tensor, video_ids: Tensor
    ) -> dict[str, Tensor]:
        """Weigh and sum the terms of all levels; arguments and result as in `forward`."""
        terms, total = self.level_terms(outputs, text_mask, video_mask, video_ids)
        between = losses.distillation({output.name: output.sim for output in outputs})
        return terms | between | {"loss": total + self.kl * sum(between.values())}

    def level_terms(
        self, outputs: list[LevelOutput], text_mask: Tensor | None, video_mask: Tensor | None, video_ids: Tensor
    ) -> tuple[dict[str, Tensor], Tensor]:
        """The terms of each level for itself, and their weighted sum; a mask of None masks no padding."""
        terms, total = {}, 0.0
        positives = None if self.recipe.same_video_negatives else losses.same_video(video_ids)
        for level, output in zip(self.levels, outputs, strict=False):
            masks = (text_mask, video_mask) if level.text_merge is None else (None, None)
            ce = losses.contrastive(output.sim, self.clip.logit_scale.exp(), positives)
            alignment = self.alignment(level, output, *masks) if self.skl else {}
            total = total + (ce["ce_t2v"] + ce["ce_v2t"]) / 2 + self.skl * sum(alignment.values())
            terms |= {f"{output.name}.{name}": value for name, value in (ce | alignment).items()}
        return terms, total

    def alignment(
        self, level: Level, output: LevelOutput, text_mask: Tensor | None, video_mask: Tensor | None
    ) -> dict[str, Tensor]:
        """Banzhaf alignment of one level's student with the teacher, on the true pairs.

        Attention over all cells of a pair's map is the dearest part of a step, so each process runs student and
        teacher on its share of the pairs.
        """
        whole = output.pair_sim, output.text_score, output.video_score, text_mask, video_mask
        own = [None if tensor is None else own_share(tensor) for tensor in whole]
        student, teacher = level.student(own[0]), self.teach(*own)
        return losses.banzhaf_alignment(
            gather_features(student, exact=True),
            gather_features(teacher, exact=True),
            text_mask,
            video_mask,
            masked_logits=self.recipe.masked_logits_in_kl,
            reversed_over_batch=self.recipe.reversed_kl_over_batch,
        )

    @torch.no_grad()
    def after_step(self) -> None:
        """Keep exp(logit_scale) at 100 or below, as CLIP does; called after each optimiser step."""
        self.clip.logit_scale.clamp_(max=MAX_LOGIT_SCALE)

    # The Python face

    @torch.no_grad()
    def encode_text(self, captions: Sequence[str], max_words: int = 32) -> tuple[Tensor, Tensor]:
        """Encode sentences to word tokens (A, N_t, D) and their mask (A, N_t)."""
        ids, mask = (x.to(self.device) for x in Tokenizer()(captions, max_words))
        return self.text_tokens(ids, mask), mask

    @torch.no_grad()
    def encode_video(
        self,
        paths: Sequence[str | Path],
        max_frames: int = 12,
        framerate: float = 1,
        *,
        start: float | None = None,
        end: float | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Decode video files and encode them to frame tokens (B, N_v, D) and their mask (B, N_v).

        Args:
            paths: video files.
            max_frames: N_v; longer videos are sampled evenly.
            framerate: frames a second.
            start: seconds; None for the beginning.
            end: seconds; None for the end.

        Raises:
            InputError: a file is missing or cannot be decoded.
        """
        # Decoding needs libraries that the model does not.
        from utils.video.decode import decode_clip
        from utils.video.transforms import ClipTransform

        transform = ClipTransform(self.clip.config.resolution)
        sampling = {"max_frames": max_frames, "framerate": framerate, "start": start, "end": end}
        clips = [transform(decode_clip(path, **sampling)) for path in paths]
        lengths = torch.tensor([len(clip) for clip in clips])
        mask = (torch.arange(max_frames) < lengths[:, None]).long().to(self.device)
        return self.frame_tokens(torch.cat(clips).to(self.device), mask), mask

    @property
    def used_levels(self) -> int:
        """How many levels evaluation climbs: up to the last of a rate above 0."""
        return max((number for number, rate in enumerate(self.rates, start=1) if rate), default=0)

    @torch.no_grad()
    @full_precision
    def similarity(
        self,
        text: tuple[Tensor, Tensor],
        video: tuple[Tensor, Tensor],
        *,
        memory: int = SIMILARITY_MEMORY,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Similarity of every text with every video, levels mixed by `rates`; levels of rate 0 are not computed.

        Args:
            text: tokens (A, N_t, D) and mask (A, N_t), as `encode_text` gives them.
            video: tokens (B, N_v, D) and mask (B, N_v), as `encode_video` gives them.
            memory: bytes that token similarities may take at a time.
            dtype: of the comparison's matrix products, such as bfloat16; see `Level.similarity`.

        Returns:
            (A, B), float32.
        """
        sim = None
        if text[0].numel() and video[0].numel():
            ascent = self.ascend(*text, *video, levels=self.used_levels)
            for rate, (level, *sets) in zip(self.rates, ascent, strict=False):
                if rate:
                    found = level.similarity(*sets, memory, dtype).mul_(rate)
                    sim = found if sim is None else sim.add_(found)
        return torch.zeros(len(text[0]), len(video[0]), device=text[0].device) if sim is None else sim

    @torch.no_grad()
    @full_precision
    def interactions(
        self, text: tuple[Tensor, Tensor], video: tuple[Tensor, Tensor], *, exact: bool = False
    ) -> list[LevelInteraction]:
        """Look into true pairs, text a with video a, level by level.

        Args:
            text: as for `similarity`.
            video: as for `similarity`, as many videos as texts.
            exact: the exact interaction of the standard game instead of each level's student.

        Returns:
            One `LevelInteraction` a level.
        """
        found = []
        for level, words, frames in self.ascend(*text, *video):
            output = level(words, frames)
            token_sim = output.pair_sim
            interaction = (
                self.exact(token_sim, output.text_score, output.video_score, words.mask, frames.mask)
                if exact
                else level.student(token_sim) * words.valid().unsqueeze(2) * frames.valid().unsqueeze(1)
            )
            found.append(
                LevelInteraction(level.name, output.sim.diagonal(), token_sim, interaction, output.text, output.video)
            )
        return found

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.clip.logit_scale.device


def init_normal(module: nn.Module) -> None:
    """Start a Linear or Embedding layer at normal(0, 0.02), biases at 0."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)


@torch.no_grad()
def start_from_text_tower(temporal: nn.Module, clip: CLIP) -> None:
    """Copy CLIP's text positions and first text blocks into a temporal transformer, where the widths agree."""
    if clip.config.text_width != clip.config.embed_dim:
        return
    temporal.positions.weight.copy_(clip.positional_embedding)
    for block, source in zip(temporal.transformer.resblocks, clip.transformer.resblocks, strict=False):
        block.load_state_dict(source.state_dict())
