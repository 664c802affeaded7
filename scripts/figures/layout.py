"""Layout of words, frames and boxes of one band, in inches.

A row's players keep their order. Its edge towards the other row is at height 0: words extend upwards, frames downwards.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scripts.figures.style import text_width
from scripts.figures.words import Piece, Word, join_words

TEXT_SIZES = (8.0, 6.5)  # points; below the last one words are turned upright
LINE_HEIGHT = 1.4  # of the text size
MOST_LINES = 8
WORD_SPACE = 0.05
PADDING = 0.035
GAP = 0.03
WIDEST_COLUMN = 0.25
LARGEST_THUMBNAIL = 0.5
SMALLEST_THUMBNAIL = 0.26
MOST_THUMBNAIL_ROWS = 4
THUMBNAIL_FILL = 0.94
NUMBER_SIZE = 5.0
NUMBER_HEIGHT = 0.1


@dataclass(frozen=True)
class Box:
    """A rectangle: its lower left corner, width and height."""

    left: float
    bottom: float
    width: float
    height: float

    @property
    def centre(self) -> float:
        """Middle between left and right."""
        return self.left + self.width / 2


@dataclass(frozen=True)
class WordRow:
    """Words of one band.

    Attributes:
        words: texts.
        places: the box of each word.
        boxes: one for each player, none where players are single tokens.
        anchors: where the lines of each player start, from left to right.
        height: of the row.
        size: of the text, points.
        upright: words are written from bottom to top.
    """

    words: list[Word]
    places: list[Box]
    boxes: list[Box]
    anchors: list[float]
    height: float
    size: float
    upright: bool


@dataclass(frozen=True)
class FrameRow:
    """Frames of one band: `frames` are their numbers, `thumbnails` their boxes; the rest as in `WordRow`."""

    frames: list[int]
    thumbnails: list[Box]
    boxes: list[Box]
    anchors: list[float]
    height: float


def place_words(pieces: Sequence[Piece], players: Sequence[Sequence[int]], width: float, *, boxed: bool) -> WordRow:
    """Place words, horizontally if they fit, upright otherwise.

    Args:
        pieces: the text tokens.
        players: positions of the tokens of each player, one position each where not `boxed`.
        width: of the row.
        boxed: players have boxes; otherwise the pieces of a word are kept together, and each has its anchor.
    """
    groups = [join_words(pieces, tokens) for tokens in players]
    if not boxed:
        groups = [[word] for word in join_words(pieces, range(len(pieces)))]
    for size in TEXT_SIZES:
        for lines in range(1, (MOST_LINES if boxed else 1) + 1):
            paragraphs = [_lines(group, lines) for group in groups]
            widths = [max(_line_width(line, size) for line in paragraph) + 2 * PADDING for paragraph in paragraphs]
            if sum(widths) + GAP * len(widths) <= width:
                return _level_words(paragraphs, widths, size, players, width, boxed=boxed)
    return _upright_words(groups, players, width, boxed=boxed)


def _lines(words: list[Word], count: int) -> list[list[Word]]:
    """Divide words into at most `count` lines of equal numbers."""
    step = math.ceil(len(words) / count)
    return [words[first : first + step] for first in range(0, len(words), step)]


def _line_width(line: list[Word], size: float) -> float:
    return sum(text_width(word.label, size) for word in line) + WORD_SPACE * (len(line) - 1)


def _level_words(
    paragraphs: list[list[list[Word]]],
    widths: list[float],
    size: float,
    players: Sequence[Sequence[int]],
    width: float,
    *,
    boxed: bool,
) -> WordRow:
    """Words from left to right, each group's lines centred."""
    line_height = LINE_HEIGHT * size / 72
    words, places, outlines = [], [], []
    for paragraph, left, span in zip(paragraphs, _spread(widths, width), widths, strict=True):
        outlines.append(Box(left, 0, span, line_height * len(paragraph) + 2 * PADDING))
        for number, line in enumerate(reversed(paragraph)):
            x = outlines[-1].centre - _line_width(line, size) / 2
            for word in line:
                words.append(word)
                places.append(Box(x, PADDING + number * line_height, text_width(word.label, size), line_height))
                x += places[-1].width + WORD_SPACE
    return _word_row(words, places, outlines, players, size, boxed=boxed, upright=False)


