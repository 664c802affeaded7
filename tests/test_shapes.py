"""The built-in corpus: texts about a scene are true of it, and of no other."""

import csv
import itertools
import json
import re
from collections import Counter
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from models.tokenizer import Tokenizer
from scripts.make_shapes import make_corpus
from scripts.pretrain_clip import contrastive_loss
from scripts.pretrain_clip import main as pretrain_clip
from scripts.shapes import grammar, pictures, sampling
from scripts.shapes.motion import looks_at
from scripts.shapes.questions import QUESTIONS, Question, ask
from scripts.shapes.rendering import render
from scripts.shapes.scene import CLASSES, COLOURS, FRAMERATE, PICTURE, ROUND, SHAPES, Action, Event, Scene, Thing
from scripts.shapes.stories import draw_test, draw_train
from utils.errors import InputError
from utils.video.decode import Video

TRAIN, TEST = 4, 8


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    rng = Random(3)
    return [sampling.random_scene(rng) for _ in range(60)]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    assert make_corpus(folder, train=TRAIN, test=TEST, seed=5, workers=1)
    return folder


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def scene_of(*actions: Action, shape: str = "bar") -> Scene:
    """A small red thing in the middle that does the actions, two seconds each, with a second between."""
    events = tuple(Event(0, action, 3 * i + 1, 3 * i + 3) for i, action in enumerate(actions))
    return Scene((Thing("small", "red", shape, 64, 64),), events, 3 * len(actions) + 1, background=0)


def ask_often(scene: Scene) -> list[Question]:
    """Random questions that the scene answers, drawn so often that each occurs."""
    return [question for seed in range(60) for question in ask(scene, Random(seed))]


