"""Every data set's annotation format: results of reading, and errors of bad files."""

import json
import pickle
import shutil
from pathlib import Path

import pytest

from dataloaders import build_split, has_validation
from dataloaders.base import Clip
from dataloaders.files import find_videos
from tests.formats import CAPTIONS, FORMATS, IDS, write_format
from utils.errors import InputError


@pytest.fixture(scope="session")
def formats(tmp_path_factory):
    return {name: write_format(name, tmp_path_factory.mktemp(name)) for name in FORMATS}


@pytest.fixture
def copy(formats, tmp_path):
    """A copy of a format's annotations that a test may break."""
    return lambda name: Path(shutil.copytree(formats[name] / "anns", tmp_path / "anns"))


def pairs(split):
    return [(split.clips[clip], caption) for clip, caption in zip(split.clip_of_caption, split.captions, strict=True)]


def spoken(name, make_clip=Clip):
    return [(make_clip(video_id), caption) for video_id in IDS[name] for caption in CAPTIONS[video_id]]


@pytest.mark.parametrize("name", IDS)
@pytest.mark.parametrize(
    ("datatype", "make_clip"),
    [("msvd", Clip), ("lsmdc", Clip), ("vatex", lambda video_id: Clip(f"{video_id}_000001_000011"))],
)
def test_every_caption_is_a_pair(formats, datatype, make_clip, name):
    split = build_split(datatype, formats[datatype] / "anns", name)
    assert pairs(split) == spoken(name, make_clip)
    assert len(split.clips) == len(IDS[name])


@pytest.mark.parametrize("name", IDS)
def test_paragraphs_of_didemo(formats, name):
    split = build_split("didemo", formats["didemo"] / "anns", name)
    assert pairs(split) == [(Clip(video_id, 0, 31), " ".join(CAPTIONS[video_id])) for video_id in IDS[name]]


def test_rows_of_a_csv_share_clips_of_the_same_times(formats):
    anns = formats["csv"] / "anns"
    split = build_split("csv", anns, "test")
    assert pairs(split) == [
        (Clip("seven", None, 1), CAPTIONS["seven"][0]),
        (Clip("eight", None, 1), CAPTIONS["eight"][0]),
        (Clip("eight", 1, 2), CAPTIONS["eight"][1]),
    ]
    split = build_split("csv", anns, "val")
    assert split.clips == [Clip("five", 0), Clip("six", 0)]
    assert split.clip_of_caption == [0, 0, 1, 1]


def test_without_a_validation_file_a_csv_selects_on_the_test_split(copy):
    anns = copy("csv")
    assert has_validation("csv", anns)
    (anns / "val.jsonl").unlink()
    assert build_split("csv", anns, "val") == build_split("csv", anns, "test")
    assert not has_validation("csv", anns)


def test_a_validation_list_that_repeats_the_test_list_is_no_validation_split(copy):
    anns = copy("msvd")
    assert has_validation("msvd", anns)
    shutil.copy(anns / "test_list.txt", anns / "val_list.txt")
    assert not has_validation("msvd", anns)


def test_captions_of_msvd_in_json(copy):
    anns = copy("msvd")
    (anns / "raw-captions.pkl").unlink()
    (anns / "raw-captions.json").write_text(json.dumps(CAPTIONS))
    assert pairs(build_split("msvd", anns, "test")) == spoken("test")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_captions_of_msvd_in_every_pickle_protocol(copy, protocol):
    anns = copy("msvd")
    words = {video_id: tuple(caption.split() for caption in texts) for video_id, texts in CAPTIONS.items()}
    (anns / "raw-captions.pkl").write_bytes(pickle.dumps({k: list(v) for k, v in words.items()}, protocol))
    assert pairs(build_split("msvd", anns, "test")) == spoken("test")


def test_captions_of_msvd_as_python_2_wrote_them(copy):
    anns = copy("msvd")
    (anns / "test_list.txt").write_text("seven")
    (anns / "raw-captions.pkl").write_bytes(b"(dS'seven'\n(l(lS'a'\naS'caf\\xc3\\xa9'\naas.")
    assert pairs(build_split("msvd", anns, "test")) == [(Clip("seven"), "a café")]


class Call:
    def __reduce__(self):
        return (Path.touch, (Path("called"),))


