"""A scene: things on a background, and a sequence of events."""

from dataclasses import dataclass

SHAPES = ("circle", "ring", "bar", "cross", "triangle", "star")
ROUND = ("circle", "ring")  # a spin does not show on these
COLOURS = {  # RGB; backgrounds are dark and pale in hue, so that all of these stand out
    "red": (225, 30, 35),
    "orange": (255, 140, 0),
    "yellow": (250, 230, 40),
    "green": (40, 175, 60),
    "pink": (255, 115, 185),
    "blue": (40, 80, 250),
    "purple": (140, 45, 210),
    "white": (250, 250, 250),
}
SIZES = {"small": 20.0, "big": 30.0}  # radius in pixels of the 128 px picture
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
KINDS = ("move", "grow", "shrink", "spin", "bounce", "blink", "turn", "leave")
PICTURE = 128
FRAMERATE = 10


@dataclass(frozen=True)
class Classes:
    """What scenes are drawn from: some of COLOURS, of SHAPES, and of KINDS with "move" among them.

    `family` is the number of training scenes that show the same things and differ in one respect.
    """

    colours: tuple[str, ...] = tuple(COLOURS)
    shapes: tuple[str, ...] = SHAPES
    kinds: tuple[str, ...] = KINDS
    family: int = 3


ALL = Classes()
CLASSES = {
    "all": ALL,
    "few": Classes(
        colours=("red", "yellow", "green", "white"),
        shapes=("circle", "cross", "star"),
        kinds=("move", "grow", "leave"),
        family=2,  # few scenes of these kinds allow three orders of their events
    ),
}


@dataclass(frozen=True)
class Thing:
    """A shape at the beginning of the scene; x and y are its centre in pixels, y downwards."""

    size: str
    colour: str
    shape: str
    x: float
    y: float


@dataclass(frozen=True)
class Action:
    """An action: one of KINDS, and its detail: a direction for "move", the new colour for "turn", else ""."""

    kind: str
    detail: str = ""


@dataclass(frozen=True)
class Event:
    """The thing numbered `subject` does `action` from `start` to `end` seconds."""

    subject: int
    action: Action
    start: float
    end: float


@dataclass(frozen=True)
class Scene:
    """One or two things of different shapes and colours, two or three events in time order, `duration` seconds."""

    things: tuple[Thing, ...]
    events: tuple[Event, ...]
    duration: float
    background: int

    @property
    def story(self) -> tuple[tuple[str, str, Action], ...]:
        """The content of a sentence: colour and shape of the subject and the action, event by event."""
        return tuple((self.things[e.subject].colour, self.things[e.subject].shape, e.action) for e in self.events)
