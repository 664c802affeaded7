"""MSR-VTT (CVPR 2016), 10,000 videos with 20 captions each, in the four splits of the field."""

from collections.abc import Callable
from pathlib import Path

from dataloaders.annotations import field_of, load_json, read_csv
from dataloaders.base import Clip, Split
from dataloaders.captions import captions_of, group, read_ids
from utils.errors import InputError

# The official split goes by number: 6,513 videos for training, 497 for validation, 2,990 for the test.
FULL_SPLIT = {"train": range(6513), "val": range(6513, 7010), "test": range(7010, 10_000)}


def read_msrvtt(anno_path: Path, split: str, msrvtt_split: str = "9k") -> Split:
    """Read one split.

    Args:
        anno_path: folder with MSRVTT_data.json (`sentences`: list of {video_id, caption}) and the lists of the split:
            for 1k-A MSRVTT_train.9k.csv or MSRVTT_train.7k.csv (column video_id) and MSRVTT_JSFUSION_test.csv (columns
            video_id and sentence, and if wanted subset: the name of a subset the row belongs to, or nothing), for 1k-B
            train_list_miech.txt and test_list_miech.txt (an id a line).
        split: "train", "val" or "test"; but for the full split there are no validation videos, "val" is the test split.
        msrvtt_split: "9k" or "7k" for 1k-A with that many training videos, "full" for the official split, "1kB".

    Returns:
        Every caption of every listed video; in the test of 1k-A that of the list, in the test of 1k-B the first of each
        video. Clips are whole videos.

    Raises:
        InputError: a file is missing or malformed, a listed video has no caption, or there is no video in the split.
    """
    return SPLITS[msrvtt_split](anno_path, split)


def _read_1k_a(list_name: str, anno_path: Path, split: str) -> Split:
    """Training videos of a list, 1,000 test pairs."""
    if split != "train":
        return _read_test_pairs(anno_path / "MSRVTT_JSFUSION_test.csv")
    return _read_videos(anno_path, [row["video_id"] for _, row in read_csv(anno_path / list_name, ("video_id",))])


def _read_1k_b(anno_path: Path, split: str) -> Split:
    """6,656 training videos, 1,000 test videos with the first caption of each."""
    if split == "train":
        return _read_videos(anno_path, read_ids(anno_path / "train_list_miech.txt"))
    return _read_videos(anno_path, read_ids(anno_path / "test_list_miech.txt"), max_captions=1)


def _read_full(anno_path: Path, split: str) -> Split:
    """The official split, all captions."""
    numbers = FULL_SPLIT[split]
    captions = _captions_by_video(anno_path)
    ids = [video_id for video_id in captions if _number(video_id) in numbers]
    if not ids:
        wanted = f"none of video{numbers[0]} to video{numbers[-1]}"
        raise InputError(f"{_data_file(anno_path)}: has {wanted}, the {split} videos; choose another --msrvtt_split")
    return group([Clip(video_id) for video_id in ids], [captions[video_id] for video_id in ids])


SPLITS: dict[str, Callable[[Path, str], Split]] = {
    "9k": lambda anno_path, split: _read_1k_a("MSRVTT_train.9k.csv", anno_path, split),
    "7k": lambda anno_path, split: _read_1k_a("MSRVTT_train.7k.csv", anno_path, split),
    "full": _read_full,
    "1kB": _read_1k_b,
}


def _data_file(anno_path: Path) -> Path:
    """The file of all captions."""
    return anno_path / "MSRVTT_data.json"


def _number(video_id: str) -> int:
    """video17 -> 17; -1 for an id of another form."""
    number = video_id.removeprefix("video")
    return int(number) if number.isdecimal() else -1


def _captions_by_video(anno_path: Path) -> dict[str, list[str]]:
    """All captions of each video, in the file's order."""
    path = _data_file(anno_path)
    captions: dict[str, list[str]] = {}
    for number, sentence in enumerate(field_of(load_json(path, dict), "sentences", list, f"{path}")):
        place = f"{path}, sentences[{number}]"
        video_id = field_of(sentence, "video_id", str, place)
        captions.setdefault(video_id, []).append(field_of(sentence, "caption", str, place))
    return captions


def _read_videos(anno_path: Path, listed: list[str], max_captions: int | None = None) -> Split:
    """The captions of the listed videos, at most `max_captions` of each."""
    ids = list(dict.fromkeys(listed))
    captions = captions_of(_captions_by_video(anno_path), ids, f"{_data_file(anno_path)}")
    return group([Clip(video_id) for video_id in ids], [of_video[:max_captions] for of_video in captions])


def _read_test_pairs(path: Path) -> Split:
    """Every row a caption, in the file's order."""
    rows = [row for _, row in read_csv(path, ("video_id", "sentence"))]
    clips = {video_id: index for index, video_id in enumerate(dict.fromkeys(row["video_id"] for row in rows))}
    subsets: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        if row.get("subset"):
            subsets.setdefault(row["subset"], []).append(index)
    return Split(
        clips=[Clip(video_id) for video_id in clips],
        captions=[row["sentence"] for row in rows],
        clip_of_caption=[clips[row["video_id"]] for row in rows],
        subsets=subsets,
    )
