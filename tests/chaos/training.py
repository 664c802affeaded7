"""A short training of main_retrieval.py."""

from tests.retrieval_case import Corpus


def command_line(corpus: Corpus, *words: str) -> list[str]:
    """A training of a tiny model with augmentation, and evaluations after each third step and each epoch."""
    flags = {
        "--do_train": 1, "--base_encoder": corpus.clip, "--anno_path": corpus.annotations,
        "--video_path": corpus.videos, "--batch_size": 2, "--batch_size_val": 4, "--max_words": 12, "--max_frames": 2,
        "--workers": 1, "--n_display": 1, "--epochs": 2, "--lr": 1e-3, "--coef_lr": 0.1,
    }
    return [*(str(word) for flag, value in flags.items() for word in (flag, value)), *map(str, words)]
