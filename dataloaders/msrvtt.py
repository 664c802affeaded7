"""MSR-VTT (CVPR 2016), split 1k-A: 9,000 training videos with 20 captions each, 1,000 test videos with one each."""

from pathlib import Path

from dataloaders.annotations import field_of, load_json, read_csv
from dataloaders.base import Clip, Split
from utils.errors import InputError


def read_msrvtt(anno_path: Path, split: str) -> Split:
    """Read one split.

    Args:
        anno_path: folder with MSRVTT_train.9k.csv (column video_id) and MSRVTT_data.json (`sentences`: list of
            {video_id, caption}) for training, MSRVTT_JSFUSION_test.csv (columns video_id and sentence) for evaluation.
            A further column `subset` of the latter names the subset a row belongs to, if not empty.
        split: "train", "val" or "test"; 1k-A has no validation videos, "val" is the test split.

    Returns:
        Every caption of every listed video. Clips are whole videos.

    Raises:
        InputError: a file is missing or malformed, or a listed training video has no caption.
    """
    return _read_training(anno_path) if split == "train" else _read_test(anno_path / "MSRVTT_JSFUSION_test.csv")


def _read_training(anno_path: Path) -> Split:
    """All captions of the videos in the training list, in the order of the captions."""
    listed = [row["video_id"] for _, row in read_csv(anno_path / "MSRVTT_train.9k.csv", ("video_id",))]
    clips = {video_id: index for index, video_id in enumerate(dict.fromkeys(listed))}
    path = anno_path / "MSRVTT_data.json"
    captions, clip_of_caption = [], []
    for number, sentence in enumerate(field_of(load_json(path, dict), "sentences", list, f"{path}")):
        place = f"{path}, sentences[{number}]"
        video_id = field_of(sentence, "video_id", str, place)
        if video_id in clips:
            captions.append(field_of(sentence, "caption", str, place))
            clip_of_caption.append(clips[video_id])
    told = set(clip_of_caption)
    silent = [video_id for video_id, index in clips.items() if index not in told]
    if silent:
        raise InputError(f"{path}: {len(silent)} listed videos have no caption, first {silent[0]}; get the file again")
    return Split([Clip(video_id) for video_id in clips], captions, clip_of_caption)


def _read_test(path: Path) -> Split:
    """Every row a caption."""
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
