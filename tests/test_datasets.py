"""Annotations to splits, splits to batches, and errors of bad ones."""

import json
import random
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from dataloaders import DATASETS, build_split
from dataloaders.augment import RandAugment
from dataloaders.base import Clip, ClipDataset, PairDataset, Split, TextDataset, collate
from dataloaders.build import clip_reader
from dataloaders.clips import read_clip
from dataloaders.files import find_videos
from dataloaders.loading import LoaderOptions, build_dataloader
from models import HBI, METHODS
from models.tokenizer import Tokenizer
from tests.numbered import numbers_of, write_numbered
from utils.args import retrieval_parser
from utils.errors import InputError
from utils.video.positions import RELEASED_RULES, Sampling, frame_positions
from utils.video.transforms import ClipTransform

SHARED_LISTS = Path(__file__).parents[2] / "shared" / "data" / "msrvtt" / "anns"
MAX_WORDS, MAX_FRAMES = 12, 4
read = partial(read_clip, transform=ClipTransform(32), max_frames=MAX_FRAMES)


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer()


@pytest.fixture
def anns(msrvtt_folder, tmp_path):
    """A copy of the annotations that a test may break."""
    return Path(shutil.copytree(msrvtt_folder / "anns", tmp_path / "anns"))


@pytest.fixture
def datasets(msrvtt_folder, tokenizer):
    """Builds the three data sets of a split of the small tree."""

    def build(name, read=read):
        split = build_split("msrvtt", msrvtt_folder / "anns", name)
        videos = find_videos(msrvtt_folder / "videos", [clip.video_id for clip in split.clips])
        texts, clips = TextDataset(split, tokenizer, MAX_WORDS), ClipDataset(split, videos, read)
        return PairDataset(split, texts, clips), texts, clips

    return build


def test_every_caption_of_the_listed_videos_is_a_pair(msrvtt_folder):
    split = build_split("msrvtt", msrvtt_folder / "anns", "train")
    assert split.clips == [Clip(f"video{number}") for number in range(4)]
    assert split.captions == [f"{manner} noise around colour {n}" for n in range(4) for manner in ("bright", "dark")]
    assert split.clip_of_caption == [0, 0, 1, 1, 2, 2, 3, 3]


def test_test_rows_and_their_subsets(msrvtt_folder):
    split = build_split("msrvtt", msrvtt_folder / "anns", "test")
    assert split.captions == ["a noise, around colour 4", "a noise around colour 5"]
    assert split.clip_of_caption == [0, 1]
    assert split.subsets == {"action": [1]}
    assert split == build_split("msrvtt", msrvtt_folder / "anns", "val")


def test_captions_of_one_test_video_share_its_clip(anns):
    with open(anns / "MSRVTT_JSFUSION_test.csv", "a") as file:
        file.write("ret2,msr4,video4,the first one again,order\n")
    split = build_split("msrvtt", anns, "test")
    assert len(split.clips) == 2
    assert split.clip_of_caption == [0, 1, 0]
    assert split.subsets == {"action": [1], "order": [2]}


def test_published_lists(tmp_path):
    if not SHARED_LISTS.is_dir():
        pytest.skip(f"no folder {SHARED_LISTS}")
    shutil.copytree(SHARED_LISTS, tmp_path, dirs_exist_ok=True)
    sentences = [{"video_id": f"video{number}", "caption": f"caption {number}"} for number in range(10_000)]
    (tmp_path / "MSRVTT_data.json").write_text(json.dumps({"sentences": sentences, "videos": []}))
    train, test = build_split("msrvtt", tmp_path, "train"), build_split("msrvtt", tmp_path, "test")
    assert (len(train.clips), len(train.captions)) == (9000, 9000)
    assert (len(test.clips), len(test.captions), test.subsets) == (1000, 1000, {})
    assert not set(train.clips) & set(test.clips)


def rewrite(name, old, new):
    return lambda anns: (anns / name).write_text((anns / name).read_text().replace(old, new))


