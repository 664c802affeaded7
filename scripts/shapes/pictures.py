"""Single pictures out of scenes, with sentences that say where everything is: what an image-text model learns from."""

from random import Random

import numpy as np

from scripts.shapes.motion import Looks, looks_at
from scripts.shapes.rendering import render
from scripts.shapes.sampling import random_scene
from scripts.shapes.scene import COLOURS, PICTURE, Scene

# apparent size by radius in pixels: that of a shrunk small thing, a small one, a big one, a grown big one
SIZE_BOUNDS = (8.0, 13.0, 20.0)
SIZE_NAMES = ("tiny", "small", "big", "huge")
PLACES = (
    ("at the top left", "at the top", "at the top right"),
    ("on the left", "in the middle", "on the right"),
    ("at the bottom left", "at the bottom", "at the bottom right"),
)


def random_pictures(rng: Random, count: int, resolution: int) -> tuple[np.ndarray, list[str]]:
    """Draw a scene and look at it at `count` random moments.

    Returns:
        Pictures (count, resolution, resolution, 3), uint8 RGB, and a sentence for each.
    """
    scene = random_scene(rng)
    looks = looks_at(scene, np.array([rng.uniform(0, scene.duration) for _ in range(count)]))
    return render(scene, looks, resolution), [describe(scene, looks, moment, rng) for moment in range(count)]


def describe(scene: Scene, looks: Looks, moment: int, rng: Random) -> str:
    """Say of every visible thing its size, colour, shape, tilt and place, in random order.

    Args:
        scene: gives the shapes.
        looks: appearance at T moments, as of `looks_at`.
        moment: which of them, 0 to T - 1.
        rng: chooses the order.
    """
    visible = np.flatnonzero(looks.visible[moment])
    parts = [_describe_thing(scene.things[which].shape, looks, moment, which) for which in visible]
    rng.shuffle(parts)
    return " and ".join(parts) or "nothing"


def _describe_thing(shape: str, looks: Looks, moment: int, which: int) -> str:
    """Return a noun phrase with a place, such as "a huge tilted red star at the top left"."""
    size = SIZE_NAMES[np.searchsorted(SIZE_BOUNDS, looks.radius[moment, which])]
    tilt = "tilted " if looks.angle[moment, which] and shape != "circle" else ""
    distances = [np.abs(looks.colour[moment, which] - colour).sum() for colour in COLOURS.values()]
    colour = tuple(COLOURS)[np.argmin(distances)]
    column, row = (int(np.clip(3 * place[moment, which] / PICTURE, 0, 2)) for place in (looks.x, looks.y))
    return f"a {size} {tilt}{colour} {shape} {PLACES[row][column]}"
