"""What several annotation formats share: lists of ids, and captions by id."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dataloaders.annotations import expect, read_lines
from dataloaders.base import Clip, Split
from utils.errors import InputError, printable


def read_ids(path: Path) -> list[str]:
    """Read a list of video ids, one a line, without repetitions.

    Args:
        path: the file; blank lines do not count.

    Raises:
        InputError: the file is missing or lists nothing.
    """
    ids = list(dict.fromkeys(line.strip() for _, line in read_lines(path)))
    if not ids:
        raise InputError(f"{path}: lists no video; get the file again")
    return ids


def captions_of(captions: Mapping[str, Any], ids: Iterable[str], place: str) -> list[list[str]]:
    """Look up the captions of listed videos.

    Args:
        captions: id -> list of captions, each a string or a list of words.
        ids: the listed videos.
        place: file of `captions`, for messages.

    Returns:
        One list of captions, none of them empty, for each id.

    Raises:
        InputError: a listed video has no caption, or one is empty or of another kind.
    """
    ids = list(ids)
    silent = [video_id for video_id in ids if not captions.get(video_id)]
    if silent:
        first = printable(silent[0])
        raise InputError(f"{place}: {len(silent)} listed videos have no caption, first {first}; get the file again")
    return [_sentences(captions[video_id], f"{place}, {video_id!r}") for video_id in ids]


def _sentences(captions: Any, place: str) -> list[str]:
    """The captions of one video as strings."""
    return [_sentence(caption, f"{place}, [{number}]") for number, caption in enumerate(expect(captions, list, place))]


def _sentence(caption: Any, place: str) -> str:
    """A caption as one string; words are joined by blanks."""
    if isinstance(expect(caption, (str, list), place), list):
        caption = " ".join(expect(word, str, place) for word in caption)
    return expect(caption, str, place)


def group(clips: Sequence[Clip], captions: Sequence[Sequence[str]]) -> Split:
    """Make a split of clips that have one or more captions each.

    Args:
        clips: every clip once.
        captions: those of each clip.
    """
    return Split(
        clips=list(clips),
        captions=[caption for of_clip in captions for caption in of_clip],
        clip_of_caption=[index for index, of_clip in enumerate(captions) for _ in of_clip],
    )
