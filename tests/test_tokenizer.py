"""The tokenizer against recorded ids, and its edges."""

import json
from pathlib import Path

import pytest
import torch

from models.tokenizer import Tokenizer

GOLDEN = json.loads((Path(__file__).parent / "golden" / "tokenizer.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer()


@pytest.mark.parametrize("max_words", [24, 32])
def test_ids_and_mask_equal_the_recorded_ones(tokenizer, max_words):
    ids, mask = tokenizer([case["text"] for case in GOLDEN["captions"]], max_words)
    assert ids.dtype == mask.dtype == torch.int64
    assert ids.tolist() == [case[f"ids_max_words_{max_words}"] for case in GOLDEN["captions"]]
    assert mask.tolist() == [case[f"mask_max_words_{max_words}"] for case in GOLDEN["captions"]]


def test_uncut_ids_equal_the_recorded_ones(tokenizer):
    longest = max(len(case["ids"]) for case in GOLDEN["captions"]) + 2
    ids, mask = tokenizer([case["text"] for case in GOLDEN["captions"]], longest)
    for row, valid, case in zip(ids, mask, GOLDEN["captions"], strict=True):
        assert row[valid.bool()].tolist() == [GOLDEN["startoftext"], *case["ids"], GOLDEN["endoftext"]]


def test_only_clips_own_spelling_is_special(tokenizer):
    ids, mask = tokenizer(["a <|endoftext|> b", "a <end_of_text> b"], 16)
    assert (ids == GOLDEN["endoftext"]).sum(1).tolist() == [2, 1]
    assert mask.sum(1).tolist()[0] == 5


def test_vocabulary_is_clips(tokenizer):
    entries = tokenizer.encoder.encoder
    assert len(entries) == GOLDEN["vocab_size"]
    assert (entries["<|startoftext|>"], entries["<|endoftext|>"]) == (GOLDEN["startoftext"], GOLDEN["endoftext"])


def test_no_caption_gives_no_row(tokenizer):
    ids, mask = tokenizer([], 8)
    assert ids.shape == mask.shape == (0, 8)


@pytest.mark.parametrize(
    ("captions", "max_words", "reason"),
    [("a dog", 8, "captions must be a sequence of strings"), (["a dog"], 1, "start and end tokens, got 1")],
)
def test_misuse_is_refused(tokenizer, captions, max_words, reason):
    with pytest.raises(ValueError, match=reason):
        tokenizer(captions, max_words)


def test_a_tokenizer_keeps_the_words_that_it_met_for_itself():
    one, other = Tokenizer(), Tokenizer()
    known = len(other.encoder.cache)
    one(["qwzx vbnk"], 8)
    assert len(other.encoder.cache) == known < len(one.encoder.cache)


def test_ids_are_joined_to_words_with_their_numbers(tokenizer):
    ids, mask = tokenizer(["hops, Banzhaf café"], 16)
    inside = ids[0][mask[0].bool()][1:-1].tolist()
    assert tokenizer.words(inside) == [("hops", 1), (",", 1), ("banzhaf", 4), ("café", 1)]
    assert tokenizer.words(inside[:4])[-1] == ("banz", 2)  # a word that was cut
