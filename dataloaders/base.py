"""Captions and clips to batches of tensors, the same for every data set.

A texts, B pairs or videos, N_t words, N_v frames, n <= N_v frames of one clip, M frames of all clips of a batch,
R CLIP's resolution.
"""

from collections.abc import Callable, Collection, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate, get_worker_info

from dataloaders.bad_videos import BadVideos
from utils.errors import InputError

# captions, N_t -> ids (A, N_t), mask (A, N_t)
Tokenize = Callable[[Sequence[str], int], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Clip:
    """A video, or its part between two times in seconds."""

    video_id: str
    start: float | None = None
    end: float | None = None


@dataclass(frozen=True)
class Question:
    """A question about a video, its true answer, and its kind, by which accuracy is reported."""

    question: str
    answer: str
    video_id: str
    kind: str


@dataclass(frozen=True)
class Split:
    """The annotations of a split: every clip once, every caption, and the index of its clip.

    Attributes:
        subsets: name -> indices of captions that are also evaluated separately, such as hard negatives.
        whole: numbers of captions and clips before any were left out; None where none were.
    """

    clips: list[Clip]
    captions: list[str]
    clip_of_caption: list[int]
    subsets: dict[str, list[int]] = field(default_factory=dict)
    whole: tuple[int, int] | None = field(default=None, compare=False)

    def counts(self, texts: str = "captions") -> dict[str, int]:
        """Numbers of captions (called `texts`) and videos or clips, used and left out."""
        used = len(self.captions), len(self.clips)
        left_out = [every - some for every, some in zip(self.whole or used, used, strict=True)]
        names = texts, "videos", f"{texts}_left_out", "videos_left_out"
        return dict(zip(names, [*used, *left_out], strict=True))

    def keep_videos(self, video_ids: Collection[str]) -> "Split":
        """Leave out the clips of all other videos and their captions, and renumber the rest."""
        clips = [index for index, clip in enumerate(self.clips) if clip.video_id in video_ids]
        new_clip = {old: new for new, old in enumerate(clips)}
        captions = [index for index, clip in enumerate(self.clip_of_caption) if clip in new_clip]
        new_caption = {old: new for new, old in enumerate(captions)}
        return Split(
            clips=[self.clips[index] for index in clips],
            captions=[self.captions[index] for index in captions],
            clip_of_caption=[new_clip[self.clip_of_caption[index]] for index in captions],
            subsets={
                name: [new_caption[index] for index in indices if index in new_caption]
                for name, indices in self.subsets.items()
            },
            whole=self.whole or (len(self.captions), len(self.clips)),
        )


class Items(Dataset, Sized):
    """A data set of known length."""


class TextDataset(Items):
    """Every caption of a split once, for evaluation: {"ids": (N_t), "text_mask": (N_t)}, int64, tokenised once."""

    def __init__(self, split: Split, tokenizer: Tokenize, max_words: int):
        self.captions = split.captions
        self.tokenizer = tokenizer
        self.max_words = max_words
        self._ids = torch.zeros(len(self.captions), max_words, dtype=torch.int32)
        self._mask = torch.zeros(len(self.captions), max_words, dtype=torch.uint8)  # all 0: not yet tokenised

    def __len__(self) -> int:
        return len(self.captions)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not self._mask[index].any():
            ids, mask = self.tokenizer([self.captions[index]], self.max_words)
            self._ids[index], self._mask[index] = ids[0], mask[0]
        return {"ids": self._ids[index].long(), "text_mask": self._mask[index].long()}


class ClipDataset(Items):
    """Every clip of a split once, for evaluation: {"frames": uint8 (n, 3, R, R), "video_id": index of the clip}.

    `videos` maps video ids to files; `read` is `dataloaders.clips.read_clip` with all but path and times bound. A clip
    that cannot be read is an InputError; in a loading process its last line is the reason.
    """

    def __init__(self, split: Split, videos: Mapping[str, Path], read: Callable[..., Tensor]):
        self.clips = split.clips
        self.videos = videos
        self.read = read

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> dict[str, Any]:
        clip = self.clips[index]
        try:
            frames = self.read(self.videos[clip.video_id], start=clip.start, end=clip.end)
        except InputError as error:
            if get_worker_info() is None:
                raise
            # torch raises it again with a traceback that ends in "<type>: <message>": put the reason on its own line.
            raise InputError(f"\n{error}") from error
        return {"frames": frames, "video_id": index}


class PairDataset(Items):
    """Every caption of a split with its clip, for training: the items of TextDataset and ClipDataset in one.

    With `bad_videos` a clip that cannot be read is counted, and another pair is drawn instead.
    """

    def __init__(self, split: Split, texts: TextDataset, clips: Any, bad_videos: BadVideos | None = None):
        self.clip_of_caption = split.clip_of_caption
        self.texts = texts
        self.clips: Any = clips
        self.bad_videos = bad_videos

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> dict[str, Any]:
        while True:
            clip = self.clip_of_caption[index]
            try:
                return {**self.texts[index], **self.clips[clip]}
            except InputError as error:
                if self.bad_videos is None:
                    raise
                self.bad_videos.add(self.clips.clips[clip].video_id, str(error).strip())
                index = int(torch.randint(len(self.texts), ()))

    def name(self, index: int) -> str:
        """The name of an item in messages: its video, and number of the caption."""
        return f"{self.clips.clips[self.clip_of_caption[index]].video_id} with text {index}"


def collate(items: Sequence[dict[str, Any]], max_frames: int) -> dict[str, Tensor]:
    """Stack items of the data sets above; the frames of all clips are concatenated without padding.

    Returns:
        Where items have them: "ids" and "text_mask", int64 (B, N_t); "frames", uint8 (M, 3, R, R); "video_mask", int64
        (B, N_v), whose sum is M; "video_ids", int64 (B,): indices of the clips in the split.
    """
    batch = default_collate([{name: value for name, value in item.items() if name != "frames"} for item in items])
    if "frames" in items[0]:
        lengths = torch.tensor([len(item["frames"]) for item in items])
        batch["frames"] = torch.cat([item["frames"] for item in items])
        batch["video_mask"] = (torch.arange(max_frames) < lengths[:, None]).long()
        batch["video_ids"] = batch.pop("video_id")
    return batch
