"""The built-in corpus of few classes."""

from random import Random

from scripts import pretrain_clip
from scripts.make_shapes import make_corpus
from scripts.shapes import grammar, pictures
from scripts.shapes.questions import ask
from scripts.shapes.scene import CLASSES, COLOURS, KINDS, SHAPES
from scripts.shapes.stories import draw_test, draw_train

FEW = CLASSES["few"]


def test_scenes_and_their_texts_are_of_the_classes():
    scenes = [scene for family in (*draw_test(1, 24, FEW), *draw_train(1, 36, FEW)) for scene in family.scenes]
    things = [thing for scene in scenes for thing in scene.things]
    assert {thing.colour for thing in things} == set(FEW.colours) < set(COLOURS)
    assert {thing.shape for thing in things} == set(FEW.shapes) < set(SHAPES)
    assert {event.action.kind for scene in scenes for event in scene.events} == set(FEW.kinds) < set(KINDS)
    for scene in scenes:
        assert grammar.read_story(grammar.sentence(scene, Random(0))) == scene.story
    answers = {question["answer"] for scene in scenes for question in ask(scene, Random(0))}
    assert {*FEW.colours, *FEW.shapes, *FEW.kinds} < answers and not answers & (set(COLOURS) - set(FEW.colours))


def test_pretraining_shows_the_classes():
    (batch,) = pretrain_clip.batches(0, 64, 32, steps=1, classes=FEW)
    for attribute, names, shown in ((pictures.COLOUR, COLOURS, FEW.colours), (pictures.SHAPE, SHAPES, FEW.shapes)):
        found = set(batch["facts"][..., attribute].flatten().tolist()) - {pictures.NOTHING}
        assert {tuple(names)[value] for value in found} == set(shown)


def test_a_corpus_of_other_classes_is_made_anew(tmp_path):
    for classes in ("all", "few"):
        assert make_corpus(tmp_path, train=1, test=1, classes=classes, workers=0)
        assert not make_corpus(tmp_path, train=1, test=1, classes=classes, workers=0)
