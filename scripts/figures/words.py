"""Byte pairs as readable words."""

from collections.abc import Sequence
from dataclasses import dataclass

from models.tokenizer import Tokenizer

WORD_END = "</w>"


@dataclass(frozen=True)
class Piece:
    """One text token.

    Attributes:
        text: its bytes, which need not be whole characters; "start" or "end" for CLIP's two special tokens.
        starts: whether it begins a word.
        ends: whether it ends a word.
        special: whether it is the start or the end token.
    """

    text: bytes
    starts: bool = True
    ends: bool = True
    special: bool = False


@dataclass(frozen=True)
class Word:
    """Neighbouring pieces of one word: all of them, or those that are in one cluster.

    Attributes:
        label: readable, with a hyphen on each side where the word continues.
        tokens: positions of the pieces in the caption.
        special: it is the start or the end token.
    """

    label: str
    tokens: tuple[int, ...]
    special: bool


def split_pieces(tokenizer: Tokenizer, ids: Sequence[int]) -> list[Piece]:
    """Map each token id of a caption, without padding, to its piece of a word."""
    encoder = tokenizer.encoder
    names = {encoder.sot_token_id: b"start", encoder.eot_token_id: b"end"}
    pieces, starts = [], True
    for number in ids:
        if number in names:
            pieces.append(Piece(names[number], special=True))
            starts = True
            continue
        spelling = encoder.decoder[number]
        ends = spelling.endswith(WORD_END)
        text = bytes(encoder.byte_decoder[letter] for letter in spelling.removesuffix(WORD_END))
        pieces.append(Piece(text, starts, ends))
        starts = ends
    return pieces


def join_words(pieces: Sequence[Piece], tokens: Sequence[int]) -> list[Word]:
    """Join neighbouring pieces at the increasing positions `tokens` to words."""
    runs: list[list[int]] = []
    for token in tokens:
        if runs and token == runs[-1][-1] + 1 and not pieces[token].starts:
            runs[-1].append(token)
        else:
            runs.append([token])
    return [_word(pieces, run) for run in runs]


def _word(pieces: Sequence[Piece], run: list[int]) -> Word:
    """One run of neighbouring pieces as a word."""
    first, last = pieces[run[0]], pieces[run[-1]]
    text = b"".join(pieces[token].text for token in run).decode("utf-8", errors="replace")
    label = ("" if first.starts else "-") + text + ("" if last.ends else "-")
    return Word(label, tuple(run), first.special)