DATA, TRAIN, TEST = "MSRVTT_data.json", "MSRVTT_train.9k.csv", "MSRVTT_JSFUSION_test.csv"
BAD_MSRVTT = {
    "no captions file": ("train", lambda anns: (anns / DATA).unlink(), f"{DATA}: cannot be read"),
    "no list": ("train", lambda anns: (anns / TRAIN).unlink(), f"{TRAIN}: cannot be read"),
    "cut JSON": ("train", lambda anns: (anns / DATA).write_text((anns / DATA).read_text()[:99]), "line 1: is no JSON"),
    "other JSON": ("train", lambda anns: (anns / DATA).write_text("[]"), f"{DATA}: expected dict, found []"),
    "no sentences": ("train", rewrite(DATA, '"sentences"', '"captions"'), "has no key 'sentences'"),
    "no caption": ("train", rewrite(DATA, '"caption": "bright noise around colour 2"', '"text": 0'), "[2]: has no key"),
    "number": ("train", rewrite(DATA, '"bright noise around colour 1"', "17"), "expected str, found 17"),
    "empty caption": ("train", rewrite(DATA, "bright noise around colour 3", " "), "[3], 'caption': is empty"),
    "binary": ("train", lambda anns: (anns / DATA).write_bytes(b"\xff\xfe\x00"), "is not UTF-8"),
    "silent video": ("train", rewrite(TRAIN, "video3", "video99"), "no caption, first video99"),
    "no rows": ("train", lambda anns: (anns / TRAIN).write_text("video_id\n"), "has no rows"),
    "empty list": ("train", lambda anns: (anns / TRAIN).write_text(""), "line 1: has no column 'video_id'"),
    "no column": ("test", rewrite(TEST, "sentence", "caption"), "line 1: has no column 'sentence'"),
    "bare comma": ("test", rewrite(TEST, '"', ""), "line 2: needs 5 values"),
    "short row": ("test", rewrite(TEST, ",a noise around colour 5,action", ""), "line 3: needs 5 values"),
    "empty cell": ("test", rewrite(TEST, "a noise around colour 5", ""), "line 3, 'sentence': is empty"),
    "open quote": ("test", rewrite(TEST, "a noise around colour 5", '"a noise'), "is no CSV"),
}


@pytest.mark.parametrize(("name", "breaking", "message"), BAD_MSRVTT.values(), ids=BAD_MSRVTT)
def test_bad_annotations_name_file_and_place(anns, name, breaking, message):
    breaking(anns)
    with pytest.raises(InputError) as raised:
        build_split("msrvtt", anns, name)
    assert str(raised.value).startswith(f"{anns}")
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_byte_order_mark_is_no_part_of_the_first_column(anns):
    (anns / TRAIN).write_bytes(b"\xef\xbb\xbf" + (anns / TRAIN).read_bytes())
    assert len(build_split("msrvtt", anns, "train").clips) == 4


def test_unknown_names(anns):
    with pytest.raises(InputError, match="--datatype youtube: unknown; choose one of msrvtt"):
        build_split("youtube", anns, "train")
    with pytest.raises(InputError, match="no such folder of annotations"):
        build_split("msrvtt", anns / "nowhere", "train")
    with pytest.raises(ValueError, match="split must be"):
        build_split("msrvtt", anns, "dev")


def test_published_settings_of_each_data_set():
    stepped, by_second = (RELEASED_RULES[name] for name in ("decord", "cv2"))
    assert {name: (spec.frame_rule, spec.augmentation) for name, spec in DATASETS.items()} == {
        "msrvtt": (stepped, "rand-m7-n4-mstd0.5-inc1"), "msvd": (stepped, "none"), "activity": (by_second, "none"),
        "didemo": (by_second, "none"), "lsmdc": (stepped, "none"), "vatex": (stepped, "none"), "csv": (stepped, "none"),
    }  # fmt: skip


@pytest.fixture
def activity(tmp_path):
    """Writes annotations in the format of ActivityNet Captions and reads the split they make."""

    def write_and_read(ids, videos, split="test"):
        names = ("train_ids.json", "train.json") if split == "train" else ("val_ids.json", "val_1.json")
        for name, value in zip(names, (ids, videos), strict=True):
            (tmp_path / name).write_text(json.dumps(value))
        return build_split("activity", tmp_path, split)

    return write_and_read


def entry(**changes):
    return {"duration": 3.2, "timestamps": [[0, 1], [1, 3]], "sentences": ["A man runs.", " He stops."], **changes}


@pytest.mark.parametrize("name", ["train", "val", "test"])
def test_paragraphs_and_windows(activity, name):
    split = activity(["v_b", "v_a"], {"v_a": entry(duration=60), "v_b": entry(), "v_unlisted": {}}, name)
    assert split.clips == [Clip("v_b", 0, 4), Clip("v_a", 0, 60)]
    assert split.captions == ["A man runs.  He stops."] * 2
    assert split.clip_of_caption == [0, 1]


BAD_ACTIVITY = {
    "not annotated": (["v_a", "v_b"], {"v_a": entry()}, "val_1.json: has no key 'v_b'"),
    "number for an id": ([7], {}, "val_ids.json, [0]: expected str, found 7"),
    "no duration": (["v_a"], {"v_a": {"sentences": ["x"]}}, "val_1.json, 'v_a': has no key 'duration'"),
    "text for a duration": (["v_a"], {"v_a": entry(duration="3")}, "'duration': expected int or float, found \"3\""),
    "endless": (["v_a"], {"v_a": entry(duration=float("inf"))}, "'v_a', 'duration': lasts inf s"),
    "no time": (["v_a"], {"v_a": entry(duration=0)}, "'v_a', 'duration': lasts 0 s"),
    "number in the text": (["v_a"], {"v_a": entry(sentences=["x", None])}, "'sentences': expected strings"),
    "no text": (["v_a"], {"v_a": entry(sentences=[])}, "'sentences': is empty"),
    "no videos": ([], {}, "val_ids.json: lists no video"),
    "list for an entry": (["v_a"], {"v_a": []}, "'v_a': expected dict, found []"),
}


