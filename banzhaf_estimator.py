"""Train the estimator of the Banzhaf interaction between words and frames, or evaluate a checkpoint's."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from dataloaders.base import ClipDataset, PairDataset, TextDataset
from dataloaders.build import build_augmentation, build_loader, build_training_loader, clip_reader, find_split
from dataloaders.features import EncodedLoader, Rows
from models import HBI, Tokens
from models.estimator_training import FEATURES, EstimatorTraining, pair_features
from models.hbi_options import add_estimator_arguments
from models.tokenizer import Tokenizer
from utils.args import estimator_parser, read_command
from utils.checkpoint import load_weights
from utils.devices import autocast, to_device
from utils.distributed import is_main
from utils.engine.builders import build_model
from utils.engine.task import Task, run_task
from utils.errors import InputError
from utils.gather import gather_shards
from utils.logger import table, used, write_metrics
from utils.metrics import correlation
from utils.plots import scatter
from utils.run import run

Features = dict[str, Tensor]


class Estimation(Task[tuple[dict]]):
    """Training of the estimator on frozen encoders."""

    model: HBI

    def build_model(self) -> HBI:
        """Build the encoders, frozen, and the estimator to be trained or evaluated."""
        options = HBI.options_from(self.args) | {"method": "hbi"}
        model = build_model(self.args, self.device, **options).requires_grad_(False)
        assert isinstance(model, HBI)
        if self.args.do_train and model.options.network != self.args.network:
            model.use_estimator(self.args.network)
        return model

    @cached_property
    def trained(self) -> EstimatorTraining:
        """The model's estimator, ready to learn the requested labels."""
        return EstimatorTraining(
            self.model.teacher,
            game=self.args.game or self.model.recipe.label_game,
            num_samples=self.args.num_samples if self.args.labels == "sampled" else None,
            generator=torch.Generator(self.device).manual_seed(self.args.seed),
        )

    def state(self) -> Features:
        """The estimator's weights alone."""
        return self.trained.teacher.state_dict()

    def load(self, state: Features, source: str | Path) -> None:
        """Load the estimator's weights."""
        load_weights(self.trained.teacher, state, source)

    @cached_property
    def held_out(self) -> Features:
        """Features of the test pairs."""
        return self.cached_features("test")

    @property
    def counts(self) -> dict[str, int]:
        """Captions and clips of the test pairs."""
        return find_split(self.args, "test")[0].counts()

    def training_loader(self) -> DataLoader | EncodedLoader:
        """Load features of the training pairs; the held-out pairs must be there, too."""
        assert self.held_out
        self.logger.info("labels: %s interaction of the %s game", self.args.labels, self.trained.game)
        if self.args.no_feature_cache:
            return self.uncached_loader()
        self.logger.info("the encoders are frozen: all epochs share the features, and the augmentation, of one pass")
        rows, batch_size = Rows(self.cached_features("train")), self.args.batch_size
        return build_loader(self.args, rows, batch_size=batch_size, workers=0, training=True, device=self.device)

    def cached_features(self, name: str) -> Features:
        """Features of all true pairs of a split, in order, the same on every process; each clip is encoded once."""
        split, videos = find_split(self.args, name)
        augment = build_augmentation(self.args) if name == "train" else None
        clips = ClipDataset(split, videos, clip_reader(self.args, self.model.clip.config.resolution, augment))
        batches: dict[str, Any] = {"batch_size": self.args.batch_size_val, "training": False, "device": self.device}
        video = self.encode_clips(build_loader(self.args, clips, workers=self.args.workers, **batches))
        encoded = Rows({"video": video.tokens.cpu(), "video_mask": video.mask.cpu()})
        pairs = PairDataset(split, TextDataset(split, Tokenizer(), self.args.max_words), encoded)
        shard = self.encode(
            build_loader(self.args, pairs, workers=0, **batches),
            lambda batch: tuple(self.encode_pairs(batch).values()),
            f"{name} pairs",
        )
        return {name: gather_shards(tensor).cpu() for name, tensor in zip(FEATURES, shard, strict=True)}

    def uncached_loader(self) -> EncodedLoader:
        """Load the training pairs, decoded, augmented and encoded again each time."""

        @torch.no_grad()
        def encode_batch(batch: Features) -> Features:
            with autocast(self.device, self.args.precision):
                return self.encode_pairs(to_device(batch, self.device))

        resolution = self.model.clip.config.resolution
        return EncodedLoader(build_training_loader(self.args, Tokenizer(), resolution, self.device), encode_batch)

    def encode_pairs(self, batch: Features) -> Features:
        """Features of a batch of captions with clips or, as "video", with encoded clips."""
        text = Tokens(self.model.text_tokens(batch["ids"], batch["text_mask"]), batch["text_mask"])
        mask = batch["video_mask"]
        video = batch["video"] if "video" in batch else self.model.frame_tokens(batch["frames"], mask)
        return pair_features(self.model, text, Tokens(video, mask), self.trained.game)

    def select(self) -> float:
        """Correlation with the exact interaction on held-out pairs."""
        return self.evaluate()[0]["correlation"]

    @torch.no_grad()
    def evaluate(self) -> tuple[dict]:
        """Compare predictions with the exact interaction of held-out pairs.

        Returns:
            "mse" over all cells, as in training, and "correlation" over the valid ones.
        """
        inputs = (self.held_out[name].to(self.device).split(self.args.batch_size_val) for name in FEATURES[:3])
        predicted = torch.cat([self.trained.predict(*chunk) for chunk in zip(*inputs, strict=True)]).cpu()
        if not predicted.isfinite().all():
            remedy = f"choose a smaller --lr than {self.args.lr}"
            raise InputError(f"training has diverged: predictions are not finite; {remedy}")
        exact = self.held_out["exact"]
        valid = (self.held_out["text_mask"].unsqueeze(2) & self.held_out["video_mask"].unsqueeze(1)).bool()
        cells = exact[valid], predicted[valid]
        metrics = {"mse": (predicted - exact).square().mean().item(), "correlation": correlation(*cells)}
        self.logger.info("held-out pairs: MSE %.4g, correlation with the exact interaction %.3f", *metrics.values())
        if is_main():
            labels = "exact interaction", "estimated interaction"
            scatter(Path(self.args.output_dir) / "scatter.png", *cells, labels=labels)
        return (metrics,)

    def report(self, results: tuple[dict]) -> None:
        """Print the results as a table and write metrics.json."""
        (metrics,) = results
        row = ["held-out pairs", *(f"{value:.4g}" for value in metrics.values())]
        print(table([used(self.counts), *metrics], [row]))
        write_metrics(Path(self.args.output_dir) / "metrics.json", metrics | {"run": self.about()})


def main(argv: Sequence[str] | None = None) -> dict:
    """Run the command line `argv` and return the metrics of the best or the given estimator."""
    args = read_command({"hbi": add_estimator_arguments}, estimator_parser, argv, frozen=True)
    if not (args.do_train or args.init_model):
        raise InputError("--do_eval: there is no estimator; give the checkpoint that holds one as --init_model")
    if args.max_frames < 2:
        raise InputError(f"--max_frames {args.max_frames}: an interaction needs two frames or more")
    return run_task(Estimation, args)


if __name__ == "__main__":
    run(main)