def read_test_list(corpus: Path) -> list[dict[str, str]]:
    with open(corpus / "anns" / "MSRVTT_JSFUSION_test.csv", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_same_seed_same_bytes_whatever_the_workers(corpus, tmp_path):
    make_corpus(tmp_path, train=TRAIN, test=TEST, seed=5, workers=2)
    assert files_of(tmp_path) == files_of(corpus)


def test_another_seed_gives_other_videos(corpus, tmp_path):
    make_corpus(tmp_path, train=TRAIN, test=TEST, seed=6, workers=1)
    here, there = files_of(tmp_path), files_of(corpus)
    assert here.keys() == there.keys()
    assert all(here[name] != there[name] for name in here if name.endswith(".mp4"))


def test_complete_corpus_is_left_alone_and_incomplete_one_mended(tmp_path):
    make_corpus(tmp_path, train=1, test=1, workers=0)
    video = tmp_path / "MSRVTT_Videos" / "video0.mp4"
    before = video.stat().st_mtime_ns
    assert not make_corpus(tmp_path, train=1, test=1, workers=1)
    assert video.stat().st_mtime_ns == before
    (tmp_path / "made_with.json").unlink()
    video.write_bytes(b"")
    assert make_corpus(tmp_path, train=1, test=1, workers=1)
    assert video.stat().st_size > 1000


def test_counts_below_one_are_refused(tmp_path):
    with pytest.raises(InputError, match="--test 0"):
        make_corpus(tmp_path, train=1, test=0)


def test_videos_decode_to_the_rendered_frames(corpus):
    annotations = json.loads((corpus / "ActivityNet" / "val_1.json").read_text())
    scenes = [scene for family in draw_test(5, TEST) for scene in family.scenes]
    for number, scene in enumerate(scenes, start=TRAIN):
        with Video(corpus / "MSRVTT_Videos" / f"video{number}.mp4") as video:
            frames = video.clip(framerate=FRAMERATE, max_frames=1000)
            assert video.timeline.rate == FRAMERATE
        assert 3 <= scene.duration <= 8
        assert annotations[f"v_video{number}"]["duration"] == scene.duration
        expected = render(scene, looks_at(scene, np.arange(round(scene.duration * FRAMERATE)) / FRAMERATE))
        assert frames.shape == expected.shape == (round(scene.duration * FRAMERATE), PICTURE, PICTURE, 3)
        assert np.abs(frames.astype(int) - expected).mean() < 4


def test_msrvtt_files(corpus):
    train = (corpus / "anns" / "MSRVTT_train.9k.csv").read_text().splitlines()
    assert train == ["video_id", *(f"video{number}" for number in range(TRAIN))]
    data = json.loads((corpus / "anns" / "MSRVTT_data.json").read_text())
    captions = Counter(sentence["video_id"] for sentence in data["sentences"])
    rows = read_test_list(corpus)
    assert captions == {**{f"video{n}": 5 for n in range(TRAIN)}, **{row["video_id"]: 1 for row in rows}}
    assert [video["video_id"] for video in data["videos"]] == [f"video{number}" for number in range(TRAIN + TEST)]
    assert [row["key"] for row in rows] == [f"ret{number}" for number in range(TEST)]
    assert [row["vid_key"] for row in rows] == [f"msr{number}" for number in range(TRAIN, TRAIN + TEST)]
    captions = {sentence["video_id"]: sentence["caption"] for sentence in data["sentences"]}
    assert all(captions[row["video_id"]] == row["sentence"] for row in rows)


def test_activitynet_files(corpus):
    folder = corpus / "ActivityNet"
    for names, count in ((("train_ids.json", "train.json"), TRAIN), (("val_ids.json", "val_1.json"), TEST)):
        ids_name, annotations_name = names
        ids = json.loads((folder / ids_name).read_text())
        annotations = json.loads((folder / annotations_name).read_text())
        assert ids == list(annotations) and len(ids) == count
        for video_id, annotation in annotations.items():
            assert len(annotation["timestamps"]) == len(annotation["sentences"]) >= 2
            times = [0, *itertools.chain.from_iterable(annotation["timestamps"]), annotation["duration"]]
            assert times == sorted(times)
            original = corpus / "MSRVTT_Videos" / f"{video_id.removeprefix('v_')}.mp4"
            assert (folder / "Activity_Videos" / f"{video_id}.mp4").read_bytes() == original.read_bytes()


def test_question_files(corpus):
    labels = json.loads((corpus / "qa" / "train_ans2label.json").read_text())
    assert list(labels.values()) == list(range(len(labels)))
    videos = {}
    for split in ("train", "val", "test"):
        questions = [json.loads(line) for line in (corpus / "qa" / f"{split}.jsonl").read_text().splitlines()]
        assert all(question.keys() == {"answer", "question", "answer_type", "video_id"} for question in questions)
        videos[split] = {question["video_id"] for question in questions}
        if split == "train":
            assert {question["answer"] for question in questions} == set(labels)
    assert videos["train"] | videos["val"] == {f"video{number}" for number in range(TRAIN)}
    assert videos["test"] == {f"video{number}" for number in range(TRAIN, TRAIN + TEST)}


def test_captions_tell_the_events_in_order_within_the_published_length(scenes):
    tokenizer, rng = Tokenizer(), Random(1)
    for scene in scenes:
        for text in (grammar.sentence(scene, rng) for _ in range(5)):
            parts = re.split(r", then | and then |, after that | before |, and finally ", text)
            assert len(parts) == len(scene.events), text
            subject = None
            for part, event in zip(parts, scene.events, strict=True):
                thing = scene.things[event.subject]
                name = f"{thing.colour} {thing.shape}"
                assert part.startswith("it ") if event.subject == subject else name in part, text
                assert any(part.endswith(phrase) for phrase in grammar.phrases(event.action)), text
                subject = event.subject
            assert tokenizer([text], 77)[1].sum() == grammar.count_tokens(text) <= grammar.MAX_TOKENS


def test_no_two_actions_are_said_alike():
    actions = [Action(kind) for kind in grammar.VERBS if kind != "turn"]
    actions += [Action("move", way) for way in grammar.MOVES] + [Action("turn", colour) for colour in COLOURS]
    said = list(itertools.chain.from_iterable(map(grammar.phrases, actions)))
    assert len(set(said)) == len(said)


def test_scenes_can_be_described_and_seen(scenes):
    assert {len(scene.things) for scene in scenes} == {1, 2}
    assert {len(scene.events) for scene in scenes} == {2, 3}
    for scene in scenes:
        assert len({thing.shape for thing in scene.things}) == len({thing.colour for thing in scene.things})
        assert {event.subject for event in scene.events} == set(range(len(scene.things)))
        seconds = np.arange(0, scene.duration)
        frames = render(scene, looks_at(scene, seconds)).astype(int)
        before = frames[0]
        for event in scene.events:
            later = frames[(seconds > event.start) & (seconds < event.end + 1)]
            assert np.abs(later - before).max() > 40, event
            before = frames[seconds <= event.end][-1]


def test_actions_do_what_they_are_called():
    times = np.array([0.0, 2.2, 3.9])  # before, during and after
    def looks(kind: str, detail: str = ""):
        return looks_at(scene_of(Action(kind, detail)), times)

    assert looks("move", "left").x[:, 0].tolist() == [64, 40, 24]
    assert looks("move", "down").y[:, 0].tolist() == [64, 88, 104]
    assert np.all(np.diff(looks("grow").radius[:, 0]) > 0)
    assert np.all(np.diff(looks("shrink").radius[:, 0]) < 0)
    assert looks("spin").angle[[0, 2], 0].tolist() == [0, 330]
    assert looks("bounce").y[1, 0] < 64
    assert looks("bounce").y[[0, 2], 0] == pytest.approx(64)
    assert looks("blink").visible[:, 0].tolist() == [True, True, True]
    hidden = ~looks_at(scene_of(Action("blink")), np.linspace(1, 3, 40, endpoint=False)).visible[:, 0]
    assert 0.4 < hidden.mean() < 0.7
    assert looks("turn", "blue").colour[2, 0].tolist() == list(COLOURS["blue"])
    assert looks("leave").visible[:, 0].tolist() == [True, True, False]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_spin_tilts_every_shape_that_is_not_round(shape):
    scene = scene_of(Action("spin"), shape=shape)
    frames = render(scene, looks_at(scene, np.array([0.0, 3.9])))
    difference = np.abs(frames[0].astype(int) - frames[1]).max()
    assert (difference > 120) == (shape not in ROUND)


def test_variants_differ_in_one_respect(scenes):
    rng = Random(2)
    for scene in scenes:
        acted, ordered = sampling.other_action(scene, rng), sampling.other_order(scene, rng)
        assert acted.things == scene.things and acted.background == scene.background
        assert sum(one != other for one, other in zip(acted.events, scene.events, strict=True)) == 1
        if ordered:
            assert ordered.things == scene.things
            assert ordered.story != scene.story
            assert Counter(ordered.story) == Counter(scene.story)


@pytest.mark.parametrize("classes", CLASSES)
def test_subsets_hold_what_their_names_say(classes):
    families = draw_test(0, 40, CLASSES[classes])
    assert Counter(f.subset for f in families for _ in f.scenes) == {"": 20, "action": 10, "event": 10}
    for family in families:
        stories = [scene.story for scene in family.scenes]
        assert len({scene.things for scene in family.scenes}) == 1
        if family.subset == "action":
            assert sum(one != other for one, other in zip(*stories, strict=True)) == 1
        elif family.subset == "event":
            assert stories[0] != stories[1] and Counter(stories[0]) == Counter(stories[1])
        else:
            assert len(stories) == 1
    stories = [scene.story for family in families for scene in family.scenes]
    for one, other in itertools.permutations(stories, 2):
        assert not any(one == part for part in itertools.combinations(other, len(one)))


def test_train_split_has_the_requested_number_of_scenes():
    for count in (1, 5, 31):
        assert sum(len(family.scenes) for family in draw_train(0, count)) == count


def test_answers_are_true(scenes):
    for scene in scenes:
        facts = {question["question"]: question["answer"] for question in ask_often(scene)}
        assert facts["how many objects are there?"] == {1: "one", 2: "two"}[len(scene.things)]
        kinds = [event.action.kind for event in scene.events]
        for event in scene.events:
            thing, kind = scene.things[event.subject], event.action.kind
            answer = facts.get(f"what colour is the object that {kind}s?")
            assert answer in ((thing.colour, None) if kinds.count(kind) == 1 else (None,))
            if kind == "move":
                assert facts[f"where does the {thing.colour} {thing.shape} go?"] == event.action.detail
        for thing in scene.things:
            assert facts[f"how big is the {thing.colour} {thing.shape} at first?"] == thing.size
            side = facts.get(f"where is the {thing.colour} {thing.shape} at first?")
            places = {"left": thing.x < 64, "right": thing.x > 64, "top": thing.y < 64, "bottom": thing.y > 64}
            assert side is None or places[side]


def test_no_scene_has_many_more_questions_than_others(scenes):
    drawn = [ask(scene, Random(0)) for scene in scenes]
    assert max(map(len, drawn)) == QUESTIONS
    assert all(len({question["question"] for question in questions}) == len(questions) for questions in drawn)


def test_questions_about_a_known_scene():
    things = (Thing("small", "red", "star", 20, 64), Thing("big", "blue", "circle", 90, 64))
    events = (Event(0, Action("spin"), 1, 3), Event(1, Action("turn", "green"), 4, 6))
    facts = {q["question"]: (q["answer"], q["answer_type"]) for q in ask_often(Scene(things, events, 7, 0))}
    assert facts["what colour is the object that spins?"] == ("red", "what")
    assert facts["who changes its colour?"] == ("circle", "who")
    assert facts["when does the blue circle change its colour?"] == ("second", "when")
    assert facts["where is the red star at first?"] == ("left", "where")
    assert facts["what does the red star do?"] == ("spin", "what")
    assert facts["how big is the blue circle at first?"] == ("big", "how")
    assert "what colour is the circle?" not in facts  # it has two


def test_sentences_about_pictures_are_true_of_them():
    rng = np.random.default_rng(0)
    frames, facts = pictures.draw_pictures(rng, 16, 32, alike=4)
    assert frames.shape == (16, 32, 32, 3) and frames.dtype == np.uint8
    sentences, claims = pictures.draw_sentences(rng, facts)
    truth = pictures.is_true(claims, facts)
    assert truth.diagonal().all() and not truth.all() and len(sentences) == 16
    rows = facts.reshape(4, 4, *facts.shape[1:])
    assert (rows == rows[:, :1])[..., [pictures.SIZE, pictures.COLOUR]].all() and not (rows == rows[:, :1]).all()
    for sentence, claim in zip(sentences, claims, strict=True):
        colours = {tuple(COLOURS)[value] for value in claim[:, pictures.COLOUR] if value >= 0}
        assert {word for word in sentence.split() if word in COLOURS} == colours


def test_truth_compares_thing_by_thing():
    cross_and_circle = [[1, 0, 0, 3, 4], [2, 0, 5, 0, 0]]
    claims = np.full((4, 2, 5), pictures.ANY)
    claims[0, 0, [pictures.COLOUR, pictures.SHAPE]] = 0, 3  # a red cross
    claims[1, 0, [pictures.COLOUR, pictures.SHAPE]] = 5, 3  # a blue cross
    claims[2, 0, pictures.SHAPE], claims[2, 1, pictures.COLOUR] = 3, 5  # a cross and a blue thing
    claims[3, 0, pictures.SIZE] = 3  # a huge thing
    assert pictures.is_true(claims, np.array([cross_and_circle]))[:, 0].tolist() == [True, False, True, False]


def test_contrastive_loss_is_clips_where_each_sentence_has_one_picture():
    logits = torch.randn(5, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(5)
    expected = (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
    torch.testing.assert_close(contrastive_loss(logits, torch.eye(5, dtype=torch.bool)), expected)


def test_pretraining_writes_clips_own_format_and_repeats_itself(tmp_path, capsys):
    arguments = ["--steps", "2", "--batch_size", "8", "--resolution", "32", "--width", "64"]
    arguments += ["--vision_layers", "1", "--text_layers", "1"]
    states = []
    for name in ("one.pt", "other.pt"):
        pretrain_clip([*arguments, "--output", str(tmp_path / name)])
        states.append(torch.load(tmp_path / name, weights_only=True))
    assert states[0]["visual.conv1.weight"].shape == (64, 3, 8, 8)
    assert states[0]["token_embedding.weight"].shape == (49408, 64)
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert "by all words" in capsys.readouterr().out