@pytest.mark.parametrize(("ids", "videos", "message"), BAD_ACTIVITY.values(), ids=BAD_ACTIVITY)
def test_bad_activity_annotations_name_file_and_place(activity, ids, videos, message):
    with pytest.raises(InputError) as raised:
        activity(ids, videos)
    assert message in str(raised.value)


def test_activity_window_reaches_the_clip(activity, video_file, tokenizer):
    split = activity(["v_noise"], {"v_noise": entry(duration=1.5)})
    videos = find_videos(video_file.parent, ["v_noise"])
    clips = ClipDataset(split, videos, partial(read, rule="by_second"))
    sampling = Sampling(start=0, end=2, whole_seconds=True, rule="by_second")
    assert len(clips[0]["frames"]) == len(frame_positions(10, 30, sampling)) == 3


@pytest.mark.parametrize(("datatype", "shown"), [("csv", [2, 3, 4, 5, 6]), ("msrvtt", list(range(11)))])
def test_windows_of_a_csv_keep_their_fractions(tmp_path, datatype, shown):
    path = write_numbered(tmp_path / "video.mp4", 40)
    words = ["--do_eval", "1", "--anno_path", "-", "--video_path", "-", "--output_dir", "-", "--datatype", datatype]
    args = retrieval_parser(METHODS, HBI.add_arguments).parse_args([*words, "--video_framerate", "10"])
    read = clip_reader(args, 48)
    read.keywords["transform"] = lambda frames: frames
    assert numbers_of(read(path, start=0.2, end=0.6)) == shown


def test_left_out_videos_take_their_captions_along():
    split = Split(
        clips=[Clip("a", 0, 1), Clip("b"), Clip("a", 1, 2), Clip("c")],
        captions=["c0", "a0", "b0", "a1", "c1"],
        clip_of_caption=[3, 0, 1, 2, 3],
        subsets={"one": [0, 2], "other": [2, 4], "rest": [2]},
    )
    kept = split.keep_videos({"a", "c"})
    assert kept.clips == [Clip("a", 0, 1), Clip("a", 1, 2), Clip("c")]
    assert [(caption, kept.clips[clip]) for caption, clip in zip(kept.captions, kept.clip_of_caption, strict=True)] == [
        ("c0", Clip("c")), ("a0", Clip("a", 0, 1)), ("a1", Clip("a", 1, 2)), ("c1", Clip("c")),
    ]  # fmt: skip
    assert kept.subsets == {"one": [0], "other": [3], "rest": []}
    assert split.keep_videos({"a", "b", "c"}) == split


def test_items(datasets, tokenizer):
    pairs, texts, clips = datasets("train")
    assert (len(pairs), len(texts), len(clips)) == (8, 8, 4)
    item = pairs[3]
    ids, mask = tokenizer(["dark noise around colour 1"], MAX_WORDS)
    assert torch.equal(item["ids"], ids[0])
    assert torch.equal(item["text_mask"], mask[0])
    assert item["video_id"] == 1
    assert torch.equal(item["frames"], clips[1]["frames"])
    assert item["frames"].shape == (3, 3, 32, 32)


def test_collate_packs_frames_of_ragged_clips(datasets):
    pairs, texts, clips = datasets("train")
    items = [pairs[index] for index in (0, 4, 7)]
    batch = collate(items, MAX_FRAMES)
    assert set(batch) == {"ids", "text_mask", "frames", "video_mask", "video_ids"}
    assert batch["video_mask"].dtype == batch["video_ids"].dtype == torch.int64
    assert batch["video_mask"].tolist() == [[1, 1, 0, 0], [1, 1, 1, 1], [1, 1, 0, 0]]
    assert batch["video_ids"].tolist() == [0, 2, 3]
    assert batch["ids"].shape == batch["text_mask"].shape == (3, MAX_WORDS)
    assert torch.equal(batch["frames"], torch.cat([item["frames"] for item in items]))
    assert set(collate([texts[0]], MAX_FRAMES)) == {"ids", "text_mask"}
    assert set(collate([clips[0]], MAX_FRAMES)) == {"frames", "video_mask", "video_ids"}


