"""Train and evaluate video question answering."""

import argparse
import json
import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from dataloaders.question_answering import (
    QuestionLoaders,
    build_evaluation_loaders,
    build_training_loader,
    build_vocabulary,
)
from models import HBIVQA
from models.tokenizer import Tokenizer
from utils.answers import answer_metrics, read_answers, write_answers
from utils.args import log_ineffective_flags, parse, question_parser, run
from utils.builders import build_model, build_run
from utils.checkpoint import load_weights, read_weights
from utils.distributed import barrier, gather_shards, is_main, start
from utils.encoding import encode, encode_clips
from utils.errors import InputError
from utils.files import atomic_write
from utils.logger import make_logger, table, write_metrics
from utils.randomness import seed_all

TOP = 5
FIGURES = ("questions", "top1", "top5", "majority")


def main(argv: Sequence[str] | None = None) -> dict:
    """Run the command line `argv` and return the metrics of the best or the given checkpoint."""
    args = parse(question_parser(HBIVQA.add_arguments), argv)
    device = start(args.device, args.local_rank)
    seed_all(args.seed, deterministic=args.deterministic)
    logger = make_logger(args.output_dir)
    log_ineffective_flags(args, logger)
    model = build_model(args, device, answers=find_answers(args), **HBIVQA.options_from(args))
    loaders = build_evaluation_loaders(args, model.answers, Tokenizer(), model.clip.config.resolution, device)
    if args.do_train:
        best = train(args, model, device, loaders, logger)
        load_weights(model, read_weights(best), best)
    metrics, predictions = evaluate(args, model.eval(), device, loaders, logger)
    if is_main():
        report(args, metrics, predictions)
    return metrics


def find_answers(args: argparse.Namespace) -> Path:
    """The file of the answer vocabulary: --data_path, or one made of the training answers.

    Either way the output folder has one, as the checkpoints there hold labels without their words.
    """
    path = Path(args.output_dir) / "train_ans2label.json"
    if is_main():
        write_answers(path, read_answers(args.data_path) if args.data_path else build_vocabulary(args))
    barrier()
    return Path(args.data_path) if args.data_path else path


def train(
    args: argparse.Namespace, model: HBIVQA, device: torch.device, loaders: QuestionLoaders, logger: logging.Logger
) -> Path:
    """Train, evaluating after each epoch, and return the best checkpoint's path."""
    loader = build_training_loader(args, model.answers, Tokenizer(), model.clip.config.resolution, device, logger)
    scope = "answerable" if model.recipe.answerable_only else "all"

    def accuracy() -> float:
        """Top-1 over the questions that the recipe counts."""
        return evaluate(args, model, device, loaders, logger)[0]["total"][scope]["top1"]

    training = build_run(args, model, loader, device, logger, schedule_epochs=args.epochs, evaluate=accuracy)
    return training.fit(args.epochs)


def evaluate(
    args: argparse.Namespace, model: HBIVQA, device: torch.device, loaders: QuestionLoaders, logger: logging.Logger
) -> tuple[dict, list[dict]]:
    """Answer every question; each video is encoded once, whatever the number of questions and processes.

    Returns:
        What `utils.answers.answer_metrics` gives, and for each question what predictions.jsonl says of it; the same on
        every process.

    Raises:
        InputError: the model's answers are not finite numbers.
    """
    where = {"device": device, "precision": args.precision, "logger": logger}
    video = encode_clips(model, loaders.clips, **where)

    def answer(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """The true answer's rank (A,), and the labels and probabilities of the best answers (A, TOP)."""
        text = model.text_tokens(batch["ids"], batch["text_mask"]), batch["text_mask"]
        logits = model.mixed_logits(text, [x[batch["video_of_text"]] for x in video])
        true = logits.gather(1, batch["labels"].clamp(min=0).unsqueeze(1))
        probability, label = logits.softmax(dim=-1).topk(min(TOP, len(model.answers)))
        return (logits >= true).sum(dim=1) - 1, label, probability

    shard = encode(loaders.questions, answer, description="questions", **where)
    ranks, labels, probabilities = (gather_shards(x).cpu() for x in shard)
    if not probabilities.isfinite().all():
        raise InputError("the answers are not all finite numbers: train with a lower --lr or --precision fp32")
    truths = [asked.answer for asked in loaders.asked]
    metrics = answer_metrics(ranks, truths, [asked.kind for asked in loaders.asked], model.answers)
    for scope, figures in metrics["total"].items():
        logger.info("%s questions: top-1 %.1f, top-5 %.1f", scope, figures["top1"], figures["top5"])
    predictions = [
        {
            "question": asked.question,
            "video_id": asked.video_id,
            "truth": asked.answer,
            "top5": [[model.answers[label], share] for label, share in zip(*best, strict=True)],
        }
        for asked, *best in zip(loaders.asked, labels.tolist(), probabilities.tolist(), strict=True)
    ]
    return metrics, predictions


def report(args: argparse.Namespace, metrics: dict, predictions: Sequence[dict]) -> None:
    """Print the results as a table, and write metrics.json and predictions.jsonl."""
    scopes = ("answerable", "all")
    rows = [
        [kind, *(figures[scope][name] if scope in figures else "-" for scope in scopes for name in FIGURES)]
        for kind, figures in metrics.items()
    ]
    print(table(["", *(name for scope in scopes for name in (scope, *FIGURES[1:]))], rows))
    write_metrics(Path(args.output_dir) / "metrics.json", metrics)
    with atomic_write(Path(args.output_dir) / "predictions.jsonl") as file:
        file.writelines(json.dumps(prediction, ensure_ascii=False) + "\n" for prediction in predictions)


if __name__ == "__main__":
    run(main)