@pytest.mark.parametrize("content", [Call(), {"seven": Call()}, {"seven": [b"x", {1.5}, Path("x")]}, print])
def test_nothing_of_a_pickle_is_called(copy, content, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    anns = copy("msvd")
    (anns / "raw-captions.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(InputError, match=r"raw-captions.pkl: is no pickle of plain captions \(it asks for"):
        build_split("msvd", anns, "test")
    assert not Path("called").exists()


@pytest.mark.parametrize(
    ("variant", "train", "val", "test"),
    [
        ("9k", ["0", "1", "2", "3", "6513", "6514"], ["7010", "7011"], ["7010", "7011"]),
        ("7k", ["0", "1", "2", "3"], ["7010", "7011"], ["7010", "7011"]),
        ("full", ["0", "1", "2", "3"], ["6513", "6514"], ["7010", "7011"]),
        ("1kB", ["0", "1", "2", "3", "7010", "7011"], ["6513", "6514"], ["6513", "6514"]),
    ],
)
def test_splits_of_msrvtt(formats, variant, train, val, test):
    for name, numbers in (("train", train), ("val", val), ("test", test)):
        split = build_split("msrvtt", formats["msrvtt"] / "anns", name, msrvtt_split=variant)
        assert split.clips == [Clip(f"video{number}") for number in numbers]
        if name == "train":
            assert len(split.captions) > len(split.clips)
        elif variant == "1kB":
            assert split.captions == [CAPTIONS["five"][0], CAPTIONS["six"][0]]
    if variant == "full":
        assert [caption for _, caption in pairs(split)] == [caption for _, caption in spoken("test")]


def test_full_split_of_other_videos_is_refused(msrvtt_folder):
    with pytest.raises(InputError, match=r"none of video7010 to video9999, the test videos; choose another --msrvtt_s"):
        build_split("msrvtt", msrvtt_folder / "anns", "test", msrvtt_split="full")


def rewrite(name, old, new):
    def breaking(anns):
        content = (anns / name).read_bytes()
        assert old.encode() in content
        (anns / name).write_bytes(content.replace(old.encode(), new.encode()))

    return breaking


def cut(name):
    return lambda anns: (anns / name).write_bytes((anns / name).read_bytes()[:40])


def remove(name):
    return lambda anns: (anns / name).unlink()


def write(name, text):
    return lambda anns: (anns / name).write_text(text)


LSMDC, PICKLE = "LSMDC16_challenge_1000_publictect.csv", "raw-captions.pkl"
BAD_FILES = {
    "msvd": {
        "no list": (remove("test_list.txt"), "test_list.txt: cannot be read"),
        "empty list": (write("test_list.txt", "\n\n"), "test_list.txt: lists no video"),
        "no captions": (remove(PICKLE), "raw-captions.pkl: cannot be read"),
        "cut": (cut(PICKLE), "raw-captions.pkl: is no pickle"),
        "list": (lambda anns: (anns / PICKLE).write_bytes(pickle.dumps([])), "raw-captions.pkl: expected dict"),
        "silent": (rewrite("test_list.txt", "eight", "nine"), "raw-captions.pkl: 1 listed videos have no caption"),
        "empty caption": (write("raw-captions.json", '{"seven": [" "], "eight": ["x"]}'), "'seven', [0]: is empty"),
        "no words": (write("raw-captions.json", '{"seven": [[]], "eight": ["x"]}'), "'seven', [0]: is empty"),
        "number": (write("raw-captions.json", '{"seven": ["x", 5], "eight": ["x"]}'), "'seven', [1]: expected str"),
        "cut JSON": (write("raw-captions.json", '{"seven": ["x"'), "raw-captions.json, line 1: is no JSON"),
    },
    "didemo": {
        "no list": (remove("test_list.txt"), "test_list.txt: cannot be read"),
        "no data": (remove("test_data.json"), "test_data.json: cannot be read"),
        "cut": (cut("test_data.json"), "test_data.json, line 1: is no JSON"),
        "dict": (write("test_data.json", "{}"), "test_data.json: expected list"),
        "silent": (rewrite("test_list.txt", "eight", "nine"), "1 listed videos have no caption, first nine"),
        "empty": (rewrite("test_data.json", "the noise of seven", " "), "test_data.json, [0], 'description': is empty"),
        "no key": (rewrite("test_data.json", '"description"', '"text"'), "[0]: has no key 'description'"),
        "reversed": (rewrite("test_data.json", "[0, 1]", "[3, 1]"), "[0], 'times', [1]: [3, 1] is no start and an end"),
        "word": (rewrite("test_data.json", "[0, 1]", '["a", 1]'), "[0], 'times', [1], [0]: expected int or float"),
    },
    "lsmdc": {
        "no file": (remove(LSMDC), f"{LSMDC}: cannot be read"),
        "empty": (write(LSMDC, "\n"), f"{LSMDC}: is empty"),
        "commas": (rewrite(LSMDC, "\t", ","), f"{LSMDC}, line 1: has 1 columns, not 6"),
        "no sentence": (rewrite(LSMDC, CAPTIONS["eight"][0], " "), f"{LSMDC}, line 2, 'sentence': is empty"),
        "no id": (rewrite(LSMDC, "eight\t", " \t"), f"{LSMDC}, line 2, 'clip id': is empty"),
        "reversed": (rewrite(LSMDC, "00.00.03.000", "00.00.00.900"), f"{LSMDC}, line 1: starts at 00.00.01.000, after"),
    },
    "vatex": {
        "no list": (remove("test_list.txt"), "test_list.txt: cannot be read"),
        "no captions": (remove("ref_captions.json"), "ref_captions.json: cannot be read"),
        "cut": (cut("ref_captions.json"), "ref_captions.json, line 1: is no JSON"),
        "no times": (rewrite("test_list.txt", "seven_000001_000011", "seven"), "test_list.txt, 'seven': does not end"),
        "reversed": (rewrite("test_list.txt", "seven_000001", "seven_000012"), "'seven_000012_000011': does not end"),
        "silent": (rewrite("test_list.txt", "eight", "nine"), "1 listed videos have no caption, first nine_000001"),
        "empty": (rewrite("ref_captions.json", "the noise of seven", " "), "'seven_000001_000011', [0]: is empty"),
    },
    "csv": {
        "no file": (remove("test.csv"), "test.csv: cannot be read"),
        "header": (rewrite("test.csv", "caption,", "text,"), "test.csv, line 1: has no column 'caption'"),
        "no rows": (write("test.csv", "video,caption\n"), "test.csv: has no rows"),
        "empty": (rewrite("test.csv", "the noise of seven", ""), "test.csv, line 2, 'caption': is empty"),
        "reversed": (write("test.csv", "video,caption,start,end\na,b,2,1\n"), "line 2: starts at 2 s, not before"),
        "no length": (write("test.csv", "video,caption,start,end\na,b,,0\n"), "line 2: starts at 0 s, not before"),
        "negative": (write("test.csv", "video,caption,start\na,b,-1\n"), "line 2, 'start': expected seconds"),
        "no number": (write("test.csv", "video,caption,end\na,b,1:30\n"), "line 2, 'end': expected seconds"),
    },
}


@pytest.mark.parametrize(
    ("datatype", "breaking", "message"),
    [
        pytest.param(datatype, *case, id=f"{datatype}: {name}")
        for datatype, cases in BAD_FILES.items()
        for name, case in cases.items()
    ],
)
def test_bad_files_are_named_with_the_place(copy, datatype, breaking, message):
    anns = copy(datatype)
    breaking(anns)
    with pytest.raises(InputError) as raised:
        build_split(datatype, anns, "test")
    assert str(raised.value).startswith(f"{anns}")
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_clip_of_lsmdc_may_end_when_it_starts(copy):
    anns = copy("lsmdc")
    rewrite(LSMDC, "00.00.03.000", "00.00.01.000")(anns)
    assert pairs(build_split("lsmdc", anns, "test")) == spoken("test")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"video": "a"}', "val.jsonl, line 2: has no key 'caption'"),
        ('{"video": "a", "caption": " "}', "val.jsonl, line 2, 'caption': is empty"),
        ('{"video": "a", "caption": ', "val.jsonl, line 2: is no JSON"),
        ("[]", "val.jsonl, line 2: expected dict"),
        ('{"video": "a", "caption": "b", "start": [1]}', "val.jsonl, line 2, 'start': expected seconds"),
    ],
)
def test_bad_lines_of_a_jsonl(copy, line, message):
    anns = copy("csv")
    (anns / "val.jsonl").write_text(f'{{"video": "a", "caption": "b"}}\n{line}\n')
    with pytest.raises(InputError) as raised:
        build_split("csv", anns, "val")
    assert message in str(raised.value)


@pytest.mark.parametrize("datatype", FORMATS)
def test_every_video_of_a_format_is_found(formats, datatype):
    for name in IDS:
        ids = [clip.video_id for clip in build_split(datatype, formats[datatype] / "anns", name).clips]
        assert len(find_videos(formats[datatype] / "videos", ids)) == len(set(ids))


def test_an_id_without_a_video_is_named(copy, formats):
    anns = copy("msvd")
    rewrite("raw-captions.pkl", "eight", "night")(anns)
    rewrite("test_list.txt", "eight", "night")(anns)
    ids = [clip.video_id for clip in build_split("msvd", anns, "test").clips]
    with pytest.raises(InputError, match="1 of 2 videos are missing: night; add them or give --skip_missing"):
        find_videos(formats["msvd"] / "videos", ids)
