"""The scenes of the two splits, and their hard negatives."""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from random import Random

from scripts.shapes.sampling import other_action, other_order, random_scene
from scripts.shapes.scene import ALL, Classes, Scene


@dataclass(frozen=True)
class Family:
    """Scenes that show the same things.

    `subset` says how they differ: in one action ("action"), in the order of the events ("event"), or "" for a scene
    that stands alone.
    """

    scenes: tuple[Scene, ...]
    subset: str


def draw_test(seed: int, count: int, classes: Classes = ALL) -> list[Family]:
    """Draw `count` scenes, half of them single, a quarter in pairs of each kind of hard negative.

    No sentence about one of them is true of another, even one that leaves out sizes.
    """
    rng = Random(f"test {seed}")
    pairs = count // 8
    families = []
    accepted = []
    for subset in ["action"] * pairs + ["event"] * pairs + [""] * (count - 4 * pairs):
        while True:
            family = _draw_family(rng, subset, 2, classes)
            stories = [scene.story for scene in family.scenes]
            if not any(_is_described_by(one, other) for one, other in _pairs(stories, accepted)):
                break
        families.append(family)
        accepted.extend(stories)
    return families


def draw_train(seed: int, count: int, classes: Classes = ALL) -> list[Family]:
    """Draw `count` scenes: half of them single, half in families that differ as the test's pairs do."""
    rng = Random(f"train {seed}")
    families = []
    left = count
    singles = ("",) * classes.family
    for subset in itertools.cycle((*singles, "action", *singles, "event")):
        if not left:
            return families
        family = _draw_family(rng, subset, min(classes.family, left), classes)
        families.append(family)
        left -= len(family.scenes)


def _draw_family(rng: Random, subset: str, size: int, classes: Classes) -> Family:
    """Draw one scene and, where `subset` names a way to differ, `size` - 1 different variants of it."""
    if not subset:
        return Family((random_scene(rng, classes),), subset)
    while True:
        first = random_scene(rng, classes)
        variants = {scene.story: scene for scene in (first, *_draw_variants(first, subset, rng, classes))}
        if len(variants) >= size:
            return Family(tuple(variants.values())[:size], subset)


def _draw_variants(scene: Scene, subset: str, rng: Random, classes: Classes) -> Iterator[Scene]:
    """Yield some scenes that differ from the given one, each in a single respect."""
    for _ in range(8):
        variant = other_action(scene, rng, classes) if subset == "action" else other_order(scene, rng)
        if variant is not None:
            yield variant


def _pairs(new: list, old: list) -> Iterator[tuple]:
    """Yield every pair that holds a new item, in both orders."""
    yield from itertools.permutations(new, 2)
    yield from itertools.product(new, old)
    yield from itertools.product(old, new)


def _is_described_by(one: Iterable, other: Iterable) -> bool:
    """Whether all events of one story happen in the other, in the same order."""
    rest = iter(other)
    return all(event in rest for event in one)
