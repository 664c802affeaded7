"""Single pictures and sentences about them, for image-text pretraining.

Pictures are described by facts, sentences by claims, both whole numbers of shape (..., THINGS, 5): size, tilt, colour,
shape and place of up to THINGS things, as indices into PHRASES.
Letters: B pictures, A sentences, R side of a picture in pixels.
"""

import itertools
from collections.abc import Sequence

import numpy as np

from scripts.shapes.grammar import ADJECTIVES
from scripts.shapes.motion import SCALE, Looks
from scripts.shapes.rendering import render
from scripts.shapes.scene import ALL, COLOURS, PICTURE, ROUND, SHAPES, SIZES, Classes, Scene, Thing

THINGS = 2
NOTHING = -2  # fact: there is no such thing
ANY = -1  # claim: not mentioned
PHRASES = (  # attribute -> value -> the ways to say it
    (("tiny",), ADJECTIVES["small"], ADJECTIVES["big"], ("huge",)),
    (("straight",), ("tilted",)),
    tuple((colour,) for colour in COLOURS),
    tuple((shape,) for shape in SHAPES),
    tuple(
        (place,)
        for place in (
            *("at the top left", "at the top", "at the top right"),
            *("on the left", "in the middle", "on the right"),
            *("at the bottom left", "at the bottom", "at the bottom right"),
        )
    ),
)
SIZE, TILT, COLOUR, SHAPE, PLACE = range(5)
MENTIONED = (0.3, 0.3, 0.6, 0.7, 0.7)  # how often one thing's attributes are; sizes and tilts are learnt first
MENTIONS_ALL = 0.25  # how often a sentence is about all things
# a shrunk small thing, a small one, a big one, a grown big one
RADII = np.array([SIZES["small"] / SCALE, SIZES["small"], SIZES["big"], SIZES["big"] * SCALE])


def draw_pictures(
    rng: np.random.Generator,
    count: int,
    resolution: int,
    *,
    singles: float = 0.5,
    alike: int = 1,
    classes: Classes = ALL,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw pictures of one or two things, with independent looks.

    Args:
        rng: of all draws.
        count: B.
        resolution: R.
        singles: share of pictures of one thing; the others have two.
        alike: size of groups of pictures with the same number of things, colours and sizes, which differ in shape, tilt
            and place alone.
        classes: the colours and shapes to draw from.

    Returns:
        Pictures (B, R, R, 3), uint8 RGB, and their facts (B, THINGS, 5).
    """
    row = np.arange(count) // alike
    size = rng.choice(len(RADII), p=(0.15, 0.35, 0.35, 0.15), size=(count, THINGS))[row]
    colour = _draw_different(rng, count, tuple(COLOURS), classes.colours)[row]
    shape = _draw_different(rng, count, SHAPES, classes.shapes)
    tilt = (rng.random(shape.shape) < 0.25) & ~np.isin(shape, [SHAPES.index(name) for name in ROUND])
    radius = RADII[size] * rng.uniform(0.93, 1.07, size.shape)
    shares = (singles, 1 - singles)
    there = np.arange(THINGS) < rng.choice(np.arange(THINGS) + 1, p=shares, size=(count, 1))[row]
    x, y = _places(rng, np.where(there, radius, 0))
    looks = Looks(
        x=x,
        y=y,
        radius=radius,
        angle=tilt * rng.choice([-1, 1], size.shape) * rng.uniform(18, 30, size.shape),
        visible=there,
        colour=np.array(list(COLOURS.values()), dtype=float)[colour],
    )
    place = (3 * y / PICTURE).astype(int) * 3 + (3 * x / PICTURE).astype(int)
    facts = np.stack([size, tilt, colour, shape, place], axis=-1)
    pictures = [_render(rng, looks, which, shape[which], resolution) for which in range(count)]
    return np.stack(pictures), np.where(there[..., None], facts, NOTHING)


def _draw_different(rng: np.random.Generator, count: int, values: Sequence[str], used: Sequence[str]) -> np.ndarray:
    """Draw the places among `values` of THINGS different `used` ones, for each of `count` pictures."""
    places = np.array([values.index(value) for value in used])
    return places[rng.random((count, len(used))).argsort(axis=1)[:, :THINGS]]


def _render(rng: np.random.Generator, looks: Looks, which: int, shapes: np.ndarray, resolution: int) -> np.ndarray:
    """Paint picture number `which` on a random background: (R, R, 3)."""
    things = tuple(Thing("", "", SHAPES[shape], 0, 0) for shape in shapes)
    scene = Scene(things, events=(), duration=0, background=int(rng.integers(2**32)))
    one = Looks(**{name: value[which : which + 1] for name, value in vars(looks).items()})
    return render(scene, one, resolution)[0]


def draw_sentences(rng: np.random.Generator, facts: np.ndarray) -> tuple[list[str], np.ndarray]:
    """Draw a true sentence about each picture: some attributes of one thing, or size, colour and shape of all things.

    Args:
        rng: of all draws.
        facts: (B, THINGS, 5).

    Returns:
        B sentences and their claims (B, THINGS, 5).
    """
    of_one = rng.random(facts.shape) < MENTIONED
    of_one[..., 1:, :] = False  # the first thing is a random one
    of_one[..., 0, SHAPE] |= ~of_one.any(axis=(-2, -1))
    of_all = np.isin(np.arange(facts.shape[-1]), (SIZE, COLOUR, SHAPE))
    said = np.where(rng.random((len(facts), 1, 1)) < MENTIONS_ALL, of_all, of_one)
    claims = np.where(said & (facts != NOTHING), facts, ANY)
    return [_say(rng, claim) for claim in claims], claims


def is_true(claims: np.ndarray, facts: np.ndarray) -> np.ndarray:
    """Which sentences are true of which pictures: claims (A, THINGS, 5), facts (B, THINGS, 5) -> bool (A, B)."""
    claims, facts = claims[:, None, :, None], facts[None, :, None]  # (A, 1, claimed, 1, 5), (1, B, 1, there, 5)
    fits = ((claims == ANY) | (claims == facts)).all(axis=-1)  # (A, B, claimed, there)
    return fits.any(axis=-1).all(axis=-1)


def _places(rng: np.random.Generator, radius: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Place things of `radius` (B, O) inside the picture: of some random layouts, the one with the largest gaps.

    Returns:
        x and y, both (B, O).
    """
    tries = 12
    free = np.broadcast_to(PICTURE - 2 * radius, (2, tries, *radius.shape))
    centres = radius + free * rng.random(free.shape)  # (2, tries, B, O)
    gaps = np.full((tries, len(radius)), np.inf)
    for one, other in itertools.combinations(range(THINGS), 2):
        distance = np.hypot(*(centres[..., one] - centres[..., other]))
        gaps = np.minimum(gaps, distance - radius[:, one] - radius[:, other])
    return tuple(centres[:, gaps.argmax(axis=0), np.arange(len(radius))])


def _say(rng: np.random.Generator, claim: np.ndarray) -> str:
    """Put claims (THINGS, 5) into words: "a red star and a tilted thing at the top", in random order."""
    parts = []
    for thing in claim[(claim != ANY).any(axis=-1)]:
        words = [rng.choice(PHRASES[kind][value]) if value != ANY else "" for kind, value in enumerate(thing)]
        words[SHAPE] = words[SHAPE] or "thing"
        noun = " ".join(filter(None, words))
        parts.append(f"{rng.choice(('the', 'an' if noun[0] in 'aeiou' else 'a'))} {noun}")
    return " and ".join(rng.permutation(parts))
