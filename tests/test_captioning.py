"""main_captioning.main from end to end on the built-in videos, its splits, and refused input."""

import csv
import json

import pytest
import torch

import main_captioning
from dataloaders import build_split
from models import load_model
from scripts.shapes.grammar import read_story
from tests.processes import run_together, script
from tests.retrieval_case import Outcome, build_corpus, read_metrics
from utils.caption_metrics import caption_metrics
from utils.checkpoint import read_weights, save_weights
from utils.errors import InputError
from utils.files import MARKER

SIZES = ["--max_words", "20", "--max_frames", "4", "--batch_size", "12", "--workers", "0", "--augment", "none"]
SIZES += ["--recipe", "corrected", "--beams", "2"]


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    return build_corpus(tmp_path_factory.mktemp("captions"), train=20, test=8)


def command(corpus, folder, *words, **files) -> list[str]:
    files = {"anno_path": corpus.folder / "captions", "video_path": corpus.videos, "output_dir": folder} | files
    named = [str(word) for name, path in files.items() for word in (f"--{name}", path)]
    return [*named, "--datatype", "csv", *SIZES, *map(str, words)]


def training(corpus) -> list:
    return ["--do_train", "--base_encoder", corpus.clip, "--teacher", "exact", "--epochs", "1"]


@pytest.fixture(scope="session")
def launch(corpus, tmp_path_factory):
    """Calls main with words of the command line added to the files and the small sizes."""

    def call(*words, **files) -> Outcome:
        folder = tmp_path_factory.mktemp("output")
        return Outcome(folder, main_captioning.main(command(corpus, folder, *words, **files)))

    return call


@pytest.fixture(scope="session")
def train(corpus, launch):
    return lambda *words, **files: launch(*training(corpus), *words, **files)


@pytest.fixture(scope="session")
def trained(train):
    return train("--save_every", "4")


def best_of(outcome):
    return outcome.folder / "pytorch_model.bin.best.0"


def test_training_writes_checkpoints_captions_and_metrics(trained, corpus):
    names = {path.name for path in trained.folder.iterdir()} - {MARKER}
    written = {"pytorch_model.bin.0", "pytorch_model.bin.best.0", "log.txt", "metrics.json", "captions.jsonl"}
    assert written | {"references.json", "tensorboard", "training_state"} <= names
    assert read_metrics(trained.folder) == trained.metrics
    assert {"caption_ce", "entity.ce_t2v", "event.kl_banzhaf", "score"} <= trained.terms
    assert "no validation split" not in trained.log


def test_others_can_score_what_was_written(trained):
    """COCO's result format is a list of such lines, COCO's annotations are references.json."""
    annotations = json.loads((trained.folder / "references.json").read_text())
    names = [image["id"] for image in annotations["images"]]
    assert [line["image_id"] for line in trained.captions] == names == [f"video{number}" for number in range(20, 28)]
    references = {name: [] for name in names}
    for entry in annotations["annotations"]:
        references[entry["image_id"]].append(entry["caption"])
    assert {len(captions) for captions in references.values()} == {5}
    found = caption_metrics([line["caption"] for line in trained.captions], list(references.values()))
    assert found == trained.metrics["captions"]
    assert (trained.metrics["videos"], trained.metrics["references"], trained.metrics["beams"]) == (8, 40, 2)


def test_a_checkpoint_gives_the_captions_of_its_training(trained, launch):
    again = launch("--do_eval", "--init_model", best_of(trained), "--batch_size_val", "3", "--workers", "1")
    assert again.metrics == trained.metrics
    assert [line["caption"] for line in again.captions] == [line["caption"] for line in trained.captions]


def test_training_goes_on_from_a_saved_state(trained, train):
    states = sorted((trained.folder / "training_state").iterdir(), key=lambda path: int(path.name[5:]))
    resumed = train("--resume", states[0])
    ours, theirs = (read_weights(outcome.folder / "pytorch_model.bin.0") for outcome in (resumed, trained))
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())
    with pytest.raises(InputError, match="--decoder_layers: 2 in the state, 1 now"):
        train("--resume", states[0], "--decoder_layers", "1")


@pytest.mark.parametrize("words", [["--precision", "bf16"], ["--num_levels", "1", "--retrieval_weight", "0"]])
def test_other_ways_to_train(train, words):
    outcome = train(*words)
    model = load_model(best_of(outcome), recipe="corrected")
    assert len(model.decoder.level_vectors) == (1 if "--num_levels" in words else 3)
    assert all(tensor.isfinite().all() for tensor in model.state_dict().values())


def test_describe_gives_the_caption_of_the_evaluation(trained, corpus):
    model = load_model(best_of(trained), recipe="corrected")
    line = trained.captions[0]
    said = model.describe(corpus.videos / f"{line['image_id']}.mp4", beams=2, max_words=20, max_frames=4)
    assert said.caption == line["caption"]


def test_two_processes_train_and_caption_as_one(corpus, train, tmp_path):
    """Without dropout, which is drawn for each process's own captions."""
    options = "--dropout", "0", "--device", "cpu"
    one, folder = train(*options), tmp_path / "two"
    run_together(
        tmp_path / "said.txt", 2, script, main_captioning.main, *command(corpus, folder, *training(corpus), *options)
    )
    two = Outcome(folder, read_metrics(folder))
    ours, theirs = (read_weights(best_of(outcome)) for outcome in (one, two))
    moved = read_weights(corpus.clip)["token_embedding.weight"]
    start = ours["decoder.embedding.weight"] - moved
    assert start.abs().max() > 1e-5
    for name, tensor in theirs.items():
        assert torch.allclose(ours[name], tensor, atol=2e-5), name
    assert two.metrics["captions"] == pytest.approx(one.metrics["captions"])


