"""Loaders from the flags of an entry script: the effect of each flag."""

import json
import random
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch

from dataloaders import build, question_answering
from dataloaders.base import Clip, Split
from dataloaders.clips import read_clip
from dataloaders.sampling import TrainingSampler
from models import ANSWER_METHODS, HBI, HBIVQA, METHODS
from models.tokenizer import Tokenizer
from utils.args import question_parser, retrieval_parser
from utils.errors import InputError
from utils.files import claim_folder
from utils.video.transforms import ClipTransform

CPU, SIZE = torch.device("cpu"), 32
SIZES = ["--max_frames", "2", "--workers", "0", "--batch_size", "2"]
QUESTIONS = [
    {"question": f"what is it in {number}?", "answer": f"answer {number % 3}", "video_id": f"video{number % 4}"}
    for number in range(8)
]


def words_of(**flags) -> list[str]:
    return [str(word) for name, value in flags.items() for word in (f"--{name}", value)]


@pytest.fixture
def retrieval(msrvtt_folder, tmp_path):
    """Arguments of main_retrieval.py on the small tree, with further words."""

    def parse(*words, videos=msrvtt_folder / "videos"):
        paths = words_of(anno_path=msrvtt_folder / "anns", video_path=videos, output_dir=tmp_path)
        return retrieval_parser(METHODS, HBI.add_arguments).parse_args(
            ["--do_train", "1", *paths, *SIZES, "--video_framerate", "5", *words]
        )

    return parse


@pytest.fixture
def questions(msrvtt_folder, tmp_path):
    """Arguments of main_vqa.py on the same videos, with further words."""
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps(question) + "\n" for question in QUESTIONS))

    def parse(*words):
        paths = words_of(train_csv=path, val_csv=path, features_path=msrvtt_folder / "videos", output_dir=tmp_path)
        return question_parser(ANSWER_METHODS, HBIVQA.add_arguments).parse_args(
            ["--do_train", *paths, *SIZES, "--feature_framerate", "5", *words]
        )

    return parse


def training_pairs(args):
    """The question data set of a training loader."""
    answers = question_answering.build_vocabulary(args)
    make = question_answering.build_training_loader
    return make(args, answers, Tokenizer(), SIZE, CPU, build.logger).dataset.dataset


@pytest.mark.parametrize("slice_framepos", [0, 1, 2])
def test_too_many_frames_are_thinned_as_the_flag_says(retrieval, questions, msrvtt_folder, slice_framepos):
    words = ["--slice_framepos", str(slice_framepos)]
    read = partial(read_clip, msrvtt_folder / "videos" / "video2.mp4", ClipTransform(SIZE), framerate=5, max_frames=2)
    expected = [read(slice_framepos=choice) for choice in (0, 1, 2)]
    assert not any(torch.equal(expected[slice_framepos], expected[other]) for other in {0, 1, 2} - {slice_framepos})
    trained = build.build_training_loader(retrieval(*words, "--augment", "none"), Tokenizer(), SIZE, CPU)
    assert torch.equal(trained.dataset.dataset.clips[2]["frames"], expected[slice_framepos])
    args = questions(*words)
    loaders = question_answering.build_evaluation_loaders(args, ["answer 0"], Tokenizer(), SIZE, CPU)
    for clips in (loaders.clips.dataset.dataset, training_pairs(args).clips):
        assert torch.equal(clips[2]["frames"], expected[slice_framepos])


def test_augmentation_is_of_training_alone_and_as_published_or_requested(retrieval, questions):
    def frames(args):
        return build.build_training_loader(args, Tokenizer(), SIZE, CPU).dataset.dataset.clips[0]["frames"]

    plain = frames(retrieval("--augment", "none"))
    random.seed(0)
    assert not torch.equal(frames(retrieval("--augment", "rand-m9-n4-p1")), plain)
    assert build.build_augmentation(retrieval()) is not None  # as published for MSR-VTT
    assert build.build_augmentation(retrieval("--augment", "none")) is None
    assert build.build_augmentation(questions()) is None
    assert torch.equal(training_pairs(questions()).clips[0]["frames"], plain)
    args = questions("--augment", "rand-m9-n4-p1")
    assert not torch.equal(training_pairs(args).clips[0]["frames"], plain)
    loaders = question_answering.build_evaluation_loaders(args, ["answer 0"], Tokenizer(), SIZE, CPU)
    assert torch.equal(loaders.clips.dataset.dataset[0]["frames"], plain)


def test_the_seed_chooses_which_questions_share_a_row(questions):
    rows = [training_pairs(questions("--seed", seed, "--questions_per_clip", "2")).rows for seed in ("1", "1", "2")]
    assert rows[0] == rows[1] != rows[2]
    assert sorted(sum(rows[2], [])) == list(range(len(QUESTIONS)))


@pytest.mark.parametrize(("datatype", "min_count"), [("msrvtt", 1), ("msvd", 1), ("activity", 2)])
def test_the_vocabulary_is_of_answers_as_frequent_as_published(questions, tmp_path, datatype, min_count):
    answers = ["often", "once", "often", "also once"]
    names = [{"question": "who?", "question_id": str(n), "video_name": "x", "video_id": 1} for n in range(4)]
    found = [{"question_id": str(number), "answer": answer, "type": 8} for number, answer in enumerate(answers)]
    (tmp_path / "train_q.json").write_text(json.dumps([{**a, **b} for a, b in zip(names, found, strict=True)]))
    (tmp_path / "train_a.json").write_text(json.dumps(found))
    (tmp_path / "youtube_mapping.txt").write_text("x vid1\n")
    args = questions("--datatype", datatype, "--train_csv", str(tmp_path / "train_q.json"))
    expected = ["often"] if min_count == 2 else ["often", "also once", "once"]
    assert question_answering.build_vocabulary(args) == expected


