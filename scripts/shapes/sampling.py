"""Random scenes, and variants of a scene that differ in one respect."""

import dataclasses
import itertools
from random import Random

import numpy as np

from scripts.shapes.motion import looks_at
from scripts.shapes.scene import (
    ALL,
    DIRECTIONS,
    FRAMERATE,
    PICTURE,
    ROUND,
    SIZES,
    Action,
    Classes,
    Event,
    Scene,
    Thing,
)

MARGIN = 2.0  # pixels between two things, and between a thing and the picture's edge
COUNTS = (1, 1, 2)  # of things, equally likely
SHOWN = 8.0  # pixels a bouncing thing must be off its place in some frame


def random_scene(rng: Random, classes: Classes = ALL) -> Scene:
    """Draw a scene of these classes that `is_clear`; two in three show one thing, the others two."""
    count = rng.choice(COUNTS)
    while True:
        scene = _draw(rng, count, classes)
        for _ in range(20):  # enough layouts, so that actions which need space do not become rare
            if is_clear(scene):
                return scene
            scene = _lay_out(scene, rng)


def other_action(scene: Scene, rng: Random, classes: Classes = ALL) -> Scene | None:
    """Return the scene with the action of one event exchanged, all else equal, or None if no draw `is_clear`."""
    for _ in range(50):
        index = rng.randrange(len(scene.events))
        event = scene.events[index]
        action = _draw_action(rng, classes)
        if action.kind == event.action.kind == "turn" or action == event.action:
            continue
        changed = dataclasses.replace(event, action=action)
        events = (*scene.events[:index], changed, *scene.events[index + 1 :])
        variant = dataclasses.replace(scene, events=events)
        if is_clear(variant):
            return variant
    return None


def other_order(scene: Scene, rng: Random) -> Scene | None:
    """Return the scene with the same events in another order, or None if no order `is_clear`."""
    orders = list(itertools.permutations(scene.events))[1:]
    rng.shuffle(orders)
    for order in orders:
        events = tuple(
            dataclasses.replace(event, start=slot.start, end=slot.end)
            for event, slot in zip(order, scene.events, strict=True)
        )
        variant = dataclasses.replace(scene, events=events)
        if is_clear(variant):
            return variant
    return None


def is_clear(scene: Scene) -> bool:
    """Whether the events can be described in words, and seen in the picture at one frame a second."""
    return _is_describable(scene) and _has_space(scene) and _shows(scene)


def _draw(rng: Random, count: int, classes: Classes) -> Scene:
    """Draw `count` things and their events, whether or not they fit together; the things are in a corner."""
    things = tuple(
        Thing(rng.choice(tuple(SIZES)), colour, shape, 0, 0)
        for colour, shape in zip(rng.sample(classes.colours, count), rng.sample(classes.shapes, count), strict=True)
    )
    subjects = list(range(count))
    while len(subjects) < 2 or (len(subjects) < 3 and rng.random() < 0.4):
        subjects.append(rng.randrange(count))
    subjects.sort()
    events = []
    time = rng.randint(4, 7)
    for subject in subjects:
        end = time + rng.randint(14, 20)
        events.append(Event(subject, _draw_action(rng, classes), time / FRAMERATE, end / FRAMERATE))
        time = end + rng.randint(1, 3)
    return Scene(things, tuple(events), (time + 4) / FRAMERATE, rng.getrandbits(32))


def _lay_out(scene: Scene, rng: Random) -> Scene:
    """Put the things of the scene elsewhere inside the picture."""
    things = []
    for thing in scene.things:
        edge = SIZES[thing.size] + MARGIN
        x, y = (rng.uniform(edge, PICTURE - edge) for _ in range(2))
        things.append(dataclasses.replace(thing, x=x, y=y))
    return dataclasses.replace(scene, things=tuple(things))


def _draw_action(rng: Random, classes: Classes) -> Action:
    """Draw an action; the four directions are as likely together as three other kinds."""
    kind = rng.choice((*classes.kinds, "move", "move"))
    details = {"move": tuple(DIRECTIONS), "turn": classes.colours}
    return Action(kind, rng.choice(details.get(kind, ("",))))


def _is_describable(scene: Scene) -> bool:
    """No thing is named by a look that it no longer has or shares, and all its actions can be seen."""
    subjects = [subject for subject, _ in itertools.groupby(event.subject for event in scene.events)]
    if len(set(subjects)) < len(subjects):  # sentences use "it" for successive events, and do not return to a thing
        return False
    colours = [thing.colour for thing in scene.things]
    turned = [event.action.detail for event in scene.events if event.action.kind == "turn"]
    if len(set(colours + turned)) < len(colours + turned):
        return False
    for subject, group in itertools.groupby(scene.events, key=lambda event: event.subject):
        kinds = [event.action.kind for event in group]
        if len(set(kinds)) < len(kinds) or "leave" in kinds[:-1] or {"grow", "shrink"} <= set(kinds):
            return False
        if "spin" in kinds and scene.things[subject].shape in ROUND:
            return False
    return True


def _has_space(scene: Scene) -> bool:
    """Whether things never touch, and stay in the picture unless they leave it."""
    looks = looks_at(scene, np.arange(0, scene.duration, 1 / FRAMERATE))
    leaves = {event.subject: event.start for event in scene.events if event.action.kind == "leave"}
    for which in range(len(scene.things)):
        until = round(leaves[which] * FRAMERATE) if which in leaves else None
        reach = looks.radius[:until, which] + MARGIN
        for centre in (looks.x[:until, which], looks.y[:until, which]):
            if (centre - reach < 0).any() or (centre + reach > PICTURE).any():
                return False
    for one, other in itertools.combinations(range(len(scene.things)), 2):
        gap = np.hypot(looks.x[:, one] - looks.x[:, other], looks.y[:, one] - looks.y[:, other])
        apart = gap - looks.radius[:, one] - looks.radius[:, other] > MARGIN
        if not (apart | ~looks.visible[:, one] | ~looks.visible[:, other]).all():
            return False
    return True


def _shows(scene: Scene) -> bool:
    """Whether blinks and bounces can be seen at some whole second; the other actions leave a trace."""
    seconds = np.arange(0, scene.duration)
    looks = looks_at(scene, seconds)
    for event in scene.events:
        during = (seconds > event.start) & (seconds < event.end)
        if event.action.kind == "blink" and looks.visible[during, event.subject].all():
            return False
        if event.action.kind == "bounce":
            rest = looks_at(scene, np.array([event.start])).y[0, event.subject]
            if not (rest - looks.y[during, event.subject] > SHOWN).any():
                return False
    return True
