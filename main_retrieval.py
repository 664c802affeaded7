"""Train and evaluate text-video retrieval."""

import argparse
import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from dataloaders.build import (
    EvaluationLoaders,
    build_bank_loader,
    build_evaluation_loaders,
    build_training_loader,
    selection_split,
)
from models import METHODS, RetrievalMethod
from models.shortlist import two_stage_similarity
from models.tokenizer import Tokenizer
from utils.args import choose_method, log_ineffective_flags, parse, retrieval_parser, run
from utils.builders import build_model, build_run
from utils.checkpoint import load_weights, read_weights
from utils.devices import PRECISIONS
from utils.distributed import gather_shards, is_main, start
from utils.encoding import encode, encode_clips
from utils.files import atomic_write
from utils.logger import make_logger, table, write_metrics
from utils.metrics import percent_within, rank_statistics, retrieval_metrics, text_to_video_ranks
from utils.post_processing import dual_softmax_metrics, query_bank_metrics
from utils.randomness import seed_all

CHECKED = 200
"""Captions, about as many, that are compared with all clips to see what a shortlist leaves out."""


def main(argv: Sequence[str] | None = None) -> dict:
    """Run the command line `argv` and return the metrics of the best or the given checkpoint."""
    method = METHODS[choose_method(METHODS, argv)]
    args = parse(retrieval_parser(METHODS, method.add_arguments), argv)
    device = start(args.device, args.local_rank)
    seed_all(args.seed, deterministic=args.deterministic)
    logger = make_logger(args.output_dir)
    log_ineffective_flags(args, logger)
    model = build_model(args, device, method=args.method, **method.options_from(args))
    loaders = build_evaluation_loaders(args, Tokenizer(), model.clip.config.resolution, device)
    if args.do_train:
        best = train(args, model, device, selection_loaders(args, model, device, loaders, logger), logger)
        load_weights(model, read_weights(best), best)
    if "qbnorm" in args.post_process:
        loaders = replace(loaders, bank=build_bank_loader(args, Tokenizer(), device))
    metrics, sim = evaluate(args, model.eval(), device, loaders, logger)
    if is_main():
        report(args, metrics, sim)
    return metrics


def selection_loaders(
    args: argparse.Namespace, model: RetrievalMethod, device: torch.device, test: EvaluationLoaders, logger: logging.Logger
) -> EvaluationLoaders:
    """Loaders of what the best epoch is selected on: the validation split, or `test` where there is none."""
    name = selection_split(args)
    if name == "test":
        logger.warning("no validation split: the best epoch is selected on the test split, as published")
        return test
    logger.info("the best epoch is selected on the validation split")
    return build_evaluation_loaders(args, Tokenizer(), model.clip.config.resolution, device, name)


def train(
    args: argparse.Namespace, model: RetrievalMethod, device: torch.device, loaders: EvaluationLoaders, logger: logging.Logger
) -> Path:
    """Train, evaluating every 3 * n_display steps and after each epoch, and return the best checkpoint's path."""
    loader = build_training_loader(args, Tokenizer(), model.clip.config.resolution, device)
    return build_run(
        args,
        model,
        loader,
        device,
        logger,
        schedule_epochs=model.recipe.schedule_epochs or args.epochs,
        evaluate=lambda: evaluate(args, model, device, loaders, logger)[0]["t2v"]["R1"],
        evaluate_every=3 * args.n_display,
    ).fit(args.epochs)


def evaluate(
    args: argparse.Namespace, model: RetrievalMethod, device: torch.device, loaders: EvaluationLoaders, logger: logging.Logger
) -> tuple[dict, Tensor]:
    """Rank all clips for each caption and all captions for each clip.

    Each process encodes its share of captions and clips and compares its captions with all clips, or with --shortlist
    with those of nearest pooled features.

    Returns:
        The metrics, and the similarity of all captions with all clips (A, B), the same on every process; clips outside
        of a caption's shortlist have smaller ones than those inside, as `two_stage_similarity` says.
    """
    where = {"device": device, "precision": args.precision, "logger": logger}
    video = encode_clips(model, loaders.clips, **where)
    memory, dtype = args.similarity_memory * 2**20, PRECISIONS[args.precision]

    def read(captions: DataLoader) -> tuple[Tensor, Tensor]:
        return encode(
            captions,
            lambda batch: (model.text_tokens(batch["ids"], batch["text_mask"]), batch["text_mask"]),
            description="captions",
            **where,
        )

    def compare(text: tuple[Tensor, Tensor]) -> Tensor:
        return gather_shards(model.similarity(text, video, memory=memory, dtype=dtype)).cpu()

    text = read(loaders.text)
    if args.shortlist:
        sim = gather_shards(two_stage_similarity(model, text, video, args.shortlist, memory=memory)).cpu()
    else:
        sim = compare(text)
    metrics = retrieval_metrics(sim, loaders.clip_of_caption)
    ranks = text_to_video_ranks(sim, loaders.clip_of_caption)
    metrics["subsets"] = {name: rank_statistics(ranks[rows]) for name, rows in loaders.subsets.items() if rows}
    metrics["post_processed"] = {}
    if args.shortlist:
        step = math.ceil(len(sim) / CHECKED)
        own = [place for place, caption in enumerate(loaders.text.dataset.indices) if caption % step == 0]
        best = compare(tuple(tensor[own] for tensor in text)).argmax(dim=1)
        metrics["shortlist"] = {
            "clips": args.shortlist,
            "true": percent_within(ranks, args.shortlist),
            "best": percent_within(text_to_video_ranks(sim[::step], best), args.shortlist),
            "checked": len(best),
        }
    if "dsl" in args.post_process:
        metrics["post_processed"]["dual softmax"] = dual_softmax_metrics(sim, loaders.clip_of_caption)
    if loaders.bank is not None:
        bank = compare(read(loaders.bank))
        metrics["post_processed"]["QB-Norm"] = query_bank_metrics(sim, loaders.clip_of_caption, bank)
    logger.info("text to video R@1 %.1f, video to text R@1 %.1f", metrics["t2v"]["R1"], metrics["v2t"]["R1"])
    return metrics, sim


def report(args: argparse.Namespace, metrics: dict, sim: Tensor) -> None:
    """Print the results as a table and write metrics.json, and the similarities if asked to."""
    names = {"t2v": "text to video", "v2t": "video to text"}
    rows = {label: metrics[key] for key, label in names.items()}
    rows |= {f"text to video, {name} negatives": values for name, values in metrics["subsets"].items()}
    for method, values in metrics["post_processed"].items():
        rows |= {f"{names[key]}, after {method}": values[key] for key in values}
    columns = list(metrics["t2v"])
    print(table(["", *columns], [[label, *(values[column] for column in columns)] for label, values in rows.items()]))
    if args.shortlist:
        print(
            "shortlists of {clips} clips: the caption's own clip is inside for {true:.1f} % of the captions, the most "
            "similar of all clips for {best:.1f} % of {checked} captions".format(**metrics["shortlist"])
        )
    write_metrics(Path(args.output_dir) / "metrics.json", metrics)
    if args.save_similarity:
        with atomic_write(Path(args.output_dir) / "similarity.npy", "wb") as file:
            np.save(file, sim.numpy())


if __name__ == "__main__":
    run(main)
