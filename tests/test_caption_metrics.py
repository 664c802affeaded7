"""BLEU, ROUGE-L and CIDEr-D against the values of COCO's own code and against sacrebleu; METEOR only where Java is."""

import random
import shutil
from importlib.util import find_spec

import numpy as np
import pytest
from sacrebleu.metrics import BLEU

from utils import caption_metrics
from utils.caption_metrics import bleu, caption_words, cider, rouge_l

REFERENCES = [
    [
        "a man is playing a guitar on stage",
        "a guy plays guitar for a crowd",
        "someone is performing music with a guitar",
    ],
    ["a woman is slicing vegetables in a kitchen", "a lady cuts carrots on a board", "a person is chopping food"],
    ["two dogs are running in the snow", "dogs play outside in winter", "a pair of dogs chase each other"],
    ["a car is driving down the road", "someone drives a red car", "a vehicle moves on a highway"],
]
HYPOTHESES = [
    "a man is playing guitar on a stage",
    "a woman is cutting vegetables on a board",
    "two dogs are playing in the snow",
    "a man is driving a car",
]
# As pycocoevalcap 1.2 and aac-metrics 0.5.5 print them.
GOLDEN = {
    "BLEU1": 89.6552,
    "BLEU2": 70.8568,
    "BLEU3": 52.3478,
    "BLEU4": 30.3083,
    "ROUGE_L": 70.3092,
    "CIDEr": 161.5104,
}
# Output of the tokenizer of COCO's evaluation (Stanford's, in Java) without punctuation.
SPLIT = {
    "A man isn't running, he's walking.": "a man is n't running he 's walking",
    "two men can't dance; they cannot sing": "two men ca n't dance they can not sing",
    "the dogs' ball": "the dogs ball",
    "a t-shirt costs $5.50": "a t-shirt costs $ 5.50",
    "it's 3:30 pm": "it 's 3:30 pm",
    "a 'quoted' \"word\"": "a quoted word",
    "wait... what?": "wait what",
    "a man -- a boy - a dog": "a man a boy a dog",
    "u.s. army": "u.s. army",
    "a man. a woman walks .": "a man a woman walks",
    "1,000 people , and/or 2": "1,000 people and/or 2",
    "rock & roll, r&b": "rock & roll r & b",
    "wanna or gonna or gotta go": "wan na or gon na or got ta go",
    "o'clock": "o'clock",
    "i've you're they'll i'd i'm": "i 've you 're they 'll i 'd i 'm",
    "#1 at 50% off": "# 1 at 50 % off",
    "singing,dancing": "singing dancing",
}


def words_of(captions):
    return [caption_words(caption) for caption in captions]


@pytest.fixture
def without_java(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)


@pytest.mark.parametrize(("caption", "words"), SPLIT.items())
def test_captions_are_split_as_in_the_penn_treebank(caption, words):
    assert " ".join(caption_words(caption)) == words


def test_golden_values(without_java):
    found = caption_metrics.caption_metrics(HYPOTHESES, REFERENCES)
    assert found.keys() == GOLDEN.keys()  # METEOR is absent, not 0
    assert found == pytest.approx(GOLDEN, abs=5e-5)
    each = cider(words_of(HYPOTHESES), [words_of(captions) for captions in REFERENCES])
    assert each == pytest.approx([2.1682, 1.3466, 1.9196, 1.0260], abs=5e-5)


def test_bleu_agrees_with_sacrebleu():
    draw = random.Random(0)
    hypotheses = [tuple(draw.choices("abc", k=draw.randint(1, 12))) for _ in range(60)]
    references = [[tuple(draw.choices("abc", k=draw.randint(1, 12))) for _ in range(3)] for _ in range(60)]
    texts = [" ".join(words) for words in hypotheses]
    columns = [[" ".join(words) for words in column] for column in zip(*references, strict=True)]
    for order, value in enumerate(bleu(hypotheses, references), start=1):
        theirs = BLEU(max_ngram_order=order, tokenize="none", smooth_method="none", force=True)
        assert 100 * value == pytest.approx(theirs.corpus_score(texts, columns).score, rel=1e-9)
        assert value > 0


def test_identical_captions_are_as_good_as_can_be(without_java):
    found = caption_metrics.caption_metrics([captions[0] for captions in REFERENCES], REFERENCES)
    assert [found[f"BLEU{order}"] for order in (1, 2, 3, 4)] + [found["ROUGE_L"]] == pytest.approx([100] * 5)
    alone = [[captions[0]] for captions in REFERENCES]
    assert caption_metrics.caption_metrics([captions[0] for captions in alone], alone)["CIDEr"] == pytest.approx(1000)


def test_an_empty_caption_scores_nothing(without_java):
    found = caption_metrics.caption_metrics(["", *HYPOTHESES[1:]], REFERENCES)
    assert 0 < found["CIDEr"] < GOLDEN["CIDEr"] and np.isfinite(list(found.values())).all()
    assert rouge_l((), words_of(REFERENCES[0])) == 0
    assert caption_metrics.caption_metrics(["", ""], [["a b"], ["c"]]) == dict.fromkeys(GOLDEN, 0)


def test_cider_of_one_video_is_left_out(without_java):
    assert "CIDEr" not in caption_metrics.caption_metrics(HYPOTHESES[:1], REFERENCES[:1])


@pytest.mark.skipif(not (shutil.which("java") and find_spec("pycocoevalcap")), reason="METEOR is a Java program")
def test_meteor_where_it_can_be_computed():
    assert 20 < caption_metrics.caption_metrics(HYPOTHESES, REFERENCES)["METEOR"] < 60
