"""Train the estimator of the Banzhaf interaction between words and frames, or evaluate a checkpoint's."""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from dataloaders.base import ClipDataset, PairDataset, TextDataset
from dataloaders.build import build_augmentation, build_loader, build_training_loader, clip_reader, find_split
from dataloaders.features import EncodedLoader, Rows
from models import HBI
from models.estimator_training import FEATURES, EstimatorTraining, pair_features
from models.hbi_options import add_interaction_argument
from models.tokenizer import Tokenizer
from utils.args import estimator_parser, log_ineffective_flags, parse, run
from utils.builders import build_model, build_run
from utils.checkpoint import load_weights, read_weights
from utils.devices import autocast, to_device
from utils.distributed import gather_shards, is_main, rank, start
from utils.encoding import encode, encode_clips
from utils.errors import InputError
from utils.logger import make_logger, table, write_metrics
from utils.metrics import correlation
from utils.plots import scatter
from utils.randomness import seed_all

Features = dict[str, Tensor]


def main(argv: Sequence[str] | None = None) -> dict:
    """Run the command line `argv` and return the metrics of the best or the given estimator."""
    args = parse(estimator_parser(add_interaction_argument), argv)
    if not (args.do_train or args.init_model):
        raise InputError("--do_eval: there is no estimator; give the checkpoint that holds one as --init_model")
    if args.max_frames < 2:
        raise InputError(f"--max_frames {args.max_frames}: an interaction needs two frames or more")
    device = start(args.device, args.local_rank)
    seed_all(args.seed, deterministic=args.deterministic)
    logger = make_logger(args.output_dir)
    log_ineffective_flags(args, logger)
    model = build_model(args, device, **HBI.options_from(args)).requires_grad_(False)
    training = build_training(args, model, device)
    held_out = cached_features(args, model, training.game, "test", device, logger)
    if args.do_train:
        best = train(args, model, training, held_out, device, logger)
        load_weights(training.teacher, read_weights(best), best)
    metrics = evaluate(args, training, held_out, logger)
    if is_main():
        print(table(["", *metrics], [["held-out pairs", *(f"{value:.4g}" for value in metrics.values())]]))
        write_metrics(Path(args.output_dir) / "metrics.json", metrics)
    return metrics


def build_training(args: argparse.Namespace, model: HBI, device: torch.device) -> EstimatorTraining:
    """The model's estimator, ready to learn the labels asked for."""
    return EstimatorTraining(
        model.teacher,
        game=args.game or model.recipe.label_game,
        num_samples=args.num_samples if args.labels == "sampled" else None,
        generator=torch.Generator(device).manual_seed(args.seed + rank()),
    )


def cached_features(
    args: argparse.Namespace, model: HBI, game: str, name: str, device: torch.device, logger: logging.Logger
) -> Features:
    """Features of all true pairs of a split, in order, the same on every process; each clip is encoded once."""
    split, videos = find_split(args, name)
    augment = build_augmentation(args) if name == "train" else None
    clips = ClipDataset(split, videos, clip_reader(args, model.clip.config.resolution, augment))
    batches = {"batch_size": args.batch_size_val, "training": False, "device": device}
    where = {"device": device, "precision": args.precision, "logger": logger}
    video, video_mask = encode_clips(model, build_loader(args, clips, workers=args.workers, **batches), **where)
    encoded = Rows({"video": video.cpu(), "video_mask": video_mask.cpu()})
    pairs = PairDataset(split, TextDataset(split, Tokenizer(), args.max_words), encoded)
    shard = encode(
        build_loader(args, pairs, workers=0, **batches),
        lambda batch: tuple(encode_pairs(model, batch, game).values()),
        description=f"{name} pairs",
        **where,
    )
    return {name: gather_shards(tensor).cpu() for name, tensor in zip(FEATURES, shard, strict=True)}


def encode_pairs(model: HBI, batch: Features, game: str) -> Features:
    """Features of a batch of captions with clips or, as "video", with encoded clips."""
    text = model.text_tokens(batch["ids"], batch["text_mask"])
    video = batch["video"] if "video" in batch else model.frame_tokens(batch["frames"], batch["video_mask"])
    return pair_features(model, text, batch["text_mask"], video, batch["video_mask"], game)


def train(
    args: argparse.Namespace,
    model: HBI,
    training: EstimatorTraining,
    held_out: Features,
    device: torch.device,
    logger: logging.Logger,
) -> Path:
    """Train, evaluating after each epoch, and return the best estimator's file."""
    logger.info("labels: %s interaction of the %s game", args.labels, training.game)
    if args.no_feature_cache:
        loader = uncached_loader(args, model, training.game, device)
    else:
        logger.info("the encoders are frozen: all epochs share the features, and the augmentation, of one pass")
        rows = Rows(cached_features(args, model, training.game, "train", device, logger))
        loader = build_loader(args, rows, batch_size=args.batch_size, workers=0, training=True, device=device)
    return build_run(
        args,
        training,
        loader,
        device,
        logger,
        schedule_epochs=model.recipe.schedule_epochs or args.epochs,
        evaluate=lambda: evaluate(args, training, held_out, logger)["correlation"],
        state=training.teacher.state_dict,
    ).fit(args.epochs)


def uncached_loader(args: argparse.Namespace, model: HBI, game: str, device: torch.device) -> EncodedLoader:
    """The training pairs, decoded, augmented and encoded anew each time."""

    @torch.no_grad()
    def encode_batch(batch: Features) -> Features:
        with autocast(device, args.precision):
            return encode_pairs(model, to_device(batch, device), game)

    return EncodedLoader(build_training_loader(args, Tokenizer(), model.clip.config.resolution, device), encode_batch)


@torch.no_grad()
def evaluate(args: argparse.Namespace, training: EstimatorTraining, held_out: Features, logger: logging.Logger) -> dict:
    """Compare predictions with the exact interaction of held-out pairs.

    Returns:
        "mse" over all cells, as in training, and "correlation" over the valid ones.
    """
    device = next(training.parameters()).device
    inputs = (held_out[name].to(device).split(args.batch_size_val) for name in FEATURES[:3])
    predicted = torch.cat([training.predict(*chunk) for chunk in zip(*inputs, strict=True)]).cpu()
    if not predicted.isfinite().all():
        raise InputError(f"training has diverged: predictions are not finite; choose a smaller --lr than {args.lr}")
    exact = held_out["exact"]
    valid = (held_out["text_mask"].unsqueeze(2) & held_out["video_mask"].unsqueeze(1)).bool()
    cells = exact[valid], predicted[valid]
    metrics = {"mse": (predicted - exact).square().mean().item(), "correlation": correlation(*cells)}
    logger.info("held-out pairs: MSE %.4g, correlation with the exact interaction %.3f", *metrics.values())
    if is_main():
        scatter(Path(args.output_dir) / "scatter.png", *cells, labels=("exact interaction", "estimated interaction"))
    return metrics


if __name__ == "__main__":
    run(main)
