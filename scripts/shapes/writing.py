"""Files of the corpus: videos, captions as in MSR-VTT and ActivityNet Captions, questions as in MSRVTT-QA."""

import csv
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import av
import numpy as np

from scripts.shapes.grammar import sentence
from scripts.shapes.motion import looks_at
from scripts.shapes.questions import Question
from scripts.shapes.rendering import render
from scripts.shapes.scene import FRAMERATE, PICTURE, Scene
from utils.files import atomic_write, remove

REFERENCES = 5
# one worker process encodes one video; with a key frame each second, samples of one frame a second decode fast
ENCODER = {"preset": "veryfast", "crf": "20", "bf": "0", "g": str(FRAMERATE), "threads": "1"}


@dataclass(frozen=True)
class Entry:
    """One video and its texts.

    Each of `captions` describes the whole story, each of `clauses` one event; `subset` is "action" or "event" for hard
    negatives.
    """

    video_id: str
    scene: Scene
    captions: tuple[str, ...]
    clauses: tuple[str, ...]
    questions: tuple[Question, ...]
    subset: str


def write_video(path: Path, scene: Scene) -> None:
    """Render the scene to an H.264 file of FRAMERATE frames a second."""
    times = np.arange(round(scene.duration * FRAMERATE)) / FRAMERATE
    frames = render(scene, looks_at(scene, times))
    with atomic_write(path, "wb") as file, av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FRAMERATE, options=ENCODER)
        stream.width = stream.height = PICTURE
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def write_msrvtt(folder: Path, train: Sequence[Entry], test: Sequence[Entry]) -> None:
    """Write MSR-VTT's 9k list, 1k-A test list (with a column `subset` more) and caption file into `folder`."""
    _write_csv(folder / "MSRVTT_train.9k.csv", [{"video_id": entry.video_id} for entry in train])
    rows = [
        {
            "key": f"ret{number}",
            "vid_key": entry.video_id.replace("video", "msr"),
            "video_id": entry.video_id,
            "sentence": entry.captions[0],
            "subset": entry.subset,
        }
        for number, entry in enumerate(test)
    ]
    _write_csv(folder / "MSRVTT_JSFUSION_test.csv", rows)
    pairs = [(entry.video_id, caption) for entry in (*train, *test) for caption in entry.captions]
    videos = [
        {"video_id": entry.video_id, "split": split, "start time": 0.0, "end time": entry.scene.duration}
        for split, entries in (("train", train), ("test", test))
        for entry in entries
    ]
    sentences = [
        {"video_id": video_id, "sen_id": number, "caption": caption} for number, (video_id, caption) in enumerate(pairs)
    ]
    _write_json(folder / "MSRVTT_data.json", {"videos": videos, "sentences": sentences})


def write_captions(folder: Path, train: Sequence[Entry], test: Sequence[Entry]) -> None:
    """Write pairs for captioning into `folder`, with REFERENCES sentences of each test video.

    Every tenth training video is one of validation instead, if there are as many.
    """
    splits = {"train": [entry for number, entry in enumerate(train) if number % 10 != 9], "val": train[9::10]}
    for split, entries in (splits | {"test": test}).items():
        rows = [
            {"video": entry.video_id, "caption": caption}
            for entry in entries
            for caption in (entry.captions if split == "train" else references(entry))
        ]
        if rows:
            _write_csv(folder / f"{split}.csv", rows)


def references(entry: Entry) -> list[str]:
    """Reference captions of a video."""
    rng = Random(f"references {entry.video_id} {entry.captions[0]}")
    return [sentence(entry.scene, rng) for _ in range(REFERENCES)]


def write_questions(folder: Path, train: Sequence[Entry], test: Sequence[Entry]) -> None:
    """Write MSRVTT-QA's question files and answers into `folder`; val asks about every tenth training video."""
    splits = {
        "train": [entry for number, entry in enumerate(train) if number % 10 != 9],
        "val": train[9::10],
        "test": test,
    }
    for split, entries in splits.items():
        with atomic_write(folder / f"{split}.jsonl") as file:
            for entry in entries:
                for question in entry.questions:
                    file.write(json.dumps({**question, "video_id": entry.video_id}) + "\n")
    answers = sorted({question["answer"] for entry in splits["train"] for question in entry.questions})
    _write_json(folder / "train_ans2label.json", {answer: label for label, answer in enumerate(answers)})


def write_activitynet(folder: Path, videos: Path, train: Sequence[Entry], test: Sequence[Entry]) -> None:
    """Write the corpus as ActivityNet Captions: ids "v_...", a timed sentence per event, the videos once more by name.

    Args:
        folder: gets the annotation files and `Activity_Videos`.
        videos: where `write_video` has written the entries' files.
        train: training entries.
        test: entries of the split that ActivityNet calls val.
    """
    for ids_name, annotations_name, entries in (
        ("train_ids.json", "train.json", train),
        ("val_ids.json", "val_1.json", test),
    ):
        annotations = {
            f"v_{entry.video_id}": {
                "duration": entry.scene.duration,
                "timestamps": [[event.start, event.end] for event in entry.scene.events],
                "sentences": list(entry.clauses),
            }
            for entry in entries
        }
        _write_json(folder / ids_name, list(annotations))
        _write_json(folder / annotations_name, annotations)
        for entry in entries:
            _link(videos / f"{entry.video_id}.mp4", folder / "Activity_Videos" / f"v_{entry.video_id}.mp4")


def _link(source: Path, target: Path) -> None:
    """Give a file a second name, or copy it where the file system has no hard links."""
    target.parent.mkdir(parents=True, exist_ok=True)
    remove(target, r"v_video\d+\.mp4")
    try:
        os.link(source, target)
    except OSError:
        with atomic_write(target, "wb") as file:
            file.write(source.read_bytes())


def _write_csv(path: Path, rows: Sequence[dict]) -> None:
    """Write rows with a header line."""
    with atomic_write(path) as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _write_json(path: Path, value: dict | list) -> None:
    """Write one JSON value."""
    with atomic_write(path) as file:
        json.dump(value, file)
