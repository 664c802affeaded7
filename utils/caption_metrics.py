"""Caption metrics: BLEU, ROUGE-L and CIDEr-D as in COCO's caption evaluation, times 100.

Source: BLEU (ACL 2002), ROUGE (ACL 2004), CIDEr, arXiv 1411.5726. METEOR is a Java program, see `meteor`.
"""

import importlib.util
import math
import re
import shutil
from collections import Counter
from collections.abc import Sequence

import numpy as np

ORDERS = 4
"""Longest n-grams."""
ROUGE_BETA = 1.2
CIDER_SIGMA = 6.0
CIDER_FACTOR = 10.0
METEOR_PACKAGE = "pycocoevalcap"

Words = tuple[str, ...]

SPLITS = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"[\"“”`()\[\]{};?!…]|''|\.\.+|--+", " "),
        (r"[,:](?!\d)|(?<!\d)[,:]", " "),
        (r"(?<!\w)['’]|['’](?!\w)", " "),
        (r"(?<=\w\w)\.(?=\s|$)|(?<=\s)\.", " "),
        (r"\b(can)(not)\b", r"\1 \2"),
        (r"\b(gon|wan)(na)\b|\b(got)(ta)\b", r"\1\3 \2\4"),
        (r"(\w)(n['’]t)\b", r"\1 \2"),
        (r"(\w)(['’](?:s|m|d|ll|re|ve))\b", r"\1 \2"),
        (r"([@#$%&<>])", r" \1 "),
    )
)


def caption_words(caption: str) -> Words:
    """Lower-case words of a caption without punctuation, split as in the Penn Treebank: "isn't" is "is", "n't"."""
    text = caption.lower()
    for pattern, replacement in SPLITS:
        text = pattern.sub(replacement, text)
    return tuple(word for word in text.split() if word != "-")


def caption_metrics(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """Compare one caption of each video with all its references.

    Returns:
        "BLEU1" to "BLEU4", "ROUGE_L", "CIDEr" (undefined for one video, and left out) and "METEOR" if it is installed.
    """
    words = [caption_words(caption) for caption in hypotheses]
    true_words = [[caption_words(caption) for caption in captions] for captions in references]
    found = {f"BLEU{order}": value for order, value in enumerate(bleu(words, true_words), start=1)}
    found["ROUGE_L"] = np.mean([rouge_l(*pair) for pair in zip(words, true_words, strict=True)])
    if len(words) > 1:
        found["CIDEr"] = np.mean(cider(words, true_words))
    scores = meteor(words, true_words)
    if scores is not None:
        found["METEOR"] = scores
    return {name: 100 * float(value) for name, value in found.items()}


def ngrams(words: Words, order: int) -> Counter[Words]:
    """Count n-grams of `order` words."""
    return Counter(words[start : start + order] for start in range(len(words) - order + 1))


def bleu(hypotheses: Sequence[Words], references: Sequence[Sequence[Words]]) -> list[float]:
    """Corpus BLEU-1 to BLEU-4, without smoothing, with the closest reference's length."""
    matched, total = np.zeros(ORDERS), np.zeros(ORDERS)
    length = true_length = 0
    for words, true_words in zip(hypotheses, references, strict=True):
        length += len(words)
        true_length += min((abs(len(true) - len(words)), len(true)) for true in true_words)[1]
        for order in range(ORDERS):
            found, most = ngrams(words, order + 1), Counter()
            for true in true_words:
                most |= ngrams(true, order + 1)
            matched[order] += (found & most).total()
            total[order] += found.total()
    if not length:
        return [0.0] * ORDERS
    brevity = min(0.0, 1 - true_length / length)
    with np.errstate(divide="ignore"):
        logs = np.log(matched / np.maximum(total, 1)).cumsum() / np.arange(1, ORDERS + 1)
    return np.exp(logs + brevity).tolist()


def rouge_l(words: Words, references: Sequence[Words]) -> float:
    """ROUGE-L of one caption: F of the best precision and the best recall of a longest common subsequence."""
    common = [common_length(words, true) for true in references]
    if not any(common):
        return 0.0
    precision = max(common) / len(words)
    recall = max(found / len(true) for found, true in zip(common, references, strict=True) if true)
    return (1 + ROUGE_BETA**2) * precision * recall / (recall + ROUGE_BETA**2 * precision)


def common_length(one: Words, other: Words) -> int:
    """Length of the longest common subsequence."""
    best = [0] * (len(other) + 1)
    for word in one:
        diagonal = 0
        for place, compared in enumerate(other, start=1):
            extended = diagonal + 1 if word == compared else max(best[place], best[place - 1])
            diagonal, best[place] = best[place], extended
    return best[-1]


def cider(hypotheses: Sequence[Words], references: Sequence[Sequence[Words]]) -> np.ndarray:
    """CIDEr-D of each caption, with document frequencies of the n-grams over the videos."""
    grams = [[all_ngrams(true) for true in true_words] for true_words in references]
    videos = Counter(gram for of_video in grams for gram in set().union(*of_video))

    def vectors(counts: Counter[Words]) -> list[dict[Words, float]]:
        found: list[dict[Words, float]] = [{} for _ in range(ORDERS)]
        for gram, count in counts.items():
            found[len(gram) - 1][gram] = count * math.log(len(references) / max(1, videos[gram]))
        return found

    def compare(counts: Counter[Words], true_counts: Counter[Words]) -> float:
        difference = _bigrams(counts) - _bigrams(true_counts)
        penalty = math.exp(-(difference**2) / (2 * CIDER_SIGMA**2))
        pairs = zip(vectors(counts), vectors(true_counts), strict=True)
        return penalty * sum(clipped_cosine(*pair) for pair in pairs) / ORDERS

    scores = [
        np.mean([compare(all_ngrams(words), true) for true in of_video])
        for words, of_video in zip(hypotheses, grams, strict=True)
    ]
    return CIDER_FACTOR * np.array(scores)


def all_ngrams(words: Words) -> Counter[Words]:
    """Count n-grams of 1 to `ORDERS` words."""
    return sum((ngrams(words, order) for order in range(1, ORDERS + 1)), Counter())


def _bigrams(counts: Counter[Words]) -> int:
    return sum(count for gram, count in counts.items() if len(gram) == 2)


def clipped_cosine(vector: dict[Words, float], true: dict[Words, float]) -> float:
    """Cosine in which no entry of `vector` counts for more than the other's."""
    product = sum(min(value, true[gram]) * true[gram] for gram, value in vector.items() if gram in true)
    norm = math.hypot(*vector.values()) * math.hypot(*true.values())
    return product / norm if norm else 0.0


def meteor(hypotheses: Sequence[Words], references: Sequence[Sequence[Words]]) -> float | None:
    """METEOR 1.5 by its own program, as other libraries give other values; None without Java or its package."""
    if shutil.which("java") is None or importlib.util.find_spec(METEOR_PACKAGE) is None:
        return None
    program = importlib.import_module(f"{METEOR_PACKAGE}.meteor.meteor").Meteor()
    joined = {place: [" ".join(words)] for place, words in enumerate(hypotheses)}
    true = {place: [" ".join(words) for words in captions] for place, captions in enumerate(references)}
    return program.compute_score(true, joined)[0]
