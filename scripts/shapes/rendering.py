"""Pictures of a scene.

Letters: T moments, R side of the picture in pixels.
"""

import cv2
import numpy as np

from scripts.shapes.motion import Looks
from scripts.shapes.scene import PICTURE, Scene

SUBPIXEL_BITS = 4  # OpenCV takes corners as integers with this many binary places


def _turned(points: np.ndarray, degrees: float) -> np.ndarray:
    """Turn points (N, 2) about the origin."""
    sine, cosine = np.sin(np.radians(degrees)), np.cos(np.radians(degrees))
    return points @ np.array([[cosine, sine], [-sine, cosine]])


def _regular(corners: int, start: float) -> np.ndarray:
    """Corners (N, 2) of a regular polygon with circumradius 1, the first at `start` degrees."""
    angles = np.radians(start) + 2 * np.pi * np.arange(corners) / corners
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _ring() -> np.ndarray:
    """Outline of a ring: around the outside, in to the hole and back around it."""
    outside, hole = _regular(40, 0), 0.55 * _regular(40, 0)[::-1]
    return np.concatenate([outside, outside[:1], hole[-1:], hole])


def _bar() -> np.ndarray:
    """Corners of a lying bar."""
    return np.array([[-1.2, -0.4], [1.2, -0.4], [1.2, 0.4], [-1.2, 0.4]])


def _cross() -> np.ndarray:
    """Corners of an upright cross."""
    arm, width = 1.1, 0.27
    quarter = np.array([[width, -arm], [width, -width], [arm, -width]])
    return np.concatenate([_turned(quarter, 90 * turn) for turn in range(4)])


def _star() -> np.ndarray:
    """Corners of a five-pointed star, point up."""
    corners = _regular(10, -90)
    corners[1::2] *= 0.42
    return 1.1 * corners


OUTLINES = {  # corners (N, 2) for radius 1, y downwards
    "circle": _regular(40, 0),
    "ring": _ring(),
    "bar": _bar(),
    "cross": _cross(),
    "triangle": 1.2 * _regular(3, -90),
    "star": _star(),
}


def render(scene: Scene, looks: Looks, resolution: int = PICTURE) -> np.ndarray:
    """Paint the scene's things, as they look at T moments, on its background.

    Returns:
        (T, R, R, 3), uint8 RGB.
    """
    frames = np.repeat(background(scene.background, resolution)[None], len(looks.x), axis=0)
    scale = resolution / PICTURE
    for moment, which in zip(*np.nonzero(looks.visible), strict=True):
        outline = _turned(OUTLINES[scene.things[which].shape], looks.angle[moment, which])
        centre = np.array([looks.x[moment, which], looks.y[moment, which]])
        corners = (outline * looks.radius[moment, which] + centre) * scale - 0.5
        corners = np.round(corners * 2**SUBPIXEL_BITS).astype(np.int32)
        colour = looks.colour[moment, which].tolist()
        cv2.fillPoly(frames[moment], [corners], colour, lineType=cv2.LINE_AA, shift=SUBPIXEL_BITS)
    return frames


def background(seed: int, resolution: int) -> np.ndarray:
    """Paint a dark, pale-hued pattern: plain, a gradient, stripes, checks or clouds.

    The pattern depends on the seed alone: another resolution shows the same at another size.

    Returns:
        (R, R, 3), uint8 RGB.
    """
    rng = np.random.default_rng(seed)
    dark = rng.uniform(10, 80) + rng.uniform(-10, 10, size=3)
    light = dark + rng.uniform(5, 30, size=3)
    angle, period, phase = rng.uniform(0, np.pi), rng.uniform(0.15, 0.5), rng.uniform(0, 1)
    clouds = rng.uniform(0, 1, size=(6, 6)).astype(np.float32)
    kind = rng.integers(5)
    y, x = np.mgrid[:resolution, :resolution] / resolution
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    if kind == 0:
        mix = np.zeros_like(x)
    elif kind == 1:
        mix = (along - along.min()) / np.ptp(along)
    elif kind == 2:
        mix = 0.5 + 0.5 * np.sin(2 * np.pi * (along / period + phase))
    elif kind == 3:
        mix = ((along // period + across // period) % 2).astype(float)
    else:
        mix = np.clip(cv2.resize(clouds, (resolution, resolution), interpolation=cv2.INTER_CUBIC), 0, 1)
    return (dark + mix[..., None] * (light - dark)).astype(np.uint8)