def test_starting_from_a_retrieval_checkpoint(launch, checkpoint):
    words = "--do_train", "--init_model", checkpoint, "--teacher", "exact", "--epochs", "1", "--batch_size", "24"
    outcome = launch(*words)
    assert outcome.metrics["videos"] == 8
    with pytest.raises(InputError, match=r"bin\.0: has no caption decoder; give a checkpoint of main_captioning\.py"):
        launch("--do_eval", "--init_model", checkpoint)


def test_a_checkpoint_that_has_seen_the_test_videos(trained, train, corpus, tmp_path):
    """What it was trained on is in the config.json next to it."""
    begin = "--init_model", tmp_path / "pytorch_model.bin.0"
    save_weights(read_weights(best_of(trained)), begin[1])
    assert "no config.json names its training videos" in train(*begin).log
    config = json.loads((trained.folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert "was trained on" not in train(*begin).log
    # A run whose training list has two of the eight test videos, and one of the two validation videos.
    rows = "video,caption\n" + "".join(f"video{number},a star\n" for number in (1, 9, 20, 21))
    for name in ("train", "test"):
        (tmp_path / f"{name}.csv").write_text(rows)
    config["flags"]["anno_path"] = str(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"bin\.0: was trained on 2 videos of the test split, first video20; "):
        train(*begin)
    log = train(*begin, "--allow_seen_videos").log
    assert "was trained on 2 videos of the test split" in log and "on 1 videos of the val split, first video9" in log


def test_what_cannot_be_captioned(trained, launch, corpus, tmp_path):
    evaluate = "--do_eval", "--init_model", best_of(trained)
    with pytest.raises(InputError, match="--datatype lsmdc: no data set of captioning; choose one of msrvtt, msvd"):
        launch(*evaluate, "--datatype", "lsmdc")
    with pytest.raises(InputError, match="--max_words 78: the model has 77 positions"):
        launch(*evaluate, "--max_words", "78")
    for name in ("train", "test"):
        (tmp_path / f"{name}.csv").write_text("video,caption\nvideo0,\n")
    with pytest.raises(InputError, match=r"test\.csv, line 2, 'caption': is empty"):
        launch(*evaluate, anno_path=tmp_path)


def test_one_video(trained, launch, train, corpus, tmp_path):
    (tmp_path / "test.csv").write_text("video,caption\nvideo20,a red star blinks\n")
    outcome = launch("--do_eval", "--init_model", best_of(trained), anno_path=tmp_path)
    assert "CIDEr" not in outcome.metrics["captions"]
    assert "CIDEr is not defined for one video and is left out" in outcome.log
    (tmp_path / "train.csv").write_text((corpus.folder / "captions" / "train.csv").read_text())
    with pytest.raises(InputError, match="1 video to select on, but CIDEr is defined from 2 on"):
        train(anno_path=tmp_path)


def test_empty_captions_are_reported(trained, launch, tmp_path):
    state = read_weights(best_of(trained))
    model = load_model(best_of(trained), recipe="corrected")
    # A last norm that always points at the end token.
    state["decoder.norm.weight"] = torch.zeros_like(state["decoder.norm.weight"])
    state["decoder.norm.bias"] = 100 * state["decoder.embedding.weight"][model.decoder.end]
    save_weights(state, tmp_path / "silent.bin")
    outcome = launch("--do_eval", "--init_model", tmp_path / "silent.bin")
    assert "8 of 8 captions are empty and score 0" in outcome.log
    assert outcome.metrics["captions"]["CIDEr"] == 0


def write_msrvtt(folder):
    sentences = [
        {"video_id": f"video{video}", "caption": f"caption {number} of {video}"}
        for video in range(10_000)
        for number in range(2)
    ]
    (folder / "MSRVTT_data.json").write_text(json.dumps({"sentences": sentences, "videos": []}))


def write_msvd(folder):
    captions = {f"vid{video}": [f"caption {number}" for number in range(3)] for video in range(1, 1971)}
    (folder / "raw-captions.json").write_text(json.dumps(captions))
    for name, first, last in (("train", 1, 1200), ("val", 1201, 1300), ("test", 1301, 1970)):
        (folder / f"{name}_list.txt").write_text("".join(f"vid{video}\n" for video in range(first, last + 1)))


@pytest.mark.parametrize(
    ("datatype", "write", "sizes", "captions", "options"),
    [
        ("msrvtt", write_msrvtt, (6513, 497, 2990), 2, {"msrvtt_split": "full"}),
        ("msvd", write_msvd, (1200, 100, 670), 3, {}),
    ],
)
def test_published_splits_are_disjoint(tmp_path, datatype, write, sizes, captions, options):
    write(tmp_path)
    splits = [build_split(datatype, tmp_path, name, **options) for name in ("train", "val", "test")]
    videos = [{clip.video_id for clip in split.clips} for split in splits]
    assert tuple(map(len, videos)) == sizes
    assert len(set().union(*videos)) == sum(sizes)
    assert [len(split.captions) for split in splits] == [captions * size for size in sizes]


def test_the_built_in_splits_are_disjoint(corpus):
    rows = {}
    for name in ("train", "val", "test"):
        with open(corpus.folder / "captions" / f"{name}.csv", newline="") as file:
            rows[name] = [(row["video"], row["caption"]) for row in csv.DictReader(file)]
    videos = {name: {video for video, _ in pairs} for name, pairs in rows.items()}
    assert videos["val"] == {"video9", "video19"}
    assert videos["train"] | videos["val"] == {f"video{number}" for number in range(20)}
    assert not videos["test"] & (videos["train"] | videos["val"]) and len(videos["test"]) == 8
    for pairs in rows.values():  # all captions of a video tell one story
        assert len({(video, read_story(caption)) for video, caption in pairs}) == len({video for video, _ in pairs})
