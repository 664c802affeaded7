"""A small folder in the exact format of every data set, with real videos: annotations in anns/, files in videos/.

Every split has its own videos, with one to three captions each.
"""

import csv
import json
import pickle
from pathlib import Path

from tests.conftest import write_video

IDS = {"train": ["one", "two", "three", "four"], "val": ["five", "six"], "test": ["seven", "eight"]}
CAPTIONS = {
    video_id: [f"the noise of {video_id}", f"once more, {video_id}", f"{video_id} again"][: 1 + number % 3]
    for number, video_id in enumerate(video_id for ids in IDS.values() for video_id in ids)
}


def write_videos(root: Path, names) -> None:
    for number, name in enumerate(names):
        codec = {"webm": "libvpx", "avi": "mpeg4"}.get(name.rpartition(".")[2], "libx264")
        write_video(root / "videos" / name, hue=number, seconds=2, codec=codec)


def write_lists(anns: Path, spell=str) -> None:
    for split, ids in IDS.items():
        (anns / f"{split}_list.txt").write_text("".join(f"{spell(video_id)}\n" for video_id in ids))


def msvd(root: Path) -> None:
    write_lists(root / "anns")
    words = {video_id: [caption.split() for caption in texts] for video_id, texts in CAPTIONS.items()}
    (root / "anns" / "raw-captions.pkl").write_bytes(pickle.dumps(words, protocol=2))
    write_videos(root, [f"{video_id}.avi" if video_id == "one" else f"{video_id}.mp4" for video_id in CAPTIONS])


def activity(root: Path) -> None:
    videos = {
        f"v_{video_id}": {"duration": 1.7, "timestamps": [[0, 1]] * len(texts), "sentences": texts}
        for video_id, texts in CAPTIONS.items()
    }
    for ids, file, split in (("train_ids", "train", "train"), ("val_ids", "val_1", "test")):
        listed = [f"v_{video_id}" for video_id in IDS[split]]
        (root / "anns" / f"{ids}.json").write_text(json.dumps(listed))
        (root / "anns" / f"{file}.json").write_text(json.dumps({video_id: videos[video_id] for video_id in listed}))
    write_videos(root, [f"{'v_' * (number % 2)}{video_id}.mp4" for number, video_id in enumerate(CAPTIONS)])


def didemo(root: Path) -> None:
    write_lists(root / "anns", lambda video_id: f"{video_id}.mp4" if video_id == "one" else video_id)
    for split, ids in IDS.items():
        entries = [
            {"video": f"{video_id}.mp4", "description": caption, "times": [[0, 0], [0, 1]]}
            for video_id in ids
            for caption in CAPTIONS[video_id]
        ]
        (root / "anns" / f"{split}_data.json").write_text(json.dumps(entries))
    write_videos(root, [f"{video_id}.mp4" for video_id in CAPTIONS])


def lsmdc(root: Path) -> None:
    times = "00.00.01.000\t00.00.03.000\t00.00.01.100\t00.00.02.900"
    for split, name in (("train", "annos_training"), ("val", "annos_val"), ("test", "challenge_1000_publictect")):
        rows = [f"{video_id}\t{times}\t{caption}\n" for video_id in IDS[split] for caption in CAPTIONS[video_id]]
        (root / "anns" / f"LSMDC16_{name}.csv").write_text("".join(rows))
    write_videos(root, [f"film/{video_id}.avi" for video_id in CAPTIONS])


def vatex(root: Path) -> None:
    write_lists(root / "anns", "{}_000001_000011".format)
    captions = {f"{video_id}_000001_000011": texts for video_id, texts in CAPTIONS.items()}
    (root / "anns" / "ref_captions.json").write_text(json.dumps(captions))
    write_videos(root, [f"{video_id}_000001_000011.mp4" for video_id in CAPTIONS])


def csv_pairs(root: Path) -> None:
    for split, ids in IDS.items():
        rows = [
            {"video": video_id, "caption": caption, "start": str(number or ""), "end": str(number + 1)}
            for video_id in ids
            for number, caption in enumerate(CAPTIONS[video_id][:2])
        ]
        if split == "val":
            lines = "".join(json.dumps({**row, "start": 0, "end": None}) + "\n" for row in rows)
            (root / "anns" / "val.jsonl").write_text(lines)
            continue
        with open(root / "anns" / f"{split}.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    write_videos(root, [f"{video_id}.mp4" for video_id in CAPTIONS])


def msrvtt(root: Path) -> None:
    anns = root / "anns"
    ids = {
        "train": ["video0", "video1", "video2", "video3"],
        "val": ["video6513", "video6514"],
        "test": ["video7010", "video7011"],
    }
    captions = {new: CAPTIONS[old] for split in IDS for new, old in zip(ids[split], IDS[split], strict=True)}
    sentences = [{"video_id": video_id, "caption": caption} for video_id in captions for caption in captions[video_id]]
    (anns / "MSRVTT_data.json").write_text(json.dumps({"sentences": sentences, "videos": []}))
    for size, listed in (("9k", ids["train"] + ids["val"]), ("7k", ids["train"])):
        (anns / f"MSRVTT_train.{size}.csv").write_text("video_id\n" + "\n".join(listed) + "\n")
    rows = [f"ret{number},msr{number},{video_id},test {number} of it\n" for number, video_id in enumerate(ids["test"])]
    (anns / "MSRVTT_JSFUSION_test.csv").write_text("key,vid_key,video_id,sentence\n" + "".join(rows))
    (anns / "train_list_miech.txt").write_text("\n".join(ids["train"] + ids["test"]))
    (anns / "test_list_miech.txt").write_text("\n".join(ids["val"]))
    write_videos(root, [f"{video_id}.{'webm' if video_id == 'video1' else 'mp4'}" for video_id in captions])


FORMATS = {
    "msrvtt": msrvtt,
    "msvd": msvd,
    "activity": activity,
    "didemo": didemo,
    "lsmdc": lsmdc,
    "vatex": vatex,
    "csv": csv_pairs,
}


def write_format(name: str, root: Path) -> Path:
    (root / "anns").mkdir(parents=True)
    FORMATS[name](root)
    return root