def test_a_bank_is_a_draw_of_all_training_captions_that_the_seed_decides(retrieval):
    def bank(*words):
        loader = build.build_bank_loader(retrieval("--batch_size_val", "8", *words), Tokenizer(), CPU)
        return loader.dataset.dataset.captions

    every = bank("--query_bank", "8")
    assert len(set(every)) == 8
    drawn = {seed: bank("--query_bank", "3", "--seed", seed) for seed in ("1", "2")}
    assert all(len(set(captions)) == 3 and set(captions) <= set(every) for captions in drawn.values())
    assert drawn["1"] == bank("--query_bank", "3", "--seed", "1") != drawn["2"]
    assert every[:3] not in drawn.values()


@pytest.mark.parametrize("datatype", ["msrvtt", "lsmdc"])
def test_a_bank_of_pairs_is_of_all_clips_and_their_first_captions(retrieval, monkeypatch, datatype):
    clips = [Clip(f"video{number}") for number in (1, 0, 3)]
    split = Split(clips, [f"caption {number}" for number in range(5)], [2, 0, 0, 1, 2])
    read = []
    monkeypatch.setattr(build, "build_split", lambda datatype, anno_path, name, **options: read.append(name) or split)
    args = retrieval("--datatype", datatype, "--batch_size_val", "3", "--max_words", "7", "--workers", "1")
    texts, videos = build.build_pair_bank_loaders(args, Tokenizer(), SIZE, CPU)
    assert read == ["val" if datatype == "lsmdc" else "train"]
    assert sorted(texts.dataset.dataset.captions) == ["caption 0", "caption 1", "caption 3"]
    assert videos.dataset.dataset.clips == clips
    assert texts.batch_size == videos.batch_size == 3 and (texts.num_workers, videos.num_workers) == (0, 1)
    assert texts.dataset[0]["ids"].shape == (7,) and videos.dataset[0]["frames"].shape == (2, 3, SIZE, SIZE)


def test_the_reason_of_a_broken_training_video_is_logged_and_kept(retrieval, msrvtt_folder, tmp_path, caplog):
    videos = Path(shutil.copytree(msrvtt_folder / "videos", tmp_path / "videos"))
    (videos / "video1.mp4").write_bytes(b"")
    pairs = build.build_training_loader(retrieval("--max_bad_videos", "0.5", videos=videos), Tokenizer(), SIZE, CPU)
    broken = [index for index, clip in enumerate(pairs.dataset.dataset.clip_of_caption) if clip == 1]
    caplog.clear()
    drawn = pairs.dataset.dataset[broken[0]]
    assert drawn["video_id"] != 1
    reason = f"{videos / 'video1.mp4'}: is empty"
    assert f"broken video 1 of 2 allowed is skipped: {reason}" in caplog.text
    (line,) = (tmp_path / "bad_videos.txt").read_text().splitlines()
    assert line.startswith(f"video1\t{reason}")


def test_left_out_videos_are_counted_by_split(retrieval, tmp_path, caplog):
    (tmp_path / "skip.txt").write_text("video0\nvideo5\nelsewhere\n")
    args = retrieval("--skip_list", str(tmp_path / "skip.txt"))
    for split, whole in (("train", 4), ("test", 2)):
        _, videos = build.find_split(args, split)
        assert len(videos) == whole - 1
        assert f"skip.txt: 1 of the {whole} videos of {split} are left out" in caplog.text


def test_a_run_whose_videos_are_all_broken_ends(retrieval, msrvtt_folder, tmp_path):
    assert build.build_bad_videos(retrieval("--max_bad_videos", "1"), 4).max_count == 3  # otherwise it never ends
    videos = Path(shutil.copytree(msrvtt_folder / "videos", tmp_path / "videos"))
    for path in videos.iterdir():
        path.write_bytes(b"")
    loader = build.build_training_loader(retrieval("--max_bad_videos", "1", videos=videos), Tokenizer(), SIZE, CPU)
    loader.sampler.set_epoch(0)
    with pytest.raises(InputError, match="4 broken videos, 3 allowed"):
        list(loader)


def test_the_count_of_broken_videos_starts_at_0_unless_a_run_resumes(retrieval, tmp_path):
    claim_folder(tmp_path, "output")
    build.build_bad_videos(retrieval("--max_bad_videos", "0.5"), 4).add("video0", "is empty")
    for words, known in ((["--resume", "auto"], {"video0"}), ([], set())):
        assert build.build_bad_videos(retrieval("--max_bad_videos", "0.5", *words), 4).known() == known


def test_ranks_draw_by_other_keys():
    samplers = [TrainingSampler(range(20), 2, rank, seed=5, drop_last=True) for rank in (0, 1)]
    keys = [{draw.key for draw in sampler} for sampler in samplers]
    assert len(keys[0]) == len(keys[1]) == 10 and not keys[0] & keys[1]
