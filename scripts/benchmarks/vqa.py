"""Questions about videos, each encoded once, compared with the encoding alone; random weights."""

from argparse import ArgumentParser

import torch

from scripts.benchmarks.measure import Row, count, measure_in_turns
from scripts.benchmarks.model import ragged_mask, random_frames, random_model


def add_arguments(parser: ArgumentParser) -> None:
    """Number of questions."""
    parser.add_argument("--videos", type=count, default=8, help="videos")
    parser.add_argument("--questions", type=count, default=20, help="questions about each")
    parser.add_argument("--words", type=count, default=24, help="positions of a question, a quarter or more valid")
    parser.add_argument("--frames", type=count, default=12, help="frames of each video")
    parser.add_argument("--answers", type=count, default=1000, help="answers to choose from")
    parser.add_argument("--patch", type=count, default=16, help="pixels; as published ViT-B/16, 32 for ViT-B/32")
    parser.add_argument("--repeats", type=count, default=3, help="runs")


@torch.inference_mode()
def measure(videos: int, questions: int, words: int, frames: int, answers: int, patch: int, repeats: int) -> list[Row]:
    """Seconds and megabytes; "of encoding" is the median as a multiple of that of encoding the videos.

    Args:
        videos: number.
        questions: about each.
        words: positions of a question.
        frames: of each video.
        answers: to choose from.
        patch: pixels of ViT-B's patches.
        repeats: runs.
    """
    model = random_model(answers, patch)
    video_mask = torch.ones(videos, frames, dtype=torch.int64)
    pixels = random_frames(video_mask)
    text_mask = ragged_mask(videos * questions, words, max(words // 4, 1))
    ids = torch.randint(1, model.clip.config.vocabulary, text_mask.shape) * text_mask
    about = torch.arange(videos).repeat_interleave(questions)

    def encode() -> torch.Tensor:
        return model.frame_tokens(pixels, video_mask)

    def answer() -> torch.Tensor:
        tokens, text = encode(), model.text_tokens(ids, text_mask)
        return model.mixed_logits((text, text_mask), (tokens[about], video_mask[about])).argmax(dim=1)

    measured = measure_in_turns({"encoding": encode, "encoding and answering": answer}, repeats)
    rows = [{"case": name, **row} for name, (_, row) in measured.items()]
    return [row | {"of encoding": row["median s"] / rows[0]["median s"]} for row in rows]
