"""Randomly damaged inputs by seed, and their outcomes.

`python tests/fuzz.py KIND SEEDS` tries many, and prints how many were refused, how many stayed valid, and all others.
"""

import json
import os
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import safetensors.torch
import torch

import banzhaf_estimator
import main_retrieval
import main_vqa
from dataloaders import build_split
from dataloaders.files import find_videos
from dataloaders.question_answering import read_questions
from models import CLIP, HBI, CLIPConfig, load_clip, load_model
from models.banzhaf import BanzhafModule
from models.tokenizer import Tokenizer
from tests import conftest, formats
from tests.damage import damage_bytes, damage_file, damage_state
from utils.answers import read_answers
from utils.checkpoint import released_state
from utils.errors import InputError
from utils.video.decode import decode_clip

WORDS = (
    "", " ", "-1", "0", "nan", "inf", "1e999", "9" * 30, "9" * 5000, "0x10", "1_0", "é", "\ud800", "..", "/",
    "/dev/null", "None", "--", "-", "a,b", "[1]", "cuda:99", "cuda:x", "meta", "mps",
)  # fmt: skip
Attempt = Callable[[random.Random], None]


def video_attempt(folder: Path, part: str) -> Attempt:
    """Reads a video with damaged header or pictures; a video that stays valid must have no blank frame."""
    whole = conftest.write_video(folder / "whole.mp4").read_bytes()
    pictures = whole.index(b"mdat") + 4
    bounds = {"header": (0, pictures - 8), "pictures": (pictures, len(whole))}[part]

    def attempt(draw: random.Random) -> None:
        path = folder / "damaged.mp4"
        path.write_bytes(damage_bytes(whole, draw, *bounds))
        frames = decode_clip(path, framerate=2)
        assert (np.ptp(frames[:, ::8, ::8], axis=(1, 2)) > 2).any(1).all()

    return attempt


QUESTIONS = {
    "msrvtt": {"test.jsonl": [{"question": "what?", "answer": "a ball", "video_id": "one", "answer_type": "what"}] * 3},
    "msvd": {
        "test_qa.json": [{"question": "what?", "answer": "a ball", "video_id": 1}] * 3,
        "youtube_mapping.txt": "one vid1",
    },
    "activity": {
        "test_q.json": [{"question": "what?", "question_id": "one_1", "video_name": "one"}],
        "test_a.json": [{"question_id": "one_1", "answer": "a ball", "type": 4}],
    },
}


def write_questions(folder: Path, name: str) -> Path:
    """Write the files of a data set of question answering and return the first."""
    for file, content in QUESTIONS[name].items():
        text = content if isinstance(content, str) else json.dumps(content)
        if file.endswith(".jsonl"):
            text = "\n".join(map(json.dumps, content))
        (folder / file).write_text(text)
    return folder / next(iter(QUESTIONS[name]))


def annotation_attempt(folder: Path) -> Attempt:
    """Reads annotations with one damaged file, finds the videos and encodes the texts."""
    readers = {}
    with patch.object(formats, "write_videos"):
        for name in formats.FORMATS:
            anns = formats.write_format(name, folder / name) / "anns"
            for split in ("train", "val", "test"):
                readers[f"{name} {split}"] = anns, partial(build_split, name, anns, split)
    for name in QUESTIONS:
        anns = folder / f"{name} questions"
        anns.mkdir()
        readers[f"{name} questions"] = anns, partial(read_questions, name, str(write_questions(anns, name)))
    (folder / "answers").mkdir()
    (folder / "answers" / "train_ans2label.json").write_text(json.dumps({"a ball": 0, "a dog": 1, "two": 2}))
    readers["answers"] = folder / "answers", partial(read_answers, folder / "answers" / "train_ans2label.json")
    videos = folder / "videos"
    videos.mkdir()
    for _, read in readers.values():
        for video_id in texts_and_videos(read())[1]:
            (videos / f"{video_id}.mp4").touch()
    tokenizer = Tokenizer()

    def attempt(draw: random.Random) -> None:
        anns, read = readers[draw.choice(list(readers))]
        path = draw.choice(sorted(anns.iterdir()))
        whole = path.read_bytes()
        try:
            damage_file(path, draw)
            texts, ids = texts_and_videos(read())
        finally:
            path.write_bytes(whole)
        tokenizer(texts, 12)
        find_videos(videos, ids, missing_list=folder / "missing.txt")

    return attempt


def texts_and_videos(found: Any) -> tuple[list[str], list[str]]:
    """Texts and video ids of a split, of questions or of a vocabulary."""
    if hasattr(found, "captions"):
        return found.captions, [clip.video_id for clip in found.clips]
    if isinstance(found[0], str):
        return found, []
    return [question.question for question in found], [question.video_id for question in found]


SMALL = CLIPConfig(
    resolution=8, patch=4, vision_width=64, vision_layers=1, text_width=64, text_layers=1, embed_dim=64, vocabulary=99
)


