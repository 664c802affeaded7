"""Sentences about what happens in a scene."""

import re
from random import Random

from scripts.shapes.scene import COLOURS, DIRECTIONS, SHAPES, Action, Scene, Thing

MAX_TOKENS = 24  # the published --max_words
TWO_TOKENS = frozenset(("shrinks", "rotates", "bounces", "blinks", "flickers"))
ADJECTIVES = {"small": ("small", "little"), "big": ("big", "large")}
VERBS = {
    "grow": ("grows", "gets bigger", "expands"),
    "shrink": ("shrinks", "gets smaller", "contracts"),
    "spin": ("spins", "rotates", "turns around"),
    "bounce": ("bounces", "hops", "jumps up and down"),
    "blink": ("blinks", "flashes", "flickers"),
    "turn": ("turns {}", "becomes {}", "changes to {}"),
    "leave": ("leaves", "exits", "goes away"),
}
MOVES = {
    "left": ("moves left", "slides left", "goes to the left"),
    "right": ("moves right", "slides right", "goes to the right"),
    "up": ("moves up", "rises", "goes upward"),
    "down": ("moves down", "sinks", "goes downward"),
}
THEN = (", then", " and then", ", after that", " before")
FINALLY = (", then", " and then", ", and finally")

Story = tuple[tuple[str, str, Action], ...]


def count_tokens(sentence: str) -> int:
    """Return the number of CLIP's tokens in a sentence of this grammar: words, commas, start and end tokens."""
    words = re.findall(r"\w+|,", sentence)
    return len(words) + sum(word in TWO_TOKENS for word in words) + 2


def phrases(action: Action) -> tuple[str, ...]:
    """Return the ways to say that something does `action`."""
    if action.kind == "move":
        return MOVES[action.detail]
    return tuple(verb.format(action.detail) for verb in VERBS[action.kind])


ACTIONS = {
    phrase: action
    for action in (
        *(Action(kind) for kind in VERBS if kind != "turn"),
        *(Action("turn", colour) for colour in COLOURS),
        *(Action("move", direction) for direction in DIRECTIONS),
    )
    for phrase in phrases(action)
}
"""The action that each phrase describes."""
EVENT = re.compile(
    rf"(?P<thing>it|(?:a|the) (?:{'|'.join(word for words in ADJECTIVES.values() for word in words)}) "
    rf"(?P<colour>{'|'.join(COLOURS)}) (?P<shape>{'|'.join(SHAPES)})) (?P<verb>{'|'.join(ACTIONS)})(?!\w)"
)
CONNECTIVE = re.compile("|".join(f"(?:{words}) " for words in (*FINALLY, *THEN)))


def sentence(scene: Scene, rng: Random) -> str:
    """Return one paraphrase of the scene's events, in order, of at most MAX_TOKENS tokens."""
    while count_tokens(words := "".join(_pieces(scene, rng))) > MAX_TOKENS:
        pass
    return words


def clauses(scene: Scene, rng: Random) -> list[str]:
    """Return one sentence per event, each naming its subject in full."""
    return [f"{_name(scene.things[event.subject], rng)} {rng.choice(phrases(event.action))}." for event in scene.events]


def _pieces(scene: Scene, rng: Random) -> list[str]:
    """Return the pieces of a sentence of any length: connective, subject, verb, and so on."""
    pieces = []
    last_subject = None
    for index, event in enumerate(scene.events):
        if index:
            pieces.append(rng.choice(THEN if index == 1 else FINALLY) + " ")
        subject = "it" if event.subject == last_subject else _name(scene.things[event.subject], rng)
        pieces.append(f"{subject} {rng.choice(phrases(event.action))}")
        last_subject = event.subject
    return pieces


def _name(thing: Thing, rng: Random) -> str:
    """Return a noun phrase such as "the little red star"."""
    return f"{rng.choice(('a', 'the'))} {rng.choice(ADJECTIVES[thing.size])} {thing.colour} {thing.shape}"


def read_story(sentence: str) -> Story | None:
    """Parse a sentence to the form of `Scene.story`; None if it is not of this grammar."""
    story: list[tuple[str, str, Action]] = []
    rest = re.sub(r"\s+,", ",", sentence.lower())
    while match := EVENT.match(rest):
        if match["thing"] != "it":
            subject = match["colour"], match["shape"]
        elif story:
            subject = story[-1][:2]
        else:
            return None
        story.append((*subject, ACTIONS[match["verb"]]))
        if match.end() == len(rest):
            return tuple(story)
        link = CONNECTIVE.match(rest, match.end())
        rest = rest[link.end() :] if link else ""
    return None
