"""Beam search against exhaustive search, and greedy decoding against the best word of each step."""

import itertools

import pytest
import torch

from models.decoding import beam_search

WORDS, START, END = 5, 0, 1


class Prefixes:
    """A state that is the words so far."""

    def __init__(self, ids):
        self.ids = ids

    def select(self, index):
        return Prefixes(self.ids[index])


def random_model(seed, batch):
    """A step whose log-probabilities are drawn for each sentence and prefix, and the state of `batch` sentences."""
    tables = {}

    def step(last, state):
        ids = torch.cat([state.ids, last.unsqueeze(1)], dim=1)
        rows = []
        for row in map(tuple, ids.tolist()):
            if row not in tables:
                draw = torch.Generator().manual_seed(hash((seed, row)) % 2**31)
                tables[row] = (2 * torch.randn(WORDS, generator=draw)).masked_fill(
                    torch.arange(WORDS) == START, -torch.inf
                )
            rows.append(tables[row].log_softmax(0))
        return torch.stack(rows), Prefixes(ids)

    return step, Prefixes(torch.arange(batch).unsqueeze(1))  # the first column distinguishes the sentences


def all_sentences(length):
    """Every sentence of at most `length` words, the end token included where there is space for it."""
    words = [word for word in range(WORDS) if word not in (START, END)]
    for count in range(length):
        for ids in itertools.product(words, repeat=count):
            yield (*ids, END)
    yield from itertools.product(words, repeat=length)


def best_by_exhaustion(step, sentence, length, exponent):
    def score(ids):
        state, last, total = Prefixes(torch.tensor([[sentence]])), torch.tensor([START]), 0.0
        for word in ids:
            found, state = step(last, state)
            total, last = total + found[0, word].item(), torch.tensor([word])
        return total / len(ids) ** exponent

    return max((score(ids), ids) for ids in all_sentences(length))


@pytest.mark.parametrize(("seed", "exponent"), [(0, 1.0), (1, 1.0), (2, 0.0), (3, 0.7)])
def test_enough_beams_find_the_best_of_all_sentences(seed, exponent):
    length, batch = 4, 3
    step, state = random_model(seed, batch)
    options = {"end": END, "beams": 1 + 3 + 9 + 27 + 81, "length": length, "exponent": exponent}
    found = beam_search(step, state, torch.full((batch,), START), **options).best()
    for sentence in range(batch):
        score, ids = best_by_exhaustion(step, sentence, length, exponent)
        assert tuple(found.ids[sentence, : found.lengths[sentence]].tolist()) == ids
        assert found.scores[sentence].item() == pytest.approx(score, abs=1e-5)
        assert found.log_probs[sentence].sum().item() == pytest.approx(score * len(ids) ** exponent, abs=1e-4)


def test_one_beam_takes_the_best_word_each_time():
    step, state = random_model(4, 4)
    found = beam_search(step, state, torch.full((4,), START), end=END, beams=1, length=6).best()
    for sentence in range(4):
        own, last, ids = Prefixes(torch.tensor([[sentence]])), torch.tensor([START]), []
        while len(ids) < 6 and ids[-1:] != [END]:
            scores, own = step(last, own)
            last = scores.argmax(dim=1)
            ids.append(last.item())
        assert found.ids[sentence, : found.lengths[sentence]].tolist() == ids
        assert (found.ids[sentence, found.lengths[sentence] :] == END).all()


def test_more_beams_are_never_worse_and_come_best_first():
    step, state = random_model(5, 8)
    first = torch.full((8,), START)
    scores = [beam_search(step, state, first, end=END, beams=beams, length=5).scores for beams in (1, 4, 400)]
    assert (scores[2][:, 0] >= scores[1][:, 0] - 1e-6).all() and (scores[2][:, 0] >= scores[0][:, 0] - 1e-6).all()
    assert (scores[1].diff(dim=1) <= 0).all()


def test_sentences_do_not_depend_on_their_batch():
    step, state = random_model(6, 5)
    whole = beam_search(step, state, torch.full((5,), START), end=END, beams=3, length=6)
    alone = [
        beam_search(step, state.select(torch.tensor([row])), torch.tensor([START]), end=END, beams=3, length=6)
        for row in range(5)
    ]
    for tensor, parts in zip(whole, zip(*alone, strict=True), strict=True):
        assert torch.allclose(tensor, torch.cat(parts))
