"""Captions to token ids and masks, by CLIP's byte pair encoding.

A texts, N_t words.
"""

from collections.abc import Sequence
from copy import copy
from functools import cache
from typing import Any

import regex
import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

# CLIP's two special tokens as spelled by open_clip, and by CLIP itself.
SPECIAL_TOKENS = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}

# Letters of a caption that are read, per token: far more than fit, but bounded, so that no caption takes long.
MAX_LETTERS = 64
LONG_WORD = regex.compile(r"(\S{256})\S+")  # the time of byte pair encoding is quadratic in a word's length
END_OF_WORD = "</w>"


@cache
def _read_encoder() -> Any:
    """open_clip's tokenizer with CLIP's special tokens; reading its byte pairs takes longer than most captions."""
    from open_clip.tokenizer import SimpleTokenizer  # takes seconds to import

    encoder = SimpleTokenizer()
    pattern = encoder.pat.pattern
    for theirs, ours in SPECIAL_TOKENS.items():
        encoder.encoder[ours] = encoder.encoder.pop(theirs)
        encoder.cache[ours] = encoder.cache.pop(theirs).replace(theirs, ours)
        pattern = pattern.replace(theirs, regex.escape(ours))
    encoder.pat = regex.compile(pattern, regex.IGNORECASE)
    return encoder


class Tokenizer:
    """CLIP's tokenizer: ftfy, white space, lower case, byte pairs; 49,408 entries.

    It is open_clip's with CLIP's spelling of the special tokens, so that captions with a literal one get CLIP's ids.
    """

    def __init__(self):
        self.encoder = copy(_read_encoder())
        self.encoder.cache = dict(self.encoder.cache)  # it grows with each new word

    def __call__(
        self, captions: Sequence[str], max_words: int
    ) -> tuple[Int[Tensor, "A {max_words}"], Int[Tensor, "A {max_words}"]]:
        """Ids of captions (start token, byte pairs cut to fit, end token, zeros), and their mask."""
        if isinstance(captions, str):
            raise ValueError("captions must be a sequence of strings, not one string")
        if max_words < 2:
            raise ValueError(f"max_words must leave space for the start and end tokens, got {max_words}")
        start, end = self.encoder.sot_token_id, self.encoder.eot_token_id
        bounded = (LONG_WORD.sub(r"\1", caption[: MAX_LETTERS * max_words]) for caption in captions)
        rows = [torch.tensor([start, *self.encoder.encode(caption)[: max_words - 2], end]) for caption in bounded]
        lengths = torch.tensor([len(row) for row in rows], dtype=torch.int64)
        mask = (torch.arange(max_words) < lengths[:, None]).long()
        ids = torch.zeros_like(mask)
        if rows:
            ids[:, : lengths.max()] = pad_sequence(rows, batch_first=True)
        return ids, mask

    def words(self, ids: Sequence[int]) -> list[tuple[str, int]]:
        """Join byte pairs to words, each with its number of token ids."""
        words, pieces = [], []
        for piece in (self.encoder.decoder[token] for token in ids):
            pieces.append(piece)
            if piece.endswith(END_OF_WORD):
                words.append(pieces)
                pieces = []
        return [(self._spell("".join(parts)), len(parts)) for parts in [*words, *([pieces] if pieces else [])]]

    def _spell(self, letters: str) -> str:
        decoder = self.encoder.byte_decoder
        text = bytearray(decoder[letter] for letter in letters.removesuffix(END_OF_WORD))
        return text.decode("utf-8", errors="replace")