@pytest.mark.parametrize(("world_size", "workers"), [(1, 0), (2, 0), (3, 0), (6, 0), (2, 2)])
def test_evaluation_shards_are_the_data_set(datasets, world_size, workers):
    _, texts, clips = datasets("train")
    options = {"batch_size": 6, "max_frames": MAX_FRAMES, "training": False, "workers": workers}
    shards = [LoaderOptions(**options, rank=rank, world_size=world_size) for rank in range(world_size)]
    ids = [batch["ids"] for shard in shards for batch in build_dataloader(texts, shard)]
    assert torch.equal(torch.cat(ids), torch.stack([texts[index]["ids"] for index in range(8)]))
    video_ids = [batch["video_ids"] for shard in shards for batch in build_dataloader(clips, shard)]
    assert torch.cat(video_ids).tolist() == [0, 1, 2, 3]


def epochs(dataset, count, **options):
    """Pixels and identities of the clips of `count` epochs."""
    options = {"batch_size": 4, "max_frames": MAX_FRAMES, "training": True, **options}
    loader = build_dataloader(dataset, LoaderOptions(**options))
    seen = []
    for epoch in range(count):
        loader.sampler.set_epoch(epoch)
        seen.append([(batch["video_ids"].tolist(), batch["frames"].float().mean().item()) for batch in loader])
    return seen


def test_training_order_is_shuffled_repeatable_and_shared_out(datasets):
    pairs = datasets("train")[0]
    captions = [tuple(pairs[index]["ids"].tolist()) for index in range(8)]

    def order(epoch, **options):
        loader = build_dataloader(pairs, LoaderOptions(4, MAX_FRAMES, True, workers=0, **options))
        loader.sampler.set_epoch(epoch)
        return [captions.index(tuple(row)) for batch in loader for row in batch["ids"].tolist()]

    assert sorted(order(0)) == list(range(8))
    assert order(0) == order(0)
    assert order(0) != order(1)
    assert order(0) != order(0, seed=1)
    halves = [order(0, rank=rank, world_size=2) for rank in (0, 1)]
    assert [len(half) for half in halves] == [4, 4]
    assert sorted(sum(halves, [])) == list(range(8))


@pytest.mark.parametrize("workers", [0, 2])
def test_augmented_training_repeats_with_the_seed(datasets, workers):
    pairs = datasets("train", partial(read, augment=RandAugment()))[0]

    def run(seed):
        random.seed(seed)
        np.random.seed(seed)
        return epochs(pairs, 2, workers=workers, seed=seed)

    first = run(0)
    assert first == run(0)
    assert first != run(1)
    assert first[0] != first[1]


def test_workers_and_processes_draw_apart(datasets):
    class Draw(torch.utils.data.Dataset):
        def __len__(self):
            return 8

        def __getitem__(self, index):
            return {"draws": torch.tensor([random.random(), np.random.rand(), torch.rand(()).item()])}

    draws = [
        batch["draws"]
        for rank in (0, 1)
        for batch in build_dataloader(Draw(), LoaderOptions(2, 1, False, workers=2, rank=rank, world_size=2))
    ]
    assert len(torch.cat(draws).unique()) == 24


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 5, "world_size": 2}, "batch size 5: cannot be divided among 2 processes; choose a multiple"),
        ({"batch_size": 0}, "batch size 0"),
        ({"batch_size": 10}, "batch size 10: there are only 8 training pairs"),
    ],
)
def test_impossible_batches_are_refused(datasets, options, message):
    with pytest.raises(InputError, match=message):
        build_dataloader(datasets("train")[0], LoaderOptions(max_frames=MAX_FRAMES, training=True, **options))


@pytest.mark.parametrize("workers", [0, 1])
def test_broken_video_ends_in_its_reason_from_any_process(msrvtt_folder, tmp_path, workers):
    broken = tmp_path / "video4.mp4"
    broken.write_bytes((msrvtt_folder / "videos" / "video4.mp4").read_bytes()[:-100])
    clips = ClipDataset(Split([Clip("video4")], [], []), {"video4": broken}, read)
    loader = build_dataloader(clips, LoaderOptions(1, MAX_FRAMES, False, workers=workers))
    with pytest.raises(InputError) as raised:
        next(iter(loader))
    assert str(raised.value).splitlines()[-1] == f"{broken}: is truncated, 100 bytes are missing; replace the file"


def test_captions_are_tokenised_once():
    captions, calls, tokenizer = ["a red star", "a ring blinks"], [], Tokenizer()

    def count(texts, max_words):
        calls.extend(texts)
        return tokenizer(texts, max_words)

    texts = TextDataset(Split([Clip("a")], captions, [0, 0]), count, 8)
    for _ in range(3):
        items = [texts[number] for number in range(2)]
    ids, mask = tokenizer(captions, 8)
    assert calls == captions
    for row, item in enumerate(items):
        assert torch.equal(item["ids"], ids[row]) and torch.equal(item["text_mask"], mask[row])
