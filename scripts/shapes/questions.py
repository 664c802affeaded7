"""Questions about a scene that have one true answer of one word."""

from collections import Counter
from collections.abc import Iterator
from random import Random

import numpy as np

from scripts.shapes.motion import looks_at
from scripts.shapes.scene import PICTURE, Action, Scene

NUMBERS = {1: "one", 2: "two"}
QUESTIONS = 10  # maximum of a scene; scenes of two things have more, and none should outweigh the others
ORDINALS = ("first", "second", "third")
BARE = {"turn": "change its colour"}  # the verb after "does", where it is not the kind itself
THIRD_PERSON = {"turn": "changes its colour"}
Question = dict[str, str]  # of MSRVTT-QA's format: answer, question, answer_type


def ask(scene: Scene, rng: Random) -> list[Question]:
    """Draw questions with one answer in this scene, in random order; at most one is about the order of events."""
    pairs = [*_about_events(scene), *_about_things(scene), rng.choice(list(_about_order(scene)))]
    rng.shuffle(pairs)
    return [
        {"answer": answer, "question": question, "answer_type": question.split()[0]}
        for question, answer in pairs[:QUESTIONS]
    ]


def _about_events(scene: Scene) -> Iterator[tuple[str, str]]:
    """Ask for the subject of an action that only one thing does."""
    done = Counter(event.action.kind for event in scene.events)
    turning = _turning(scene)
    for event in scene.events:
        thing, action = scene.things[event.subject], event.action
        if done[action.kind] == 1:
            does = THIRD_PERSON.get(action.kind, f"{action.kind}s")
            if event.subject not in turning:
                yield f"what colour is the object that {does}?", thing.colour
            yield f"what shape is the object that {does}?", thing.shape
            yield f"who {does}?", thing.shape
        if action.kind == "move":
            yield f"where does the {thing.colour} {thing.shape} go?", action.detail
        if action.kind == "turn":
            yield f"what colour does the {thing.shape} become?", action.detail


def _about_things(scene: Scene) -> Iterator[tuple[str, str]]:
    """Ask for number, size, shape, colour and first place of the things, and for what they do."""
    yield "how many objects are there?", NUMBERS[len(scene.things)]
    turning = _turning(scene)
    looks = looks_at(scene, np.zeros(1))
    for which, thing in enumerate(scene.things):
        yield f"how big is the {thing.colour} {thing.shape} at first?", thing.size
        if which not in turning:
            yield f"what colour is the {thing.shape}?", thing.colour
            yield f"what shape is the {thing.colour} object?", thing.shape
        side = _side(looks.x[0, which], looks.y[0, which])
        if side:
            yield f"where is the {thing.colour} {thing.shape} at first?", side
        actions = [event.action for event in scene.events if event.subject == which]
        if len(actions) == 1:
            yield f"what does the {thing.colour} {thing.shape} do?", _verb(actions[0])


def _about_order(scene: Scene) -> Iterator[tuple[str, str]]:
    """Ask what comes first and last, and when an action that happens once takes place."""
    done = Counter(event.action.kind for event in scene.events)
    for event, ordinal in zip(scene.events, ORDINALS, strict=False):
        if done[event.action.kind] == 1:
            thing = scene.things[event.subject]
            does = BARE.get(event.action.kind, event.action.kind)
            yield f"when does the {thing.colour} {thing.shape} {does}?", ordinal
    yield "what happens first?", _verb(scene.events[0].action)
    yield "what happens last?", _verb(scene.events[-1].action)
    if len(scene.things) > 1:
        yield "who acts first?", scene.things[scene.events[0].subject].shape
        yield "who acts last?", scene.things[scene.events[-1].subject].shape


def _turning(scene: Scene) -> set[int]:
    """Return the things that change their colour, so that a question for it has no single answer."""
    return {event.subject for event in scene.events if event.action.kind == "turn"}


def _verb(action: Action) -> str:
    """Return the action in one word."""
    return "recolour" if action.kind == "turn" else action.kind


def _side(x: float, y: float) -> str:
    """Return the side of the picture that (x, y) is nearest to, or "" where two are about as near."""
    from_middle = np.array([x, y]) / PICTURE - 0.5
    axis = int(np.abs(from_middle).argmax())
    if np.ptp(np.abs(from_middle)) < 0.1:
        return ""
    return (("left", "right"), ("top", "bottom"))[axis][int(from_middle[axis] > 0)]