def _upright_words(groups: list[list[Word]], players: Sequence[Sequence[int]], width: float, *, boxed: bool) -> WordRow:
    """Words from bottom to top, one in each column, as large as the columns allow."""
    gap = GAP if boxed else 0
    column = min((width - gap * len(groups)) / sum(map(len, groups)), WIDEST_COLUMN)
    size = min(TEXT_SIZES[-1], 72 * column / 1.2)
    widths = [column * len(group) for group in groups]
    words, places, outlines = [], [], []
    for group, left, span in zip(groups, _spread(widths, width), widths, strict=True):
        lengths = [text_width(word.label, size) for word in group]
        outlines.append(Box(left, 0, span, max(lengths) + 2 * PADDING))
        words += group
        places += [Box(left + column * number, PADDING, column, length) for number, length in enumerate(lengths)]
    return _word_row(words, places, outlines, players, size, boxed=boxed, upright=True)


def _word_row(
    words: list[Word],
    places: list[Box],
    outlines: list[Box],
    players: Sequence[Sequence[int]],
    size: float,
    *,
    boxed: bool,
    upright: bool,
) -> WordRow:
    """Build the row; a single piece has its share of its word's width."""
    if boxed:
        anchors = [box.centre for box in outlines]
    else:
        share = {
            token: place.left + place.width * (number + 0.5) / len(word.tokens)
            for word, place in zip(words, places, strict=True)
            for number, token in enumerate(word.tokens)
        }
        anchors = [share[token] for (token,) in players]
    height = max(box.height for box in outlines)
    return WordRow(words, places, outlines if boxed else [], anchors, height, size, upright)


def place_frames(players: Sequence[Sequence[int]], width: float, *, boxed: bool) -> FrameRow:
    """Place frames: in a grid in each player's box, or singly, over several steps if they are many.

    Args:
        players: positions of the frames of each player, one each where not `boxed`.
        width: of the row.
        boxed: players stand in boxes.
    """
    return _boxed_frames(players, width) if boxed else _single_frames([frame for (frame,) in players], width)


def _single_frames(frames: list[int], width: float) -> FrameRow:
    """Place frames side by side, over as many steps as keep the thumbnails large enough."""
    between = len(frames) - 1
    for steps in range(1, MOST_THUMBNAIL_ROWS + 1):
        side = min(THUMBNAIL_FILL * steps * width / (between + THUMBNAIL_FILL * steps), LARGEST_THUMBNAIL)
        if side >= SMALLEST_THUMBNAIL:
            break
    pitch = min(width / len(frames), (width - side) / max(between, 1))
    centres = [width / 2 + (number - between / 2) * pitch for number in range(len(frames))]
    cell = side + NUMBER_HEIGHT
    thumbnails = [
        Box(centre - side / 2, -side - (number % steps) * cell, side, side) for number, centre in enumerate(centres)
    ]
    return FrameRow(frames, thumbnails, [], centres, cell * min(steps, len(frames)))


def _boxed_frames(players: Sequence[Sequence[int]], width: float) -> FrameRow:
    """Place each player's frames in reading order in its box, in as many rows as keep the thumbnails large enough."""
    frame_width = width - (GAP + 2 * PADDING) * len(players)
    for rows in range(1, MOST_THUMBNAIL_ROWS + 1):
        columns = [math.ceil(len(frames) / rows) for frames in players]
        side = min(frame_width / sum(columns), LARGEST_THUMBNAIL)
        if side >= SMALLEST_THUMBNAIL:
            break
    cell = side + NUMBER_HEIGHT
    widths = [side * count + 2 * PADDING for count in columns]
    numbers, thumbnails, boxes = [], [], []
    for frames, count, left, span in zip(players, columns, _spread(widths, width), widths, strict=True):
        height = math.ceil(len(frames) / count) * cell + 2 * PADDING
        boxes.append(Box(left, -height, span, height))
        for number, frame in enumerate(frames):
            row, column = divmod(number, count)
            inset = side * (1 - THUMBNAIL_FILL) / 2
            thumbnails.append(
                Box(
                    left + PADDING + column * side + inset,
                    -PADDING - row * cell - side + inset,
                    side * THUMBNAIL_FILL,
                    side * THUMBNAIL_FILL,
                )
            )
            numbers.append(frame)
    return FrameRow(numbers, thumbnails, boxes, [box.centre for box in boxes], max(box.height for box in boxes))


def _spread(widths: Sequence[float], width: float) -> list[float]:
    """Left edges of neighbours of the given widths, evenly spaced over `width`."""
    space = (width - sum(widths)) / len(widths)
    lefts, x = [], space / 2
    for span in widths:
        lefts.append(x)
        x += span + space
    return lefts
