"""Appearance of the things of a scene at any time.

Letters: T moments, O things.
"""

from dataclasses import dataclass

import numpy as np

from scripts.shapes.scene import COLOURS, DIRECTIONS, PICTURE, SIZES, Action, Scene

STRIDE = 40.0  # pixels that a move covers
SCALE = 1.5  # a grown small thing is as large as a big one
TURN = 330.0  # degrees of a spin: every shape that is not round ends visibly tilted
HEIGHT = 26.0  # pixels that a bounce rises
REPEATS = 3  # bounces, or blinks, in one event
DARK = 0.6  # part of a blink in which the thing is hidden


@dataclass
class Looks:
    """Appearance through time: x, y, radius (pixels), angle (degrees, clockwise), visible (bool), all (T, O).

    `colour` is (T, O, 3), RGB from 0 to 255.
    """

    x: np.ndarray
    y: np.ndarray
    radius: np.ndarray
    angle: np.ndarray
    visible: np.ndarray
    colour: np.ndarray


def looks_at(scene: Scene, times: np.ndarray) -> Looks:
    """Return the looks of the scene's things at `times` (T,), in seconds."""
    start = Looks(
        x=np.array([thing.x for thing in scene.things], dtype=float),
        y=np.array([thing.y for thing in scene.things], dtype=float),
        radius=np.array([SIZES[thing.size] for thing in scene.things]),
        angle=np.zeros(len(scene.things)),
        visible=np.ones(len(scene.things), dtype=bool),
        colour=np.array([COLOURS[thing.colour] for thing in scene.things], dtype=float),
    )
    looks = Looks(**{name: np.repeat(value[None], len(times), axis=0) for name, value in vars(start).items()})
    for event in scene.events:
        progress = np.clip((times - event.start) / (event.end - event.start), 0.0, 1.0)
        _apply(event.action, looks, event.subject, progress)
    return looks


def _apply(action: Action, looks: Looks, which: int, progress: np.ndarray) -> None:
    """Change the looks of thing `which` by an action of which `progress` (T,), 0 to 1, is done."""
    if action.kind == "move":
        step_x, step_y = DIRECTIONS[action.detail]
        looks.x[:, which] += step_x * STRIDE * progress
        looks.y[:, which] += step_y * STRIDE * progress
    elif action.kind == "grow":
        looks.radius[:, which] *= SCALE**progress
    elif action.kind == "shrink":
        looks.radius[:, which] /= SCALE**progress
    elif action.kind == "spin":
        looks.angle[:, which] += TURN * progress
    elif action.kind == "bounce":
        looks.y[:, which] -= HEIGHT * np.abs(np.sin(REPEATS * np.pi * progress))
    elif action.kind == "blink":
        under_way = (progress > 0) & (progress < 1)
        looks.visible[:, which] &= ~(under_way & (REPEATS * progress % 1 < DARK))
    elif action.kind == "turn":
        new = np.array(COLOURS[action.detail])
        looks.colour[:, which] += progress[:, None] * (new - looks.colour[:, which])
    elif action.kind == "leave":
        # by the nearer side; earlier looks have a wrong `way`, which is multiplied by no progress
        x, radius = looks.x[-1, which], looks.radius[-1, which]
        way = -(x + radius) if x < PICTURE / 2 else PICTURE - x + radius
        looks.x[:, which] += way * progress
        looks.visible[:, which] &= progress < 1
    else:
        raise ValueError(f"unknown action {action.kind!r}")