def checkpoint_attempt(folder: Path) -> Attempt:
    """Loads damaged weights of a model, of CLIP or of an estimator, in every format."""
    torch.manual_seed(0)
    clip = CLIP(SMALL)
    states = {
        "model": released_state(HBI(clip, temporal_layers=1)),
        "clip": clip.state_dict(),
        "estimator": BanzhafModule().state_dict(),
    }
    whole = folder / "whole.bin"
    torch.save(states["model"], whole)
    load = {
        "model": load_model,
        "clip": load_clip,
        "estimator": lambda path: load_model(whole, estimator=path),
    }
    write = {
        "zip": torch.save,
        "old": partial(torch.save, _use_new_zipfile_serialization=False),
        "safetensors": write_safetensors,
    }

    def attempt(draw: random.Random) -> None:
        kind, form = draw.choice(list(states)), draw.choice(list(write))
        path = folder / f"damaged.{form}"
        if draw.random() < 0.5:
            write[form](damage_state(states[kind], draw), path)
        else:
            write[form](states[kind], path)
            content = path.read_bytes()
            ends = [(0, len(content)), (0, min(4000, len(content))), (max(0, len(content) - 4000), len(content))]
            path.write_bytes(damage_bytes(content, draw, *draw.choice(ends)))
        load[kind](path)

    return attempt


def write_safetensors(state: dict[str, torch.Tensor], path: Path) -> None:
    """Write the dense tensors, which the format can hold."""
    dense = {name: tensor for name, tensor in state.items() if tensor.layout is torch.strided and not tensor.is_meta}
    whole = {name: tensor.contiguous().clone() for name, tensor in dense.items() if tensor.numel() < 10**7}
    safetensors.torch.save_file(whole, path)


def argument_attempt(folder: Path) -> Attempt:
    """Runs an entry script with one word damaged; if the command line stays valid, annotations are missing."""
    torch.manual_seed(0)
    torch.save(CLIP(SMALL).state_dict(), folder / "clip.pt")
    (folder / "anns").mkdir()
    (folder / "questions.jsonl").touch()
    common = (
        f"--do_train 1 --do_eval 1 --base_encoder {folder}/clip.pt --output_dir {folder}/output --num_hidden_layers 1 "
        "--workers 0 --max_words 12 --max_frames 2 --lr 1e-4 --device cpu"
    )
    data = f"--anno_path {folder}/anns --video_path {folder}/anns"
    questions = f"--val_csv {folder}/questions.jsonl --train_csv {folder}/questions.jsonl --features_path {folder}/anns"
    scripts = {
        main_retrieval: f"{common} {data} --rate 1 0 0 --msrvtt_split 9k --post_process dsl",
        banzhaf_estimator: f"{common} {data} --labels exact --seed 1 --precision fp32",
        main_vqa: f"{common} {questions} --kl 0.2 --datatype msrvtt --recipe released --frame_rule cv2",
    }

    def attempt(draw: random.Random) -> None:
        script, line = draw.choice(list(scripts.items()))
        words = line.split()
        place = draw.randrange(len(words))
        match draw.choice(["replace", "replace", "replace", "remove", "insert", "flag"]):
            case "replace":
                words[place] = draw.choice(WORDS)
            case "remove":
                del words[place]
            case "insert":
                words.insert(place, draw.choice(WORDS))
            case "flag":
                words.append(draw.choice([word for word in words if word.startswith("--")])[: draw.randint(3, 20)])
        try:
            script.main(words)
        except InputError as error:
            if not str(error).startswith((f"{folder}/anns", f"{folder}/questions")):
                raise

    return attempt


ATTEMPTS = {
    "header": partial(video_attempt, part="header"),
    "pictures": partial(video_attempt, part="pictures"),
    "annotations": annotation_attempt,
    "checkpoints": checkpoint_attempt,
    "arguments": argument_attempt,
}


def outcome(attempt: Attempt, seed: int) -> str | None:
    """The line with which an input is refused; None if it stayed valid.

    Raises:
        Exception: any other outcome than an `InputError` of one line or an exit with code 2.
    """
    try:
        attempt(random.Random(seed))
    except InputError as error:
        line = str(error).strip()
        assert len(line.splitlines()) == 1, line
        return line
    except SystemExit as end:
        assert end.code == 2
        return "exit"
    return None


def main(kind: str, seeds: str) -> None:
    """Try seeds from 0 on."""
    ends = Counter()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # for files that damaged arguments name

        attempt = ATTEMPTS[kind](Path(folder))
        for seed in range(int(seeds)):
            try:
                ends["refused" if outcome(attempt, seed) else "survived"] += 1
            except Exception as error:
                ends["failed"] += 1
                print(seed, type(error).__name__, str(error)[:200])
    print(dict(ends))


if __name__ == "__main__":
    main(*sys.argv[1:])
